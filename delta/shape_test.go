package delta

import (
	"slices"

	"github.com/freshet-io/freshet/internal/feature"
)

// The shapes that the tables of the tests take on: their schema ids.
const (
	tripsNow     = 1
	planesNow    = 2
	tripsAdded   = 11 // a column more, in between
	tripsRetyped = 12 // delay is text
	tripsRenamed = 13 // delay is lateness
	tripsKeyed   = 14 // the primary key is (id, plane)
	planesAdded  = 21
	planesText   = 22 // seats are text
)

// shapeOf gives a schema's table, and how a row of the table as it was at first looks in it.
func shapeOf(schema uint32) (*feature.Table, func([]feature.Value) []feature.Value) {
	same := func(row []feature.Value) []feature.Value { return row }
	added := feature.Column{Name: "added", Source: "text", Type: feature.Type{Kind: feature.String}, InIdentity: true}
	insert := func(row []feature.Value) []feature.Value {
		if row == nil {
			return nil
		}
		return slices.Insert(slices.Clone(row), 1, feature.OfString("added"))
	}
	text := func(column int) func([]feature.Value) []feature.Value {
		return func(row []feature.Value) []feature.Value {
			if row = slices.Clone(row); row != nil && !row[column].IsNull() {
				row[column] = feature.OfString(row[column].Text())
			}
			return row
		}
	}
	t, p := trips(), planes()
	switch schema {
	case tripsNow:
		return t, same
	case planesNow:
		return p, same
	case tripsAdded:
		t.Columns = slices.Insert(t.Columns, 1, added)
		return t, insert
	case tripsRetyped:
		t.Columns[3].Type = feature.Type{Kind: feature.String}
		return t, text(3)
	case tripsRenamed:
		t.Columns[3].Name = "lateness"
		return t, same
	case tripsKeyed:
		t.Columns[1].Key = true
		return t, same
	case planesAdded:
		p.Columns = slices.Insert(p.Columns, 1, added)
		p.Columns[1].InIdentity = false
		return p, insert
	case planesText:
		p.Columns[1].Type = feature.Type{Kind: feature.String}
		return p, text(1)
	}
	return nil, nil
}

func unfit(schema uint32) bool {
	return slices.Contains([]uint32{tripsRetyped, tripsRenamed, tripsKeyed, planesText}, schema)
}

func tableName(schema uint32) string {
	t, _ := shapeOf(schema)
	return t.FullName()
}
