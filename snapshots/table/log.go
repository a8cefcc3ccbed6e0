package table

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/freshet-io/freshet/internal/fault"
)

// sumMark begins the end of an entry that freshet wrote.
const sumMark = `,"freshetSum":"`

// File is one data file of a version.
type File struct {
	Path      string // inside the table, slash-separated
	Partition        // where it belongs
	Size      int64  // bytes
	Rows      int64  // in the file, deleted ones included
	DV        *DV    // which rows are deleted; nil: none
	ModTime   int64  // milliseconds since 1970-01-01: the time of the commit that added it
	Stats     string // Delta's statistics, JSON; may be empty in files of others
}

// DeletedRows gives the number of rows that the deletion vector holds.
func (f *File) DeletedRows() int64 {
	if f.DV == nil {
		return 0
	}
	return f.DV.Cardinality
}

// LiveRows gives the number of rows that readers see.
func (f *File) LiveRows() int64 { return f.Rows - f.DeletedRows() }

// Txn is the progress of an application as the log keeps it: a rerun finds it and does nothing.
type Txn struct {
	AppID   string `json:"appId"`
	Version int64  `json:"version"`
}

// Entry is what one entry of the log says, without its schema.
type Entry struct {
	Version    int64
	Time       int64          // milliseconds since 1970-01-01, as the writer gave it
	Operation  string         // MERGE, WRITE, OPTIMIZE, …
	Info       map[string]any // commitInfo, whole; numbers are json.Number
	Txns       []Txn
	Added      []File   // new files, and files with a new deletion vector
	Removed    []string // paths; those with a new deletion vector are in Added too
	DataChange bool     // false: same rows, arranged otherwise
	Foreign    bool     // not written by freshet
}

type (
	addAction struct {
		Path             string             `json:"path"`
		PartitionValues  map[string]*string `json:"partitionValues"`
		Size             int64              `json:"size"`
		ModificationTime int64              `json:"modificationTime"`
		DataChange       bool               `json:"dataChange"`
		Stats            string             `json:"stats,omitempty"`
		DeletionVector   *DV                `json:"deletionVector,omitempty"`
	}
	removeAction struct {
		Path                 string             `json:"path"`
		DeletionTimestamp    int64              `json:"deletionTimestamp"`
		DataChange           bool               `json:"dataChange"`
		ExtendedFileMetadata bool               `json:"extendedFileMetadata"`
		PartitionValues      map[string]*string `json:"partitionValues,omitempty"`
		Size                 int64              `json:"size"`
		DeletionVector       *DV                `json:"deletionVector,omitempty"`
	}
	metaData struct {
		ID               string            `json:"id"`
		Format           formatSpec        `json:"format"`
		SchemaString     string            `json:"schemaString"`
		PartitionColumns []string          `json:"partitionColumns"`
		Configuration    map[string]string `json:"configuration"`
		CreatedTime      int64             `json:"createdTime"`
	}
	formatSpec struct {
		Provider string            `json:"provider"`
		Options  map[string]string `json:"options"`
	}
	protocol struct {
		MinReaderVersion int      `json:"minReaderVersion"`
		MinWriterVersion int      `json:"minWriterVersion"`
		ReaderFeatures   []string `json:"readerFeatures,omitempty"`
		WriterFeatures   []string `json:"writerFeatures,omitempty"`
	}
	txnAction struct {
		Txn
		LastUpdated int64 `json:"lastUpdated"`
	}
	action struct {
		Protocol   *protocol       `json:"protocol,omitempty"`
		MetaData   *metaData       `json:"metaData,omitempty"`
		Txn        *txnAction      `json:"txn,omitempty"`
		Remove     *removeAction   `json:"remove,omitempty"`
		Add        *addAction      `json:"add,omitempty"`
		CommitInfo json.RawMessage `json:"commitInfo,omitempty"`
		CDC        json.RawMessage `json:"cdc,omitempty"` // others' change feed: no part of a version
	}
)

// entryPath is the path of a log entry inside the table.
func entryPath(version int64) string { return fmt.Sprintf("_delta_log/%020d.json", version) }

// entryVersion reads a log entry's name; false for other files in the log's directory.
func entryVersion(name string) (int64, bool) {
	digits, ok := strings.CutSuffix(path.Base(name), ".json")
	if !ok || len(digits) != 20 {
		return 0, false
	}
	v, err := strconv.ParseInt(digits, 10, 64)
	return v, err == nil
}

// render writes an entry: the actions, then commitInfo with the sum of all before it.
func render(actions []action, info map[string]any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for _, a := range actions {
		if err := enc.Encode(a); err != nil {
			return nil, fault.Wrap(fault.Failed, err, "log entry to JSON")
		}
	}
	b.WriteString(`{"commitInfo":`)
	if err := enc.Encode(info); err != nil {
		return nil, fault.Wrap(fault.Failed, err, "commitInfo to JSON")
	}
	b.Truncate(b.Len() - 2) // its closing brace and the new line
	b.WriteString(sumMark + entrySum(b.Bytes()) + "\"}}\n")
	return b.Bytes(), nil
}

func entrySum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// parse reads an entry's actions. One of ours must be whole.
func parse(b []byte) (actions []action, foreign bool, err error) {
	end := bytes.LastIndex(b, []byte(sumMark))
	foreign = end < 0
	if !foreign && string(b[end:]) != sumMark+entrySum(b[:end])+"\"}}\n" {
		return nil, false, fault.New(fault.Failed, "log entry is damaged: its bytes do not match its sum")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	info := false
	for n := 1; ; n++ {
		var raw map[string]json.RawMessage
		if err := d.Decode(&raw); err == io.EOF {
			break
		} else if err != nil {
			return nil, false, fault.Wrap(fault.Failed, err, "log entry is damaged or cut, at action %d", n)
		}
		a, err := parseAction(raw)
		if err != nil {
			return nil, false, fault.Wrap(fault.Failed, err, "action %d", n)
		}
		info = info || a.CommitInfo != nil
		actions = append(actions, a)
	}
	if !info {
		return nil, false, fault.New(fault.Failed, "log entry has no commitInfo: it is cut, or written by something unknown")
	}
	return actions, foreign, nil
}

func parseAction(raw map[string]json.RawMessage) (a action, err error) {
	if len(raw) != 1 {
		return a, fault.New(fault.Failed, "expected one action, found %d", len(raw))
	}
	for kind, text := range raw {
		switch kind {
		case "protocol":
			err = json.Unmarshal(text, &a.Protocol)
		case "metaData":
			err = json.Unmarshal(text, &a.MetaData)
		case "txn":
			err = json.Unmarshal(text, &a.Txn)
		case "remove":
			err = json.Unmarshal(text, &a.Remove)
		case "add":
			err = json.Unmarshal(text, &a.Add)
		case "commitInfo":
			a.CommitInfo = text
		case "cdc":
			a.CDC = text
		default:
			err = fault.New(fault.Failed, "unknown kind %q", kind)
		}
	}
	if err != nil {
		return a, fault.Wrap(fault.Failed, err, "log entry is not readable")
	}
	return a, nil
}

// check refuses tables that need more of a reader than this package does.
func (p *protocol) check() error {
	if p.MinReaderVersion > 3 || p.MinReaderVersion == 2 {
		return fault.New(fault.Failed, "table needs Delta reader version %d; freshet reads 1 and 3", p.MinReaderVersion)
	}
	for _, f := range append(slices.Clone(p.ReaderFeatures), p.WriterFeatures...) {
		if f != "deletionVectors" && f != "appendOnly" && f != "invariants" {
			return fault.New(fault.Failed, "table uses the Delta feature %q, which freshet does not know", f)
		}
	}
	return nil
}

// partitionValues and dir write where a file belongs; file reads it.
func (s Schema) partitionValues(p Partition) map[string]*string {
	m := map[string]*string{}
	for _, c := range s.PartitionBy {
		v := strconv.Itoa(int(p.Bucket))
		if c == DayColumn {
			v = dayText(p.Day)
		}
		m[c] = &v
	}
	return m
}

func dayText(day int32) string { return time.Unix(int64(day)*86400, 0).UTC().Format(time.DateOnly) }

func (s Schema) dir(p Partition) (string, error) {
	if p.Bucket < 0 {
		return "", fault.New(fault.Failed, "bucket %d is negative", p.Bucket)
	}
	if !s.HasDay() && p.Day != 0 {
		return "", fault.New(fault.Failed, "the table has no days, and day %s is given", dayText(p.Day))
	}
	if y := time.Unix(int64(p.Day)*86400, 0).UTC().Year(); y < 1 || y > 9999 {
		return "", fault.New(fault.Failed, "day %d is in year %d, outside of 1 to 9999", p.Day, y)
	}
	values := s.partitionValues(p)
	parts := make([]string, len(s.PartitionBy))
	for i, c := range s.PartitionBy {
		parts[i] = c + "=" + *values[c]
	}
	return strings.Join(parts, "/"), nil
}

func (s Schema) parsePartition(values map[string]*string) (p Partition, err error) {
	for _, c := range s.PartitionBy {
		v := values[c]
		if v == nil {
			return p, fault.New(fault.Failed, "file has no value for partition column %q", c)
		}
		if c == DayColumn {
			t, err := time.Parse(time.DateOnly, *v)
			if err != nil {
				return p, fault.New(fault.Failed, "partition value %q is not a date", *v)
			}
			p.Day = int32(t.Unix() / 86400)
			if t.Unix() < 0 {
				p.Day = int32(floorDiv(t.Unix(), 86400))
			}
			continue
		}
		n, err := strconv.ParseInt(*v, 10, 32)
		if err != nil || n < 0 {
			return p, fault.New(fault.Failed, "partition value %q is not a bucket", *v)
		}
		p.Bucket = int32(n)
	}
	return p, nil
}

// cleanPath reads a path of the log, which is a URI reference.
func cleanPath(p string) (string, error) {
	u, err := url.Parse(p)
	if err != nil || u.Scheme != "" || u.Host != "" || path.IsAbs(u.Path) || u.Path == "" ||
		path.Clean(u.Path) != u.Path || strings.HasPrefix(u.Path, "../") {
		return "", fault.New(fault.Failed, "path %q is not a clean relative one", p)
	}
	return u.Path, nil
}

func (s Schema) file(a *addAction) (File, error) {
	p, err := cleanPath(a.Path)
	if err != nil {
		return File{}, err
	}
	f := File{Path: p, Size: a.Size, ModTime: a.ModificationTime, Stats: a.Stats, DV: a.DeletionVector, Rows: -1}
	if f.Partition, err = s.parsePartition(a.PartitionValues); err != nil {
		return File{}, fault.Wrap(fault.Failed, err, "file %s", p)
	}
	var stats struct {
		NumRecords *int64 `json:"numRecords"`
	}
	if a.Stats != "" {
		if err := json.Unmarshal([]byte(a.Stats), &stats); err != nil {
			return File{}, fault.Wrap(fault.Failed, err, "statistics of file %s", p)
		}
	}
	if stats.NumRecords == nil {
		return File{}, fault.New(fault.Failed, "file %s has no count of rows in its statistics", p)
	}
	f.Rows = *stats.NumRecords
	if f.Rows < 0 || f.Size < 0 || f.DeletedRows() < 0 || f.DeletedRows() > f.Rows {
		return File{}, fault.New(fault.Failed, "file %s: %d rows, %d deleted, %d bytes cannot be", p, f.Rows, f.DeletedRows(), f.Size)
	}
	return f, nil
}

func (s Schema) add(f *File, dataChange bool) action {
	return action{Add: &addAction{
		Path: f.Path, PartitionValues: s.partitionValues(f.Partition), Size: f.Size, ModificationTime: f.ModTime,
		DataChange: dataChange, Stats: f.Stats, DeletionVector: f.DV,
	}}
}

func (s Schema) remove(f *File, at int64, dataChange bool) action {
	return action{Remove: &removeAction{
		Path: f.Path, DeletionTimestamp: at, DataChange: dataChange, ExtendedFileMetadata: true,
		PartitionValues: s.partitionValues(f.Partition), Size: f.Size, DeletionVector: f.DV,
	}}
}

func byPath(a, b File) int { return cmp.Compare(a.Path, b.Path) }
