// Package dead makes capture's dead letters: what is kept of a row that could not be decoded, in the
// topic <name>.dead.capture, so that it can be decoded once that is mended.
//
// The letter's value is, integers big-endian:
//
//	+---------+------+----------+-------+-----+-------------+-------------+------+---------+----------+
//	| version | form | position | chunk | n   | snapshot id | shape       | size | SHA-256 | raw      |
//	| 1 B=1   | 1 B  | 20 B     | 4 B   | 8 B | uvarint+n B | uvarint+n B | 8 B  | 32 B    | the rest |
//	+---------+------+----------+-------+-----+-------------+-------------+------+---------+----------+
//
// Form says what raw is: M a message of pgoutput from its kind byte on, T and B a row of COPY in text
// and in binary. Shape is the table as JSON. Chunk, n and snapshot id are a snapshot row's, else zero and
// empty. Size and SHA-256 are raw's; a row with which the letter would not fit a Kafka record is left
// out, so that the rest is empty, and is to be had from the source by its position or its snapshot.
package dead

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/freshet-io/freshet/internal/change"
	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/feature"
	"github.com/freshet-io/freshet/internal/position"
)

// Stage is the stage in the topic's name.
const Stage = "capture"

// StageOf is the stage in the topic's name where the source is read through several slots.
func StageOf(slot string) string { return Stage + "." + slot }

const (
	version = 1
	// MaxLetter bounds a letter's binary in bytes: a record batch of 8 MiB less what Kafka adds.
	MaxLetter = 8<<20 - 4<<10
	// maxWhy bounds the text of an error, which may quote a value.
	maxWhy = 4 << 10
)

// ErrDamaged says that a letter is not one of capture's, or has been changed.
var ErrDamaged = errors.New("the dead letter is damaged")

// Form is what a row's bytes are.
type Form byte

// The forms.
const (
	Message    Form = 'M' // a message of pgoutput, from its kind byte on
	CopyText   Form = 'T' // a row of COPY in text, without its line end
	CopyBinary Form = 'B' // a row of COPY in binary, from its count of fields on
)

// Row is a row that could not be decoded.
type Row struct {
	Position   position.Position
	SnapshotID string // with Chunk and N: of a snapshot row
	Chunk      uint32
	N          uint64
	Table      *feature.Table // its shape then
	Form       Form
	Raw        []byte // nil after Replay if it was too large
	Size       uint64 // of Raw when the letter was made; only Replay sets it
}

// Whole tells whether a row that Replay gave has its bytes.
func (r *Row) Whole() bool { return uint64(len(r.Raw)) == r.Size }

// place names the row in a text: what Position alone does not for a row of a snapshot.
func (r *Row) place() string {
	if r.SnapshotID == "" {
		return r.Position.String()
	}
	return fmt.Sprintf("%s snapshot %s chunk %d row %d", r.Position, r.SnapshotID, r.Chunk, r.N)
}

func (r *Row) what() string {
	op := "a row"
	if r.Form == Message && len(r.Raw) > 0 {
		switch r.Raw[0] {
		case 'I':
			op = "an insert"
		case 'U':
			op = "an update"
		case 'D':
			op = "a delete"
		}
	}
	return op + " of " + r.Table.FullName()
}

// Of makes the letter of a row. It does not keep r.Raw.
func Of(r *Row, cause error) (*change.Dead, error) {
	shape, err := json.Marshal(r.Table)
	if err != nil {
		return nil, fmt.Errorf("shape of %s: %w", r.Table.FullName(), err)
	}
	sum := sha256.Sum256(r.Raw)
	b := append(make([]byte, 0, 256+len(shape)+len(r.SnapshotID)), version, byte(r.Form))
	b = r.Position.Append(b)
	b = binary.BigEndian.AppendUint32(b, r.Chunk)
	b = binary.BigEndian.AppendUint64(b, r.N)
	b = append(binary.AppendUvarint(b, uint64(len(r.SnapshotID))), r.SnapshotID...)
	b = append(binary.AppendUvarint(b, uint64(len(shape))), shape...)
	b = binary.BigEndian.AppendUint64(b, uint64(len(r.Raw)))
	b = append(b, sum[:]...)
	d := &change.Dead{
		Stage: Stage, What: r.what(), Why: bounded(cause.Error()), From: r.place(),
		Replay: "freshet dead replay --stage capture '" + r.place() + "'", Key: []byte(r.place()), Value: b,
	}
	if length := len(change.AppendDead(nil, d)) + len(r.Raw); length <= MaxLetter-8 { // 8: the lengths may get longer
		d.Value = append(d.Value, r.Raw...)
	} else {
		d.What += fmt.Sprintf(", whose %d bytes are too many for the letter", len(r.Raw))
	}
	return d, nil
}

// bounded cuts a text between two characters.
func bounded(s string) string {
	if len(s) <= maxWhy {
		return s
	}
	at := maxWhy
	for !utf8.RuneStart(s[at]) {
		at--
	}
	return s[:at] + "…"
}

// Replay reads a letter back. A row that was too large has no Raw: see [Row.Whole]. Errors are
// [ErrDamaged], or of class Usage for a letter of another stage or of a later version.
func Replay(d *change.Dead) (*Row, error) {
	if d.Stage != Stage {
		return nil, fault.New(fault.Usage, "the letter is of stage %q, not of %s", d.Stage, Stage).At("%s", d.From)
	}
	p := parser{b: d.Value}
	if v := p.take(1); len(v) == 1 && v[0] != version {
		return nil, fault.New(fault.Usage, "the letter is of version %d, this program knows %d", v[0], version).At("%s", d.From).
			ToMend("replay it with the version of freshet that wrote it, or a later one")
	}
	r := &Row{}
	if f := p.take(1); len(f) == 1 {
		r.Form = Form(f[0])
	}
	if at := p.take(position.Size); at != nil {
		pos, err := position.Decode(at)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		r.Position = pos
	}
	if c := p.take(12); c != nil {
		r.Chunk, r.N = binary.BigEndian.Uint32(c), binary.BigEndian.Uint64(c[4:])
	}
	r.SnapshotID = string(p.counted())
	shape := p.counted()
	if s := p.take(8); s != nil {
		r.Size = binary.BigEndian.Uint64(s)
	}
	sum := p.take(sha256.Size)
	if p.bad {
		return nil, fmt.Errorf("%w: it ends early", ErrDamaged)
	}
	return r, r.complete(shape, sum, p.b)
}

// complete takes the shape and the bytes, and checks them.
func (r *Row) complete(shape, sum, raw []byte) error {
	if !strings.ContainsRune("MTB", rune(r.Form)) {
		return fmt.Errorf("%w: form %q is not known", ErrDamaged, r.Form)
	}
	if err := json.Unmarshal(shape, &r.Table); err != nil {
		return fmt.Errorf("%w: its shape: %w", ErrDamaged, err)
	}
	if r.Table == nil {
		return fmt.Errorf("%w: it has no shape", ErrDamaged)
	}
	if len(raw) == 0 && r.Size > 0 {
		return nil
	}
	if uint64(len(raw)) != r.Size || sha256.Sum256(raw) != [sha256.Size]byte(sum) {
		return fmt.Errorf("%w: its %d bytes are not the %d that were written", ErrDamaged, len(raw), r.Size)
	}
	r.Raw = append([]byte{}, raw...)
	return nil
}

// parser takes pieces off a value; bad is set when one is cut off.
type parser struct {
	b   []byte
	bad bool
}

func (p *parser) take(n int) []byte {
	if n > len(p.b) {
		p.bad, p.b = true, nil
		return nil
	}
	out := p.b[:n]
	p.b = p.b[n:]
	return out
}

func (p *parser) counted() []byte {
	n, w := binary.Uvarint(p.b)
	if w <= 0 || n > uint64(len(p.b)-w) {
		p.bad, p.b = true, nil
		return nil
	}
	p.b = p.b[w:]
	return p.take(int(n))
}
