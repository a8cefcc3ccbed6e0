package pgtype

import "testing"

// The name that format_type writes gives the type that the oid gives, and so do the names people write.
func TestNamed(t *testing.T) {
	for _, b := range builtins {
		for _, oid := range []uint32{b.oid, b.array} {
			mods := []int32{-1}
			switch b.oid {
			case oidNumeric:
				mods = []int32{-1, 12<<16 | 2 + 4, 38<<16 + 4, 39<<16 + 4, 2<<16 | (-3 & 0x7ff) + 4, 3<<16 | 6 + 4}
			case oidTimestamptz, oidTimestamp:
				mods = []int32{-1, 3}
			case oidVarchar:
				mods = []int32{-1, 20 + 4}
			}
			for _, mod := range mods {
				if oid == 0 {
					continue
				}
				name, err := Name(oid, mod, nil)
				if err != nil {
					t.Fatal(err)
				}
				want, err := Of(oid, mod, nil)
				if err != nil {
					t.Fatal(err)
				}
				if got, known := Named(name); !known && b.oid != oidBit || known && got != want {
					t.Errorf("%s is %v (%t), want %v", name, got, known, want)
				}
			}
		}
	}
	for alias, full := range map[string]string{"int8": "bigint", "timestamptz": "timestamp with time zone", "decimal(12, 2)": "numeric(12,2)", "varchar(20)": "text", "float8[]": "double precision[]"} {
		got, known := Named(alias)
		want, _ := Named(full)
		if !known || got != want {
			t.Errorf("%s is %v (%t), want %v", alias, got, known, want)
		}
	}
	for _, name := range []string{"", "bigit", "numeric(", "numeric(a)", "pg_node_tree[]", "bigint[][]"} {
		if got, known := Named(name); known {
			t.Errorf("%q is %v, want none", name, got)
		}
	}
}
