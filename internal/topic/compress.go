package topic

import (
	"bytes"
	"sync"

	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kgo"
)

// frames compresses batches as LZ4 frames of blocks of 64 KiB, as Kafka's own producer makes them. The
// library's own size of 4 MiB would take 8 MiB of memory for each batch that is being compressed, however
// small it is.
type frames struct{ writers sync.Pool }

// Compress implements kgo.Compressor. What cannot be compressed is sent as it is.
func (f *frames) Compress(dst *bytes.Buffer, src []byte, _ ...kgo.CompressFlag) ([]byte, kgo.CompressionCodecType) {
	w, ok := f.writers.Get().(*lz4.Writer)
	if !ok {
		w = lz4.NewWriter(nil)
		if err := w.Apply(lz4.BlockSizeOption(lz4.Block64Kb)); err != nil {
			return src, kgo.CodecNone
		}
	}
	defer f.writers.Put(w)
	w.Reset(dst)
	if _, err := w.Write(src); err != nil {
		return src, kgo.CodecNone
	}
	if err := w.Close(); err != nil {
		return src, kgo.CodecNone
	}
	return dst.Bytes(), kgo.CodecLz4
}
