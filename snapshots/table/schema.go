package table

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/freshet-io/freshet/internal/fault"
)

// Kind is the kind of a column.
type Kind uint8

// The kinds, with their Delta names and how a Vector holds them.
const (
	Bool      Kind = iota + 1 // boolean; Bools
	Int32                     // integer; Int32s
	Int64                     // long; Int64s
	Double                    // double; Doubles
	String                    // string, UTF-8; Data and Offsets
	Bytes                     // binary; Data and Offsets
	Date                      // date, days since 1970-01-01; Int32s
	Timestamp                 // timestamp, microseconds since 1970-01-01 UTC; Int64s
	Decimal                   // decimal(p,s), unscaled; Decimals
)

// Type is the type of a column. Precision (1 to 38) and Scale (0 to Precision) belong to Decimal.
type Type struct {
	Kind      Kind
	Precision int
	Scale     int
}

// String gives Delta's name of the type: long, decimal(12,2).
func (t Type) String() string {
	switch t.Kind {
	case Bool:
		return "boolean"
	case Int32:
		return "integer"
	case Int64:
		return "long"
	case Double:
		return "double"
	case String:
		return "string"
	case Bytes:
		return "binary"
	case Date:
		return "date"
	case Timestamp:
		return "timestamp"
	case Decimal:
		return fmt.Sprintf("decimal(%d,%d)", t.Precision, t.Scale)
	}
	return fmt.Sprintf("kind(%d)", t.Kind)
}

// ParseType reads Delta's name of a type.
func ParseType(s string) (Type, error) {
	for k := Bool; k < Decimal; k++ {
		if t := (Type{Kind: k}); t.String() == s {
			return t, nil
		}
	}
	t := Type{Kind: Decimal}
	if _, err := fmt.Sscanf(s, "decimal(%d,%d)", &t.Precision, &t.Scale); err == nil && t.valid() && t.String() == s {
		return t, nil
	}
	return Type{}, fault.New(fault.Failed, "type %q is not one that freshet reads: boolean, integer, long, double, string, binary, "+
		"date, timestamp or decimal(p,s)", s)
}

func (t Type) valid() bool {
	if t.Kind == Decimal {
		return t.Precision >= 1 && t.Precision <= 38 && t.Scale >= 0 && t.Scale <= t.Precision
	}
	return t.Kind >= Bool && t.Kind < Decimal && t.Precision == 0 && t.Scale == 0
}

// Column is one column of a table.
type Column struct {
	Name     string
	Type     Type
	Nullable bool
}

// The partition columns a table may have, and their types.
const (
	BucketColumn = "bucket" // integer: the partition number
	DayColumn    = "day"    // date
)

// Schema is what a table's rows are: the columns inside its files, in order, and the partition
// columns, which are in the files' paths: bucket, or bucket and day in either order.
type Schema struct {
	Columns     []Column
	PartitionBy []string
}

// Column gives the column of a name, partition columns included.
func (s Schema) Column(name string) (Column, bool) {
	if slices.Contains(s.PartitionBy, name) {
		return partitionColumn(name), true
	}
	i := slices.IndexFunc(s.Columns, func(c Column) bool { return c.Name == name })
	if i < 0 {
		return Column{}, false
	}
	return s.Columns[i], true
}

// Names gives the names of the columns inside the files.
func (s Schema) Names() []string {
	names := make([]string, len(s.Columns))
	for i, c := range s.Columns {
		names[i] = c.Name
	}
	return names
}

// HasDay tells whether files belong to a day.
func (s Schema) HasDay() bool { return slices.Contains(s.PartitionBy, DayColumn) }

func partitionColumn(name string) Column {
	if name == DayColumn {
		return Column{Name: DayColumn, Type: Type{Kind: Date}, Nullable: true}
	}
	return Column{Name: BucketColumn, Type: Type{Kind: Int32}, Nullable: true}
}

// check refuses what Delta or Parquet readers would trip over.
func (s Schema) check() error {
	if !slices.Contains(s.PartitionBy, BucketColumn) || len(s.PartitionBy) > 2 ||
		(len(s.PartitionBy) == 2 && !s.HasDay()) {
		return fault.New(fault.Failed, "partition columns %q: expected bucket, or bucket and day", s.PartitionBy)
	}
	if len(s.Columns) == 0 {
		return fault.New(fault.Failed, "a table needs at least one column")
	}
	seen := map[string]bool{BucketColumn: true, DayColumn: s.HasDay()}
	for _, c := range s.Columns {
		lower := strings.ToLower(c.Name) // Delta compares names without case
		switch {
		case c.Name == "" || strings.ContainsAny(c.Name, " ,;{}()\n\t=.`"):
			return fault.New(fault.Failed, "column name %q: Parquet readers take no space and none of , ; { } ( ) = . `", c.Name)
		case seen[lower]:
			return fault.New(fault.Failed, "column %q is there twice (case does not tell columns apart), or is a partition column", c.Name)
		case !c.Type.valid():
			return fault.New(fault.Failed, "column %q has no valid type: %s", c.Name, c.Type)
		}
		seen[lower] = true
	}
	return nil
}

// extends tells why s cannot follow old, if so: columns may only be added, nullable, at the end.
func (s Schema) extends(old Schema) error {
	if !slices.Equal(s.PartitionBy, old.PartitionBy) {
		return fault.New(fault.Failed, "partition columns cannot change from %q to %q", old.PartitionBy, s.PartitionBy)
	}
	for i, c := range old.Columns {
		if i >= len(s.Columns) || s.Columns[i] != c {
			return fault.New(fault.Failed, "column %q of the table is missing, moved or changed", c.Name).
				ToMend("add nullable columns at the end, or build a new table")
		}
	}
	for _, c := range s.Columns[len(old.Columns):] {
		if !c.Nullable {
			return fault.New(fault.Failed, "added column %q must be nullable: files already there have no values for it", c.Name)
		}
	}
	return nil
}

type deltaField struct {
	Name     string          `json:"name"`
	Type     json.RawMessage `json:"type"`
	Nullable bool            `json:"nullable"`
	Metadata json.RawMessage `json:"metadata"`
}

type deltaStruct struct {
	Type   string       `json:"type"`
	Fields []deltaField `json:"fields"`
}

// schemaString gives Delta's form: all columns, partition columns last.
func (s Schema) schemaString() (string, error) {
	d := deltaStruct{Type: "struct", Fields: []deltaField{}}
	all := slices.Clone(s.Columns)
	for _, p := range s.PartitionBy {
		all = append(all, partitionColumn(p))
	}
	for _, c := range all {
		d.Fields = append(d.Fields, deltaField{c.Name, json.RawMessage(`"` + c.Type.String() + `"`), c.Nullable, json.RawMessage("{}")})
	}
	b, err := json.Marshal(d)
	if err != nil {
		return "", fmt.Errorf("schema to JSON: %w", err)
	}
	return string(b), nil
}

// parseSchema reads Delta's form.
func parseSchema(text string, partitionBy []string) (Schema, error) {
	var d deltaStruct
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		return Schema{}, fault.Wrap(fault.Failed, err, "schemaString is not readable")
	}
	s := Schema{PartitionBy: partitionBy}
	for _, f := range d.Fields {
		var name string
		if err := json.Unmarshal(f.Type, &name); err != nil {
			return Schema{}, fault.New(fault.Failed, "column %q has type %s, and freshet reads no nested types yet", f.Name, f.Type)
		}
		t, err := ParseType(name)
		if err != nil {
			return Schema{}, fault.Wrap(fault.Failed, err, "column %q", f.Name)
		}
		if slices.Contains(partitionBy, f.Name) {
			if want := partitionColumn(f.Name).Type; t != want {
				return Schema{}, fault.New(fault.Failed, "partition column %q is %s, expected %s", f.Name, t, want)
			}
			continue
		}
		s.Columns = append(s.Columns, Column{f.Name, t, f.Nullable})
	}
	return s, s.check()
}
