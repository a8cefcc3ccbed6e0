package table

import (
	"slices"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"

	"github.com/freshet-io/freshet/internal/fault"
)

// The pinned layout of files: a change of any of these changes the bytes of new files.
const (
	rowGroupRows  = 131_072   // rows of a row group at most
	rowGroupBytes = 64 << 20  // bytes of strings and binaries in a row group at most, but for a row that has more
	pageBytes     = 128 << 10 // a page ends at the first multiple of gridRows rows where it has so many bytes
	gridRows      = 1024
	createdBy     = "freshet"
)

// orderedGroup is a parquet.Group that keeps the order of its columns.
type orderedGroup struct {
	parquet.Group
	fields []parquet.Field
}

// Fields gives the columns in the table's order.
func (g orderedGroup) Fields() []parquet.Field { return g.fields }

// parquetSchema gives the file's schema. Encodings are ones that every reader knows: dictionaries for
// strings and binaries, plain for the rest.
func parquetSchema(columns []Column) *parquet.Schema {
	group := parquet.Group{}
	for i, c := range columns {
		node := parquetNode(c.Type)
		if c.Type.Kind == String || c.Type.Kind == Bytes {
			node = parquet.Encoded(node, &parquet.RLEDictionary)
		} else {
			node = parquet.Encoded(node, &parquet.Plain)
		}
		if c.Nullable {
			node = parquet.Optional(node)
		}
		group[c.Name] = parquet.FieldID(node, i+1)
	}
	fields := make([]parquet.Field, len(columns))
	for _, f := range group.Fields() {
		fields[slices.IndexFunc(columns, func(c Column) bool { return c.Name == f.Name() })] = f
	}
	return parquet.NewSchema("table", orderedGroup{group, fields})
}

func parquetNode(t Type) parquet.Node {
	switch t.Kind {
	case Bool:
		return parquet.Leaf(parquet.BooleanType)
	case Int32:
		return parquet.Leaf(parquet.Int32Type)
	case Date:
		return parquet.Date()
	case Int64:
		return parquet.Leaf(parquet.Int64Type)
	case Timestamp:
		return parquet.Timestamp(parquet.Microsecond)
	case Double:
		return parquet.Leaf(parquet.DoubleType)
	case String:
		return parquet.String()
	case Decimal:
		switch {
		case t.Precision <= 9:
			return parquet.Decimal(t.Scale, t.Precision, parquet.Int32Type)
		case t.Precision <= 18:
			return parquet.Decimal(t.Scale, t.Precision, parquet.Int64Type)
		}
		return parquet.Decimal(t.Scale, t.Precision, parquet.FixedLenByteArrayType(16))
	default: // Bytes
		return parquet.Leaf(parquet.ByteArrayType)
	}
}

// width gives about how many bytes a value has in a page; strings and binaries are indexes there.
func (t Type) width() int {
	switch physicalKind(t) {
	case parquet.Boolean:
		return 1
	case parquet.Int64, parquet.Double:
		return 8
	case parquet.FixedLenByteArray:
		return 16
	case parquet.Int32, parquet.ByteArray, parquet.Float, parquet.Int96:
	}
	return 4
}

func physicalKind(t Type) parquet.Kind { return parquetNode(t).Type().Kind() }

func writerConfig(columns []Column, codec *zstd.Codec) (*parquet.WriterConfig, error) {
	options := []parquet.WriterOption{
		parquetSchema(columns),
		parquet.CreatedBy(createdBy, "1", "table"),
		parquet.DataPageVersion(2),
		parquet.DataPageStatistics(false), // the page index has them
		// Pages are ended by us, on a grid of rows, so that they do not depend on how the rows came
		// in batches; the encoder's own bound must therefore never be reached.
		parquet.PageBufferSize(4 * pageBytes),
		parquet.Compression(codec),
	}
	for _, c := range columns {
		// The library orders decimals in byte arrays as if they were unsigned: readers would skip
		// pages that hold what they look for.
		if c.Type.Kind == Decimal || c.Type.Kind == Bytes {
			options = append(options, parquet.SkipPageBounds(c.Name))
		}
	}
	c, err := parquet.NewWriterConfig(options...)
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "Parquet writer")
	}
	return c, nil
}
