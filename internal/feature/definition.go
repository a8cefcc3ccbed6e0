package feature

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Duration is a time span in the units of definitions: ms s m h d w, for example 7d or 1h30m.
type Duration time.Duration

// ParseDuration reads the form of definitions.
func ParseDuration(s string) (time.Duration, error) {
	units := map[string]time.Duration{
		"ms": time.Millisecond, "s": time.Second, "m": time.Minute,
		"h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour,
	}
	bad := fmt.Errorf("%q is not a time span: expected a number and a unit of ms s m h d w, as in 7d", s)
	var total time.Duration
	rest := s
	for rest != "" {
		i := 0
		for i < len(rest) && rest[i] >= '0' && rest[i] <= '9' {
			i++
		}
		j := i
		for j < len(rest) && (rest[j] < '0' || rest[j] > '9') {
			j++
		}
		n, err := strconv.ParseInt(rest[:i], 10, 32)
		unit, ok := units[rest[i:j]]
		if err != nil || !ok {
			return 0, bad
		}
		total += time.Duration(n) * unit
		rest = rest[j:]
	}
	if s == "" {
		return 0, bad
	}
	return total, nil
}

// String gives the shortest form that ParseDuration reads back; whole days stay days.
func (d Duration) String() string {
	left := time.Duration(d)
	if left == 0 {
		return "0s"
	}
	var b strings.Builder
	for _, u := range []struct {
		name string
		d    time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond}} {
		if n := left / u.d; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			left %= u.d
		}
	}
	return b.String()
}

// UnmarshalText reads the form of definitions.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// MarshalText gives the form of definitions.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Meta says where a definition was read.
type Meta struct {
	File string `json:"file,omitempty" yaml:"-"`
	Line int    `json:"line,omitempty" yaml:"-"`
}

// String gives file:line.
func (m Meta) String() string { return fmt.Sprintf("%s:%d", m.File, m.Line) }

// PartitionGroup is a key type and a number of partitions; everything keyed by it is co-located.
type PartitionGroup struct {
	Meta       Meta           `json:"meta" yaml:"-"`
	Lines      map[string]int `json:"-" yaml:"-"` // of its keys; for errors
	APIVersion string         `json:"apiVersion,omitempty" yaml:"apiVersion"`
	Kind       string         `json:"kind" yaml:"kind"`
	Name       string         `json:"name" yaml:"name"`
	Key        GroupKey       `json:"key" yaml:"key"`
	Partitions int            `json:"partitions" yaml:"partitions"`
	// Generation counts the numbers of partitions that the group has had; 0 is 1. It is of what runs, not of the
	// definition (Catalog.At).
	Generation uint32 `json:"-" yaml:"-"`
	// Since is the first generation whose deltas are kept; 0 is 1.
	Since uint32 `json:"-" yaml:"-"`
}

// GroupKey is the key of a partition group.
type GroupKey struct {
	Name string `json:"name" yaml:"name"`
	Type string `json:"type" yaml:"type"`
}

// FeatureView turns the changes of one source table into features of one entity.
type FeatureView struct {
	Meta        Meta              `json:"meta" yaml:"-"`
	Lines       map[string]int    `json:"-" yaml:"-"` // of its keys, as in "features.2.of"; for errors
	APIVersion  string            `json:"apiVersion,omitempty" yaml:"apiVersion"`
	Kind        string            `json:"kind" yaml:"kind"`
	Name        string            `json:"name" yaml:"name"`
	Group       string            `json:"group" yaml:"group"`
	Entity      []string          `json:"entity" yaml:"entity"`
	Source      string            `json:"source" yaml:"source"`
	Key         map[string]string `json:"key" yaml:"key"`
	Via         string            `json:"via,omitempty" yaml:"via"` // group in which rows are joined, of a key that is a column of a join
	Mode        string            `json:"mode,omitempty" yaml:"mode"`
	EventTime   string            `json:"event_time" yaml:"event_time"`
	Where       string            `json:"where,omitempty" yaml:"where"`
	Join        []JoinDef         `json:"join,omitempty" yaml:"join"`
	TTL         Duration          `json:"ttl,omitempty" yaml:"ttl"`
	Lateness    Duration          `json:"lateness,omitempty" yaml:"lateness"`
	Features    []FeatureDef      `json:"features" yaml:"features"`
	Derived     []DerivedDef      `json:"derived,omitempty" yaml:"derived"`
	Owner       string            `json:"owner,omitempty" yaml:"owner"`
	Description string            `json:"description,omitempty" yaml:"description"`
	Checks      Checks            `json:"checks,omitzero" yaml:"checks"`
}

// JoinDef is a join; On maps columns of the joined table to columns of the source, or to ALIAS.COLUMN of
// a join that stands before it.
type JoinDef struct {
	Table string            `json:"table" yaml:"table"`
	As    string            `json:"as" yaml:"as"`
	On    map[string]string `json:"on" yaml:"on"`
	AsOf  string            `json:"as_of,omitempty" yaml:"as_of"`
	// Colocated says that the row joined is in the partition of the row itself, so that it need not be in all.
	Colocated bool `json:"colocated,omitempty" yaml:"colocated"`
}

// FeatureDef is one aggregate over zero or more windows; without a window it is over all rows. Which
// arguments an aggregate takes: docs/features.md.
type FeatureDef struct {
	Name      string     `json:"name" yaml:"name"`
	Agg       string     `json:"agg" yaml:"agg"`
	Of        string     `json:"of,omitempty" yaml:"of"`
	Windows   []Duration `json:"windows,omitempty" yaml:"windows"`
	Tumbling  []Duration `json:"tumbling,omitempty" yaml:"tumbling"`
	Session   []Duration `json:"session,omitempty" yaml:"session"`
	Where     string     `json:"where,omitempty" yaml:"where"`
	Per       string     `json:"per,omitempty" yaml:"per"`
	By        string     `json:"by,omitempty" yaml:"by"`
	N         int        `json:"n,omitempty" yaml:"n"`
	K         int        `json:"k,omitempty" yaml:"k"`
	Cap       int        `json:"cap,omitempty" yaml:"cap"`
	P         []float64  `json:"p,omitempty" yaml:"p"`
	HalfLife  Duration   `json:"half_life,omitempty" yaml:"half_life"`
	Distinct  bool       `json:"distinct,omitempty" yaml:"distinct"`
	OnRetract string     `json:"on_retract,omitempty" yaml:"on_retract"`

	at string // its key among the view's, as in "features.2"; for errors
}

// DerivedDef is an expression over the view's features.
type DerivedDef struct {
	Name string `json:"name" yaml:"name"`
	Type string `json:"type" yaml:"type"`
	Expr string `json:"expr" yaml:"expr"`
}

// Checks are the user's own limits, judged by the gates of a merge.
type Checks struct {
	NullRate map[string]Limit `json:"null_rate,omitempty" yaml:"null_rate"`
	Rows     Limit            `json:"rows,omitzero" yaml:"rows"`
}

// Limit is a closed range; a missing end is open.
type Limit struct {
	Min *float64 `json:"min,omitempty" yaml:"min"`
	Max *float64 `json:"max,omitempty" yaml:"max"`
}

// FeatureSet is a named list of view.feature.
type FeatureSet struct {
	Meta       Meta           `json:"meta" yaml:"-"`
	Lines      map[string]int `json:"-" yaml:"-"` // of its keys; for errors
	APIVersion string         `json:"apiVersion,omitempty" yaml:"apiVersion"`
	Kind       string         `json:"kind" yaml:"kind"`
	Name       string         `json:"name" yaml:"name"`
	Features   []string       `json:"features" yaml:"features"`
}

// ModelDef is a model; paths are relative to the file that defines it.
type ModelDef struct {
	Meta       Meta           `json:"meta" yaml:"-"`
	Lines      map[string]int `json:"-" yaml:"-"` // of its keys; for errors
	APIVersion string         `json:"apiVersion,omitempty" yaml:"apiVersion"`
	Kind       string         `json:"kind" yaml:"kind"`
	Name       string         `json:"name" yaml:"name"`
	Format     string         `json:"format" yaml:"format"`
	URI        string         `json:"uri" yaml:"uri"`
	SHA256     string         `json:"sha256" yaml:"sha256"`
	Parity     string         `json:"parity" yaml:"parity"`
	Inputs     string         `json:"inputs" yaml:"inputs"`
	Outputs    []ColType      `json:"outputs" yaml:"outputs"`
}

// ColType is a named type as users write it.
type ColType struct {
	Name string `json:"name" yaml:"name"`
	Type string `json:"type" yaml:"type"`
}

// PipelineDef is a scheduled graph of steps that share one cut.
type PipelineDef struct {
	Meta       Meta           `json:"meta" yaml:"-"`
	Lines      map[string]int `json:"-" yaml:"-"` // of its keys; for errors
	APIVersion string         `json:"apiVersion,omitempty" yaml:"apiVersion"`
	Kind       string         `json:"kind" yaml:"kind"`
	Name       string         `json:"name" yaml:"name"`
	Schedule   string         `json:"schedule,omitempty" yaml:"schedule"`
	Timezone   string         `json:"timezone,omitempty" yaml:"timezone"`
	Steps      []StepDef      `json:"steps" yaml:"steps"`
	OnHeld     string         `json:"on_held,omitempty" yaml:"on_held"`
}

// StepDef is one step: exactly one of Merge (a view) and Score (a model).
type StepDef struct {
	Name  string   `json:"name" yaml:"name"`
	Merge string   `json:"merge,omitempty" yaml:"merge"`
	Score string   `json:"score,omitempty" yaml:"score"`
	Needs []string `json:"needs,omitempty" yaml:"needs"`
}

// Definitions is everything users defined, in the order it was read.
type Definitions struct {
	Groups    []PartitionGroup `json:"groups,omitempty"`
	Views     []FeatureView    `json:"views,omitempty"`
	Sets      []FeatureSet     `json:"sets,omitempty"`
	Models    []ModelDef       `json:"models,omitempty"`
	Pipelines []PipelineDef    `json:"pipelines,omitempty"`
	// Earlier are the generations before the one in Views, by view, the first one first. No file has them: they are
	// kept with definitions that run, as what was computed by them may still be shown, or computed again.
	Earlier map[string][]Earlier `json:"earlier,omitempty"`
}

// Earlier is a generation of a view that another one follows.
type Earlier struct {
	View  FeatureView `json:"view"`
	Epoch uint32      `json:"epoch"` // in which the next one was defined
	// Tables it was resolved against: a later epoch is of tables as they are then, which it may not fit.
	Tables []*Table `json:"tables,omitempty"`
}

// Tables gives every source table that a definition names, in order of first use.
func (d *Definitions) Tables() []string {
	var out []string
	seen := map[string]bool{}
	add := func(t string) {
		if !seen[t] {
			seen[t] = true
			out = append(out, t)
		}
	}
	for _, v := range d.Views {
		add(v.Source)
		for _, j := range v.Join {
			add(j.Table)
		}
	}
	return out
}
