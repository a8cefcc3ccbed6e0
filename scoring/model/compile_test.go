package model

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/testkit"
)

// A compiled model decides as LightGBM's two decision functions do, here written as they stand, for
// random trees with every kind of split and values at the edges.
func TestCompiledDecidesLikeTheText(t *testing.T) {
	random := testkit.Seed(t)
	for range 60 {
		inputs := 1 + random.IntN(5)
		e := &ensemble{outputs: 1 + random.IntN(3), transform: raw, inputs: make([]string, inputs)}
		for range e.outputs * (1 + random.IntN(4)) {
			e.trees = append(e.trees, randomTree(random, 1+random.IntN(40), inputs, random.IntN(2) == 0))
		}
		for i := range e.trees {
			if err := e.trees[i].check(inputs); err != nil {
				t.Fatal(err)
			}
		}
		c, err := compile(e)
		if err != nil {
			t.Fatal(err)
		}
		const rows = 531
		in := make([][]float64, inputs)
		for i := range in {
			for range rows {
				in[i] = append(in[i], value(random))
			}
		}
		out := make([]float64, rows*e.outputs)
		c.Predict(in, rows, out)
		for r := range rows {
			want := make([]float64, e.outputs)
			for i := range e.trees {
				want[i%e.outputs] += leafOf(&e.trees[i], in, r)
			}
			for k, w := range want {
				if out[r*e.outputs+k] != w {
					t.Fatalf("row %d output %d: %v, want %v", r, k, out[r*e.outputs+k], w)
				}
			}
		}
	}
}

// What is not one tree is refused, also when every child has one parent.
func TestCheckRefusesWhatIsNoTree(t *testing.T) {
	for want, splits := range map[string][]split{
		"cannot be reached": {{left: ^0, right: ^1}, {left: ^2, right: 2}, {left: 1, right: ^3}},
		"two parents":       {{left: 1, right: ^0}, {left: 0, right: ^1}, {left: ^2, right: ^3}},
		"not in the tree":   {{left: 1, right: 3}, {left: ^0, right: ^1}, {left: ^2, right: ^3}},
		"4 leaves for 2":    {{left: 1, right: ^0}, {left: ^1, right: ^2}},
	} {
		bad := tree{leaves: make([]float64, 4), splits: splits}
		if err := bad.check(1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// leafOf is Tree::GetLeaf with NumericalDecision and CategoricalDecision.
func leafOf(t *tree, in [][]float64, row int) float64 {
	node := 0
	if len(t.splits) == 0 {
		node = ^0
	}
	for node >= 0 {
		s := &t.splits[node]
		x := in[s.input][row]
		if math.Abs(x) <= zeroThreshold {
			x = 0
		}
		if s.categorical {
			code := int64(-1)
			if !math.IsNaN(x) && x < 1<<31 {
				code = int64(max(x, -10))
			}
			node = s.right
			if code >= 0 && code/32 < int64(len(s.set)) && s.set[code/32]>>(code%32)&1 == 1 {
				node = s.left
			}
			continue
		}
		if math.IsNaN(x) && s.missing != missingNaN {
			x = 0
		}
		node = s.right
		gone := (s.missing == missingZero && math.Abs(x) <= zeroThreshold) || (s.missing == missingNaN && math.IsNaN(x))
		if (gone && s.defaultLeft) || (!gone && x <= s.threshold) {
			node = s.left
		}
	}
	return t.leaves[^node]
}

func value(random *rand.Rand) float64 {
	edges := []float64{
		math.NaN(), 0, math.Copysign(0, -1), math.Inf(1), math.Inf(-1), 1e-36, -1e-36, zeroThreshold, math.Nextafter(zeroThreshold, 1),
		-zeroThreshold, -0.5, -1, 31.9, 32, 63, 64, 1 << 31, 1 << 40, -1e300, 1e300, 3, 5,
	}
	if i := random.IntN(2 * len(edges)); i < len(edges) {
		return edges[i]
	}
	return float64(random.IntN(80))/4 - 5
}

// randomTree splits a leaf at random until there are as many as asked.
func randomTree(random *rand.Rand, leaves, inputs int, categories bool) tree {
	t := tree{leaves: []float64{1}}
	parents := []*int{nil} // of each leaf
	for len(t.leaves) < leaves {
		at := random.IntN(len(t.leaves))
		s := split{
			input: random.IntN(inputs), left: ^at, right: ^len(t.leaves), threshold: value(random),
			missing: missing(random.IntN(3)), defaultLeft: random.IntN(2) == 0,
		}
		if math.IsNaN(s.threshold) {
			s.threshold = 0
		}
		if categories && random.IntN(3) == 0 {
			s.categorical = true
			for range random.IntN(3) {
				s.set = append(s.set, random.Uint32())
			}
		}
		if cap(t.splits) == 0 {
			t.splits = make([]split, 0, leaves) // parents point into it
		}
		t.splits = append(t.splits, s)
		n := len(t.splits) - 1
		if p := parents[at]; p != nil {
			*p = n
		}
		parents[at] = &t.splits[n].left
		parents = append(parents, &t.splits[n].right)
		t.leaves = append(t.leaves, random.Float64()-0.5)
	}
	return t
}

// grown gives the text of a model of the size given whose trees are as deep as trained ones: each
// split parts the leaf that has most of 1,000 rows.
func grown(random *rand.Rand, trees, leaves, inputs int) string {
	names := make([]string, inputs)
	for i := range names {
		names[i] = fmt.Sprintf("f%d", i)
	}
	var body strings.Builder
	sizes := make([]string, trees)
	for i := range sizes {
		text := grownTree(random, i, leaves, inputs)
		sizes[i] = fmt.Sprint(len(text))
		body.WriteString(text)
	}
	return fmt.Sprintf("tree\nversion=v4\nnum_class=1\nnum_tree_per_iteration=1\nlabel_index=0\nmax_feature_idx=%d\nobjective=binary sigmoid:1\n"+
		"feature_names=%s\nfeature_infos=%s\ntree_sizes=%s\n\n%send of trees\n\nfeature_importances:\n\nparameters:\n[boosting: gbdt]\nend of parameters\n",
		inputs-1, strings.Join(names, " "), strings.TrimSuffix(strings.Repeat("none ", inputs), " "), strings.Join(sizes, " "), body.String())
}

func grownTree(random *rand.Rand, ordinal, leaves, inputs int) string {
	weights, parent := []int{1000}, []int{-1}
	var feature, threshold, left, right, kinds, values []string
	place := func(split, child int) {
		switch {
		case split >= 0 && left[split] == fmt.Sprint(^child):
			left[split] = fmt.Sprint(len(feature))
		case split >= 0:
			right[split] = fmt.Sprint(len(feature))
		}
	}
	for len(weights) < leaves {
		at := 0
		for i, w := range weights {
			if w > weights[at] {
				at = i
			}
		}
		share := 1 + random.IntN(max(weights[at]-1, 1))
		place(parent[at], at)
		left, right = append(left, fmt.Sprint(^at)), append(right, fmt.Sprint(^len(weights)))
		threshold = append(threshold, fmt.Sprintf("%.17g", random.NormFloat64()))
		kinds = append(kinds, []string{"2", "8", "10"}[random.IntN(3)])
		parent[at] = len(feature)
		parent = append(parent, len(feature))
		feature = append(feature, fmt.Sprint(random.IntN(inputs)))
		weights = append(weights, weights[at]-share)
		weights[at] = share
	}
	for range weights {
		values = append(values, fmt.Sprintf("%.17g", random.NormFloat64()/100))
	}
	join := func(s []string) string { return strings.Join(s, " ") }
	many := func(n int) string { return strings.TrimSuffix(strings.Repeat("1 ", n), " ") }
	n := len(feature)
	return fmt.Sprintf("Tree=%d\nnum_leaves=%d\nnum_cat=0\nsplit_feature=%s\nsplit_gain=%s\nthreshold=%s\ndecision_type=%s\nleft_child=%s\nright_child=%s\n"+
		"leaf_value=%s\nleaf_weight=%s\nleaf_count=%s\ninternal_value=%s\ninternal_weight=%s\ninternal_count=%s\nis_linear=0\nshrinkage=1\n\n\n",
		ordinal, leaves, join(feature), many(n), join(threshold), join(kinds), join(left), join(right), join(values), many(leaves), many(leaves), many(n), many(n), many(n))
}

// FuzzLoad: no text makes Load or Predict panic, whatever it says.
func FuzzLoad(f *testing.F) {
	random := rand.New(rand.NewPCG(1, 2))
	f.Add(grown(random, 2, 4, 2))
	f.Add(grown(random, 1, 1, 1))
	categorical := strings.NewReplacer("num_cat=0", "num_cat=1", "decision_type=8", "decision_type=9", "decision_type=2", "decision_type=1",
		"is_linear=0", "cat_boundaries=0 1\ncat_threshold=5\nis_linear=0")
	f.Add(categorical.Replace(grown(random, 1, 2, 1)))
	f.Fuzz(func(t *testing.T, text string) {
		e, err := Load("lightgbm", []byte(text))
		if err != nil {
			return
		}
		in := make([][]float64, len(e.Inputs()))
		for i := range in {
			in[i] = []float64{0, 1, -1, math.NaN(), math.Inf(1), math.Inf(-1), 1e-36, float64(i), 1e9}
		}
		e.Predict(in, 9, make([]float64, 9*e.Outputs()))
	})
}

// BenchmarkPredict evaluates 500 trees of 64 leaves over 20 inputs on one core.
func BenchmarkPredict(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 2))
	e, err := Load("lightgbm", []byte(grown(random, 500, 64, 20)))
	if err != nil {
		b.Fatal(err)
	}
	const rows = 20000
	in := make([][]float64, 20)
	for i := range in {
		in[i] = make([]float64, rows)
		for r := range in[i] {
			if in[i][r] = random.NormFloat64(); random.IntN(20) == 0 {
				in[i][r] = math.NaN()
			}
		}
	}
	out := make([]float64, rows)
	b.ReportAllocs()
	for b.Loop() {
		e.Predict(in, rows, out)
	}
	b.ReportMetric(float64(rows)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

func BenchmarkLoad(b *testing.B) {
	text := []byte(grown(rand.New(rand.NewPCG(1, 2)), 500, 64, 20))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := Load("lightgbm", text); err != nil {
			b.Fatal(err)
		}
	}
}
