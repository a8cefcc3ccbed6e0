package model

import (
	"strconv"
	"strings"

	"github.com/freshet-io/freshet/internal/fault"
)

// A text is a header, trees, and a tail that says how the model was trained:
//
//	tree                     header: key=value lines, an empty line
//	version=v4
//	…
//	tree_sizes=1043 987 …    bytes of each tree
//
//	Tree=0                   key=value lines, two empty lines
//	num_leaves=31
//	…
//	end of trees
//
//	feature_importances:     not read
//	…
//	parameters:              not read, but must be there to its end
//	…
//	end of parameters
//
//	pandas_categorical:null  optional
const (
	headerKeys = " version num_class num_tree_per_iteration label_index max_feature_idx objective average_output" +
		" feature_names monotone_constraints feature_infos tree_sizes "
	treeKeys = " num_leaves num_cat split_feature split_gain threshold decision_type left_child right_child leaf_value" +
		" leaf_weight leaf_count internal_value internal_weight internal_count cat_boundaries cat_threshold is_linear shrinkage" +
		" leaf_const num_features leaf_features leaf_coeff "
	// maxInputs and maxLeaves bound what a node can hold; maxTrees is for sanity.
	maxInputs = 10000
	maxLeaves = 1 << 22
)

// parseLightGBM reads a whole text.
func parseLightGBM(text string) (*ensemble, error) {
	if i := strings.IndexByte(text, '\r'); i >= 0 {
		return nil, refused("byte %d is a carriage return: the text was altered after it was saved", i)
	}
	head, body, ok := strings.Cut(text, "\n\n")
	if !ok || !strings.HasPrefix(head, "tree\n") {
		return nil, refused("it does not begin with the header of a text model")
	}
	h, err := keyValues(head[len("tree\n"):], headerKeys)
	if err != nil {
		return nil, err
	}
	e, sizes, err := header(h)
	if err != nil {
		return nil, err
	}
	for i, size := range sizes {
		if size < 0 || size > len(body) {
			return nil, refused("it is cut off: tree %d has %d bytes, %d are left", i, size, len(body))
		}
		t, err := parseTree(body[:size], i, len(e.inputs))
		if err != nil {
			return nil, fault.Wrap(fault.Usage, err, "LightGBM model: tree %d", i)
		}
		e.trees = append(e.trees, t)
		body = body[size:]
	}
	return e, tail(body)
}

func refused(what string, args ...any) *fault.Error {
	return fault.New(fault.Usage, "LightGBM model: "+what, args...).ToMend("save it anew with Booster.save_model of LightGBM 4")
}

// keyValues reads lines of key=value; known is a list of the keys that may be, between spaces. A line
// without = has the empty value.
func keyValues(text, known string) (map[string]string, error) {
	out := map[string]string{}
	for line := range strings.SplitSeq(text, "\n") {
		key, value, _ := strings.Cut(line, "=")
		if key == "" || strings.Contains(key, " ") || !strings.Contains(known, " "+key+" ") {
			return nil, refused("the line %q is not understood", short(line))
		}
		if _, twice := out[key]; twice {
			return nil, refused("%s is there twice", key)
		}
		out[key] = value
	}
	return out, nil
}

func short(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}

// header gives the ensemble without its trees, and the size of each tree in bytes.
func header(h map[string]string) (*ensemble, []int, error) {
	if v := h["version"]; v != "v4" && v != "v3" {
		return nil, nil, refused("version %q: expected v3 or v4", v)
	}
	classCount, err := number(h, "num_class")
	if err != nil {
		return nil, nil, err
	}
	perIteration, err := number(h, "num_tree_per_iteration")
	if err != nil {
		return nil, nil, err
	}
	last, err := number(h, "max_feature_idx")
	if err != nil {
		return nil, nil, err
	}
	sizes, err := integers(h, "tree_sizes")
	if err != nil {
		return nil, nil, err
	}
	_, average := h["average_output"]
	e := &ensemble{inputs: strings.Split(h["feature_names"], " "), outputs: perIteration, average: average}
	infos := strings.Split(h["feature_infos"], " ")
	switch {
	case h["average_output"] != "":
		return nil, nil, refused("average_output=%s is not understood", h["average_output"])
	case perIteration < 1 || perIteration != classCount:
		return nil, nil, refused("%d trees an iteration for %d classes", perIteration, classCount)
	case last < 0 || last >= maxInputs || len(e.inputs) != last+1 || len(infos) != last+1:
		return nil, nil, refused("%d feature_names and %d feature_infos for max_feature_idx=%d; at most %d are read", len(e.inputs), len(infos), last, maxInputs)
	case len(sizes) == 0 || len(sizes)%perIteration != 0:
		return nil, nil, refused("%d trees are not a positive number of iterations of %d", len(sizes), perIteration)
	}
	seen := map[string]bool{}
	for _, n := range e.inputs {
		if n == "" || seen[n] {
			return nil, nil, refused("the feature name %q is empty or there twice", n)
		}
		seen[n] = true
	}
	if e.transform, err = objective(h["objective"], perIteration); err != nil {
		return nil, nil, err
	}
	return e, sizes, nil
}

// parseTree reads a tree: the text is exactly its own.
func parseTree(text string, ordinal, inputs int) (tree, error) {
	start, end := "Tree="+strconv.Itoa(ordinal)+"\n", "\n\n\n"
	if !strings.HasPrefix(text, start) || !strings.HasSuffix(text, end) || len(text) < len(start)+len(end) {
		return tree{}, refused("its text does not fill the %d bytes that tree_sizes gives it", len(text))
	}
	m, err := keyValues(text[len(start):len(text)-len(end)], treeKeys)
	if err != nil {
		return tree{}, err
	}
	if v, there := m["is_linear"]; there && v != "0" {
		return tree{}, refused("it has linear leaves, which are not read").ToMend("train with linear_tree=false")
	}
	leaves, err := number(m, "num_leaves")
	if err != nil {
		return tree{}, err
	}
	if leaves < 1 || leaves > maxLeaves {
		return tree{}, refused("num_leaves=%d: expected 1 to %d", leaves, maxLeaves)
	}
	var t tree
	if t.leaves, err = doubles(m, "leaf_value", leaves); err != nil {
		return tree{}, err
	}
	if err := lengths(m, leaves); err != nil {
		return tree{}, err
	}
	if t.splits, err = splits(m, leaves-1); err != nil {
		return tree{}, err
	}
	return t, t.check(inputs)
}

// lengths checks the lists that nothing is computed from: a wrong one is a sign of damage.
func lengths(m map[string]string, leaves int) error {
	for _, l := range []struct {
		key string
		n   int
	}{
		{"leaf_weight", leaves}, {"leaf_count", leaves}, {"split_gain", leaves - 1},
		{"internal_value", leaves - 1}, {"internal_weight", leaves - 1}, {"internal_count", leaves - 1},
	} {
		if n := len(strings.Fields(m[l.key])); n != l.n && (leaves > 1 || n > 1) {
			return refused("%s has %d values, expected %d", l.key, n, l.n)
		}
	}
	return nil
}

func splits(m map[string]string, n int) ([]split, error) {
	categories, err := number(m, "num_cat")
	if err != nil {
		return nil, err
	}
	var lists [4][]int
	for i, key := range []string{"split_feature", "decision_type", "left_child", "right_child"} {
		if lists[i], err = integers(m, key); err != nil {
			return nil, err
		}
		if len(lists[i]) != n {
			return nil, refused("%s has %d values, expected %d", key, len(lists[i]), n)
		}
	}
	thresholds, err := doubles(m, "threshold", n)
	if err != nil {
		return nil, err
	}
	sets, err := categorySets(m, categories)
	if err != nil {
		return nil, err
	}
	out := make([]split, n)
	for i := range out {
		d := lists[1][i]
		s := split{
			input: lists[0][i], left: lists[2][i], right: lists[3][i], threshold: thresholds[i],
			categorical: d&1 != 0, defaultLeft: d&2 != 0, missing: missing(d >> 2 & 3),
		}
		if d&^0b1111 != 0 || s.missing > missingNaN {
			return nil, refused("decision_type %d is not understood", d)
		}
		if s.categorical {
			at := int(s.threshold)
			if float64(at) != s.threshold || at < 0 || at >= len(sets) {
				return nil, refused("split %d names category set %v of %d", i, s.threshold, len(sets))
			}
			s.set = sets[at]
		}
		out[i] = s
	}
	return out, nil
}

// categorySets gives the bit sets of a tree's categorical splits.
func categorySets(m map[string]string, n int) ([][]uint32, error) {
	if n == 0 {
		return nil, nil
	}
	bounds, err := integers(m, "cat_boundaries")
	if err != nil {
		return nil, err
	}
	words, err := integers(m, "cat_threshold")
	if err != nil {
		return nil, err
	}
	if n < 0 || len(bounds) != n+1 || bounds[0] != 0 || bounds[n] != len(words) {
		return nil, refused("%d boundaries of %d words do not fit num_cat=%d", len(bounds), len(words), n)
	}
	all := make([]uint32, len(words))
	for i, w := range words {
		if w < 0 || w > 1<<32-1 {
			return nil, refused("cat_threshold %d is not a word of 32 bits", w)
		}
		all[i] = uint32(w)
	}
	out := make([][]uint32, n)
	for i := range out {
		if bounds[i+1] < bounds[i] || bounds[i+1] > len(all) {
			return nil, refused("cat_boundaries are not in order")
		}
		out[i] = all[bounds[i]:bounds[i+1]]
	}
	return out, nil
}

// tail checks what follows the trees.
func tail(body string) error {
	rest, ok := strings.CutPrefix(body, "end of trees\n")
	if !ok {
		return refused("after its trees stands %q, expected \"end of trees\"", short(body))
	}
	_, rest, ok = strings.Cut(rest, "\nparameters:\n")
	if ok {
		_, rest, ok = strings.Cut(rest, "\nend of parameters\n")
	}
	if !ok {
		return refused("it is cut off: its parameters do not come to their end")
	}
	for line := range strings.SplitSeq(rest, "\n") {
		value, pandas := strings.CutPrefix(line, "pandas_categorical:")
		switch {
		case line == "", pandas && (value == "null" || value == "[]"):
		case pandas:
			return refused("it was trained on categories of pandas, whose codes its inputs do not have").
				ToMend("train on the numbers of the features, with categorical_feature=[…]")
		default:
			return refused("the line %q is not understood", short(line))
		}
	}
	return nil
}

// number reads an integer that must be there.
func number(m map[string]string, key string) (int, error) {
	n, err := strconv.ParseInt(m[key], 10, 32)
	if err != nil {
		return 0, refused("%s=%q is not a number", key, short(m[key]))
	}
	return int(n), nil
}

// integers reads a list of integers, which may be empty.
func integers(m map[string]string, key string) ([]int, error) {
	fields := strings.Fields(m[key])
	out := make([]int, len(fields))
	for i, f := range fields {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return nil, refused("%s has %q, which is not a number", key, short(f))
		}
		out[i] = int(n)
	}
	return out, nil
}

// doubles reads a list of n numbers in decimal, or inf: a threshold of inf parts the numbers from what
// is missing.
func doubles(m map[string]string, key string, n int) ([]float64, error) {
	fields := strings.Fields(m[key])
	if len(fields) != n {
		return nil, refused("%s has %d values, expected %d", key, len(fields), n)
	}
	out := make([]float64, n)
	for i, f := range fields {
		v, err := strconv.ParseFloat(f, 64)
		if err != nil || (strings.Trim(f, "0123456789+-.eE") != "" && strings.TrimPrefix(f, "-") != "inf") {
			return nil, refused("%s has %q, which is not a number", key, short(f))
		}
		out[i] = v
	}
	return out, nil
}
