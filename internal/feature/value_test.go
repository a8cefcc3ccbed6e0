package feature

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/fault"
)

// Kinds of types a feature or column can have.
func types() []Type {
	out := []Type{{Kind: Decimal, Precision: 38, Scale: 6}, {Kind: Decimal, Precision: 4}}
	for _, k := range []Kind{Bool, Int64, Double, String, Bytes, Date, Timestamp, UUID} {
		out = append(out, Type{Kind: k})
	}
	for _, t := range out {
		out = append(out, ListOf(t))
	}
	return out
}

func TestTypesAreReadBack(t *testing.T) {
	for _, ty := range types() {
		if got, err := ParseType(ty.String()); err != nil || got != ty {
			t.Errorf("%s is read as %+v, %v", ty, got, err)
		}
	}
	for _, bad := range []string{"", "null", "list", "list()", "list(int64", "list(list(int64))", "decimal", "decimal(0,0)", "decimal(39,0)",
		"decimal(2,3)", "decimal(2,-1)", "decimal(12,2)x", "decimal(12 2)", "list(int64)x", "text"} {
		if got, err := ParseType(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, got)
		}
	}
	if got := (Type{Kind: Timestamp, Local: true}).Plain(); got != (Type{Kind: Timestamp}) {
		t.Errorf("%+v", got)
	}
}

func TestTimes(t *testing.T) {
	for text, want := range map[string]int64{
		"1970-01-01 00:00:00":           0,
		"2013-01-01 10:00:00.5+00":      1357034400500000,
		"2013-01-01T10:00:00.5Z":        1357034400500000,
		"2013-01-01 12:30:00.5+02:30":   1357034400500000,
		"2013-01-01 00:00:00-15:59:59":  1356998400000000 + 57599000000,
		"2012-12-31 24:00:00":           1356998400000000,
		"4714-11-24 00:00:00+00 BC":     -210866803200000000,
		"0001-12-31 23:59:59.999999 BC": -62135596800000001,
		// The last that fits, and PostgreSQL goes on from there.
		"294247-01-10 04:00:54.775806+00": math.MaxInt64 - 1,
		"infinity":                        math.MaxInt64,
		"-infinity":                       math.MinInt64,
	} {
		v, err := ParseText(Type{Kind: Timestamp}, text)
		if err != nil || v != OfMicros(want) {
			t.Errorf("%s is %d, %v; want %d", text, v.I, err, want)
			continue
		}
		if back, err := ParseText(Type{Kind: Timestamp}, v.Text()); err != nil || back != v {
			t.Errorf("%s is written as %s and read as %d, %v", text, v.Text(), back.I, err)
		}
	}
	for _, beyond := range []string{"294247-01-10 04:00:54.775807", "294247-01-10 04:00:55", "294247-01-11 00:00:00-10", "294276-12-31 23:59:59.999999+00", "5874897-12-31 23:59:59"} {
		if v, err := ParseText(Type{Kind: Timestamp}, beyond); !errors.Is(err, ErrTimestampRange) {
			t.Errorf("%s is %d, %v", beyond, v.I, err)
		}
	}
	for _, bad := range []string{"", "2013-01-01", "2013-02-29 00:00:00", "2013-01-01 24:00:01", "2013-01-01 23:60:00", "2013-01-01 23:59:60", "2013-01-01 99:00:00",
		"2013-01-01 00:00:00.1234567", "0000-01-01 00:00:00", "2013-1x-01 00:00:00", "4715-01-01 00:00:00 BC", "2013-01-01 1:2:3:4", "2013-01-01 +01", "Infinity"} {
		if v, err := ParseText(Type{Kind: Timestamp}, bad); err == nil {
			t.Errorf("%q is %d", bad, v.I)
		}
	}
}

func mustText(t *testing.T, k Kind, text string) Value {
	t.Helper()
	v, err := ParseText(Type{Kind: k}, text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestDates(t *testing.T) {
	for text, want := range map[string]int64{
		"1970-01-01": 0, "2000-02-29": 11016, "4714-11-24 BC": -2440588, "0001-12-31 BC": -719163,
		"0001-01-01": -719162, "5874897-12-31": 2147483493 - 2440588, "infinity": Infinity, "-infinity": NegativeInfinity,
	} {
		v := mustText(t, Date, text)
		if v.I != want || v.Text() != text {
			t.Errorf("%s is %d, written %s; want %d", text, v.I, v.Text(), want)
		}
	}
	for _, bad := range []string{"5874898-01-01", "99999999999999999999-01-01", "0000-01-01", "2001-02-29", "2001-13-01", "2001-01", "-2001-01-01", "4715-01-01 BC"} {
		if v, err := ParseText(Type{Kind: Date}, bad); err == nil {
			t.Errorf("%q is %d", bad, v.I)
		}
	}
}

func TestNumericsCompareAsNumbers(t *testing.T) {
	long := strings.Repeat("9", 131072)
	ascending := []string{"-Infinity", "-" + long, "-" + strings.Repeat("9", 38), "-12.5", "-1", "0", "0." + strings.Repeat("0", 16382) + "1",
		"0.00000000000000000000000000000000000001", "1", "1.0000001", "99999999999999999999999999999999999999", "100000000000000000000000000000000000000", long, long + ".5", "Infinity", "NaN"}
	for i, a := range ascending {
		for j, b := range ascending {
			x, errX := Numeric(a)
			y, errY := Numeric(b)
			if errX != nil || errY != nil {
				t.Fatal(errX, errY)
			}
			want := 0
			if i != j {
				want = 1 - 2*b2i(i < j)
			}
			if got := x.Compare(y); got != want {
				t.Errorf("%.20s against %.20s: %d", a, b, got)
			}
			if got := bytes.Compare(AppendKey(nil, x), AppendKey(nil, y)); got != want {
				t.Errorf("the key of %.20s against that of %.20s: %d", a, b, got)
			}
			if back, rest, err := DecodeKey(AppendKey(nil, x)); err != nil || back != x || len(rest) > 0 {
				t.Errorf("the key of %.20s is read as %.20s, %v", a, back.Text(), err)
			}
			if back, err := Numeric(x.Text()); err != nil || back != x || x.Text() != a {
				t.Errorf("%.20s is written as %.20s, %v", a, x.Text(), err)
			}
		}
	}
	for _, same := range [][]string{{"1", "1.0", "1.00", "+1", "0001.000000000000000000000000000000000000000000"}, {"0", "-0", "0.000", "-0.0"}, {"-1.5", "-1.50"}, {"1" + long, "01" + long + ".00"}} {
		for _, s := range same {
			a, errA := Numeric(same[0])
			b, errB := Numeric(s)
			if errA != nil || errB != nil || a != b || !bytes.Equal(AppendKey(nil, a), AppendKey(nil, b)) {
				t.Errorf("%.30s and %.30s are not one: %v %v", same[0], s, errA, errB)
			}
		}
	}
	for _, bad := range []string{"", ".", "-", "1e5", "0x1", "1_0", "--1", "1.-5", "nan", "1 ", "inf"} {
		if v, err := Numeric(bad); err == nil {
			t.Errorf("%q is %s", bad, v.Text())
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestDecimalsAgainstBig: arithmetic of 128 bits against integers of any length.
func TestDecimalsAgainstBig(t *testing.T) {
	limit := pow10(38)
	r := rand.New(rand.NewPCG(1, 2))
	random := func() (Value, *big.Int) {
		digits := 1 + r.IntN(38)
		s := ""
		for range digits {
			s += string(rune('0' + r.IntN(10)))
		}
		if r.IntN(4) == 0 {
			s = strings.Repeat("9", 38)
		}
		if r.IntN(2) == 0 {
			s = "-" + s
		}
		v, err := ParseDecimal(s)
		b, ok := new(big.Int).SetString(s, 10)
		if err != nil || !ok || v.decimal().big().Cmp(b) != 0 {
			t.Fatalf("%s is %s, %v", s, v.Text(), err)
		}
		return v, b
	}
	overflows := 0
	for range 20000 {
		v, a := random()
		w, b := random()
		sum, err := AddDecimal(v, w)
		want := new(big.Int).Add(a, b)
		if want.CmpAbs(limit) >= 0 {
			overflows++
			if err == nil {
				t.Fatalf("%s + %s = %s", a, b, sum.Text())
			}
		} else if err != nil || sum.decimal().big().Cmp(want) != 0 {
			t.Fatalf("%s + %s = %s, %v", a, b, sum.Text(), err)
		}
		if n := NegDecimal(v); n.decimal().big().Cmp(new(big.Int).Neg(a)) != 0 {
			t.Fatalf("-(%s) = %s", a, n.Text())
		}
		if got := v.Compare(w); got != a.Cmp(b) {
			t.Fatalf("%s against %s: %d", a, b, got)
		}
		v.Scale, w.Scale = uint8(r.IntN(39)), uint8(r.IntN(39))
		key := AppendKey(nil, v)
		if got, want := bytes.Compare(key, AppendKey(nil, w)), v.Compare(w); got != want && want != 0 {
			t.Fatalf("the key of %s against that of %s: %d", v.Text(), w.Text(), got)
		}
		if back, _, err := DecodeKey(key); err != nil || back != v {
			t.Fatalf("the key of %s is read as %s, %v", v.Text(), back.Text(), err)
		}
	}
	if overflows == 0 {
		t.Error("no sum overflowed")
	}
}

// TestSumsGoBack: sums of many large decimals, in any order and with some taken back, are the sum of
// those that remain, whatever they had been in between.
func TestSumsGoBack(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	nines, err := ParseDecimal(strings.Repeat("9", 36) + ".99")
	if err != nil {
		t.Fatal(err)
	}
	var all []Value
	sum := Value{Kind: Decimal, Scale: 2}
	beyond := 0
	add := func(v Value) {
		if sum, err = SumDecimals(sum, v); err != nil {
			t.Fatal(err)
		}
		if _, err := sum.Rescale(2); err != nil {
			beyond++
		}
	}
	for range 500 {
		v := nines
		v.I -= r.Int64N(1 << 40)
		if r.IntN(3) == 0 {
			v = NegDecimal(v)
		}
		all = append(all, v)
		add(v)
	}
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, v := range all[1:] {
		add(NegDecimal(v))
	}
	if got, err := sum.Rescale(2); err != nil || got != all[0] {
		t.Errorf("%s, %v; want %s", sum.Text(), err, all[0].Text())
	}
	if beyond < 100 {
		t.Errorf("only %d sums were beyond 38 digits", beyond)
	}
	nan, err := Numeric("NaN")
	if err != nil {
		t.Fatal(err)
	}
	if v, err := SumDecimals(sum, nan); err == nil {
		t.Errorf("a sum with NaN is %s", v.Text())
	}
}

func TestWhatIsNoNumberIsNotAdded(t *testing.T) {
	one, err := ParseDecimal("1")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"NaN", "Infinity", "-Infinity", strings.Repeat("1", 39)} {
		v, err := Numeric(s)
		if err != nil {
			t.Fatal(err)
		}
		if sum, err := AddDecimal(one, v); err == nil {
			t.Errorf("1 + %s = %s", s, sum.Text())
		}
		if w, err := v.Rescale(2); err == nil {
			t.Errorf("%s became %s", s, w.Text())
		}
		if back := NegDecimal(NegDecimal(v)); back != v {
			t.Errorf("-(-%s) = %s", s, back.Text())
		}
		if v.Finite() != (len(s) > 10) {
			t.Errorf("%s: finite %t", s, v.Finite())
		}
		if got, err := FromRow(Column{Name: "c", Type: Type{Kind: Decimal, Precision: 12, Scale: 2}}, OfString(s)); err == nil {
			t.Errorf("a feature of decimal(12,2) has the value %s", got.Text())
		}
		if got, err := Comparable(Column{Name: "c", Type: Type{Kind: Decimal, Precision: 12, Scale: 2}}, OfString(s)); err != nil || got != v {
			t.Errorf("%s is compared as %s, %v", s, got.Text(), err)
		}
	}
}

func TestListsAreArraysOfOneDimension(t *testing.T) {
	number := Type{Kind: Int64}
	text := Type{Kind: String}
	for _, x := range []struct {
		elem Type
		text string
		want []Value
	}{
		{number, "{}", nil},
		{number, "{1,NULL,-3}", []Value{OfInt(1), {}, OfInt(-3)}},
		{text, `{a,"",NULL,"NULL","null","a b","{","\"","\\","a,b","	","` + "\n" + `",é}`, []Value{OfString("a"), OfString(""), {}, OfString("NULL"),
			OfString("null"), OfString("a b"), OfString("{"), OfString(`"`), OfString(`\`), OfString("a,b"), OfString("\t"), OfString("\n"), OfString("é")}},
		{Type{Kind: Bytes}, `{"\\x00ff","\\x"}`, []Value{OfBytes([]byte{0, 255}), OfBytes(nil)}},
		{Type{Kind: Double}, `{NaN,-0,1.5}`, []Value{OfDouble(math.NaN()), OfDouble(math.Copysign(0, -1)), OfDouble(1.5)}},
		{Type{Kind: Decimal, Precision: 5, Scale: 2}, `{1.50}`, []Value{{Kind: Decimal, Scale: 2, I: 150}}},
	} {
		got, err := ParseText(ListOf(x.elem), x.text)
		if err != nil || got != OfList(x.want...) {
			t.Errorf("%s is %v, %v", x.text, got, err)
			continue
		}
		if got.Text() != x.text {
			t.Errorf("%s is written as %s", x.text, got.Text())
		}
	}
	for _, bad := range []string{"", "{", "{1", "{1,", "{1,}", "{,1}", "{{1},{2}}", "[0:1]={1,2}", "{1}}", `{"1}`, `{"1\`, "{1}x", "1", "{ 1}", `{1"2"}`, "{x}"} {
		v, err := ParseText(ListOf(number), bad)
		if err == nil {
			t.Errorf("%q is %s", bad, v.Text())
		}
		if _, err := FromRow(Column{Name: "c", Type: ListOf(number)}, OfString(bad)); err == nil || !strings.Contains(err.Error(), "column c") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if got, err := FromRow(Column{Name: "c", Type: ListOf(number)}, OfString("{7}")); err != nil || got != OfList(OfInt(7)) {
		t.Errorf("%v, %v", got, err)
	}
	if got := string(AppendJSON(nil, OfList(OfInt(1), Value{}, OfString("x")))); got != `[1,null,"x"]` {
		t.Error(got)
	}
}

// samples has values of every kind, each kind's in ascending order.
func samples(t *testing.T) [][]Value {
	t.Helper()
	numeric := func(s string) Value {
		v, err := Numeric(s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	return [][]Value{
		{{}},
		{OfBool(false), OfBool(true)},
		{OfInt(math.MinInt64), OfInt(-1), OfInt(0), OfInt(math.MaxInt64)},
		{OfDouble(math.Inf(-1)), OfDouble(-1.5), OfDouble(0), OfDouble(math.SmallestNonzeroFloat64), OfDouble(math.Inf(1)), OfDouble(math.NaN())},
		{numeric("-Infinity"), numeric("-7"), numeric("0"), numeric("7"), numeric("99999999999999999999999999999999999999"), numeric("Infinity"), numeric("NaN")},
		{OfString(""), OfString("\x00"), OfString("\x00\x01"), OfString("a"), OfString("a\x00"), OfString("ab"), OfString("é")},
		{OfBytes(nil), OfBytes([]byte{0}), OfBytes([]byte{255})},
		{{Kind: Date, I: NegativeInfinity}, {Kind: Date, I: -2440588}, {Kind: Date, I: 0}, {Kind: Date, I: Infinity}},
		{OfMicros(NegativeInfinity), OfMicros(-1), OfMicros(0), OfMicros(Infinity)},
		{{Kind: UUID, S: "0123456789abcdef"}, {Kind: UUID, S: "0123456789abcdeg"}},
		{OfList(), OfList(OfInt(-1)), OfList(OfInt(1)), OfList(OfInt(1), OfInt(2)), OfList(OfInt(1), Value{}), OfList(OfInt(2)), OfList(Value{})},
	}
}

func TestStoredFormsAndKeys(t *testing.T) {
	kinds := samples(t)
	if len(kinds) != int(List)+1 {
		t.Fatalf("%d kinds have samples", len(kinds))
	}
	long, err := Numeric(strings.Repeat("7", 500) + ".5")
	if err != nil {
		t.Fatal(err)
	}
	for _, values := range append(kinds, []Value{long}, []Value{OfList(long, OfString("x"))}) {
		for i, v := range values {
			stored := AppendValue(nil, v)
			if SizeOf(v) != len(stored) {
				t.Errorf("%v takes %d bytes and is said to take %d", v, len(stored), SizeOf(v))
			}
			if got, rest, err := DecodeValue(append(stored, 9)); err != nil || got != v || len(rest) != 1 {
				t.Errorf("%v is stored and read as %v, %v", v, got, err)
			}
			key := AppendKey(nil, v)
			if got, rest, err := DecodeKey(append(key, 9)); err != nil || got != v || len(rest) != 1 {
				t.Errorf("key %v is read as %v, %v", v, got, err)
			}
			for n := range stored {
				if _, _, err := DecodeValue(stored[:n]); err == nil {
					t.Errorf("%v: %d bytes of %d were accepted", v, n, len(stored))
				}
			}
			for n := range key {
				if _, _, err := DecodeKey(key[:n]); err == nil {
					t.Errorf("key %v: %d bytes of %d were accepted", v, n, len(key))
				}
			}
			for j, w := range values[:i] {
				if v.Compare(w) != 1 || w.Compare(v) != -1 || bytes.Compare(AppendKey(nil, w), key) >= 0 {
					t.Errorf("%d is not after %d of kind %s", i, j, v.Kind)
				}
			}
		}
	}
}

func FuzzDecodeValue(f *testing.F) {
	for _, s := range [][]byte{{byte(List), 2, byte(Bool), 1}, {byte(Decimal), longDecimal, 3, '1', '.', '5'}, AppendValue(nil, OfList(OfString("a"), OfInt(3)))} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, rest, err := DecodeValue(b); err == nil {
			_, _ = v.Text(), AppendJSON(nil, v)
			if v.Compare(v) != 0 {
				t.Fatalf("%v is not itself", v)
			}
			if again, _, err := DecodeValue(AppendValue(nil, v)); err != nil || again != v || len(rest) > len(b) || SizeOf(v) != len(AppendValue(nil, v)) {
				t.Fatalf("%v, again %v, %v", v, again, err)
			}
		}
		if v, _, err := DecodeKey(b); err == nil {
			if again, _, err := DecodeKey(AppendKey(nil, v)); err != nil || again.Compare(v) != 0 {
				t.Fatalf("key %v, again %v, %v", v, again, err)
			}
		}
	})
}

func FuzzParseList(f *testing.F) {
	f.Add(`{a,"b c",NULL,"\\"}`)
	f.Add(`{{1}}`)
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseText(ListOf(Type{Kind: String}), s)
		if err != nil {
			return
		}
		if again, err := ParseText(ListOf(Type{Kind: String}), v.Text()); err != nil || again != v {
			t.Fatalf("%q is %v, again %v, %v", s, v, again, err)
		}
	})
}

func TestWhatAViewCannotUseIsRefused(t *testing.T) {
	table := &Table{Schema: "public", Name: "t", Identity: IdentityFull, Columns: []Column{
		{Name: "id", Source: "bigint", Type: Type{Kind: Int64}, Key: true},
		{Name: "at", Source: "timestamp without time zone", Type: Type{Kind: Timestamp, Local: true}},
		{Name: "tags", Source: "text[]", Type: ListOf(Type{Kind: String})},
		{Name: "price", Source: "numeric", Type: Type{Kind: Decimal}},
		{Name: "ratio", Source: "real", Type: Type{Kind: Double}},
	}}
	resolve := func(change func(*FeatureView)) (*Catalog, error) {
		d := &Definitions{
			Groups: []PartitionGroup{{Name: "g", Key: GroupKey{"id", "int64"}, Partitions: 1}},
			Views: []FeatureView{{Name: "v", Group: "g", Entity: []string{"id"}, Source: "public.t", Key: map[string]string{"id": "id", "k": "tags"}, EventTime: "at",
				Features: []FeatureDef{{Name: "n", Agg: "count", Of: "tags"}, {Name: "p", Agg: "count", Of: "price"}, {Name: "r", Agg: "max", Of: "ratio"}, {Name: "l", Agg: "last", Of: "at"}}}},
		}
		change(&d.Views[0])
		return Resolve(d, []*Table{table})
	}
	c, err := resolve(func(*FeatureView) {})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Views[0].Outputs(); got[2].Type != (Type{Kind: Double}) || got[3].Type != (Type{Kind: Timestamp}) {
		t.Errorf("features have types of the source alone: %+v", got)
	}
	for want, change := range map[string]func(*FeatureView){
		"last of tags (text[])":   func(v *FeatureView) { v.Features = []FeatureDef{{Name: "x", Agg: "last", Of: "tags"}} },
		"max of tags (text[])":    func(v *FeatureView) { v.Features = []FeatureDef{{Name: "x", Agg: "max", Of: "tags"}} },
		"sum of price (numeric)":  func(v *FeatureView) { v.Features = []FeatureDef{{Name: "x", Agg: "sum", Of: "price"}} },
		"last of price (numeric)": func(v *FeatureView) { v.Features = []FeatureDef{{Name: "x", Agg: "last", Of: "price"}} },
		"expressions do not give": func(v *FeatureView) { v.Derived = []DerivedDef{{Name: "x", Type: "list(int64)", Expr: "n"}} },
		"column tags is text[]":   func(v *FeatureView) { v.Entity = []string{"id", "k"} },
		"column price is numeric,": func(v *FeatureView) {
			v.Entity, v.Key = []string{"id", "k"}, map[string]string{"id": "id", "k": "price"}
		},
	} {
		if _, err := resolve(change); err == nil || !strings.Contains(err.Error(), want) || fault.ClassOf(err) != fault.Usage {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// TestGoldenBytes: what is on disk stays readable. A change here is a change of the format.
func TestGoldenBytes(t *testing.T) {
	nan, err := Numeric("NaN")
	if err != nil {
		t.Fatal(err)
	}
	long, err := Numeric("-" + strings.Repeat("9", 39))
	if err != nil {
		t.Fatal(err)
	}
	nines := strings.Repeat("39", 39)
	for _, x := range []struct {
		v           Value
		stored, key string
	}{
		{OfInt(-2), "02fffffffffffffffe", "027ffffffffffffffe"},
		{Value{Kind: Decimal, Scale: 2, I: 150}, "040200000000000000000000000000000096", "0403" + "80000001" + "10" + "00" + "02"},
		{nan, "04007fffffffffffffffffffffffffffffff", "0405"},
		{long, "04ff282d" + nines, "0401" + "7fffffd8" + strings.Repeat("9b", 19) + "a4" + "ff" + "ff"},
		{OfString("a\x00"), "05026100", "056100ff0001"},
		{OfList(OfBool(true), Value{}, OfString("x")), "0a060101" + "00" + "050178", "0a" + "010101" + "02" + "01057800" + "01" + "00"},
		{OfList(), "0a00", "0a00"},
	} {
		if got := hex.EncodeToString(AppendValue(nil, x.v)); got != x.stored {
			t.Errorf("%.50s is stored as %s, want %s", x.v.Text(), got, x.stored)
		}
		if got := hex.EncodeToString(AppendKey(nil, x.v)); got != x.key {
			t.Errorf("%.50s has the key %s, want %s", x.v.Text(), got, x.key)
		}
	}
}
