package model_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/testkit"
	"github.com/freshet-io/freshet/scoring/model"
)

// Every fixture's outputs are LightGBM's, bit for bit.
func TestBitEqualToLightGBM(t *testing.T) {
	names := fixtures(t)
	if len(names) != 28 {
		t.Fatalf("%d fixtures", len(names))
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			e, err := model.Load("lightgbm", text(t, name))
			if err != nil {
				t.Fatal(err)
			}
			r := readRows(t, name)
			if len(e.Inputs()) != len(r.in) || e.Outputs() != r.outputs {
				t.Fatalf("%d inputs and %d outputs, want %d and %d", len(e.Inputs()), e.Outputs(), len(r.in), r.outputs)
			}
			out := make([]float64, r.rows*r.outputs)
			e.Predict(r.in, r.rows, out)
			same(t, out, r.want, r)
			if !slices.ContainsFunc(r.want, func(x float64) bool { return x != r.want[0] }) && name != "constant" {
				t.Error("all outputs are the same: the fixture shows nothing")
			}
		})
	}
}

// Each row alone gives what it gives among others, at any length of block, and from many goroutines.
func TestRowsDoNotMeet(t *testing.T) {
	for _, name := range []string{"binary", "multiclass", "categorical_multiclass"} {
		e, err := model.Load("lightgbm", text(t, name))
		if err != nil {
			t.Fatal(err)
		}
		r := readRows(t, name)
		random := testkit.Seed(t)
		var all sync.WaitGroup
		for range 40 {
			from := random.IntN(r.rows)
			n := 1 + random.IntN(r.rows-from)
			all.Go(func() {
				in := make([][]float64, len(r.in))
				for i := range in {
					in[i] = r.in[i][from : from+n]
				}
				out := make([]float64, n*r.outputs)
				e.Predict(in, n, out)
				same(t, out, r.want[from*r.outputs:(from+n)*r.outputs], r)
			})
		}
		all.Wait()
		var in [][]float64 // 2,000 rows: several blocks, the last one short
		for _, c := range r.in {
			in = append(in, slices.Repeat(c, 7)[:2001])
		}
		out := make([]float64, 2001*r.outputs)
		e.Predict(in, 2001, out)
		same(t, out, slices.Repeat(r.want, 7)[:2001*r.outputs], r)
	}
}

func TestRefused(t *testing.T) {
	for name, want := range map[string]string{
		"refused_linear":               "linear leaves",
		"refused_cross_entropy_lambda": `objective "cross_entropy_lambda"`,
	} {
		if _, err := model.Load("lightgbm", text(t, name)); fault.ClassOf(err) != fault.Usage || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, format := range []string{"xgboost", "onnx", "linear", ""} {
		if _, err := model.Load(format, text(t, "binary")); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "format: lightgbm") {
			t.Errorf("format %q: %v", format, err)
		}
	}
	for _, c := range []struct{ model, old, new, want string }{
		{"binary", "version=v4", "version=v5", "version"},
		{"binary", "objective=binary", "objective=binery", "objective"},
		{"binary", "sigmoid:1\n", "sigmoid:0\n", "more than 0"},
		{"binary", "sigmoid:1\n", "sigmoid:1e2\n", "plain decimal"},
		{"binary", "objective=binary sigmoid:1\n", "objective=multiclass num_class:3\n", "3 outputs"},
		{"binary", "objective=binary sigmoid:1\n", "objective=binary sigmoid:1 x\n", "not understood"},
		{"binary", "label_index=0\n", "label_index=0\nsomething_new=1\n", "something_new"},
		{"binary", "label_index=0\n", "label_index=0\nlabel_index=0\n", "twice"},
		{"binary", "feature_names=Column_0 Column_1", "feature_names=Column_0 Column_0", "twice"},
		{"binary", "max_feature_idx=5", "max_feature_idx=6", "feature_names"},
		{"binary", "num_tree_per_iteration=1", "num_tree_per_iteration=2", "2 trees"},
		{"multiclass", "num_class=3", "num_class=2", "2 classes"},
		{"binary", "Tree=3\n", "Tree=4\n", "tree 3"},
		{"binary", "\nshrinkage=", "\nshrinkaga=", "not understood"},
		{"binary", "is_linear=0", "is_linear=1", "linear"},
		{"binary", "end of trees", "end of treos", "end of trees"},
		{"binary", "\nend of parameters", "", "cut off"},
		{"binary", "pandas_categorical:null", `pandas_categorical:[["a"]]`, "pandas"},
		{"binary", "\n", "\r\n", "carriage return"},
	} {
		altered := strings.Replace(string(text(t, c.model)), c.old, c.new, 1)
		if _, err := model.Load("lightgbm", []byte(altered)); fault.ClassOf(err) != fault.Usage || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q for %q: %v", c.new, c.old, err)
		}
	}
}

// A list of a tree with another value in one place: same size, another structure.
func TestAlteredTree(t *testing.T) {
	for _, c := range []struct {
		model, key string
		at         int
		value      string
		want       string
	}{
		{"binary", "left_child", 0, "0", "two parents"},
		{"binary", "left_child", 0, "99", "not in the tree"},
		{"binary", "left_child", 0, "-99", "not in the tree"},
		{"binary", "right_child", 0, "-1", "two parents"},
		{"binary", "split_feature", 0, "6", "input 6"},
		{"binary", "split_feature", 0, "-1", "input -1"},
		{"binary", "split_feature", 0, "x", "not a number"},
		{"binary", "split_feature", 0, "", "expected 14"},
		{"binary", "left_child", 0, "", "expected 14"},
		{"binary", "right_child", 3, "1 1", "expected 14"},
		{"binary", "decision_type", 3, "2 2", "expected 14"},
		{"binary", "threshold", 0, "nan", "not a number"},
		{"binary", "threshold", 0, "1e999", "not a number"},
		{"binary", "threshold", 0, "0x1p3", "not a number"},
		{"binary", "threshold", 0, "", "expected 14"},
		{"binary", "leaf_value", 2, "inf", "leaf 2 is"},
		{"binary", "leaf_value", 2, "", "expected 15"},
		{"binary", "leaf_count", 2, "", "expected 15"},
		{"binary", "decision_type", 0, "14", "decision_type 14"},
		{"binary", "decision_type", 0, "16", "decision_type 16"},
		{"binary", "decision_type", 0, "-1", "decision_type -1"},
		{"binary", "decision_type", 0, "1", "category set"},
		{"binary", "num_leaves", 0, "16", "expected 16"},
		{"binary", "num_leaves", 0, "0", "num_leaves=0"},
		{"binary", "num_leaves", 0, "4194305", "num_leaves=4194305"},
		{"categorical", "num_cat", 0, "1000000000", "boundaries"},
		{"categorical", "cat_boundaries", 1, "9", "in order"},
		{"categorical", "cat_threshold", 0, "4294967296", "32 bits"},
		{"categorical", "cat_threshold", 0, "", "boundaries"},
		{"binary", "tree_sizes", 0, "1", "tree 0"},
		{"binary", "tree_sizes", 0, "-1", "cut off"},
		{"binary", "tree_sizes", 0, "", "tree 0"},
	} {
		_, err := model.Load("lightgbm", altered(t, text(t, c.model), c.key, c.at, c.value))
		if fault.ClassOf(err) != fault.Usage || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s[%d] = %q: %v", c.model, c.key, c.at, c.value, err)
		}
	}
}

// A text that lacks bytes at its end is refused, up to the last line, which CLI models lack.
func TestTruncated(t *testing.T) {
	whole := text(t, "categorical")
	end := strings.LastIndex(string(whole), "end of parameters\n") + len("end of parameters")
	for n := 0; n < end; n += 1 + n%13 {
		if _, err := model.Load("lightgbm", whole[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes are a model", n, len(whole))
		}
	}
}

// altered replaces a value of the first list with that key, and corrects the tree's size.
func altered(t *testing.T, whole []byte, key string, at int, value string) []byte {
	t.Helper()
	before, rest, ok := strings.Cut(string(whole), "\n"+key+"=")
	list, after, _ := strings.Cut(rest, "\n")
	values := strings.Split(list, " ")
	if !ok || at >= len(values) {
		t.Fatalf("no %s[%d]", key, at)
	}
	values[at] = value
	if value == "" {
		values = slices.Delete(values, at, at+1)
	}
	now := strings.Join(values, " ")
	out := before + "\n" + key + "=" + now + "\n" + after
	if key == "tree_sizes" {
		return []byte(out)
	}
	head, sizes, _ := strings.Cut(out, "\ntree_sizes=")
	first, others, _ := strings.Cut(sizes, " ")
	n, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Appendf(nil, "%s\ntree_sizes=%d %s", head, n+len(now)-len(list), others)
}

type rows struct {
	rows, outputs int
	in            [][]float64
	want          []float64
}

// readRows reads a fixture, drawn in scoring/train/fixtures.py.
func readRows(t testing.TB, name string) rows {
	t.Helper()
	b := unzip(t, name+".rows.gz")
	u := func(i int) int { return int(binary.LittleEndian.Uint32(b[4*i:])) }
	r := rows{rows: u(0), outputs: u(2)}
	numbers := make([]float64, len(b[12:])/8)
	for i := range numbers {
		numbers[i] = math.Float64frombits(binary.LittleEndian.Uint64(b[12+8*i:]))
	}
	for range u(1) {
		r.in = append(r.in, numbers[:r.rows])
		numbers = numbers[r.rows:]
	}
	r.want = numbers
	if len(r.want) != r.rows*r.outputs || r.rows != 300 {
		t.Fatalf("%s: %d rows, %d values", name, r.rows, len(r.want))
	}
	return r
}

func same(t *testing.T, got, want []float64, r rows) {
	t.Helper()
	bad := 0
	for i := range want {
		if math.Float64bits(got[i]) == math.Float64bits(want[i]) {
			continue
		}
		if bad++; bad <= 3 {
			var row []float64
			for _, c := range r.in {
				row = append(row, c[i/r.outputs%r.rows])
			}
			t.Errorf("value %d: %v (%016x), want %v (%016x); inputs %v", i, got[i], math.Float64bits(got[i]), want[i], math.Float64bits(want[i]), row)
		}
	}
	if bad > 0 || len(got) != len(want) {
		t.Errorf("%d of %d values differ", bad, len(want))
	}
}

func fixtures(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.rows.gz")
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(filepath.Base(f), ".rows.gz")
	}
	return files
}

func text(t testing.TB, name string) []byte {
	t.Helper()
	return unzip(t, name+".txt.gz")
}

func unzip(t testing.TB, name string) []byte {
	t.Helper()
	packed, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
