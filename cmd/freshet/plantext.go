package main

import (
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/plan"
)

// planItem is one object of a plan, or one feature that is not what it was. What a view computes is told
// where it is new or another.
type planItem struct {
	plan.Step
	Details  string           `json:"details"`
	Readers  string           `json:"readers"` // what they see meanwhile
	Features []plan.Explained `json:"features,omitempty"`
}

// checked is the change of what was compared with nothing.
const checked plan.Effect = "checked"

func (p *proposal) items() []planItem {
	details := map[string]string{}
	c, d := p.catalog, p.catalog.Definitions
	for _, g := range c.Groups {
		details["group "+g.Name] = fmt.Sprintf("key %s %s, %d partitions", g.Key.Name, g.Key.Type, g.Partitions)
	}
	for _, v := range c.Views {
		details["view "+v.Name] = viewDetails(v)
	}
	for _, s := range d.Sets {
		details["set "+s.Name] = fmt.Sprintf("%d features", len(s.Features))
	}
	for _, m := range d.Models {
		details["model "+m.Name] = fmt.Sprintf("%s %s, of %s", m.Format, path.Base(m.URI), m.Inputs)
	}
	for _, x := range d.Pipelines {
		when := "by hand"
		if x.Schedule != "" {
			when = strings.TrimSpace(strconv.Quote(x.Schedule) + " " + x.Timezone)
		}
		details["pipeline "+x.Name] = fmt.Sprintf("%d steps, %s", len(x.Steps), when)
	}
	var out []planItem
	if len(p.slots) > 1 {
		for _, s := range p.slots {
			step := plan.Step{Kind: "slot", Name: s.Slot, Effect: checked, Where: s.At, Reasons: []string{}}
			out = append(out, planItem{Step: step, Details: fmt.Sprintf("groups %s; tables %s", strings.Join(s.Groups, ", "), strings.Join(s.Tables, ", "))})
		}
	}
	for _, s := range p.steps {
		item := planItem{Step: s, Details: details[s.Kind+" "+s.Name], Readers: plan.Readers(s)}
		if p.alone {
			item.Effect = checked
		}
		if v := c.View(s.Name); s.Kind == "view" && v != nil && s.Effect != plan.None {
			item.Features = plan.Explain(v).Features
		}
		out = append(out, item)
	}
	return out
}

func viewDetails(v *feature.View) string {
	names := make([]string, len(v.Entity))
	for i, e := range v.Entity {
		names[i] = e.Name
	}
	from := []string{v.Source.FullName()}
	for _, j := range v.Joins {
		from = append(from, j.Table.FullName())
	}
	via := ""
	if v.Hop != nil {
		via = ", via " + v.Hop.Group.Name
	}
	return fmt.Sprintf("%s by %s, from %s%s", v.Group.Name, strings.Join(names, ", "), strings.Join(from, " with "), via)
}

// told says what a step is about: why it is one, or what the object is.
func (i planItem) told() string {
	if len(i.Reasons) == 0 || i.Reasons[0] == "new" && i.Details != "" {
		return i.Details
	}
	return strings.Join(i.Reasons, "; ")
}

func (p *proposal) print(out io.Writer, items []planItem) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KIND\tNAME\tCHANGE\tWHERE\tDETAILS")
	for _, i := range items {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", i.Kind, i.Name, i.Effect, i.Where, i.told())
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, i := range items {
		if len(i.Features) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s\n", i.Name)
		for _, f := range i.Features {
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", f.Name, f.Type, f.Is, f.Retracts)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	p.prices(out, items)
	fmt.Fprintf(out, "\nEverything was checked against %s. %s\n", p.checked, p.compared())
	if next := p.next(); next != "" {
		fmt.Fprintln(out, next)
	}
	return nil
}

// next says how the change is made; "" where there is none, or nothing to compare with.
func (p *proposal) next() string {
	if p.runs == nil || plan.Worst(p.steps) == plan.None {
		return ""
	}
	const start = "The next start of freshet up, or of capture and node, makes it"
	if admissible(p.steps, false, false) == nil {
		return start + "."
	}
	if admissible(p.steps, false, true) == nil {
		return start + " with --allow-drop, as readers may use what is dropped."
	}
	if admissible(p.steps, true, true) == nil {
		return start + " with --new-snapshot, which computes everything anew, and --allow-drop where something is dropped."
	}
	return "A start refuses it, with what to do: freshet apply --dry-run says that now."
}

// compared says what the definitions were compared with, and what comes of it.
func (p *proposal) compared() string {
	if p.alone {
		return "It was not compared with what runs."
	}
	if p.runs == nil {
		return "Nothing runs yet that it could be compared with, as far as is known here: everything is new."
	}
	if plan.Worst(p.steps) == plan.None {
		return "It is what " + p.from + " has: nothing changes."
	}
	counts := map[plan.Effect]int{}
	for _, s := range p.steps {
		counts[s.Effect]++
	}
	var parts []string
	for _, e := range []plan.Effect{plan.Replaced, plan.Additive, plan.Generation, plan.Destructive} {
		if counts[e] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", counts[e], e))
		}
	}
	return "Compared with " + p.from + ": " + strings.Join(parts, ", ") + "."
}

// prices tells what has to be computed, and what readers see meanwhile.
func (p *proposal) prices(out io.Writer, items []planItem) {
	for _, i := range items {
		if i.Effect == plan.None || i.Effect == checked || p.runs == nil {
			continue
		}
		if i.Price != nil {
			fmt.Fprintf(out, "\n%s %s: %s\n", i.Kind, i.Name, priceText(i.Price, p.rate))
		} else if i.Readers != "" {
			fmt.Fprintf(out, "\n%s %s\n", i.Kind, i.Name)
		}
		printJoined(out, i.Joined)
		if i.Readers != "" {
			fmt.Fprintf(out, "  readers: %s\n", i.Readers)
		}
		if i.ToMend != "" {
			fmt.Fprintf(out, "  to mend: %s\n", i.ToMend)
		}
	}
}

func priceText(p *plan.Price, rate float64) string {
	if p.Rows == 0 && len(p.Unknown) > 0 {
		return fmt.Sprintf("%s of %s are read; how many rows those are is not known, as they were never analyzed (ANALYZE %s;)",
			bytesText(p.Bytes), strings.Join(p.Tables, ", "), strings.Join(p.Unknown, ", "))
	}
	text := fmt.Sprintf("%d rows (%s) of %s are read: about %s at %g rows a second (--rate)", p.Rows, bytesText(p.Bytes), strings.Join(p.Tables, ", "), p.Duration(), rate)
	if len(p.Unknown) > 0 {
		text += "; without those of " + strings.Join(p.Unknown, ", ") + ", which were never analyzed (ANALYZE " + strings.Join(p.Unknown, ", ") + ";)"
	}
	return text
}

func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return strconv.FormatFloat(f, 'f', min(i, 1), 64) + " " + units[i]
}
