package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"github.com/freshet-io/freshet/internal/fault"
)

const (
	manifestVersion = 1
	maxFiles        = 100_000
	hexSize         = 2 * sha256.Size
)

// Manifest names what one checkpoint consists of, and where in the log it stands.
type Manifest struct {
	Version    int    `json:"version"` // 1
	Number     uint64 `json:"number"`  // counts up by one per partition, from 1
	Group      string `json:"group"`
	Partition  int    `json:"partition"`
	Generation uint32 `json:"generation"`  // of the group's topics
	Epoch      uint32 `json:"epoch"`       // of the position
	Position   string `json:"position"`    // folded
	Offset     int64  `json:"offset"`      // next record of the changes topic
	LogTime    int64  `json:"log_time"`    // microseconds
	TopicID    string `json:"topic_id"`    // of the changes topic: another one of the same name has other records
	Owner      string `json:"owner"`       // node that wrote it
	OwnerEpoch int64  `json:"owner_epoch"` // generation of the ownership under which it did
	// Definitions is a hash of the definitions that were folded.
	Definitions string `json:"definitions"`
	// Outbox is the first delta that the owner keeps of each view: warm copies forget those before.
	Outbox map[string]uint64 `json:"outbox,omitempty"`
	Files  []File            `json:"files"`
}

// File is one file of the state's directory.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
	In     uint64 `json:"in"` // number of the manifest for which it was uploaded
}

// Bytes gives the size of all files together.
func (m *Manifest) Bytes() int64 {
	var n int64
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

// encode gives the manifest's bytes: one line of JSON and one with its hash.
func (m *Manifest) encode() ([]byte, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	sum := sha256.Sum256(b)
	b = append(b, '\n')
	b = hex.AppendEncode(b, sum[:])
	return append(b, '\n'), nil
}

// decode reads a manifest and refuses one that is not whole, or that could lead out of a directory.
func decode(b []byte) (*Manifest, error) {
	line, rest, ok := bytes.Cut(b, []byte{'\n'})
	if !ok || len(rest) != hexSize+1 || rest[hexSize] != '\n' {
		return nil, fmt.Errorf("manifest of %d bytes is cut off", len(b))
	}
	if sum := sha256.Sum256(line); hex.EncodeToString(sum[:]) != string(rest[:hexSize]) {
		return nil, fmt.Errorf("manifest is damaged: its hash is not that of its content")
	}
	m := &Manifest{}
	if err := json.Unmarshal(line, m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if m.Version != manifestVersion {
		return nil, fmt.Errorf("manifest has version %d, this freshet knows %d", m.Version, manifestVersion)
	}
	if len(m.Files) == 0 || len(m.Files) > maxFiles {
		return nil, fmt.Errorf("manifest names %d files", len(m.Files))
	}
	for _, f := range m.Files {
		if f.Name == "" || f.Name == "." || f.Name == ".." || path.Base(f.Name) != f.Name || strings.ContainsAny(f.Name, "\\\x00") {
			return nil, fmt.Errorf("manifest names a file %q, which is no plain name", f.Name)
		}
		if raw, err := hex.DecodeString(f.SHA256); err != nil || len(raw) != sha256.Size || f.Size < 0 || f.In == 0 || f.In > m.Number {
			return nil, fmt.Errorf("manifest says of file %s what cannot be: %+v", f.Name, f)
		}
	}
	return m, nil
}

// Log is what the changes topic has of a partition.
type Log struct {
	TopicID string
	Start   int64 // first record that is kept
	End     int64 // after the last
}

// Fits tells whether a state that stands before record offset of topic topicID can go on with the log:
// nil, or an error that says why not and the way out. An empty topicID, of a state that does not know
// it, is not compared.
func (l Log) Fits(what, topicID string, offset int64) error {
	out := "take a new snapshot: freshet up --new-snapshot, or capture --new-snapshot; and remove "
	switch {
	case topicID != "" && topicID != l.TopicID:
		return fault.New(fault.Failed, "%s was made of topic %s and the topic is %s now: it was deleted and made again, so its records are others", what, topicID, l.TopicID).
			ToMend("%sthe state directory", out)
	case offset < l.Start:
		return fault.New(fault.Failed, "%s needs record %d but the topic starts at %d: changes it has not folded are gone", what, offset, l.Start).
			ToMend("%sthe state directory", out)
	case offset > l.End:
		return fault.New(fault.Failed, "%s has folded up to record %d but the topic ends at %d: the topic has lost records", what, offset, l.End).
			ToMend("bring the topic's records back; or %sthe state directory", out)
	}
	return nil
}
