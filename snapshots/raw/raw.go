package raw

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/store"
	"github.com/freshet-io/freshet/snapshots/table"
)

// The columns.
const (
	Offset     = "_offset"
	Position   = "_position"
	Op         = "_op"
	Table      = "_table"
	CommitTime = "_commit_time"
	LogTime    = "_log_time"
	Record     = "_record"
)

const (
	tries      = 16      // how often an append begins again on top of another writer's version
	batchBytes = 4 << 20 // of records in memory, per partition
	batchRows  = 4096
	dayMicros  = 24 * 3600 * 1_000_000
)

// Path is where a group's raw records are, inside a store: of one generation (feature.PartitionGroup.Log).
func Path(group string) string { return "raw/" + group }

// AppID gives the name under which the table keeps the ordinal of its cut (table.Txn).
func AppID(group string) string { return "freshet.raw." + group }

// Schema gives the columns of the table.
func Schema() table.Schema {
	instant, text := table.Type{Kind: table.Timestamp}, table.Type{Kind: table.String}
	return table.Schema{
		Columns: []table.Column{
			{Name: Offset, Type: table.Type{Kind: table.Int64}},
			{Name: Position, Type: text},
			{Name: Op, Type: text},
			{Name: Table, Type: text, Nullable: true},
			{Name: CommitTime, Type: instant},
			{Name: LogTime, Type: instant},
			{Name: Record, Type: table.Type{Kind: table.Bytes}},
		},
		PartitionBy: []string{table.BucketColumn, table.DayColumn},
	}
}

// Schemas finds the Avro schema of an id (the registry topic).
type Schemas interface {
	Schema(ctx context.Context, id uint32) (subject, schema string, err error)
}

// Records reads a group's changes topic.
type Records interface {
	// Start gives the first offset that each partition still has. The group is named as its log is.
	Start(ctx context.Context, group string) (map[int32]int64, error)
	// Read calls fn for the committed records [from, to) of a partition, in order. The value is valid
	// only during the call.
	Read(ctx context.Context, group string, partition int, from, to int64, fn func(offset int64, value []byte) error) error
}

// Options are what a Log works with. Group, Store, Records and Schemas are required.
type Options struct {
	Group    *feature.PartitionGroup
	Store    store.Store
	LocalDir string // this machine's own files of tables (table.Options); empty: all is read from Store
	Records  Records
	Schemas  Schemas
	Workers  int // partitions at once; 0: 2
	Events   Events
}

// Events tell what happens; any may be nil. Written comes from several goroutines.
type Events struct {
	Written func(group string, partition int, records, bytes int64)
}

// Log is the raw records of one group. Its methods may be called from several goroutines, and several
// Logs may work on one store: storage is the judge.
type Log struct {
	o Options

	mu       sync.Mutex
	table    *table.Table
	controls map[uint32]bool // by schema id: it is a control's
}

// New makes a Log; nothing is read yet.
func New(o Options) *Log {
	o.Workers = cmp.Or(o.Workers, 2)
	return &Log{o: o, controls: map[uint32]bool{}}
}

// Close frees what the Log holds open.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.table
	if l.table = nil; t == nil {
		return nil
	}
	return t.Close()
}

// Version says what a version of the table holds.
type Version struct {
	Version  int64
	Ordinal  int64   // of the cut
	Offsets  []int64 // per partition: the first offset that it does not hold
	From     []int64 // per partition: the first offset of its own append
	Records  int64   // of its own append
	Appended bool    // false: the cut's records were there
}

// open opens the table, or makes it at a log time in milliseconds; without one ErrNoTable stays.
func (l *Log) open(ctx context.Context, millis int64, create bool) (*table.Table, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.table != nil {
		return l.table, nil
	}
	o := table.Options{LocalDir: l.o.LocalDir}
	t, err := table.Open(ctx, l.o.Store, Path(l.o.Group.Log()), o)
	if create && errors.Is(err, table.ErrNoTable) {
		t, err = table.Create(ctx, l.o.Store, Path(l.o.Group.Log()), table.Spec{Schema: Schema(), Time: millis}, o)
	}
	if err != nil {
		return nil, err
	}
	l.table = t
	return t, nil
}

// Head says what the newest version holds. Before the first append its Offsets are nil.
func (l *Log) Head(ctx context.Context) (Version, error) {
	t, err := l.open(ctx, 0, false)
	if errors.Is(err, table.ErrNoTable) {
		return Version{}, nil
	}
	if err != nil {
		return Version{}, err
	}
	_, v, err := l.head(ctx, t)
	return v, err
}

func (l *Log) head(ctx context.Context, t *table.Table) (*table.Snapshot, Version, error) {
	s, err := t.Snapshot(ctx, -1)
	if err != nil {
		return nil, Version{}, err
	}
	at, ok := s.Txn[AppID(l.o.Group.Log())]
	if !ok {
		return s, Version{Version: s.Version}, nil
	}
	own := func(e table.Entry) bool {
		return slices.Contains(e.Txns, table.Txn{AppID: AppID(l.o.Group.Log()), Version: at})
	}
	entry := s.Entry
	if !own(entry) { // a compaction came after it
		entries, err := t.Versions(ctx)
		if err != nil {
			return nil, Version{}, err
		}
		i := slices.IndexFunc(entries, own)
		if i < 0 {
			return nil, Version{}, fault.New(fault.Failed, "the log's entry of ordinal %d is missing", at).At("table %s", t.Path())
		}
		entry = entries[i]
	}
	v, err := versionOf(entry)
	if err != nil {
		return nil, Version{}, fault.Wrap(fault.Failed, err, "version %d", entry.Version).At("table %s", t.Path())
	}
	if len(v.Offsets) != l.o.Group.Partitions {
		return nil, Version{}, fault.New(fault.Failed, "it holds %d partitions, group %s has %d", len(v.Offsets), l.o.Group.Name, l.o.Group.Partitions).At("table %s", t.Path())
	}
	v.Ordinal = at
	return s, v, nil
}

func versionOf(e table.Entry) (Version, error) {
	v := Version{Version: e.Version}
	b, err := json.Marshal(e.Info)
	if err != nil {
		return v, fmt.Errorf("commitInfo: %w", err)
	}
	var info struct {
		Offsets []int64 `json:"offsets"`
		From    []int64 `json:"from"`
		Records int64   `json:"records"`
	}
	if err := json.Unmarshal(b, &info); err != nil {
		return v, fmt.Errorf("commitInfo: %w", err)
	}
	v.Offsets, v.From, v.Records = info.Offsets, info.From, info.Records
	return v, nil
}

// Append adds what the changes topic has up to a cut; ends gives, per partition, the offset after the
// cut's own record there. An append of this cut, or of a later one, that is there already is success.
func (l *Log) Append(ctx context.Context, cut change.CutRecord, ends []int64) (Version, error) {
	if len(ends) != l.o.Group.Partitions {
		return Version{}, fault.New(fault.Failed, "cut %s has offsets of %d partitions, group %s has %d", cut.ID, len(ends), l.o.Group.Name, l.o.Group.Partitions)
	}
	t, err := l.open(ctx, cut.LogTime/1000, true)
	if err != nil {
		return Version{}, err
	}
	for range tries {
		s, head, err := l.head(ctx, t)
		if err != nil || head.Ordinal >= cut.Ordinal {
			return head, err
		}
		if head.Offsets == nil {
			if head.Offsets, err = l.first(ctx); err != nil {
				return head, err
			}
		}
		v, err := l.append(ctx, t, s, cut, head.Offsets, ends)
		if !errors.Is(err, table.ErrConflict) {
			return v, err
		}
	}
	return Version{}, fault.New(fault.Failed, "another writer was first, %d times", tries).At("table %s", t.Path())
}

// first gives where the table begins: with what the topic still has.
func (l *Log) first(ctx context.Context) ([]int64, error) {
	starts, err := l.o.Records.Start(ctx, l.o.Group.Log())
	if err != nil {
		return nil, err
	}
	from := make([]int64, l.o.Group.Partitions)
	for i := range from {
		from[i] = starts[int32(i)]
	}
	return from, nil
}

func (l *Log) append(ctx context.Context, t *table.Table, parent *table.Snapshot, cut change.CutRecord, from, ends []int64) (Version, error) {
	files := make([][]table.File, len(ends))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(l.o.Workers)
	for i := range ends {
		g.Go(func() (err error) {
			files[i], err = l.write(gctx, t, i, from[i], ends[i])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return Version{}, err
	}
	v := Version{Version: parent.Version + 1, Ordinal: cut.Ordinal, Offsets: ends, From: from, Appended: true}
	c := table.Changes{
		Txn: &table.Txn{AppID: AppID(l.o.Group.Log()), Version: cut.Ordinal}, Time: cut.LogTime / 1000, Operation: "WRITE",
		Add: slices.Concat(files...),
	}
	for i := range c.Add {
		v.Records += c.Add[i].Rows
	}
	c.Info = map[string]any{
		"cut": cut.ID, "ordinal": cut.Ordinal, "position": cut.Position.String(), "log_time": cut.LogTime,
		"parent": parent.Version, "records": v.Records, "from": from, "offsets": ends,
	}
	_, err := t.Commit(ctx, parent.Version, c)
	return v, err
}

// write makes the files of one partition, one for each day.
func (l *Log) write(ctx context.Context, t *table.Table, bucket int, from, to int64) ([]table.File, error) {
	if to < from {
		return nil, fault.New(fault.Failed, "partition %d: the table holds records below %d, the cut is at %d", bucket, from, to).At("table %s", t.Path()).
			ToMend("name a later cut; or, if the topic was made anew, move %s away", t.Path())
	}
	if to == from {
		return nil, nil
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	days := newDays(ctx, l, bucket, from, to)
	defer days.close()
	var out []table.File
	for {
		day, ok, err := days.begin()
		if err != nil || !ok {
			return out, err
		}
		f, err := t.WriteFile(ctx, Schema(), table.Partition{Bucket: int32(bucket), Day: day}, days.batches())
		if err != nil {
			return nil, err
		}
		out = append(out, f)
		if l.o.Events.Written != nil {
			l.o.Events.Written(l.o.Group.Name, bucket, f.Rows, f.Size)
		}
	}
}

// row is one record on its way into a file.
type row struct {
	offset int64
	head   change.Head
	value  []byte
}

func (r *row) day() int32 { return int32(feature.Floor(r.head.LogTime, 24*3600*1e9) / dayMicros) }

func (r *row) append(b *table.Batch) {
	b.Columns[0].AppendInt64(r.offset)
	b.Columns[1].AppendString(r.head.Position.String())
	b.Columns[2].AppendString(r.head.What)
	if r.head.Table == "" {
		b.Columns[3].AppendNull()
	} else {
		b.Columns[3].AppendString(r.head.Table)
	}
	b.Columns[4].AppendInt64(r.head.CommitTime)
	b.Columns[5].AppendInt64(r.head.LogTime)
	b.Columns[6].AppendBytes(r.value)
}

// days cuts the records of a partition into days, on the way from the topic into files. Log time never
// falls within a partition, so a day's records follow each other.
type days struct {
	next func() (row, error, bool)
	stop func()
	held *row // read and not yet in a batch
}

func newDays(ctx context.Context, l *Log, bucket int, from, to int64) *days {
	d := &days{}
	d.next, d.stop = iter.Pull2(l.rows(ctx, bucket, from, to))
	return d
}

func (d *days) close() { d.stop() }

// begin gives the day of the next record; false when there is none.
func (d *days) begin() (int32, bool, error) {
	if d.held == nil {
		if err := d.pull(); err != nil || d.held == nil {
			return 0, false, err
		}
	}
	return d.held.day(), true, nil
}

func (d *days) pull() error {
	r, err, ok := d.next()
	if d.held = nil; err != nil || !ok {
		return err
	}
	d.held = &r
	return nil
}

// batches gives the records of the day of the one held.
func (d *days) batches() iter.Seq2[*table.Batch, error] {
	return func(yield func(*table.Batch, error) bool) {
		b := table.NewBatch(Schema().Columns)
		day := d.held.day()
		for d.held != nil && d.held.day() == day {
			b.Reset()
			for n, size := 0, 0; n < batchRows && size < batchBytes && d.held != nil && d.held.day() == day; n++ {
				d.held.append(b)
				size += len(d.held.value)
				if err := d.pull(); err != nil {
					yield(nil, err)
					return
				}
			}
			if !yield(b.Done(), nil) {
				return
			}
		}
	}
}

// rows reads the records of a partition. A value is valid until the next.
func (l *Log) rows(ctx context.Context, bucket int, from, to int64) iter.Seq2[row, error] {
	return func(yield func(row, error) bool) {
		last := from - 1
		err := l.o.Records.Read(ctx, l.o.Group.Log(), bucket, from, to, func(offset int64, value []byte) error {
			if offset <= last || offset >= to {
				return fault.New(fault.Failed, "record %d follows record %d of [%d, %d)", offset, last, from, to)
			}
			last = offset
			head, err := l.decode(ctx, value)
			if err != nil {
				return fmt.Errorf("record %d: %w", offset, err)
			}
			if !yield(row{offset, head, value}, nil) {
				return errStop
			}
			return nil
		})
		if err == nil && last != to-1 {
			err = fault.New(fault.Failed, "the record before %d, the cut's own, is not in the topic: the last one is %d", to, last)
		}
		if err != nil && !errors.Is(err, errStop) {
			yield(row{}, fmt.Errorf("changes of %s/%d: %w", l.o.Group.Name, bucket, err))
		}
	}
}

// errStop ends a walk early.
var errStop = errors.New("stop")

func (l *Log) decode(ctx context.Context, value []byte) (change.Head, error) {
	id, payload, err := change.Unframe(value)
	if err != nil {
		return change.Head{}, fmt.Errorf("%w", err)
	}
	control, err := l.isControl(ctx, id)
	if err != nil {
		return change.Head{}, err
	}
	return change.DecodeHead(control, payload)
}

func (l *Log) isControl(ctx context.Context, id uint32) (bool, error) {
	l.mu.Lock()
	control, ok := l.controls[id]
	l.mu.Unlock()
	if ok {
		return control, nil
	}
	subject, _, err := l.o.Schemas.Schema(ctx, id)
	if err != nil {
		return false, fmt.Errorf("%w", err)
	}
	control = strings.HasSuffix(subject, "-"+change.ControlRecord)
	l.mu.Lock()
	l.controls[id] = control
	l.mu.Unlock()
	return control, nil
}
