package pgwire

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pglogrepl"

	"github.com/freshet-io/freshet/internal/position"
)

// Switch is where a server's log went over from a timeline to the next: what lies below At is of that
// timeline or of those before it, and the same on every server that has the timeline.
type Switch struct {
	Timeline int32
	At       position.LSN
}

// Timelines gives the switches that lead to a timeline of the server, oldest first. The first timeline
// has none.
func (s Source) Timelines(ctx context.Context, timeline int32) ([]Switch, error) {
	if timeline <= 1 {
		return nil, nil
	}
	c, err := s.replication(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing depends on a clean goodbye
	r, err := pglogrepl.TimelineHistory(ctx, c, timeline)
	if err != nil {
		return nil, broken(err, "history of the timeline")
	}
	return parseTimelines(string(r.Content))
}

// parseTimelines reads a history file: a line has a timeline, where it was left, and why.
func parseTimelines(text string) ([]Switch, error) {
	var out []Switch
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) < 2 {
			return nil, fmt.Errorf("history of the timeline: line %q", line)
		}
		n, err := strconv.ParseInt(fields[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("history of the timeline: line %q: %w", line, err)
		}
		at, err := position.ParseLSN(fields[1])
		if err != nil {
			return nil, fmt.Errorf("history of the timeline: line %q: %w", line, err)
		}
		out = append(out, Switch{int32(n), at})
	}
	return out, nil
}
