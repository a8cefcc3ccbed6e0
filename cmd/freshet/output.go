package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/freshet-io/freshet/internal/fault"
)

// show prints rows (a slice) as a table, as one JSON array, or as one JSON object a line.
func show(err error, rows any, output string) error {
	if err != nil {
		return err
	}
	b, err := json.Marshal(rows)
	if err != nil {
		return err
	}
	return showJSON(b, output)
}

// showJSON prints a JSON array in a form.
func showJSON(b []byte, output string) error { return writeJSON(os.Stdout, b, output) }

// writeJSON writes a JSON array in a form.
func writeJSON(out io.Writer, b []byte, output string) error {
	switch output {
	case "json":
		var raw []json.RawMessage
		if err := json.Unmarshal(b, &raw); err != nil {
			return err
		}
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(raw)
	case "jsonl":
		var raw []json.RawMessage
		if err := json.Unmarshal(b, &raw); err != nil {
			return err
		}
		for _, r := range raw {
			fmt.Fprintln(out, string(r))
		}
		return nil
	case "table":
		return writeTable(out, b)
	}
	return fault.New(fault.Usage, "--output %q: expected table, json or jsonl", output)
}

// writeTable writes the scalar members of the objects, in the order of the first one.
func writeTable(out io.Writer, b []byte) error {
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.UseNumber()
	var rows []orderedRow
	if err := d.Decode(&rows); err != nil {
		return err
	}
	if len(rows) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	var names []string
	for _, r := range rows {
		for _, k := range r.keys {
			if !slices.Contains(names, k) {
				names = append(names, k)
			}
		}
	}
	fmt.Fprintln(w, strings.ToUpper(strings.Join(names, "\t")))
	for _, r := range rows {
		var cells []string
		for _, n := range names {
			cells = append(cells, text(r.values[n]))
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	return w.Flush()
}

func text(v any) string {
	switch x := v.(type) {
	case nil:
		return "-"
	case string:
		return x
	}
	return fmt.Sprint(v)
}

// orderedRow is a JSON object that keeps the order of its scalar members; what is nested is left out.
type orderedRow struct {
	keys   []string
	values map[string]any
}

// UnmarshalJSON reads an object.
func (o *orderedRow) UnmarshalJSON(b []byte) error {
	o.values = map[string]any{}
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.UseNumber()
	if _, err := d.Token(); err != nil {
		return err
	}
	for d.More() {
		k, err := d.Token()
		if err != nil {
			return err
		}
		var v any
		if err := d.Decode(&v); err != nil {
			return err
		}
		if kind := reflect.ValueOf(v).Kind(); kind == reflect.Map || kind == reflect.Slice || k == "reason" || k == "mend" {
			continue // what is long is in the other forms, and in the error
		}
		if n, ok := v.(json.Number); ok && k == "log_time" {
			if us, err := n.Int64(); err == nil {
				v = instant(&us)
			}
		}
		o.keys = append(o.keys, k.(string))
		o.values[k.(string)] = v
	}
	return nil
}
