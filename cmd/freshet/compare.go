package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
)

// generationText says which generation of a view is shown, if another one is built, and how the two differ that were compared
// last. Empty: there is nothing to say.
func generationText(v *freshetv1.View) string {
	var lines []string
	if v.Shown > 0 && v.Shown < v.Generation {
		lines = append(lines, fmt.Sprintf("%s: generation %d is built beside generation %d, which is shown until then", v.Name, v.Generation, v.Shown))
	}
	if c := v.Compared; c != nil {
		lines = append(lines, v.Name+": "+comparisonText(c, v.Partitions))
	}
	return strings.Join(lines, "\n")
}

func comparisonText(c *freshetv1.Comparison, partitions int32) string {
	text := fmt.Sprintf("generation %d compared with %d at %s, log time %v: %d entities are equal, %d differ only in columns that are new, %d in others, %d are not shown any more, %d are shown now",
		c.To, c.From, c.Position, instant(&c.LogTime), c.Equal, c.Wider, c.Differ, c.OnlyOld, c.OnlyNew)
	if c.Partitions < partitions {
		text += fmt.Sprintf(" (%d of %d partitions)", c.Partitions, partitions)
	}
	names := slices.SortedFunc(maps.Keys(c.Columns), func(a, b string) int {
		return cmp.Or(-cmp.Compare(c.Columns[a], c.Columns[b]), strings.Compare(a, b))
	})
	for i, name := range names {
		names[i] = fmt.Sprintf("%s %d", name, c.Columns[name])
	}
	if len(names) > 0 {
		text += "\n  columns, in how many of both: " + strings.Join(names, ", ")
	}
	return text
}
