// Package layout says which columns freshet's tables have (CONTRACT section 8) and carries values of
// features into the vectors of a table and back.
//
//	features/<view>/current    keys…, features…, _version, _event_time, _commit_time, _log_time, _position
//	features/<view>/history    keys…, features…, valid_from, _op, _cause, then the same five
//	predictions/<model>        keys…, outputs…, model_sha256, features_version, run
//
// A uuid is a canonical string, as Delta Lake has no such type. A list is a string as PostgreSQL writes
// arrays, {a,b}. Infinite dates and timestamps of
// PostgreSQL are the extremes of the column's integer.
package layout

import (
	"fmt"
	"math"

	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/snapshots/table"
)

// The system columns.
const (
	Version    = "_version"
	EventTime  = "_event_time"
	CommitTime = "_commit_time"
	LogTime    = "_log_time"
	Position   = "_position"
	Op         = "_op"
	Cause      = "_cause"
	ValidFrom  = "valid_from"

	ModelSHA256     = "model_sha256"
	FeaturesVersion = "features_version"
	RunColumn       = "run"
)

// CurrentPath is where a view's current rows are, inside a store.
func CurrentPath(view string) string { return "features/" + view + "/current" }

// HistoryPath is where a view's deltas are, inside a store.
func HistoryPath(view string) string { return "features/" + view + "/history" }

// PredictionsPath is where a model's predictions are, inside a store.
func PredictionsPath(model string) string { return "predictions/" + model }

// Current gives the schema of a view's current rows.
func Current(v *feature.View) table.Schema {
	return table.Schema{Columns: append(rowColumns(v), system()...), PartitionBy: []string{table.BucketColumn}}
}

// History gives the schema of a view's deltas. A deletion has no features.
func History(v *feature.View) table.Schema {
	columns := append(rowColumns(v),
		table.Column{Name: ValidFrom, Type: table.Type{Kind: table.Timestamp}},
		table.Column{Name: Op, Type: table.Type{Kind: table.String}},
		table.Column{Name: Cause, Type: table.Type{Kind: table.String}},
	)
	return table.Schema{Columns: append(columns, system()...), PartitionBy: []string{table.BucketColumn, table.DayColumn}}
}

// Predictions gives the schema of a model's predictions for entities of a view.
func Predictions(v *feature.View, outputs []feature.Field) table.Schema {
	columns := keyColumns(v)
	for _, o := range outputs {
		columns = append(columns, table.Column{Name: o.Name, Type: Type(o.Type), Nullable: true})
	}
	return table.Schema{Columns: append(columns,
		table.Column{Name: ModelSHA256, Type: table.Type{Kind: table.String}},
		table.Column{Name: FeaturesVersion, Type: table.Type{Kind: table.Int64}},
		table.Column{Name: RunColumn, Type: table.Type{Kind: table.String}},
	), PartitionBy: []string{table.BucketColumn}}
}

func keyColumns(v *feature.View) []table.Column {
	var out []table.Column
	for _, k := range v.Entity {
		out = append(out, table.Column{Name: k.Name, Type: Type(k.Type)})
	}
	return out
}

func rowColumns(v *feature.View) []table.Column {
	out := keyColumns(v)
	for _, f := range v.Outputs() {
		out = append(out, table.Column{Name: f.Name, Type: Type(f.Type), Nullable: true})
	}
	return out
}

func system() []table.Column {
	instant := table.Type{Kind: table.Timestamp}
	return []table.Column{
		{Name: Version, Type: table.Type{Kind: table.Int64}},
		{Name: EventTime, Type: instant, Nullable: true},
		{Name: CommitTime, Type: instant},
		{Name: LogTime, Type: instant},
		{Name: Position, Type: table.Type{Kind: table.String}},
	}
}

// Type gives the table type that holds a feature type.
func Type(t feature.Type) table.Type {
	switch t.Kind {
	case feature.Bool:
		return table.Type{Kind: table.Bool}
	case feature.Int64:
		return table.Type{Kind: table.Int64}
	case feature.Double:
		return table.Type{Kind: table.Double}
	case feature.Decimal:
		return table.Type{Kind: table.Decimal, Precision: t.Precision, Scale: t.Scale}
	case feature.Bytes:
		return table.Type{Kind: table.Bytes}
	case feature.Date:
		return table.Type{Kind: table.Date}
	case feature.Timestamp:
		return table.Type{Kind: table.Timestamp}
	default:
		return table.Type{Kind: table.String}
	}
}

// Append puts a value into a vector whose type is Type of the value's own.
func Append(to *table.Vector, v feature.Value) error {
	switch {
	case v.IsNull():
		to.AppendNull()
		return nil
	case v.Kind == feature.Bool && to.Type.Kind == table.Bool:
		to.AppendBool(v.I != 0)
	case v.Kind == feature.Int64 && to.Type.Kind == table.Int64, v.Kind == feature.Timestamp && to.Type.Kind == table.Timestamp:
		to.AppendInt64(v.I)
	case v.Kind == feature.Double && to.Type.Kind == table.Double:
		to.AppendDouble(v.Float())
	case v.Kind == feature.Decimal && to.Type.Kind == table.Decimal && int(v.Scale) == to.Type.Scale:
		to.AppendDecimal(table.Int128{Hi: v.H, Lo: uint64(v.I)})
	case v.Kind == feature.String && to.Type.Kind == table.String, v.Kind == feature.Bytes && to.Type.Kind == table.Bytes:
		to.AppendString(v.S)
	case (v.Kind == feature.UUID || v.Kind == feature.List) && to.Type.Kind == table.String:
		to.AppendString(v.Text())
	case v.Kind == feature.Date && to.Type.Kind == table.Date:
		to.AppendInt32(int32(min(max(v.I, math.MinInt32), math.MaxInt32)))
	default:
		return fmt.Errorf("a %s does not go into a column of type %s", feature.Type{Kind: v.Kind, Scale: int(v.Scale)}, to.Type)
	}
	return nil
}

// At gives row i of a vector as a value of a feature type.
func At(from *table.Vector, i int, t feature.Type) (feature.Value, error) {
	if from.IsNull(i) {
		return feature.Value{}, nil
	}
	switch t.Kind {
	case feature.Bool:
		return feature.OfBool(from.Bools[i]), nil
	case feature.Int64, feature.Timestamp:
		return feature.Value{Kind: t.Kind, I: from.Int64s[i]}, nil
	case feature.Double:
		return feature.OfDouble(from.Doubles[i]), nil
	case feature.Decimal:
		d := from.Decimals[i]
		return feature.Value{Kind: feature.Decimal, Scale: uint8(t.Scale), H: d.Hi, I: int64(d.Lo)}, nil
	case feature.Bytes:
		return feature.OfBytes(from.Bytes(i)), nil
	case feature.Date:
		days := int64(from.Int32s[i])
		switch days {
		case math.MaxInt32:
			days = feature.Infinity
		case math.MinInt32:
			days = feature.NegativeInfinity
		}
		return feature.Value{Kind: feature.Date, I: days}, nil
	case feature.UUID, feature.List:
		v, err := feature.ParseText(t, string(from.Bytes(i)))
		if err != nil {
			return v, fmt.Errorf("stored %s: %w", t, err)
		}
		return v, nil
	default:
		return feature.OfString(string(from.Bytes(i))), nil
	}
}
