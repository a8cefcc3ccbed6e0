// Package doctor checks everything around a process of freshet: the source, Kafka, storage, the
// data directory. It changes nothing: what it makes to try something out it takes away again.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/freshet-io/freshet/capture/filter"
	"github.com/freshet-io/freshet/capture/pgwire"
	"github.com/freshet-io/freshet/capture/slotguard"
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

// longOpen is from when on a transaction that is open is worth a warning.
const longOpen = 15 * time.Minute

// Options say what is checked.
type Options struct {
	Config      *config.Config
	Definitions *feature.Definitions // nil: they could not be read, and the tables are not checked
	Tables      []Table              // that definitions and configuration want
	Guard       slotguard.Limits
	Patience    time.Duration    // with transactions that are open; 0: 15 min
	Now         func() time.Time // of the slot's measurement; nil: time.Now
}

// Table is what is wanted of a table of the source.
type Table struct {
	pgwire.PublishedTable
	Filter *filter.Config // nil: everything leaves the source
	Secret []byte         // of its hashes
	Keys   []string       // columns that say which entity a row is of
	Slots  []string       // through which it is read, of several; nil: through each
}

// report collects checks in the order they are made.
type report struct {
	Options
	checks []Check
}

func (r *report) ok(name, what string, args ...any) { r.add(name, OK, "", what, args...) }

func (r *report) add(name string, s Status, mend, what string, args ...any) {
	r.checks = append(r.checks, Check{name, s, fmt.Sprintf(what, args...), mend})
}

// fail adds an error with the mend that it names.
func (r *report) fail(name string, err error) { r.checks = append(r.checks, Failed(name, err)) }

// Failed makes a check of an error, with the mend that it names.
func Failed(name string, err error) Check {
	c := Check{Name: name, Status: Fail, What: err.Error()}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		plain := *f
		plain.Mend = ""
		c.What, c.Mend = plain.Error(), f.Mend
	}
	return c
}

// Run makes every check.
func Run(ctx context.Context, o Options) []Check {
	if o.Now == nil {
		o.Now = time.Now //nolint:forbidigo // a measurement's time, for people
	}
	if o.Patience == 0 {
		o.Patience = longOpen
	}
	r := &report{Options: o}
	r.source(ctx)
	r.kafka(ctx)
	r.storage(ctx)
	r.directory(ctx)
	return r.checks
}
