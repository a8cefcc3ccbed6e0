package topic

import (
	"bytes"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/freshet-io/freshet/internal/testkit"
)

// TestFramesAreReadByTheClient: what is compressed is what Kafka's clients decompress, for every length around
// that of a block, and also when a writer is used again.
func TestFramesAreReadByTheClient(t *testing.T) {
	rng := testkit.Seed(t)
	f, read := &frames{}, kgo.DefaultDecompressor()
	var dst bytes.Buffer
	for _, n := range []int{0, 1, 100, 64<<10 - 1, 64 << 10, 64<<10 + 1, 1 << 20, 7} {
		src := make([]byte, n)
		for i := range n / 3 { // a third that does not shrink, and zeros
			src[i] = byte(rng.Uint32())
		}
		dst.Reset()
		out, codec := f.Compress(&dst, src)
		if codec != kgo.CodecLz4 {
			t.Fatalf("codec %d of %d bytes", codec, n)
		}
		back, err := read.Decompress(out, codec)
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if !bytes.Equal(back, src) {
			t.Fatalf("%d bytes came back as %d others", n, len(back))
		}
		if n > 1000 && len(out) > n/2 {
			t.Errorf("%d bytes take %d", n, len(out))
		}
	}
}

// BenchmarkFrames shows what a batch takes, beside the client's own compressor.
func BenchmarkFrames(b *testing.B) {
	src := bytes.Repeat([]byte("account 4711, an amount, and a note of this event. "), 8<<10)
	own, err := kgo.DefaultCompressor(kgo.Lz4Compression())
	if err != nil {
		b.Fatal(err)
	}
	for name, c := range map[string]kgo.Compressor{"frames": &frames{}, "client": own} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(src)))
			b.ReportAllocs()
			var dst bytes.Buffer
			for b.Loop() {
				dst.Reset()
				c.Compress(&dst, src)
			}
		})
	}
}
