package change

import (
	"encoding/json"
	"fmt"

	"github.com/freshet-io/freshet/internal/position"
)

// CutPrefix is where the registry topic keeps cuts: CutPrefix + ordinal in ten digits → CutRecord.
const CutPrefix = "cut/"

// CutRecord is a cut as the registry keeps it, written before the cut's first copy (DESIGN rule 8).
type CutRecord struct {
	ID       string            `json:"id"`
	Ordinal  int64             `json:"ordinal"` // counts up by one; a table's txn version
	Position position.Position `json:"position"`
	LogTime  int64             `json:"log_time"` // microseconds
	// SQL tells whether the cut was put to equal an exported snapshot of the source.
	SQL bool `json:"sql,omitempty"`
}

// Key is the registry key of the cut.
func (c CutRecord) Key() string { return fmt.Sprintf("%s%010d", CutPrefix, c.Ordinal) }

// ParseCut reads a registry value under CutPrefix.
func ParseCut(b []byte) (CutRecord, error) {
	var c CutRecord
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("stored cut: %w", err)
	}
	return c, nil
}
