package main

import (
	"path/filepath"
	"testing"
)

// The schemas that editors read are those of the code; UPDATE=1 writes them.
func TestSchemasAreThoseOfTheCode(t *testing.T) {
	for file, args := range map[string][]string{"freshet.schema.json": {"schema"}, "definitions.schema.json": {"schema", "definitions"}} {
		out, code := command(t, configCommand(), args...)
		if code != 0 {
			t.Fatal(out)
		}
		compareGolden(t, filepath.Join("..", "..", "docs", "schema", file), out)
	}
}
