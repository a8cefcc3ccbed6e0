// Package doctor checks everything around a process of freshet: the source, Kafka, storage, the
// data directory. It changes nothing: what it makes to try something out it takes away again.
package doctor

import (
	"context"
	"errors"
	"fmt"

	"github.com/freshet-io/freshet/internal/config"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
)

// Status is how a check ended.
type Status string

// The ends of a check. After a Warn freshet runs, after a Fail it would not.
const (
	OK   Status = "ok"
	Warn Status = "warn"
	Fail Status = "fail"
)

// Check is one thing that was looked at. Mend is the statement or setting that mends it.
type Check struct {
	Name   string `json:"check"`
	Status Status `json:"status"`
	What   string `json:"what"`
	Mend   string `json:"mend,omitempty"`
}

// report collects checks in the order they are made.
type report struct {
	cfg    *config.Config
	defs   *feature.Definitions // nil: they could not be read
	checks []Check
}

func (r *report) ok(name, what string, args ...any) { r.add(name, OK, "", what, args...) }

func (r *report) add(name string, s Status, mend, what string, args ...any) {
	r.checks = append(r.checks, Check{name, s, fmt.Sprintf(what, args...), mend})
}

// fail adds an error with the mend that it names.
func (r *report) fail(name string, err error) {
	c := Check{Name: name, Status: Fail, What: err.Error()}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		plain := *f
		plain.Mend = ""
		c.What, c.Mend = plain.Error(), f.Mend
	}
	r.checks = append(r.checks, c)
}

// Run makes every check. Without definitions the tables are not checked.
func Run(ctx context.Context, cfg *config.Config, defs *feature.Definitions) []Check {
	r := &report{cfg: cfg, defs: defs}
	r.source(ctx)
	r.kafka(ctx)
	r.storage(ctx)
	r.directory(ctx)
	return r.checks
}
