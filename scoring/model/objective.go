package model

import (
	"slices"
	"strconv"
	"strings"

	"github.com/freshet-io/freshet/internal/fault"
)

// transform turns the sums of one row into its outputs, in place.
type transform func(row []float64)

// objectives that leave the sums as they are.
func rawObjectives() []string {
	return []string{"regression", "regression_l1", "huber", "fair", "quantile", "mape", "lambdarank", "rank_xendcg", "custom"}
}

// objective reads the objective of a model with outputs values a row: its name and parameters, as in
// "binary sigmoid:1". A text without one leaves the sums as they are.
func objective(text string, outputs int) (transform, error) {
	name, rest, _ := strings.Cut(text, " ")
	params := strings.Fields(rest)
	unknown := func() error {
		return fault.New(fault.Usage, "the objective %q is not understood", text).
			ToMend("train with one of: binary, cross_entropy, multiclass, multiclassova, poisson, gamma, tweedie, %s", strings.Join(rawObjectives(), ", "))
	}
	want := 1
	var t transform
	var err error
	switch {
	case text == "":
		return raw, nil
	case (name == "regression" || name == "regression_l1") && slices.Equal(params, []string{"sqrt"}):
		t = signedSquare
	case slices.Contains(rawObjectives(), name) && len(params) == 0:
		t = raw
		if name == "custom" {
			want = outputs
		}
	case (name == "poisson" || name == "gamma" || name == "tweedie") && len(params) == 0:
		t = exponential
	case name == "cross_entropy" && len(params) == 0:
		t = sigmoid(1)
	case name == "binary" && len(params) == 1:
		t, err = sigmoidOf(params[0])
	case name == "multiclass" && len(params) == 1:
		t = softmax
		want, err = classes(params[0])
	case name == "multiclassova" && len(params) == 2:
		if want, err = classes(params[0]); err == nil {
			t, err = sigmoidOf(params[1])
		}
	default:
		return nil, unknown()
	}
	if err != nil {
		return nil, fault.Wrap(fault.Usage, err, "the objective %q is not understood", text)
	}
	if want != outputs {
		return nil, fault.New(fault.Usage, "the objective %q has %d outputs, but an iteration has %d trees", text, want, outputs)
	}
	return t, nil
}

func raw([]float64) {}

func signedSquare(row []float64) {
	for i, x := range row {
		switch {
		case x > 0:
			row[i] = x * x
		case x < 0:
			row[i] = -x * x
		default:
			row[i] = 0 * x * x
		}
	}
}

func exponential(row []float64) {
	for i, x := range row {
		row[i] = expC(x)
	}
}

func sigmoid(scale float64) transform {
	return func(row []float64) {
		for i, x := range row {
			row[i] = 1 / (1 + expC(float64(-scale*x)))
		}
	}
}

func softmax(row []float64) {
	top := slices.Max(row)
	sum := 0.0
	for i, x := range row {
		row[i] = expC(x - top)
		sum += row[i]
	}
	for i := range row {
		row[i] /= sum
	}
}

// sigmoidOf reads sigmoid:F as Common::Atof does, which rounds the fraction before it adds it.
func sigmoidOf(param string) (transform, error) {
	text, ok := strings.CutPrefix(param, "sigmoid:")
	whole, fraction, _ := strings.Cut(text, ".")
	w, err := strconv.ParseUint(whole, 10, 32)
	if !ok || err != nil || len(fraction) > 15 {
		return nil, fault.New(fault.Usage, "%q: expected sigmoid: and a plain decimal", param)
	}
	scale := float64(w)
	if fraction != "" {
		f, err := strconv.ParseUint(fraction, 10, 64)
		if err != nil {
			return nil, fault.New(fault.Usage, "%q: expected sigmoid: and a plain decimal", param)
		}
		power := 1.0
		for range fraction {
			power *= 10
		}
		scale += float64(f) / power
	}
	if scale <= 0 {
		return nil, fault.New(fault.Usage, "%q: expected more than 0", param)
	}
	return sigmoid(scale), nil
}

func classes(param string) (int, error) {
	text, ok := strings.CutPrefix(param, "num_class:")
	n, err := strconv.Atoi(text)
	if !ok || err != nil || n < 2 {
		return 0, fault.New(fault.Usage, "%q: expected num_class: and a number of at least 2", param)
	}
	return n, nil
}
