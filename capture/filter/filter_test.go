package filter

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/testkit"
)

const secret = "0123456789abcdef"

func customers() *feature.Table {
	text := feature.Type{Kind: feature.String}
	return &feature.Table{Schema: "public", Name: "customers", Identity: feature.IdentityFull, Columns: []feature.Column{
		{Name: "id", Source: "bigint", Type: feature.Type{Kind: feature.Int64}, Key: true, InIdentity: true, NotNull: true},
		{Name: "email", Source: "text", Type: text, InIdentity: true},
		{Name: "phone", Source: "character varying(20)", Type: text, InIdentity: true},
		{Name: "born", Source: "date", Type: feature.Type{Kind: feature.Date}, InIdentity: true, NotNull: true},
		{Name: "note", Source: "text", Type: text, InIdentity: true},
		{Name: "internal_score", Source: "double precision", Type: feature.Type{Kind: feature.Double}, InIdentity: true},
		{Name: "tags", Source: "text[]", Type: text, InIdentity: true},
	}}
}

func row(id int64, texts ...string) []feature.Value {
	v := func(i int) feature.Value {
		if i >= len(texts) {
			return feature.Value{}
		}
		return feature.OfString(texts[i])
	}
	return []feature.Value{feature.OfInt(id), v(0), v(1), {Kind: feature.Date, I: 1}, v(2), feature.OfDouble(0.5), v(3)}
}

func sum(s string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(s))
	return hex.EncodeToString(mac.Sum(nil))
}

func TestRules(t *testing.T) {
	f, err := Compile(customers(), Config{
		Exclude: []string{"internal_*"}, Where: new(" country = 'DE' "),
		Hash:     map[string]Hash{"id": {Length: 32}, "email": {}},
		Mask:     map[string]Mask{"phone": {KeepLast: 3}, "born": {Fixed: new("hidden")}},
		Truncate: map[string]int{"note": 3},
	}, Options{Secret: []byte(secret), Keys: []string{"id"}})
	if err != nil {
		t.Fatal(err)
	}
	ch := &change.Change{Op: change.Update, Before: row(7, "a@b.de", "030-123456", "größer"), After: row(7, "a@b.de", "12345", "ab"), Unchanged: []byte{1 << 6}}
	out := f.Change(ch)
	want := []string{sum("7")[:32], sum("a@b.de"), "****456", "hidden", "grö", ""}
	for i, w := range want {
		if got := out.Before[i].Text(); got != w {
			t.Errorf("before %d is %q, not %q", i, got, w)
		}
	}
	if out.After[0] != out.Before[0] || out.After[1] != out.Before[1] {
		t.Error("the same value has another hash after than before")
	}
	if got := out.After[2].Text(); got != "****" {
		t.Errorf("a phone of five digits became %q: three of its digits are most of it", got)
	}
	if got := out.After[4].Text(); got != "ab" {
		t.Errorf("a text shorter than the limit became %q", got)
	}
	if len(out.Unchanged) != 1 || !out.IsUnchanged(5) || out.Unchanged[0] != 1<<5 {
		t.Errorf("the unchanged column moved to %08b, not to its new place", out.Unchanged)
	}
	if f.Where() != "country = 'DE'" {
		t.Errorf("where is %q", f.Where())
	}
	names, sources := "", ""
	for _, c := range f.Shape().Columns {
		names, sources = names+" "+c.Name, sources+" "+c.Source
	}
	if names != " id email phone born note tags" || sources != " text text text text text text[]" {
		t.Errorf("the shape is%s of%s", names, sources)
	}
	if s := f.Shape().Columns; !s[0].Key || !s[3].NotNull || s[0].Type.Kind != feature.String || s[3].Type.Kind != feature.String {
		t.Errorf("keys and NOT NULL do not stay, or types are not text: %+v", s)
	}
	if ch.Before[1].Text() != "a@b.de" || ch.Unchanged[0] != 1<<6 {
		t.Error("the original was touched")
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		what   string
		config Config
		want   string
	}{
		{"unknown column", Config{Hash: map[string]Hash{"emial": {}}}, "did you mean email?"},
		{"unknown pattern", Config{Exclude: []string{"intrenal_score"}}, "did you mean internal_score?"},
		{"nothing near", Config{Truncate: map[string]int{"xxxxxxxxxxxxxxxxxxxxxx": 1}}, "the columns are id, email"},
		{"bad pattern", Config{Include: []string{"[a"}}, "is not a pattern"},
		{"primary key left out", Config{Exclude: []string{"i*"}}, "column id cannot be left out: it is part of the primary key"},
		{"view's key left out", Config{Exclude: []string{"email"}}, "column email cannot be left out: a view uses it"},
		{"not included key", Config{Include: []string{"email"}}, "column id cannot be left out"},
		{"key masked", Config{Mask: map[string]Mask{"email": {KeepLast: 2}}}, "column email cannot be masked"},
		{"key truncated", Config{Truncate: map[string]int{"email": 5}}, "column email cannot be truncated"},
		{"key hashed too short", Config{Hash: map[string]Hash{"id": {Length: 31}}}, "at least 32 digits"},
		{"too many digits", Config{Hash: map[string]Hash{"note": {Length: 65}}}, "has length 65"},
		{"negative digits", Config{Hash: map[string]Hash{"note": {Length: -1}}}, "has length -1"},
		{"mask of nothing", Config{Mask: map[string]Mask{"note": {}}}, "set either fixed"},
		{"mask of both", Config{Mask: map[string]Mask{"note": {Fixed: new(""), KeepLast: 1}}}, "set either fixed"},
		{"twice", Config{Mask: map[string]Mask{"note": {KeepLast: 1}}, Truncate: map[string]int{"note": 1}}, "in mask and in truncate"},
		{"rule for what is left out", Config{Exclude: []string{"note"}, Mask: map[string]Mask{"note": {KeepLast: 1}}}, "column note is left out"},
		{"part of a number", Config{Truncate: map[string]int{"internal_score": 1}}, "of which a part is no value"},
		{"part of an array", Config{Truncate: map[string]int{"tags": 1}}, "of which a part is no value"},
		{"nothing of a text", Config{Truncate: map[string]int{"note": 0}}, "has length 0"},
		{"empty where", Config{Where: new(" ")}, "where is empty"},
	} {
		_, err := Compile(customers(), c.config, Options{Secret: []byte(secret), Keys: []string{"email"}})
		if fault.ClassOf(err) != fault.Usage || err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "table public.customers: ") {
			t.Errorf("%s: %v\nshould say %q", c.what, err, c.want)
		}
	}
	_, err := Compile(customers(), Config{Hash: map[string]Hash{"note": {}}}, Options{Secret: []byte("short")})
	if err == nil || !strings.Contains(err.Error(), "at least 16 bytes, there are 5") || strings.Contains(err.Error(), "short") {
		t.Errorf("a short secret: %v", err)
	}
	table := customers()
	table.Identity = feature.IdentityIndex
	if _, err := Compile(table, Config{Mask: map[string]Mask{"note": {KeepLast: 1}}}, Options{}); err == nil || !strings.Contains(err.Error(), "replica identity") {
		t.Errorf("a column of the identity was masked: %v", err)
	}
}

// TestRandomRows holds random filters against a plain model: what each column becomes, by itself.
func TestRandomRows(t *testing.T) {
	r := testkit.Seed(t)
	for range 500 {
		table, config, model := randomFilter(r)
		f, err := Compile(table, config, Options{Secret: []byte(secret)})
		if err != nil {
			t.Fatal(err)
		}
		in := make([]feature.Value, len(table.Columns))
		for i := range in {
			if r.IntN(4) > 0 {
				in[i] = feature.OfString(strings.Repeat([]string{"ä", "€x"}[r.IntN(2)], r.IntN(3)) + fmt.Sprint(r.IntN(5)))
			}
		}
		in[0] = feature.OfString("k")
		ch := &change.Change{After: in, Unchanged: make([]byte, 2)}
		for i := range in {
			if in[i].IsNull() && r.IntN(2) == 0 {
				ch.Unchanged[i/8] |= 1 << (i % 8)
			}
		}
		out := f.Change(ch)
		at := 0
		for i, c := range table.Columns {
			become, kept := model[c.Name]
			if !kept {
				continue
			}
			want := in[i]
			if !want.IsNull() {
				want = feature.OfString(become(want.S))
			}
			if f.Shape().Columns[at].Name != c.Name || out.After[at] != want || out.IsUnchanged(at) != ch.IsUnchanged(i) {
				t.Fatalf("column %s is %v (unchanged %t), expected %v (%t); rules %+v", c.Name, out.After[at], out.IsUnchanged(at), want, ch.IsUnchanged(i), config)
			}
			at++
		}
		if at != len(out.After) || !reflect.DeepEqual(f.Row(in), f.Row(in)) {
			t.Fatalf("%d columns, expected %d", len(out.After), at)
		}
	}
}

func randomFilter(r *rand.Rand) (*feature.Table, Config, map[string]func(string) string) {
	table := &feature.Table{Schema: "s", Name: "t", Identity: feature.IdentityDefault}
	config := Config{Mask: map[string]Mask{}, Hash: map[string]Hash{}, Truncate: map[string]int{}}
	model := map[string]func(string) string{}
	for i := range 1 + r.IntN(16) {
		name := fmt.Sprintf("c%d", i)
		table.Columns = append(table.Columns, feature.Column{Name: name, Source: "text", Type: feature.Type{Kind: feature.String}, Key: i == 0})
		n := 1 + r.IntN(4)
		rule := r.IntN(6)
		if i == 0 {
			rule = r.IntN(2)
			n = MinKeyDigits
		}
		switch rule {
		case 0:
			model[name] = func(s string) string { return s }
		case 1:
			config.Hash[name] = Hash{Length: n}
			model[name] = func(s string) string { return sum(s)[:n] }
		case 2:
			config.Exclude = append(config.Exclude, name)
		case 3:
			config.Truncate[name] = n
			model[name] = func(s string) string { return string([]rune(s)[:min(n, len([]rune(s)))]) }
		case 4:
			config.Mask[name] = Mask{KeepLast: n}
			model[name] = func(s string) string {
				if l := []rune(s); len(l) >= 2*n {
					return "****" + string(l[len(l)-n:])
				}
				return "****"
			}
		default:
			config.Mask[name] = Mask{Fixed: new("x")}
			model[name] = func(string) string { return "x" }
		}
	}
	return table, config, model
}
