package feature

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Outline checks all of definitions that can be checked before the source's tables are known, so that a mistake
// is told where there is no source to ask. What it gives is for this only: its views have the names of
// their features, and no columns or types. Resolve makes the same checks, with the others.
func Outline(d *Definitions) (*Catalog, error) {
	c := &Catalog{Definitions: d}
	return c.resolve(c.outline)
}

func (c *Catalog) outline(d *FeatureView) (*View, error) {
	v, err := c.newView(d)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(d.Source, ".") {
		return nil, refuseAt(d, "source", "source %q is not a table's name", d.Source).ToMend("write it as schema.table, as in public.%s", cmp.Or(d.Source, "orders"))
	}
	if err := v.resolveMode(); err != nil {
		return nil, err
	}
	if err := v.checkEntity(); err != nil {
		return nil, err
	}
	if d.EventTime == "" {
		return nil, v.noEventTime("a timestamp of " + d.Source)
	}
	if d.Via != "" {
		if _, err := c.via(v); err != nil {
			return nil, err
		}
	}
	for i, jd := range d.Join {
		at := "join." + strconv.Itoa(i)
		if !strings.Contains(jd.Table, ".") {
			return nil, refuseAt(d, at+".table", "join: %q is not a table's name", jd.Table).ToMend("write it as schema.table, as in public.%s", cmp.Or(jd.Table, "shops"))
		}
		if err := v.checkJoin(jd, at); err != nil {
			return nil, err
		}
		if len(jd.On) == 0 {
			return nil, refuseAt(d, at+".on", "join %s: on: does not say by what it is joined", jd.Table).ToMend("on: {KEY OF %s: COLUMN OF %s}", jd.Table, d.Source)
		}
		v.Joins = append(v.Joins, Join{As: jd.As})
	}
	return v, v.resolveFeatures()
}

// checkAliases refuses columns of joins that are not there.
func (v *View) checkAliases(fd *FeatureDef) error {
	for _, x := range []struct{ arg, name string }{{"of", fd.Of}, {"by", fd.By}, {"per", fd.Per}} {
		alias, column, joined := strings.Cut(x.name, ".")
		if !joined || slices.ContainsFunc(v.Joins, func(j Join) bool { return j.As == alias }) {
			continue
		}
		var known []string
		for _, j := range v.Joins {
			known = append(known, j.As+"."+column)
		}
		e := fd.refuse(v.Def, x.arg, "unknown column %q: there is no join %s", x.name, alias)
		if known == nil {
			return e.ToMend("add it: join: [{table: TABLE, as: %s, on: {KEY OF IT: COLUMN OF %s}}]", alias, v.Def.Source)
		}
		return e.ToMend("%s", near(x.name, "columns of joins", known))
	}
	return nil
}
