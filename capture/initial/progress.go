package initial

import "time"

const (
	defaultSpan = 30 * time.Second
	samples     = 64
)

// Progress accounts for a snapshot: what is done, how fast of late, and what time is left. It is pure:
// times are given to it. It is for one goroutine.
type Progress struct {
	// Span is over which the rate is taken; 30 s if zero.
	Span time.Duration

	start  time.Time
	tables []TableProgress
	index  map[string]int
	ring   []sample // ascending in time, at most so many
}

// TableProgress is how far a table is.
type TableProgress struct {
	Table      string `json:"table"`
	Rows       int64  `json:"rows"`
	Bytes      int64  `json:"bytes"`      // of text
	RowsTotal  int64  `json:"rows_total"` // estimated, 0 if unknown
	Disk       int64  `json:"disk"`       // bytes on the source's disk of the chunks that are done
	DiskTotal  int64  `json:"disk_total"`
	Chunks     int    `json:"chunks"`
	ChunkTotal int    `json:"chunk_total"`
}

// Report is what Progress says at one time.
type Report struct {
	Tables         []TableProgress `json:"tables"`
	Total          TableProgress   `json:"total"`
	RowsPerSecond  float64         `json:"rows_per_second"`
	BytesPerSecond float64         `json:"bytes_per_second"`
	// Left is the time the rest will take at this rate, of rows where their number is estimated, else
	// of chunks; Known tells whether there is a rate yet.
	Left  time.Duration `json:"left"`
	Known bool          `json:"known"`
}

type sample struct {
	at          time.Time
	rows, bytes int64
	share       float64
}

// NewProgress begins to account for a plan.
func NewProgress(chunks []Chunk, at time.Time) *Progress {
	p := &Progress{start: at, index: map[string]int{}}
	for _, c := range chunks {
		t := p.table(c.Table.FullName())
		t.RowsTotal += c.Rows
		t.DiskTotal += c.Bytes
		t.ChunkTotal++
	}
	p.ring = append(p.ring, sample{at: at})
	return p
}

func (p *Progress) table(name string) *TableProgress {
	i, ok := p.index[name]
	if !ok {
		i = len(p.tables)
		p.index[name] = i
		p.tables = append(p.tables, TableProgress{Table: name})
	}
	return &p.tables[i]
}

// Add accounts for rows of a chunk and their bytes, with done for the chunk itself. It fits
// CopierOptions.Delivered. A table that the plan does not have is added.
func (p *Progress) Add(c Chunk, rows, bytes int64, done bool, at time.Time) {
	t := p.table(c.Table.FullName())
	t.Rows += rows
	t.Bytes += bytes
	if done {
		t.Chunks++
		t.Disk += c.Bytes
		t.ChunkTotal = max(t.ChunkTotal, t.Chunks)
		t.DiskTotal = max(t.DiskTotal, t.Disk)
	}
	p.sample(at)
}

func (p *Progress) span() time.Duration {
	if p.Span > 0 {
		return p.Span
	}
	return defaultSpan
}

// sample notes where it stands. The ring holds the span in steps, so its size does not depend on how
// often it is told; its first sample is the last one that lies before the span.
func (p *Progress) sample(at time.Time) {
	total := p.total()
	now := sample{at, total.Rows, total.Bytes, share(total)}
	for len(p.ring) > 1 && !p.ring[1].at.After(at.Add(-p.span())) {
		p.ring = p.ring[1:]
	}
	if n := len(p.ring); n > 1 && p.ring[n-1].at.Sub(p.ring[n-2].at) < p.span()/samples {
		p.ring[n-1] = now
		return
	}
	p.ring = append(p.ring, now)
}

func (p *Progress) total() TableProgress {
	sum := TableProgress{}
	for _, t := range p.tables {
		sum.Rows += t.Rows
		sum.Bytes += t.Bytes
		sum.RowsTotal += max(t.RowsTotal, t.Rows)
		sum.Disk += t.Disk
		sum.DiskTotal += t.DiskTotal
		sum.Chunks += t.Chunks
		sum.ChunkTotal += t.ChunkTotal
	}
	return sum
}

// share is what part is done: by disk, as its sizes are known and rows are not, but inside a chunk, so
// that the figure moves, by rows.
func share(t TableProgress) float64 {
	var byDisk, byRows float64
	if t.DiskTotal > 0 {
		byDisk = float64(t.Disk) / float64(t.DiskTotal)
	}
	if t.RowsTotal > 0 && t.RowsTotal > t.Rows {
		byRows = float64(t.Rows) / float64(t.RowsTotal)
	}
	if t.Chunks == t.ChunkTotal && t.Chunks > 0 {
		return 1
	}
	return min(max(byDisk, byRows), 1)
}

// Report says how things stand.
func (p *Progress) Report(at time.Time) Report {
	r := Report{Tables: append([]TableProgress{}, p.tables...), Total: p.total()}
	done := share(r.Total)
	first := p.ring[0]
	for _, s := range p.ring { // time goes on while nothing is told
		if !s.at.After(at.Add(-p.span())) {
			first = s
		}
	}
	seconds := at.Sub(first.at).Seconds()
	if seconds > 0 {
		r.RowsPerSecond = float64(r.Total.Rows-first.rows) / seconds
		r.BytesPerSecond = float64(r.Total.Bytes-first.bytes) / seconds
	}
	if r.Known = done >= 1 || (seconds > 0 && done > first.share); r.Known && done < 1 {
		r.Left = time.Duration((1 - done) / (done - first.share) * seconds * float64(time.Second))
	}
	return r
}
