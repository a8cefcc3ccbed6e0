package feature

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/strict"
)

// Resolve checks definitions against the source's tables and gives the catalog everything runs
// on. It is a pure function: the same definitions and tables give the same catalog everywhere.
// Expressions are compiled by whoever evaluates them, not here.
func Resolve(d *Definitions, tables []*Table) (*Catalog, error) {
	c := &Catalog{Definitions: d, Tables: map[string]*Table{}}
	for _, t := range tables {
		c.Tables[t.FullName()] = t
	}
	return c.resolve(c.resolveView)
}

// resolve checks all definitions, the views by what it is given.
func (c *Catalog) resolve(view func(*FeatureView) (*View, error)) (*Catalog, error) {
	d, names := c.Definitions, map[string]Meta{}
	const mend = "write lower-case letters, digits and _, a letter first"
	unique := func(kind, name string, m Meta) error {
		if name == "" {
			return fault.New(fault.Usage, "this %s has no name", kind).At("%s", m).ToMend("add name: NAME, of lower-case letters, digits and _, a letter first")
		}
		if !validName(name) {
			return fault.New(fault.Usage, "%s name %q is not a name", kind, name).At("%s", m).ToMend(mend)
		}
		if old, ok := names[kind+name]; ok {
			return fault.New(fault.Usage, "%s %s is defined twice, first at %s", kind, name, old).At("%s", m).ToMend("rename or remove one of them")
		}
		names[kind+name] = m
		return nil
	}
	for i := range d.Groups {
		g := &d.Groups[i]
		if err := unique("PartitionGroup", g.Name, g.Meta); err != nil {
			return nil, err
		}
		if err := checkGroup(g); err != nil {
			return nil, err
		}
		c.Groups = append(c.Groups, g)
	}
	for i := range d.Views {
		def := &d.Views[i]
		if err := unique("FeatureView", def.Name, def.Meta); err != nil {
			return nil, err
		}
		v, err := view(def)
		if err != nil {
			return nil, err
		}
		if err := c.resolveEarlier(v, d.Earlier[def.Name]); err != nil {
			return nil, err
		}
		c.Views = append(c.Views, v)
	}
	if err := c.checkHops(); err != nil {
		return nil, err
	}
	if err := c.checkUses(unique); err != nil {
		return nil, err
	}
	return c, nil
}

// resolveEarlier gives a view the generations before it. One whose tables have lost a column since, or have another type
// there, is resolved against what they were, for what was computed by it.
func (c *Catalog) resolveEarlier(v *View, all []Earlier) error {
	for i := range all {
		of, past := c, false
		for _, t := range all[i].Tables {
			past = past || !grew(t, c.Tables[t.FullName()])
		}
		if past {
			of = &Catalog{Definitions: c.Definitions, Groups: c.Groups, Tables: maps.Clone(c.Tables)}
			for _, t := range all[i].Tables {
				of.Tables[t.FullName()] = t
			}
		}
		old, err := of.resolveView(&all[i].View)
		if err != nil {
			return fault.Wrap(fault.Failed, err, "view %s, as it was in generation %d", v.Name, i+1)
		}
		old.Generation, old.Past = uint32(i+1), past
		v.Before, v.Generation, v.Epoch = append(v.Before, old), uint32(i+2), all[i].Epoch
	}
	return nil
}

// grew tells whether a table has all that it had.
func grew(was, is *Table) bool {
	return is != nil && !slices.ContainsFunc(was.Columns, func(old Column) bool {
		at := is.Index(old.Name)
		return at < 0 || is.Columns[at].Type != old.Type || is.Columns[at].Key != old.Key
	})
}

func validName(s string) bool {
	for i, r := range s {
		letter := r >= 'a' && r <= 'z'
		if !letter && (i == 0 || (r != '_' && (r < '0' || r > '9'))) {
			return false
		}
	}
	return s != ""
}

func checkGroup(g *PartitionGroup) error {
	t, err := ParseType(g.Key.Type)
	if err != nil || !slices.Contains([]Kind{Int64, String, UUID, Date}, t.Kind) {
		return fault.New(fault.Usage, "group %s: key type %q cannot be hashed", g.Name, g.Key.Type).At("%s", Place(g.Meta, g.Lines, "key.type")).ToMend("%s", nearType(g.Key.Type, "int64, string, uuid or date"))
	}
	at := Place(g.Meta, g.Lines, "partitions")
	if g.Partitions == 0 {
		return fault.New(fault.Usage, "group %s does not say how many partitions it has", g.Name).At("%s", at).ToMend("add partitions: 16; a power of two, and a few times as many as nodes will be")
	}
	if n := g.Partitions; n < 1 || n > 4096 || n&(n-1) != 0 {
		return fault.New(fault.Usage, "group %s: %d partitions: the number must be a power of two", g.Name, n).At("%s", at).ToMend("use one of 1, 2, 4, 8, … 4096")
	}
	return nil
}

// refuse makes the error of one view.
func refuse(d *FeatureView, what string, args ...any) *fault.Error {
	return fault.New(fault.Usage, "view "+d.Name+": "+what, args...).At("%s", d.Meta)
}

// refuseAt is refuse at the line of a key of the view, as in "join.0.on"; of what is not there, at that of
// what it would stand in.
func refuseAt(d *FeatureView, key, what string, args ...any) *fault.Error {
	return refuse(d, what, args...).At("%s", d.Place(key))
}

// Place gives where a key of the view stands in its file, as in "join.0.on"; of what is not there, where
// what it would stand in does.
func (d *FeatureView) Place(key string) Meta { return Place(d.Meta, d.Lines, key) }

// Place gives where a key of a definition stands, by the lines of its keys.
func Place(m Meta, lines map[string]int, key string) Meta {
	for key != "" {
		if line := lines[key]; line > 0 {
			m.Line = line
			break
		}
		at := strings.LastIndexByte(key, '.')
		key = key[:max(at, 0)]
	}
	return m
}

// near gives "did you mean x?", or all that there is.
func near(word, what string, known []string) string {
	if n := strict.Nearest(word, known); n != "" {
		return "did you mean " + n + "?"
	}
	return what + " are: " + strings.Join(known, ", ")
}

// newView gives a view in its group.
func (c *Catalog) newView(d *FeatureView) (*View, error) {
	v := &View{Def: d, Name: d.Name, Generation: 1, Where: strings.TrimSpace(d.Where), TTL: time.Duration(d.TTL)}
	if v.Group = c.Group(d.Group); v.Group != nil {
		return v, nil
	}
	e := refuseAt(d, "group", "group %q is not defined", d.Group)
	switch {
	case len(c.Groups) == 0:
		return nil, e.ToMend("define it: {kind: PartitionGroup, name: %s, key: {name: COLUMN, type: int64}, partitions: 16}", cmp.Or(d.Group, "NAME"))
	case d.Group == "":
		return nil, refuseAt(d, "group", "it does not say of which group it is").ToMend("add group: NAME, one of: %s", c.groupNames())
	}
	return nil, e.ToMend("define it with kind: PartitionGroup, or use one of: %s", c.groupNames())
}

func (c *Catalog) resolveView(d *FeatureView) (*View, error) {
	v, err := c.newView(d)
	if err != nil {
		return nil, err
	}
	if v.Source = c.Tables[d.Source]; v.Source == nil {
		return nil, refuseAt(d, "source", "the source has no table %q", d.Source).ToMend("write it as schema.table, as the database has it")
	}
	if err := v.resolveMode(); err != nil {
		return nil, err
	}
	if len(v.Source.KeyColumns()) == 0 {
		return nil, refuseAt(d, "source", "table %s has no primary key, so its rows cannot be told apart", d.Source).
			ToMend("ALTER TABLE %s ADD PRIMARY KEY (…)", d.Source)
	}
	if err := c.resolveEntity(v); err != nil {
		return nil, err
	}
	if err := c.resolveJoins(v); err != nil {
		return nil, err
	}
	if err := c.resolveHop(v); err != nil {
		return nil, err
	}
	if err := v.resolveFeatures(); err != nil {
		return nil, err
	}
	return v, v.checkIdentity()
}

// resolveMode tells rows, which come and go, from events, which only come.
func (v *View) resolveMode() error {
	d := v.Def
	switch d.Mode {
	case "", "rows":
		if d.Lateness != 0 {
			return refuseAt(d, "lateness", "lateness is of mode: events; in mode: rows every row counts while it is visible").
				ToMend("remove lateness, or say mode: events")
		}
	case "events":
		if d.Lateness <= 0 {
			return refuseAt(d, "mode", "mode: events needs lateness, the age by log time at which an event still counts").ToMend("add lateness: 1d")
		}
		v.Events, v.Lateness = true, time.Duration(d.Lateness)
	default:
		return refuseAt(d, "mode", "mode %q is not known", d.Mode).ToMend("use rows (the table's current rows count) or events (what is inserted counts, with lateness)")
	}
	return nil
}

func (c *Catalog) groupNames() string {
	var names []string
	for _, g := range c.Groups {
		names = append(names, g.Name)
	}
	return strings.Join(names, ", ")
}

// checkEntity refuses keys that are not those of the group, or have no column.
func (v *View) checkEntity() error {
	d := v.Def
	if len(d.Entity) == 0 || d.Entity[0] != v.Group.Key.Name {
		return refuseAt(d, "entity", "the first entity key must be the group's key").ToMend("entity: [%s, …]", v.Group.Key.Name)
	}
	for _, name := range d.Entity {
		if d.Key[name] == "" {
			return refuseAt(d, "key", "entity key %q has no source column", name).ToMend("add it under key: {%s: COLUMN}", name)
		}
	}
	return nil
}

func (c *Catalog) resolveEntity(v *View) error {
	d := v.Def
	if err := v.checkEntity(); err != nil {
		return err
	}
	for i, name := range d.Entity {
		column := d.Key[name]
		at := v.Source.Index(column)
		if at < 0 && joinOf(d, column) != nil {
			if err := v.mayHop(i, name, column); err != nil {
				return err
			}
			v.addKey(name, Ref{Join: len(d.Join)}, Type{}) // resolveHop says which
			continue
		}
		if at < 0 {
			return refuseAt(d, "key."+name, "%s has no column %q", d.Source, column).ToMend("%s", near(column, "columns of "+d.Source, columnNames(v.Source)))
		}
		if err := v.checkKey(i, name, column, &v.Source.Columns[at]); err != nil {
			return err
		}
		v.addKey(name, Ref{Join: -1, Column: at}, v.Source.Columns[at].Type.Plain())
	}
	if d.EventTime == "" {
		return v.noEventTime("one of: " + timestamps(v.Source))
	}
	if v.EventTime = v.Source.Index(d.EventTime); v.EventTime < 0 {
		return refuseAt(d, "event_time", "event_time: %s has no column %q", d.Source, d.EventTime).ToMend("%s", near(d.EventTime, "columns of "+d.Source, columnNames(v.Source)))
	}
	if et := v.Source.Columns[v.EventTime]; et.Type.Kind != Timestamp {
		return refuseAt(d, "event_time", "event_time: column %s is %s, which is no time", et.Name, et.Source).ToMend("use a column of type timestamp with time zone: %s", timestamps(v.Source))
	}
	return nil
}

func (v *View) noEventTime(columns string) error {
	return refuseAt(v.Def, "event_time", "it has no event_time, the column by which rows enter and leave windows").ToMend("event_time: COLUMN, %s", columns)
}

func (v *View) addKey(name string, from Ref, t Type) {
	at := from.Column
	if from.Join >= 0 {
		at = -1
	}
	v.Entity, v.Key, v.Keys = append(v.Entity, Field{Name: name, Type: t}), append(v.Key, at), append(v.Keys, from)
}

// checkKey refuses a column that cannot be an entity key, or not the first.
func (v *View) checkKey(i int, name, column string, c *Column) error {
	d, t := v.Def, c.Type.Plain()
	if t.Kind == List || t.Kind == Decimal && t.Precision == 0 {
		return refuseAt(d, "key."+name, "entity key %s: column %s is %s, which cannot be a key", name, column, c.Source).
			ToMend("use a column of another type, or of numeric with at most 38 digits")
	}
	if i == 0 && t.Kind.String() != v.Group.Key.Type {
		return refuseAt(d, "key."+name, "column %s is %s but the key of group %s is %s", column, t, v.Group.Name, v.Group.Key.Type).
			ToMend("use a column of type %s, or a group whose key is {name: %s, type: %s}", v.Group.Key.Type, name, t)
	}
	return nil
}

// joinOf gives the join that a column is of, as in alias.column; nil: it is of none.
func joinOf(d *FeatureView, column string) *JoinDef {
	alias, _, _ := strings.Cut(column, ".")
	for i := range d.Join {
		if alias != column && d.Join[i].As == alias {
			return &d.Join[i]
		}
	}
	return nil
}

func columnNames(t *Table) []string {
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = c.Name
	}
	return names
}

// timestamps names the columns that can be an event time.
func timestamps(t *Table) string {
	var names []string
	for _, c := range t.Columns {
		if c.Type.Kind == Timestamp {
			names = append(names, c.Name)
		}
	}
	if names == nil {
		return t.FullName() + " has none"
	}
	return strings.Join(names, ", ")
}

// keyNames names the columns of the primary key.
func keyNames(t *Table) []string {
	var names []string
	for _, k := range t.KeyColumns() {
		names = append(names, t.Columns[k].Name)
	}
	return names
}

func (c *Catalog) resolveJoins(v *View) error {
	d := v.Def
	for i, jd := range d.Join {
		at := "join." + strconv.Itoa(i)
		t := c.Tables[jd.Table]
		if t == nil {
			return refuseAt(d, at+".table", "join: the source has no table %q", jd.Table).ToMend("write it as schema.table, as the database has it")
		}
		if err := v.checkJoin(jd, at); err != nil {
			return err
		}
		j, err := v.resolveOn(jd, t, at)
		if err != nil {
			return err
		}
		v.Joins = append(v.Joins, j)
	}
	return nil
}

func (v *View) checkJoin(jd JoinDef, at string) error {
	d := v.Def
	switch {
	case jd.AsOf != "" && jd.AsOf != "change" && jd.AsOf != "current":
		return refuseAt(d, at+".as_of", "join %s: as_of: %q is not known", jd.Table, jd.AsOf).
			ToMend("use change (what the joined row was when the row itself last changed) or current (what it is now)")
	case jd.AsOf == "current" && v.Events:
		return refuseAt(d, at+".as_of", "join %s: as_of: current changes rows after they came, and of events nothing is kept", jd.Table).
			ToMend("use as_of: change, or mode: rows")
	case !validName(jd.As):
		return refuseAt(d, at+".as", "join %s: as: %q is not a name", jd.Table, jd.As).ToMend("write as: NAME, of lower-case letters, digits and _: its columns are NAME.COLUMN then")
	case slices.ContainsFunc(v.Joins, func(j Join) bool { return j.As == jd.As }):
		return refuseAt(d, at+".as", "join %s: as: %s is the name of a join before it", jd.Table, jd.As).ToMend("give each join a name of its own")
	}
	return nil
}

// resolveOn pairs the primary key of a joined table with columns of the source, or of joins that stand
// before it.
func (v *View) resolveOn(jd JoinDef, t *Table, at string) (Join, error) {
	d, j := v.Def, Join{Table: t, As: jd.As, Current: jd.AsOf == "current"}
	keys := keyNames(t)
	if len(keys) == 0 {
		return j, refuseAt(d, at, "join %s: the table has no primary key, so there may be many rows for one", jd.Table).ToMend("ALTER TABLE %s ADD PRIMARY KEY (…);", jd.Table)
	}
	for _, name := range slices.Sorted(maps.Keys(jd.On)) {
		if !slices.Contains(keys, name) {
			return j, refuseAt(d, at+".on."+name, "join %s: %s is no part of its primary key, so there may be many rows for one", jd.Table, name).
				ToMend("on: {%s: COLUMN OF %s}", strings.Join(keys, ": …, "), d.Source)
		}
	}
	for _, k := range t.KeyColumns() {
		name := t.Columns[k].Name
		source, ok := jd.On[name]
		if !ok {
			return j, refuseAt(d, at+".on", "join %s: on: must name its whole primary key, and %s is missing", jd.Table, name).
				ToMend("on: {%s: COLUMN OF %s}", strings.Join(keys, ": …, "), d.Source)
		}
		from, col, ok := v.Lookup(source)
		if !ok {
			return j, v.refuseFrom(jd, at+".on."+name, source)
		}
		if t.Columns[k].Type.Kind != col.Type.Kind {
			return j, refuseAt(d, at+".on."+name, "join %s: %s is %s but %s is %s", jd.Table, name, t.Columns[k].Type, source, col.Type).
				ToMend("join by a column of %s that is %s", d.Source, t.Columns[k].Type)
		}
		if from.Join >= 0 && v.Joins[from.Join].Current && !j.Current {
			return j, refuseAt(d, at+".as_of", "join %s: it is as of the row's own change, but %s, by which it is joined, is as of now", jd.Table, source).
				ToMend("use as_of: current here too, or as_of: change for %s", v.Joins[from.Join].As)
		}
		j.On = append(j.On, JoinOn{Dimension: k, Source: from})
	}
	if jd.Colocated && v.Key[0] >= 0 {
		return j, v.colocate(jd, &j, at, v.Key[0])
	}
	return j, nil
}

// colocate finds by which column a joined table's rows are where those are that join them: the one that is
// joined by the key of the group.
func (v *View) colocate(jd JoinDef, j *Join, at string, column int) error {
	key := Ref{Join: -1, Column: column}
	n := slices.IndexFunc(j.On, func(on JoinOn) bool { return on.Source == key })
	if n < 0 {
		d := v.Def
		name := v.Source.Columns[key.Column].Name
		return refuseAt(d, at+".colocated", "join %s: it is not co-located: rows of %s are in the partition of their %s, by which it is not joined", jd.Table, d.Source, name).
			ToMend("leave colocated out, then the table goes to every partition; or join it in a group whose key it is joined by")
	}
	j.Colocated, j.Routed = true, j.On[n].Dimension
	return nil
}

// refuseFrom says why a join cannot be by a column: it is of no table, or of a join that is not there yet.
func (v *View) refuseFrom(jd JoinDef, at, source string) error {
	d := v.Def
	alias, _, chained := strings.Cut(source, ".")
	switch {
	case !chained:
		return refuseAt(d, at, "join %s: %s has no column %q", jd.Table, d.Source, source).ToMend("%s", near(source, "columns of "+d.Source, columnNames(v.Source)))
	case alias == jd.As:
		return refuseAt(d, at, "join %s: %s is a column of this join itself", jd.Table, source).ToMend("use a column of %s, or of a join that stands before", d.Source)
	case slices.ContainsFunc(d.Join, func(o JoinDef) bool { return o.As == alias }) && !slices.ContainsFunc(v.Joins, func(o Join) bool { return o.As == alias }):
		return refuseAt(d, at, "join %s: %s is a column of a join that stands after it", jd.Table, source).
			ToMend("write the join %s before this one; joins that need each other have no order", alias)
	default:
		return refuseAt(d, at, "join %s: there is no column %q", jd.Table, source).ToMend("%s", near(source, "columns", v.ColumnNames()))
	}
}

// ColumnNames gives every name that Lookup finds.
func (v *View) ColumnNames() []string {
	names := columnNames(v.Source)
	for _, j := range v.Joins {
		for _, c := range j.Table.Columns {
			names = append(names, j.As+"."+c.Name)
		}
	}
	return names
}

// Lookup finds a column of the source, or alias.column of a join.
func (v *View) Lookup(name string) (Ref, Column, bool) {
	if alias, column, ok := strings.Cut(name, "."); ok {
		for i, j := range v.Joins {
			if at := j.Table.Index(column); j.As == alias && at >= 0 {
				return Ref{i, at}, j.Table.Columns[at], true
			}
		}
		return Ref{}, Column{}, false
	}
	if at := v.Source.Index(name); at >= 0 {
		return Ref{-1, at}, v.Source.Columns[at], true
	}
	return Ref{}, Column{}, false
}

func (v *View) resolveFeatures() error {
	d := v.Def
	if len(d.Features) == 0 {
		return refuseAt(d, "features", "it has no features").ToMend("add features: [{name: rows, agg: count}]")
	}
	taken := map[string]string{}
	for _, e := range v.Entity {
		taken[e.Name] = "an entity key"
	}
	take := func(name, key string) error {
		if !validName(name) {
			return refuseAt(d, key, "feature name %q is not a name", name).ToMend("write lower-case letters, digits and _, a letter first")
		}
		if by, ok := taken[name]; ok {
			return refuseAt(d, key, "feature name %q is taken by %s", name, by).ToMend("give it a name of its own; a window adds _ and its length to it")
		}
		taken[name] = "the feature of line " + strconv.Itoa(d.Place(key).Line)
		return nil
	}
	for i := range d.Features {
		key := "features." + strconv.Itoa(i)
		fd := d.Features[i]
		fd.at = key
		fs, err := v.resolveFeature(&fd)
		if err != nil {
			return err
		}
		for _, f := range fs {
			if err := take(f.Name, key); err != nil {
				return err
			}
			v.Features = append(v.Features, f)
		}
	}
	for i, dd := range d.Derived {
		key := "derived." + strconv.Itoa(i)
		t, err := ParseType(dd.Type)
		if err != nil {
			return refuseAt(d, key+".type", "derived %s: type %q is not known", dd.Name, dd.Type).ToMend("%s", nearType(dd.Type, "bool, int64, double, decimal(p,s), string, bytes, date, timestamp or uuid"))
		}
		if t.Kind == List {
			return refuseAt(d, key+".type", "derived %s: expressions do not give lists yet", dd.Name).ToMend("use a type that is no list")
		}
		if err := take(dd.Name, key); err != nil {
			return err
		}
		v.Derived = append(v.Derived, Derived{Field: Field{dd.Name, t}, Expr: dd.Expr})
	}
	return nil
}

// checkIdentity refuses a table whose before-images are too weak for the view: a row that moves to
// another entity must be taken back where it was.
func (v *View) checkIdentity() error {
	if v.Events {
		return nil // nothing is taken back
	}
	for _, k := range v.Carried() {
		if !v.Source.CarriesOld(k) {
			return refuseAt(v.Def, "key", "updates and deletes of %s do not carry the old value of %s, so a row that moves to another entity could not be taken back",
				v.Source.FullName(), v.Source.Columns[k].Name).ToMend("ALTER TABLE %s REPLICA IDENTITY FULL;", v.Source.FullName())
		}
	}
	return nil
}

// SetField is one resolved member of a feature set.
type SetField struct {
	View   *View
	Output int // ordinal among the view's Outputs
}
