package filter

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/freshet-io/freshet/internal/feature"
)

// rule is what becomes of a column's values.
type rule struct {
	key  string // where it was written
	of   func(feature.Value) feature.Value
	text bool // the column is text from then on
}

// rules gives the rule of each column that has one.
func (b *builder) rules(kept []int) (map[string]rule, error) {
	out := map[string]rule{}
	add := func(name, key string, made func(feature.Column) (rule, error)) error {
		i := b.table.Index(name)
		switch {
		case i < 0:
			return b.unknown(b.fail("%s: %q is no column", key, name), name)
		case !slices.Contains(kept, i):
			return b.fail("%s: column %s is left out", key, name).ToMend("include it, or take the rule out")
		case out[name].key != "":
			return b.fail("column %s is in %s and in %s", name, out[name].key, key).ToMend("take one of the two out")
		}
		r, err := made(b.table.Columns[i])
		if err != nil {
			return err
		}
		r.key = key
		out[name] = r
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(b.config.Mask)) {
		if err := add(name, "mask", func(c feature.Column) (rule, error) { return b.mask(c, b.config.Mask[name]) }); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.config.Hash)) {
		if err := add(name, "hash", func(c feature.Column) (rule, error) { return b.hash(c, b.config.Hash[name]) }); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.config.Truncate)) {
		if err := add(name, "truncate", func(c feature.Column) (rule, error) { return b.truncate(c, b.config.Truncate[name]) }); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (b *builder) mask(c feature.Column, m Mask) (rule, error) {
	if why := b.isKey(c); why != "" {
		return rule{}, b.fail("column %s cannot be masked: %s, and rows would become the same", c.Name, why).ToMend("hash it: different values stay different")
	}
	switch {
	case m.Fixed != nil && m.KeepLast == 0:
		fixed := feature.OfString(*m.Fixed)
		return rule{text: true, of: func(feature.Value) feature.Value { return fixed }}, nil
	case m.Fixed == nil && m.KeepLast > 0:
		return rule{text: true, of: func(v feature.Value) feature.Value { return feature.OfString(keepLast(v.Text(), m.KeepLast)) }}, nil
	}
	return rule{}, b.fail("mask: column %s has fixed %t and keep_last %d", c.Name, m.Fixed != nil, m.KeepLast).
		ToMend("set either fixed to a text or keep_last to a number above 0")
}

// keepLast hides how long the value was, too.
func keepLast(s string, n int) string {
	if utf8.RuneCountInString(s) < 2*n {
		return hidden
	}
	at := len(s)
	for range n {
		_, size := utf8.DecodeLastRuneInString(s[:at])
		at -= size
	}
	return hidden + s[at:]
}

func (b *builder) hash(c feature.Column, h Hash) (rule, error) {
	digits := h.Length
	if digits == 0 {
		digits = allDigits
	}
	why := b.isKey(c)
	switch {
	case len(b.options.Secret) < MinSecret:
		return rule{}, b.fail("hash: column %s needs a secret of at least %d bytes, there are %d", c.Name, MinSecret, len(b.options.Secret)).
			ToMend("set the secret for hashing to env:NAME or file:PATH of one, for example of: openssl rand -hex 32")
	case digits < 1 || digits > allDigits:
		return rule{}, b.fail("hash: column %s has length %d", c.Name, h.Length).ToMend("give 1 to %d digits, or 0 for all", allDigits)
	case why != "" && digits < MinKeyDigits:
		return rule{}, b.fail("hash: column %s has length %d, but %s, and %d digits can be the same for different values", c.Name, digits, why, digits).
			ToMend("give at least %d digits", MinKeyDigits)
	}
	secret := slices.Clone(b.options.Secret)
	return rule{text: true, of: func(v feature.Value) feature.Value {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(v.Text()))
		return feature.OfString(hex.EncodeToString(mac.Sum(nil))[:digits])
	}}, nil
}

func (b *builder) truncate(c feature.Column, n int) (rule, error) {
	base, _, _ := strings.Cut(c.Source, "(")
	why := b.isKey(c)
	switch {
	case why != "":
		return rule{}, b.fail("column %s cannot be truncated: %s, and rows would become the same", c.Name, why).ToMend("hash it: different values stay different")
	case strings.HasSuffix(c.Source, "[]") || !slices.Contains([]string{"text", "character varying", "character", "citext", "name"}, base):
		return rule{}, b.fail("truncate: column %s is of type %s, of which a part is no value", c.Name, c.Source).ToMend("mask it, hash it, or leave it out")
	case n < 1:
		return rule{}, b.fail("truncate: column %s has length %d", c.Name, n).ToMend("give at least 1 character, or leave the column out")
	}
	return rule{of: func(v feature.Value) feature.Value { return feature.OfString(firstRunes(v.S, n)) }}, nil
}

func firstRunes(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}
