package delta

import (
	"bytes"
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// The shapes that the tables of the tests take on: their schema ids.
const (
	tripsNow     = 1
	planesNow    = 2
	tripsAdded   = 11 // a column more, in between
	tripsRetyped = 12 // delay is text
	tripsRenamed = 13 // delay is lateness
	tripsKeyed   = 14 // the primary key is (id, plane)
	tripsWeaker  = 15 // the replica identity is the primary key
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
	case tripsWeaker:
		t.Identity = feature.IdentityDefault
		for i := range t.Columns {
			t.Columns[i].InIdentity = t.Columns[i].Key
		}
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

func TestTypesThatFit(t *testing.T) {
	decimal := func(precision, scale int) feature.Type {
		return feature.Type{Kind: feature.Decimal, Precision: precision, Scale: scale}
	}
	for _, c := range []struct {
		want, got         feature.Type
		inside, throughto bool // used only inside the view; also as it came
	}{
		{feature.Type{Kind: feature.Int64}, feature.Type{Kind: feature.Int64}, true, true},
		{feature.Type{Kind: feature.Int64}, feature.Type{Kind: feature.String}, false, false},
		{decimal(10, 2), decimal(12, 2), true, false},
		{decimal(12, 2), decimal(10, 2), true, true},
		{decimal(12, 2), decimal(12, 4), false, false},
		{decimal(12, 2), feature.Type{Kind: feature.Decimal}, false, false},
		{feature.Type{Kind: feature.Decimal}, decimal(12, 2), false, false},
		{feature.Type{Kind: feature.Double, Precision: 24}, feature.Type{Kind: feature.Double}, true, false},
		{feature.Type{Kind: feature.Timestamp, Local: true}, feature.Type{Kind: feature.Timestamp}, false, false},
	} {
		if a, b := fits(c.want, c.got, false), fits(c.want, c.got, true); a != c.inside || b != c.throughto {
			t.Errorf("%+v for %+v: %v, %v; want %v, %v", c.got, c.want, a, b, c.inside, c.throughto)
		}
	}
}

// schemaOf gives each schema id below 3 a table.
type schemaOf []*feature.Table

func (s schemaOf) Schema(ctx context.Context, id uint32) (string, string, error) {
	return oneSchema{s[min(int(id), len(s)-1)]}.Schema(ctx, id)
}

// A column that no view uses may go, or change its type.
func TestAColumnThatIsNotUsedMayChange(t *testing.T) {
	extra := func(k feature.Kind) *feature.Table {
		table := notes(feature.IdentityFull)
		table.Columns = slices.Insert(table.Columns, 1, feature.Column{Name: "unused", Type: feature.Type{Kind: k}})
		return table
	}
	shapes := schemaOf{extra(feature.Int64), extra(feature.String), notes(feature.IdentityFull)}
	c, err := notesCatalog(shapes[0])
	if err != nil {
		t.Fatal(err)
	}
	p, err := OpenPartition(PartitionOptions{Catalog: c, Group: "plane", Partition: testNote("A").partition(), Dir: filepath.Join(t.TempDir(), "p"), Schemas: shapes})
	if err != nil {
		t.Fatal(err)
	}
	for i, unused := range []feature.Value{feature.OfInt(1), feature.OfString("x"), {}} {
		row := []feature.Value{feature.OfInt(int64(i)), unused, feature.OfString("A"), feature.OfMicros(0), feature.OfInt(1), feature.OfString("n")}
		if i == 2 {
			row = slices.Delete(row, 1, 2)
		}
		ch := &change.Change{Op: change.Insert, Position: position.Position{LSN: 1, Seq: uint32(i + 1)}, After: row, LastInCell: true}
		in := Input{int64(i), change.Codec{Table: shapes[i]}.Append(change.AppendFrame(nil, uint32(i)), ch)}
		if err := lent(t.Context(), p, p.Fold, []Input{in}); err != nil {
			t.Fatal(err)
		}
	}
	s, err := p.Lookup("notes", []feature.Value{feature.OfString("A")})
	if stopped, ok := p.Stopped("notes"); err != nil || ok || s.Values[0].I != 3 {
		t.Errorf("%+v, %v; stopped %+v", s, err, stopped)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// A weaker identity stops the view at the first old image that does not tell where a row was.
func TestAnIdentityThatBecameWeaker(t *testing.T) {
	s := newStage(t, catalog(t))
	s.commit(tripsWeaker, inserted(aTrip(1, "A")))
	s.wantStopped()
	s.commit(tripsWeaker, &change.Change{Op: change.Delete, Before: []feature.Value{feature.OfInt(1), {}, {}, {}}})
	if got := s.wantStopped(tripsTable); !strings.Contains(got.Reason, "do not carry the old value of plane any more") {
		t.Errorf("stopped %+v", got)
	}
}

// Decimals that are equal as numbers are one key; what is no number stays what it is.
func TestDecimalKeysCompareAsNumbers(t *testing.T) {
	table := &feature.Table{Columns: []feature.Column{{Name: "k", Type: feature.Type{Kind: feature.Decimal}, Key: true}}}
	key := func(text string) []byte { return primaryKey(table, []feature.Value{feature.OfString(text)}) }
	if !bytes.Equal(key("1.0"), key("1.00")) || bytes.Compare(key("9"), key("10")) >= 0 || !bytes.Equal(key("?"), feature.AppendKey(nil, feature.OfString("?"))) {
		t.Errorf("keys %x, %x, %x", key("1.0"), key("1.00"), key("?"))
	}
}
