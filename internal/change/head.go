package change

import (
	"fmt"

	"github.com/freshet-io/freshet/internal/position"
)

// Head is what a record of a changes topic says first, whatever the shape of its table.
type Head struct {
	Position   position.Position
	What       string // the op of a change, or the kind of a control
	Table      string // empty on controls that concern none
	CommitTime int64  // microseconds
	LogTime    int64  // microseconds
}

// DecodeHead reads the head of a record's payload (without frame), and nothing behind it of a change.
func DecodeHead(control bool, b []byte) (Head, error) {
	if control {
		c, err := DecodeControl(b)
		if err != nil {
			return Head{}, err
		}
		return Head{c.Position, c.Kind.String(), c.Table, c.CommitTime, c.LogTime}, nil
	}
	r := &reader{b: b}
	h := Head{Position: r.position(), What: Op(r.index(len(opNames), "op")).String(), Table: r.string()}
	h.CommitTime, h.LogTime = r.long(), r.long()
	if r.err != nil {
		return Head{}, fmt.Errorf("change: %w", r.err)
	}
	return h, nil
}
