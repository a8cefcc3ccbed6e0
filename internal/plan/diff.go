package plan

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/freshet-io/freshet/internal/feature"
)

// Text is the difference of one object, line by line: "-" was, "+" is, " " is the same.
type Text struct {
	Kind  string   `json:"kind"`
	Name  string   `json:"name"`
	Where string   `json:"where"`
	Lines []string `json:"lines"`
}

// Diff gives the difference of every object that is not the same, as the definitions are written when
// nothing but what they mean is left: without comments, in one order of keys.
func Diff(runs, wanted *feature.Definitions) ([]Text, error) {
	if runs == nil {
		runs = &feature.Definitions{}
	}
	var out []Text
	for _, kind := range []struct {
		name string
		all  []pair
	}{
		{"group", pairs(runs.Groups, wanted.Groups, func(x feature.PartitionGroup) (string, feature.Meta) { return x.Name, x.Meta })},
		{"view", pairs(runs.Views, wanted.Views, func(x feature.FeatureView) (string, feature.Meta) { return x.Name, x.Meta })},
		{"set", pairs(runs.Sets, wanted.Sets, func(x feature.FeatureSet) (string, feature.Meta) { return x.Name, x.Meta })},
		{"model", pairs(runs.Models, wanted.Models, func(x feature.ModelDef) (string, feature.Meta) { return x.Name, x.Meta })},
		{"pipeline", pairs(runs.Pipelines, wanted.Pipelines, func(x feature.PipelineDef) (string, feature.Meta) { return x.Name, x.Meta })},
	} {
		for _, p := range kind.all {
			was, err := yamlLines(p.old)
			if err != nil {
				return nil, err
			}
			is, err := yamlLines(p.fresh)
			if err != nil {
				return nil, err
			}
			if lines, same := lineDiff(was, is); !same {
				out = append(out, Text{kind.name, p.name, p.meta.String(), lines})
			}
		}
	}
	return out, nil
}

// yamlLines writes a definition without where it was read.
func yamlLines(x any) ([]string, error) {
	if x == nil {
		return nil, nil
	}
	text, err := json.Marshal(x)
	if err != nil {
		return nil, fmt.Errorf("definition: %w", err)
	}
	var keys yaml.MapSlice
	if err := yaml.UnmarshalWithOptions(text, &keys, yaml.UseOrderedMap()); err != nil {
		return nil, fmt.Errorf("definition: %w", err)
	}
	var kept yaml.MapSlice
	for _, k := range keys {
		if k.Key != "meta" && k.Key != "apiVersion" {
			kept = append(kept, k)
		}
	}
	out, err := yaml.MarshalWithOptions(kept, yaml.IndentSequence(true))
	if err != nil {
		return nil, fmt.Errorf("definition: %w", err)
	}
	return strings.Split(strings.TrimRight(string(out), "\n"), "\n"), nil
}

// lineDiff gives the lines of both, with what is common to them as far as it goes.
func lineDiff(a, b []string) (lines []string, same bool) {
	longest := make([][]int, len(a)+1) // common lines of a[i:] and b[j:]
	for i := range longest {
		longest[i] = make([]int, len(b)+1)
	}
	for i, x := range slices.Backward(a) {
		for j, y := range slices.Backward(b) {
			if x == y {
				longest[i][j] = longest[i+1][j+1] + 1
			} else {
				longest[i][j] = max(longest[i+1][j], longest[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			lines = append(lines, " "+a[i])
			i, j = i+1, j+1
		case i < len(a) && (j == len(b) || longest[i+1][j] >= longest[i][j+1]):
			lines = append(lines, "-"+a[i])
			i++
		default:
			lines = append(lines, "+"+b[j])
			j++
		}
	}
	return lines, longest[0][0] == len(a) && len(a) == len(b)
}
