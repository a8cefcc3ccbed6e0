package table

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/store"
)

const (
	dvMagic   = 1681511377
	dvVersion = 1
	// inlineBytes is the largest vector that goes into the log instead of a file of its own.
	inlineBytes = 512
	maxDVBytes  = 1 << 30
	z85Digits   = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
)

// DV is Delta's descriptor of a deletion vector: which rows of one file are deleted.
type DV struct {
	StorageType    string `json:"storageType"`      // "u": a file named by uuid, "i": inline
	PathOrInlineDV string `json:"pathOrInlineDv"`   // Z85 of the uuid, after a directory if any; or of the vector
	Offset         *int32 `json:"offset,omitempty"` // of the size field in the file
	SizeInBytes    int32  `json:"sizeInBytes"`      // of the vector
	Cardinality    int64  `json:"cardinality"`      // rows deleted
}

// id tells vectors of one file apart, as Delta does.
func (d *DV) id() string {
	if d == nil {
		return ""
	}
	if d.Offset == nil {
		return d.StorageType + d.PathOrInlineDV
	}
	return fmt.Sprintf("%s%s@%d", d.StorageType, d.PathOrInlineDV, *d.Offset)
}

// file gives the path of the vector's file inside the table.
func (d *DV) file() (string, error) {
	if d.StorageType != "u" || len(d.PathOrInlineDV) < 20 {
		return "", fault.New(fault.Failed, "deletion vector of storage type %q (%q) is not one that freshet reads", d.StorageType, d.PathOrInlineDV)
	}
	cut := len(d.PathOrInlineDV) - 20
	u, err := z85Decode(d.PathOrInlineDV[cut:])
	if err != nil {
		return "", err
	}
	h := hex.EncodeToString(u)
	name := "deletion_vector_" + h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:] + ".bin"
	if cut > 0 {
		name = d.PathOrInlineDV[:cut] + "/" + name
	}
	return name, nil
}

func z85Encode(b []byte) string {
	out := make([]byte, 0, len(b)/4*5)
	for ; len(b) >= 4; b = b[4:] {
		v := binary.BigEndian.Uint32(b)
		for _, d := range [5]uint32{85 * 85 * 85 * 85, 85 * 85 * 85, 85 * 85, 85, 1} {
			out = append(out, z85Digits[v/d%85])
		}
	}
	return string(out)
}

func z85Decode(s string) ([]byte, error) {
	if len(s)%5 != 0 {
		return nil, fault.New(fault.Failed, "Z85 text of %d characters is cut: expected a multiple of 5", len(s))
	}
	out := make([]byte, 0, len(s)/5*4)
	for i := 0; i < len(s); i += 5 {
		v := uint64(0)
		for j := i; j < i+5; j++ {
			d := strings.IndexByte(z85Digits, s[j])
			if d < 0 {
				return nil, fault.New(fault.Failed, "%q is no Z85 digit", s[j])
			}
			v = v*85 + uint64(d)
		}
		if v > 1<<32-1 {
			return nil, fault.New(fault.Failed, "Z85 group %q is out of range", s[i:i+5])
		}
		out = binary.BigEndian.AppendUint32(out, uint32(v))
	}
	return out, nil
}

// encodeVector gives the vector's bytes, the same for the same rows.
func encodeVector(rows *roaring64.Bitmap) ([]byte, error) {
	rows.RunOptimize()
	var b bytes.Buffer
	b.Write(binary.LittleEndian.AppendUint32(nil, dvMagic))
	if _, err := rows.WriteTo(&b); err != nil {
		return nil, fault.Wrap(fault.Failed, err, "encode deletion vector")
	}
	if b.Len() > maxDVBytes {
		return nil, fault.New(fault.Failed, "deletion vector of %d bytes is too large", b.Len()).ToMend("compact the table")
	}
	return b.Bytes(), nil
}

// decodeVector reads a vector for a file of some rows.
func decodeVector(b []byte, fileRows, cardinality int64) (*roaring64.Bitmap, error) {
	if len(b) < 12 {
		return nil, fault.New(fault.Failed, "deletion vector is cut: %d bytes", len(b))
	}
	if magic := binary.LittleEndian.Uint32(b); magic != dvMagic {
		return nil, fault.New(fault.Failed, "deletion vector begins with %d, expected %d", magic, uint32(dvMagic))
	}
	rows := roaring64.New()
	n, err := rows.ReadPortableFrom(bytes.NewReader(b[4:]))
	if err == nil && n != int64(len(b)-4) {
		err = fmt.Errorf("%d bytes of %d are left over", int64(len(b)-4)-n, len(b))
	}
	if err == nil && !rows.IsEmpty() {
		err = rows.Validate()
	}
	if err != nil {
		return nil, fault.Wrap(fault.Failed, err, "deletion vector is damaged")
	}
	if got := int64(rows.GetCardinality()); got != cardinality {
		return nil, fault.New(fault.Failed, "deletion vector has %d rows, the log says %d", got, cardinality)
	}
	if !rows.IsEmpty() && rows.Maximum() >= uint64(fileRows) {
		return nil, fault.New(fault.Failed, "deletion vector has row %d of a file of %d rows", rows.Maximum(), fileRows)
	}
	return rows, nil
}

// frame puts a vector into a file of its own.
func frame(vector []byte) []byte {
	b := append(make([]byte, 0, len(vector)+9), dvVersion)
	b = binary.BigEndian.AppendUint32(b, uint32(len(vector)))
	b = append(b, vector...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(vector))
}

// unframe takes the vector at an offset out of a file's bytes.
func unframe(b []byte, offset, size int32) ([]byte, error) {
	switch end := int64(offset) + 4 + int64(size) + 4; {
	case len(b) == 0 || offset < 1 || size < 0 || end > int64(len(b)):
		return nil, fault.New(fault.Failed, "deletion vector file is cut: %d bytes, the vector would end at %d", len(b), end)
	case b[0] != dvVersion:
		return nil, fault.New(fault.Failed, "deletion vector file has version %d, expected %d", b[0], dvVersion)
	}
	if got := binary.BigEndian.Uint32(b[offset:]); got != uint32(size) {
		return nil, fault.New(fault.Failed, "deletion vector file has a vector of %d bytes, the log says %d", got, size)
	}
	vector := b[offset+4 : offset+4+size]
	if got, want := crc32.ChecksumIEEE(vector), binary.BigEndian.Uint32(b[offset+4+size:]); got != want {
		return nil, fault.New(fault.Failed, "deletion vector is damaged: CRC-32 is %08x, expected %08x", got, want)
	}
	return vector, nil
}

// deleted reads the rows of f that are deleted; nil when there are none.
func (t *Table) deleted(ctx context.Context, f *File) (*roaring64.Bitmap, error) {
	if f.DV == nil {
		return nil, nil //nolint:nilnil // no vector, no error
	}
	vector, where, err := t.vector(ctx, f.DV)
	if err == nil {
		var rows *roaring64.Bitmap
		if rows, err = decodeVector(vector, f.Rows, f.DV.Cardinality); err == nil {
			return rows, nil
		}
	}
	return nil, t.fail(err, "read the deletion vector of %s (%s)", f.Path, where)
}

func (t *Table) vector(ctx context.Context, d *DV) (vector []byte, where string, err error) {
	if d.StorageType == "i" {
		b, err := z85Decode(d.PathOrInlineDV)
		if err == nil && (d.SizeInBytes < 0 || int(d.SizeInBytes) > len(b)) {
			err = fault.New(fault.Failed, "inline deletion vector is cut: %d bytes of %d", len(b), d.SizeInBytes)
		}
		if err != nil {
			return nil, "inline", err
		}
		return b[:d.SizeInBytes], "inline", nil
	}
	name, err := d.file()
	if err != nil {
		return nil, d.StorageType, err
	}
	o, err := t.open(ctx, name, -1)
	if err != nil {
		return nil, name, err
	}
	defer o.Close() //nolint:errcheck // only read
	if o.Size > maxDVBytes {
		return nil, name, fault.New(fault.Failed, "deletion vector file of %d bytes is too large", o.Size)
	}
	b := make([]byte, o.Size)
	if n, err := o.ReadAt(b, 0); n < len(b) {
		return nil, name, fmt.Errorf("read %d of %d bytes: %w", n, len(b), err)
	}
	offset := int32(1)
	if d.Offset != nil {
		offset = *d.Offset
	}
	vector, err = unframe(b, offset, d.SizeInBytes)
	return vector, name, err
}

// WriteDV deletes rows of a file: it gives f with a deletion vector that holds the positions (ordinals
// of rows in the file, from 0, in any order) and those that f's vector held before. A position given
// twice, or deleted before, is an error: the caller's counts would be wrong. The result is no part of
// the table until Commit takes it, as Changes.Deleted.
func (t *Table) WriteDV(ctx context.Context, f File, positions []int64) (File, error) {
	rows, err := t.deleted(ctx, &f)
	if err != nil {
		return File{}, err
	}
	if rows == nil {
		rows = roaring64.New()
	}
	for _, p := range positions {
		switch {
		case p < 0 || p >= f.Rows:
			return File{}, t.fail(fault.New(fault.Failed, "row %d of a file of %d rows", p, f.Rows), "delete from %s", f.Path)
		case !rows.CheckedAdd(uint64(p)):
			return File{}, t.fail(fault.New(fault.Failed, "row %d is deleted already, or given twice", p), "delete from %s", f.Path)
		}
	}
	if rows.IsEmpty() {
		return f, nil
	}
	vector, err := encodeVector(rows)
	if err != nil {
		return File{}, t.fail(err, "delete from %s", f.Path)
	}
	d := &DV{SizeInBytes: int32(len(vector)), Cardinality: int64(rows.GetCardinality())}
	if len(vector) <= inlineBytes {
		d.StorageType = "i"
		d.PathOrInlineDV = z85Encode(append(vector, make([]byte, -len(vector)&3)...))
	} else if err := t.writeVector(ctx, d, frame(vector)); err != nil {
		return File{}, t.fail(err, "write the deletion vector of %s", f.Path)
	}
	f.DV = d
	f.Stats = loosen(f.Stats)
	return f, nil
}

// writeVector puts a framed vector into a file named by its content, and reads it back.
func (t *Table) writeVector(ctx context.Context, d *DV, framed []byte) error {
	sum := sha256.Sum256(framed)
	offset := int32(1)
	d.StorageType, d.PathOrInlineDV, d.Offset = "u", z85Encode(sum[:16]), &offset
	name, err := d.file()
	if err != nil {
		return err
	}
	if t.local != nil {
		if err := t.local.PutIfAbsent(ctx, t.full(name), framed); err != nil && !errors.Is(err, store.ErrExists) {
			return fmt.Errorf("put into the local directory: %w", err)
		}
	}
	if err := t.store.PutIfAbsent(ctx, t.full(name), framed); err != nil && !errors.Is(err, store.ErrExists) {
		return fmt.Errorf("put into the store: %w", err)
	}
	got, err := t.store.Get(ctx, t.full(name))
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if !bytes.Equal(got, framed) {
		return fault.New(fault.Failed, "the store holds other bytes under %s than were written", t.full(name)).
			ToMend("move the object out of the store and run again")
	}
	return nil
}
