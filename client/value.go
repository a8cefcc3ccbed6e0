package client

import (
	"encoding/hex"
	"fmt"
	"time"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
)

// Decimal is an exact decimal number as text.
type Decimal string

// Date is a day, as days since 1970-01-01. The largest and the smallest are PostgreSQL's infinity and
// -infinity.
type Date int32

// Time gives midnight UTC of the day.
func (d Date) Time() time.Time { return time.Unix(int64(d)*86_400, 0).UTC() }

// String gives yyyy-mm-dd.
func (d Date) String() string { return d.Time().Format(time.DateOnly) }

// UUID is 16 bytes, big-endian.
type UUID [16]byte

// String gives the canonical form.
func (u UUID) String() string {
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// toWire gives the wire form of a key's value.
func toWire(v any) (*freshetv1.Value, error) {
	switch x := v.(type) {
	case string:
		return &freshetv1.Value{Kind: &freshetv1.Value_String_{String_: x}}, nil
	case int:
		return &freshetv1.Value{Kind: &freshetv1.Value_Int64{Int64: int64(x)}}, nil
	case int64:
		return &freshetv1.Value{Kind: &freshetv1.Value_Int64{Int64: x}}, nil
	case Date:
		return &freshetv1.Value{Kind: &freshetv1.Value_Date{Date: int32(x)}}, nil
	case UUID:
		return &freshetv1.Value{Kind: &freshetv1.Value_Uuid{Uuid: x[:]}}, nil
	default:
		return nil, fmt.Errorf("a %T is no value of a key: give a string, an int, an int64, a Date or a UUID", v)
	}
}

// fromWire gives a value as Go's own, nil for NULL.
func fromWire(v *freshetv1.Value) any {
	switch k := v.GetKind().(type) {
	case *freshetv1.Value_Bool:
		return k.Bool
	case *freshetv1.Value_Int64:
		return k.Int64
	case *freshetv1.Value_Double:
		return k.Double
	case *freshetv1.Value_Decimal:
		return Decimal(k.Decimal)
	case *freshetv1.Value_String_:
		return k.String_
	case *freshetv1.Value_Bytes:
		return k.Bytes
	case *freshetv1.Value_Date:
		return Date(k.Date)
	case *freshetv1.Value_Timestamp:
		return time.UnixMicro(k.Timestamp).UTC()
	case *freshetv1.Value_Uuid:
		var u UUID
		copy(u[:], k.Uuid)
		return u
	case *freshetv1.Value_List:
		list := make([]any, len(k.List.GetValues()))
		for i, e := range k.List.GetValues() {
			list[i] = fromWire(e)
		}
		return list
	default:
		return nil
	}
}

func optionalTime(us *int64) time.Time {
	if us == nil {
		return time.Time{}
	}
	return time.UnixMicro(*us).UTC()
}
