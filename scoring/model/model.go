// Package model evaluates machine-learned models over columns of numbers, without the library that
// trained them.
package model

// Evaluator is a loaded model. It is pure, does not change, and may be used by several goroutines.
type Evaluator interface {
	// Inputs gives the names of the inputs, in the order Predict takes them.
	Inputs() []string
	// Outputs gives the number of values per row.
	Outputs() int
	// Predict evaluates rows: in[i][r] is input i of row r, NaN where it is missing; out has
	// rows × Outputs values, row by row.
	Predict(in [][]float64, rows int, out []float64)
}
