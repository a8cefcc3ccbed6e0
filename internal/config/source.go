package config

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/strict"
)

// Source is the database that is captured.
type Source struct {
	Postgres Postgres `yaml:"postgres"`
	Clock    string   `yaml:"clock"`
	Timezone string   `yaml:"timezone"`
	// Secret is under which columns are hashed; in the file only as env:NAME or file:PATH.
	Secret    string    `yaml:"secret"`
	Snapshot  Snapshot  `yaml:"snapshot"`
	Spool     Size      `yaml:"spool"`     // 0: capture's default
	Heartbeat Every     `yaml:"heartbeat"` // 0: capture's default; below 0: off
	SlotGuard SlotGuard `yaml:"slot_guard"`
	// JoinedTables bounds what a view keeps in a partition of a table that it joins in every one. 0: 256 MiB.
	JoinedTables Size             `yaml:"joined_tables"`
	Tables       map[string]Table `yaml:"tables"` // by schema.table
}

// Postgres is where the source is and through which slot it is read, or through which ones.
type Postgres struct {
	URL         string `yaml:"url"`
	Slot        string `yaml:"slot"`
	Publication string `yaml:"publication"`
	// Slots are several over disjoint sets of tables, instead of Slot and Publication.
	Slots []Slot `yaml:"slots"`
}

// Slot is one of several slots. The first one also reads what no other names.
type Slot struct {
	Slot        string   `yaml:"slot"`
	Publication string   `yaml:"publication"` // empty: named as the slot
	Groups      []string `yaml:"groups"`      // partition groups, with every table that they need
	Tables      []string `yaml:"tables"`      // schema.table, of those that no definition uses
	At          string   `yaml:"-"`           // file and line
}

// All gives the slots, of which there is at least one.
func (p *Postgres) All() []Slot {
	if len(p.Slots) == 0 {
		return []Slot{{Slot: p.Slot, Publication: p.Publication, At: "source.postgres"}}
	}
	return p.Slots
}

// Snapshot says how the first snapshot reads; 0 is capture's default.
type Snapshot struct {
	Workers int  `yaml:"workers"`
	Chunk   Size `yaml:"chunk"`
}

// SlotGuard is what the slot may make the server keep before something is done about it.
type SlotGuard struct {
	Warn Bound `yaml:"warn"`
	Shed Bound `yaml:"shed"`
	Page Bound `yaml:"page"`
	Drop Bound `yaml:"drop"`
}

// Table is what leaves the source of one table, and where to.
type Table struct {
	Columns  Columns   `yaml:"columns"`
	Where    string    `yaml:"where"` // SQL that the rows captured fulfil; empty: all
	Envelope *Envelope `yaml:"envelope"`
}

// Columns are the rules of package filter. Patterns know * and ? and [a-z].
type Columns struct {
	Include  []string        `yaml:"include"`
	Exclude  []string        `yaml:"exclude"`
	Mask     map[string]Mask `yaml:"mask"`
	Hash     map[string]Hash `yaml:"hash"`
	Truncate map[string]int  `yaml:"truncate"` // to so many characters
}

// Mask hides a column's values.
type Mask struct {
	Fixed    *string `yaml:"fixed"`     // what each becomes
	KeepLast int     `yaml:"keep_last"` // how many characters stay
}

// Hash replaces a column's values by a keyed hash.
type Hash struct {
	Length int `yaml:"length"` // hexadecimal digits; 0: 64
}

// Envelope is a topic of the table by itself, in Debezium's envelope.
type Envelope struct {
	Format     string           `yaml:"format"`
	Decimals   string           `yaml:"decimals"`
	Partitions int              `yaml:"partitions"` // 0: 1
	Retention  feature.Duration `yaml:"retention"`  // 0: for ever
	Tombstones Switch           `yaml:"tombstones"`
}

// Every is a time span that can be turned off. 0: the default; below 0: off.
type Every time.Duration

// UnmarshalText reads a time span, or off.
func (e *Every) UnmarshalText(text []byte) error {
	t := strings.TrimSpace(string(text))
	if t == "off" {
		*e = -1
		return nil
	}
	d, err := feature.ParseDuration(t)
	if err == nil && d <= 0 {
		err = fmt.Errorf("%q is no time", t)
	}
	if err != nil {
		return fmt.Errorf("%w; or off", err)
	}
	*e = Every(d)
	return nil
}

// Bound is a size that need not be there. 0: the default; below 0: never.
type Bound int64

// UnmarshalText reads a size, or never.
func (b *Bound) UnmarshalText(text []byte) error {
	if strings.TrimSpace(string(text)) == "never" {
		*b = -1
		return nil
	}
	var s Size
	err := s.UnmarshalText(text)
	if err == nil && s == 0 {
		err = fmt.Errorf("%q is nothing", text)
	}
	if err != nil {
		return fmt.Errorf("%w; or never", err)
	}
	*b = Bound(s)
	return nil
}

// Switch is on or off, and on if nothing is written.
type Switch bool

// UnmarshalText reads on or off; true means off, so that the zero value is on.
func (s *Switch) UnmarshalText(text []byte) error {
	switch t := strings.TrimSpace(string(text)); t {
	case "on", "true":
		*s = false
	case "off", "false":
		*s = true
	default:
		return fmt.Errorf("%q is not on or off", t)
	}
	return nil
}

// Off tells whether it was turned off.
func (s Switch) Off() bool { return bool(s) }

// secretBefore refuses a secret that stands in the file itself; the environment was not looked at yet.
func (s Source) secretBefore(file string) error {
	if s.Secret == "" || strings.HasPrefix(s.Secret, "env:") || strings.HasPrefix(s.Secret, "file:") {
		return nil
	}
	return fault.New(fault.Usage, "the secret is written in the configuration itself").At("%s: source.secret", file).
		ToMend("write env:NAME or file:PATH there, for example of what openssl rand -hex 32 gives")
}

// slots says where each slot is written, and refuses what contradicts itself. It is asked before defaults are set.
func (p *Postgres) slots(doc strict.Document) error {
	lines := doc.Lines()
	if len(p.Slots) > 0 && p.Slot+p.Publication != "" {
		return fault.New(fault.Usage, "source.postgres has both slots and slot or publication").At("%s:%d", doc.File, lines["source.postgres.slots"]).
			ToMend("write {slot: %s} as the first of slots", cmp.Or(p.Slot, "freshet"))
	}
	slots, groups, tables := map[string]string{}, map[string]string{}, map[string]string{}
	for i := range p.Slots {
		x := &p.Slots[i]
		x.At = fmt.Sprintf("%s:%d: source.postgres.slots[%d]", doc.File, lines[fmt.Sprintf("source.postgres.slots.%d", i)], i)
		if x.Slot == "" {
			return fault.New(fault.Usage, "slot is not set").At("%s", x.At).ToMend("{slot: freshet_%d, groups: […]}", i+1)
		}
		x.Publication = cmp.Or(x.Publication, x.Slot)
		if i > 0 && len(x.Groups) == 0 { // in whose topics its place in the log would be kept
			return fault.New(fault.Usage, "slot %s reads no group: the first slot reads what no other names", x.Slot).At("%s", x.At).ToMend("name its groups: [GROUP], or take it out")
		}
		once := func(seen map[string]string, kind, name string) error {
			if other, ok := seen[name]; ok {
				return fault.New(fault.Usage, "%s %s is named twice, the first time at %s", kind, name, other).At("%s", x.At).ToMend("leave it at one of them")
			}
			seen[name] = x.At
			return nil
		}
		if err := once(slots, "slot", x.Slot); err != nil {
			return err
		}
		if err := once(slots, "slot", x.Slot+temporary); err != nil { // a cut makes one of that name for a while
			return err
		}
		for _, g := range x.Groups {
			if err := once(groups, "group", g); err != nil {
				return err
			}
		}
		for _, t := range x.Tables {
			if err := once(tables, "table", t); err != nil {
				return err
			}
		}
	}
	return nil
}

// temporary ends the name of the slot that exists while a cut is put.
const temporary = "_cut"

func (s Source) validate(file string) error {
	at := func(key string) string { return file + ": source." + key }
	for _, name := range slices.Sorted(maps.Keys(s.Tables)) {
		t, key := s.Tables[name], "tables."+name
		if schema, table, ok := strings.Cut(name, "."); !ok || schema == "" || table == "" {
			return fault.New(fault.Usage, "%q is not a table's name", name).At("%s", at("tables")).ToMend("write schema.table, as in public.%s", cmp.Or(strings.Trim(name, "."), "orders"))
		}
		if e := t.Envelope; e != nil && e.Partitions < 0 {
			return fault.New(fault.Usage, "partitions is %d", e.Partitions).At("%s", at(key+".envelope")).ToMend("write 1 or more, or leave it out")
		}
	}
	if s.Snapshot.Workers < 0 {
		return fault.New(fault.Usage, "workers is %d", s.Snapshot.Workers).At("%s", at("snapshot")).ToMend("write 1 or more, or leave it out")
	}
	g, last := s.SlotGuard, Bound(0)
	for _, stage := range []struct {
		name string
		at   Bound
	}{{"warn", g.Warn}, {"shed", g.Shed}, {"page", g.Page}, {"drop", g.Drop}} {
		if stage.at > 0 && stage.at < last {
			return fault.New(fault.Usage, "%s begins before the stage below it", stage.name).At("%s", at("slot_guard")).
				ToMend("give sizes that rise from warn over shed and page to drop")
		}
		last = max(last, stage.at)
	}
	return nil
}
