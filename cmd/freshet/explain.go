package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/freshet-io/freshet/delta/expression"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/plan"
	"github.com/freshet-io/freshet/internal/strict"
)

func explainCommand() *cobra.Command {
	var o planOptions
	c := &cobra.Command{
		Use: "explain VIEW[.FEATURE] [-f DIR] [-c FILE]", Short: "Say how a view is computed, what is kept for it, and how a row is taken back",
		Example: "  freshet explain plane_delays -c freshet.yaml\n  freshet explain plane_delays.worst_7d -f definitions --schema definitions/tests/tables.yaml", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkOutput(o.output); err != nil {
				return err
			}
			catalog, err := resolved(c.Context(), o)
			if err != nil {
				return err
			}
			e, err := explained(catalog, args[0])
			if err != nil {
				return err
			}
			if o.output != "table" {
				return show(nil, []*plan.ExplainedView{e}, o.output)
			}
			return printExplained(c.OutOrStdout(), e)
		},
	}
	o.flags(c)
	outputFlag(c, &o.output)
	return c
}

// explained explains a view, or one feature of it.
func explained(c *feature.Catalog, name string) (*plan.ExplainedView, error) {
	view, of, one := strings.Cut(name, ".")
	v := c.View(view)
	if v == nil {
		var known []string
		for _, v := range c.Views {
			known = append(known, v.Name)
		}
		return nil, notThere("there is no view "+view, view, "views", known)
	}
	var uses []string
	conditions := []string{v.Where}
	for i := range v.Features {
		conditions = append(conditions, v.Features[i].Where)
	}
	for _, where := range conditions {
		if where == "" {
			continue
		}
		_, err := expression.Compile(where, func(name string) (expression.Column, bool) {
			uses = append(uses, name)
			_, col, ok := v.Lookup(name)
			return expression.Column{Type: col.Type}, ok
		})
		if err != nil {
			return nil, err
		}
	}
	e := plan.Explain(v, uses...)
	if !one {
		return e, nil
	}
	var known []string
	for _, f := range e.Features {
		known = append(known, f.Name)
	}
	e.Features = slices.DeleteFunc(e.Features, func(f plan.Explained) bool { return f.Name != of })
	if len(e.Features) == 0 {
		return nil, notThere("view "+view+" has no feature "+of, of, "features", known)
	}
	return e, nil
}

func notThere(what, word, of string, known []string) error {
	e := fault.New(fault.NotFound, "%s", what)
	if near := strict.Nearest(word, known); near != "" {
		return e.ToMend("did you mean %s?", near)
	}
	return e.ToMend("the %s are: %s", of, strings.Join(known, ", "))
}

func printExplained(out io.Writer, e *plan.ExplainedView) error {
	fmt.Fprintf(out, "%s (%s)\n", e.Name, e.Where)
	line := func(what string, values ...string) {
		for i, v := range values {
			if i > 0 {
				what = ""
			}
			fmt.Fprintf(out, "  %-9s %s\n", what, v)
		}
	}
	line("entity", e.Entity...)
	line("group", e.Group)
	line("rows", e.Rows)
	line("time", e.Time)
	line("joins", e.Joins...)
	for i, r := range e.Reads {
		line([]string{"reads", ""}[min(i, 1)], r.Table+": "+strings.Join(r.Columns, ", "))
	}
	for i, n := range e.Identity {
		line([]string{"identity", ""}[min(i, 1)], fmt.Sprintf("%s has %s, needs %s", n.Table, n.Has, n.Needs))
	}
	line("keeps", e.Keeps...)
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FEATURE\tTYPE\tIS\tCLASS\tA TILE KEEPS\tA ROW IS TAKEN BACK")
	for _, f := range e.Features {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", f.Name, f.Type, f.Is, f.Class, f.Keeps, f.Retracts)
	}
	return w.Flush()
}
