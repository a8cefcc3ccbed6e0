package change

import (
	"encoding/json"
	"fmt"
	"maps"

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
	// Groups says where it stands in each partition group, where the source is read through several slots:
	// each has positions and log time of its own. Position and LogTime are then the greatest.
	Groups map[string]CutPlace `json:"groups,omitempty"`
	// Asked tells one asking for a cut from another.
	Asked string `json:"asked,omitempty"`
	// Grows says which group's generation the cut ends: it is the last record there, and the first of the next one.
	Grows *Growth `json:"grows,omitempty"`
	// Abandoned is why the cut is not in all groups, and never will be. It is no cut then.
	Abandoned string `json:"abandoned,omitempty"`
}

// Growth is the generation of a group that begins at a cut.
type Growth struct {
	Group      string `json:"group"`
	Generation uint32 `json:"generation"`
	Partitions int    `json:"partitions"`
}

// CutPlace is where a cut stands in the topic of one group.
type CutPlace struct {
	Position position.Position `json:"position"`
	LogTime  int64             `json:"log_time"` // microseconds
}

// In gives the cut as the partitions of a group have it.
func (c CutRecord) In(group string) CutRecord {
	if at, ok := c.Groups[group]; ok {
		c.Position, c.LogTime, c.Groups = at.Position, at.LogTime, nil
	}
	return c
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

// CutPartPrefix is where the registry topic keeps the parts of cuts that are not whole yet:
// CutPartPrefix + ordinal in ten digits + "/" + slot → CutPart.
const CutPartPrefix = "cutpart/"

// CutPart tells that a cut is in the topics of one of several slots.
type CutPart struct {
	CutRecord
	Slot  string   `json:"slot"`
	Slots []string `json:"slots"` // all whose parts make it whole
	// At is the cut's place in the source's log, the same for all: what was committed below it is before the cut.
	At position.LSN `json:"at"`
}

// PartKey is the registry key of the part.
func (p CutPart) PartKey() string {
	return fmt.Sprintf("%s%010d/%s", CutPartPrefix, p.Ordinal, p.Slot)
}

// ParseCutPart reads a registry value under CutPartPrefix; Slot is empty if it is a whole cut's.
func ParseCutPart(b []byte) (CutPart, error) {
	var p CutPart
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("stored part of a cut: %w", err)
	}
	return p, nil
}

// Whole makes the record of a cut of its parts; false while the part of a slot is missing.
func Whole(parts []CutPart) (CutRecord, bool) {
	if len(parts) == 0 {
		return CutRecord{}, false
	}
	whole := parts[0].CutRecord
	whole.Groups = map[string]CutPlace{}
	missing := map[string]bool{}
	for _, slot := range parts[0].Slots {
		missing[slot] = true
	}
	for _, p := range parts {
		delete(missing, p.Slot)
		maps.Copy(whole.Groups, p.Groups)
		whole.LogTime = max(whole.LogTime, p.LogTime)
		if p.Position.LSN > whole.Position.LSN {
			whole.Position = p.Position
		}
	}
	return whole, len(missing) == 0
}
