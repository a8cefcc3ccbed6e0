package pgtype

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/testkit"
)

// TestShortIsParseText: the short way gives what the long one gives, or leaves it to that.
func TestShortIsParseText(t *testing.T) {
	r := testkit.Seed(t)
	taken := 0
	for range 300_000 {
		ty, text := random(r)
		v, ok := short(ty, []byte(text))
		if !ok {
			continue
		}
		taken++
		if want, err := feature.ParseText(ty, text); err != nil || v != want {
			t.Fatalf("%s %q is %v, not %v, %v", ty, text, v, want, err)
		}
	}
	if taken < 100_000 {
		t.Errorf("only %d were taken", taken)
	}
}

// random gives texts that are values, and such with a character changed.
func random(r *rand.Rand) (feature.Type, string) {
	var ty feature.Type
	var text string
	at := time.Unix(r.Int64N(400_000_000_000)-62_135_596_800, 0).UTC()
	switch r.IntN(4) {
	case 0:
		up, down := r.Int64()>>r.IntN(64), r.Int64()>>r.IntN(64)
		ty, text = feature.Type{Kind: feature.Int64}, fmt.Sprint(up-down)
	case 1:
		ty, text = feature.Type{Kind: feature.Bool}, []string{"t", "f"}[r.IntN(2)]
	case 2:
		ty, text = feature.Type{Kind: feature.Date}, at.Format("2006-01-02")
	default:
		ty, text = feature.Type{Kind: feature.Timestamp}, at.Format("2006-01-02 15:04:05")
		if digits := r.IntN(8); digits > 0 {
			text += fmt.Sprintf(".%0*d", digits, r.IntN(10))
		}
		text += []string{"", "+00", "+00", "+05:30", " BC", "+00 BC"}[r.IntN(6)]
	}
	if r.IntN(3) == 0 {
		b := []byte(text)
		b[r.IntN(len(b))] = "0123456789-+: .TZ"[r.IntN(17)]
		text = string(b)
	}
	return ty, text
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"1", "-0", "t", "2000-02-30", "2000-02-29 23:59:59.5+00", "{1}", "NaN", `\x00`} {
		f.Add(uint8(feature.Int64), s)
		f.Add(uint8(feature.Timestamp), s)
		f.Add(uint8(feature.Date), s)
	}
	f.Fuzz(func(t *testing.T, kind uint8, text string) {
		ty := feature.Type{Kind: feature.Kind(kind % (uint8(feature.UUID) + 1))}
		v, err := Parse(ty, []byte(text))
		if ty.IsText() {
			if err != nil || v != feature.OfString(text) {
				t.Fatalf("%s %q became %v, %v", ty, text, v, err)
			}
			return
		}
		want, wantErr := feature.ParseText(ty, text)
		if v != want && wantErr == nil || (err == nil) != (wantErr == nil) {
			t.Fatalf("%s %q is %v, %v; ParseText says %v, %v", ty, text, v, err, want, wantErr)
		}
	})
}

// TestATypeMadeLaterSaysSo: also below a domain or an array that is known.
func TestATypeMadeLaterSaysSo(t *testing.T) {
	const domain, array, enum, circle = 20000, 20001, 20002, 20003
	c := Catalogue{domain: {Name: "public.d", Base: array, Mod: -1}, array: {Name: "public.e[]", Elem: enum}, circle: {Name: "public.c", Base: circle}}
	for _, oid := range []uint32{domain, array, enum} {
		_, err := Of(oid, -1, c)
		if unknown, ok := errors.AsType[*UnknownError](err); !ok || unknown.OID != enum {
			t.Errorf("type %d: %v", oid, err)
		}
	}
	if _, err := Name(enum, -1, c); err == nil {
		t.Error("a type that is not known has a name")
	}
	c[enum] = Entry{Name: "public.e"}
	if got, err := Of(domain, -1, c); err != nil || got != feature.ListOf(feature.Type{Kind: feature.String}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := Of(circle, -1, c); err == nil {
		t.Errorf("a domain of itself is %+v", got)
	}
}

// TestModifiersOfNumeric: the decimal holds every number of the type.
func TestModifiersOfNumeric(t *testing.T) {
	mod := func(precision, scale int) int32 { return int32(precision<<16|scale&0x7ff) + 4 }
	for _, x := range []struct{ p, s, precision, scale int }{
		{12, 2, 12, 2}, {38, 38, 38, 38}, {38, 0, 38, 0}, {39, 0, 0, 0}, {2, -3, 5, 0}, {36, -2, 38, 0}, {37, -2, 0, 0}, {3, 6, 6, 6}, {3, 39, 0, 0}, {1000, -1000, 0, 0}, {1000, 1000, 0, 0},
	} {
		if got, want := decimal(mod(x.p, x.s)), (feature.Type{Kind: feature.Decimal, Precision: x.precision, Scale: x.scale}); got != want {
			t.Errorf("numeric(%d,%d) is %+v", x.p, x.s, got)
		}
		if p, s := precisionOf(mod(x.p, x.s)); p != x.p || s != x.s {
			t.Errorf("numeric(%d,%d) is taken apart as %d, %d", x.p, x.s, p, s)
		}
	}
	if got := decimal(-1); got != (feature.Type{Kind: feature.Decimal}) {
		t.Errorf("numeric is %+v", got)
	}
}

func BenchmarkParse(b *testing.B) {
	for _, x := range []struct {
		ty   feature.Type
		text string
	}{
		{feature.Type{Kind: feature.Int64}, "1234567"}, {feature.Type{Kind: feature.Timestamp}, "2013-01-01 10:00:00.123456+00"},
		{feature.Type{Kind: feature.Date}, "2013-01-01"}, {feature.Type{Kind: feature.Double}, "123.456"}, {feature.Type{Kind: feature.Decimal, Precision: 12, Scale: 2}, "123.45"},
	} {
		text := []byte(x.text)
		b.Run(x.ty.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(x.ty, text); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(x.ty.String()+"/ParseText", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := feature.ParseText(x.ty, string(text)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
