// Package model evaluates machine-learned models over columns of numbers, without the library that
// trained them.
//
// Today it reads LightGBM's text format (versions v3 and v4) and gives the bits that LightGBM 4's predict
// gives. The source of the semantics is LightGBM's own code: Tree::Tree(const char*, …),
// Tree::NumericalDecision and Tree::CategoricalDecision (include/LightGBM/tree.h, src/io/tree.cpp),
// GBDT::LoadModelFromString and SaveModelToString (src/boosting/gbdt_model_text.cpp), GBDT::Predict
// and PredictRaw (src/boosting/gbdt_prediction.cpp), ConvertOutput of each objective
// (src/objective/*.hpp), and the dense rows of src/c_api.cpp, which drop values of at most 1e-35. What
// is not understood is refused: a linear tree, an objective, a key of the text, a bit of a decision.
//
// A model is compiled for speed. Each feature's thresholds become ranks, so a value is ranked once
// per row and every node compares small integers; x <= t exactly when rank(x) <= rank(t). A missing
// value has the lowest or the highest rank, whichever sends it the node's default way. A node is
// eight bytes, its right child is the one after its left child, and a leaf leads to itself:
//
//	bits 63..40            39           38..24            23..0
//	rank of the threshold  categorical  column of ranks   left child, in the tree
//	2^23 + leaf's ordinal  0            0                 itself                      (leaf)
//
// Rows are ranked in blocks that stay near in the cache, eight rows beside each other, and each tree
// walks a block by eights: no branch on the data, and as many steps as the deepest of the eight needs.
package model

import (
	"github.com/freshet-io/freshet/internal/fault"
)

// MaxBytes is the largest model, in bytes, that Load takes.
const MaxBytes = 256 << 20

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

// Load reads a model: format is that of a definition (CONTRACT section 5), data the whole file.
func Load(format string, data []byte) (Evaluator, error) {
	if format != "lightgbm" {
		return nil, fault.New(fault.Usage, "model format %q is not read yet", format).
			ToMend("use format: lightgbm with a model saved by Booster.save_model")
	}
	if len(data) > MaxBytes {
		return nil, fault.New(fault.Usage, "the model has %d bytes; at most %d are read", len(data), MaxBytes)
	}
	e, err := parseLightGBM(string(data))
	if err != nil {
		return nil, err
	}
	return compile(e)
}
