package bench

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

const (
	inputs = 20
	leaves = 64
	cuts   = 255 // different thresholds an input has: LightGBM's own default, max_bin
)

// forestText makes a regression model in LightGBM's text form: trees grown leaf by leaf at random, with
// thresholds out of 255 per input, that send what is missing to the left or the right.
func forestText(trees int) string {
	r := rand.New(rand.NewPCG(1, 64))
	var thresholds [inputs][cuts]float64
	for i := range thresholds {
		for c := range thresholds[i] {
			thresholds[i][c] = r.NormFloat64()
		}
		slices.Sort(thresholds[i][:])
	}
	names, infos := make([]string, inputs), make([]string, inputs)
	for i := range names {
		names[i], infos[i] = fmt.Sprintf("f%d", i), "[-10:10]"
	}
	all, sizes := make([]string, trees), make([]string, trees)
	for i := range all {
		all[i] = treeText(r, i, &thresholds)
		sizes[i] = strconv.Itoa(len(all[i]))
	}
	return fmt.Sprintf("tree\nversion=v4\nnum_class=1\nnum_tree_per_iteration=1\nlabel_index=0\nmax_feature_idx=%d\n"+
		"objective=regression\nfeature_names=%s\nfeature_infos=%s\ntree_sizes=%s\n\n%send of trees\n\n"+
		"feature_importances:\n\nparameters:\n[objective: regression]\n\nend of parameters\n\npandas_categorical:null\n",
		inputs-1, strings.Join(names, " "), strings.Join(infos, " "), strings.Join(sizes, " "), strings.Join(all, ""))
}

// treeText grows one tree: a random leaf becomes a split until there are enough.
func treeText(r *rand.Rand, ordinal int, thresholds *[inputs][cuts]float64) string {
	var features, limits, kinds, left, right [leaves - 1]string
	var where [leaves]*string // what points to a leaf
	root := ""
	where[0] = &root
	for s := range leaves - 1 {
		leaf := r.IntN(s + 1)
		input := r.IntN(inputs)
		features[s] = strconv.Itoa(input)
		limits[s] = strconv.FormatFloat(thresholds[input][r.IntN(cuts)], 'g', -1, 64)
		kinds[s] = [2]string{"8", "10"}[r.IntN(2)] // NaN is missing and goes right, or left
		*where[leaf] = strconv.Itoa(s)
		left[s], right[s] = strconv.Itoa(^leaf), strconv.Itoa(^(s + 1))
		where[leaf], where[s+1] = &left[s], &right[s]
	}
	var values [leaves]string
	for i := range values {
		values[i] = strconv.FormatFloat(r.NormFloat64()/100, 'g', -1, 64)
	}
	ones := func(n int) string { return strings.TrimSuffix(strings.Repeat("1 ", n), " ") }
	join := func(s []string) string { return strings.Join(s, " ") }
	const n = leaves - 1
	return fmt.Sprintf("Tree=%d\nnum_leaves=%d\nnum_cat=0\nsplit_feature=%s\nsplit_gain=%s\nthreshold=%s\ndecision_type=%s\n"+
		"left_child=%s\nright_child=%s\nleaf_value=%s\nleaf_weight=%s\nleaf_count=%s\ninternal_value=%s\ninternal_weight=%s\n"+
		"internal_count=%s\nis_linear=0\nshrinkage=1\n\n\n",
		ordinal, leaves, join(features[:]), ones(n), join(limits[:]), join(kinds[:]), join(left[:]), join(right[:]),
		join(values[:]), ones(leaves), ones(leaves), ones(n), ones(n), ones(n))
}

// inputColumns makes the values to score, column by column; one in twenty is missing.
func inputColumns(rows int) [][]float64 {
	r := rand.New(rand.NewPCG(2, 64))
	out := make([][]float64, inputs)
	for i := range out {
		out[i] = make([]float64, rows)
		for k := range out[i] {
			if out[i][k] = r.NormFloat64(); r.IntN(20) == 0 {
				out[i][k] = math.NaN()
			}
		}
	}
	return out
}
