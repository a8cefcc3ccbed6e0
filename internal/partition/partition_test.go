package partition

import (
	"encoding/hex"
	"testing"

	"github.com/freshet-io/freshet/internal/feature"
)

// The vectors are those of the Iceberg table specification, appendix B.
func TestPublishedVectors(t *testing.T) {
	uuid, _ := hex.DecodeString("f79c3e09677c4bbda4793f349cb785e7")
	for _, c := range []struct {
		name string
		v    feature.Value
		want int32
	}{
		{"int 34", feature.OfInt(34), 2017239379},
		{"int 1", feature.OfInt(1), 1392991556},
		{"string iceberg", feature.OfString("iceberg"), 1210000089},
		{"uuid", feature.Value{Kind: feature.UUID, S: string(uuid)}, 1488055340},
		{"date 2017-11-16", feature.Value{Kind: feature.Date, I: 17486}, -653330422},
	} {
		h, err := Hash(c.v)
		if err != nil || int32(h) != c.want {
			t.Errorf("%s: %d, %v; want %d", c.name, int32(h), err, c.want)
		}
	}
	if p, err := Of(feature.Value{Kind: feature.Date, I: 17486}, 16); err != nil || p != int(uint32(3641636874)&0x7fffffff)%16 {
		t.Errorf("negative hash: %d, %v", p, err)
	}
	if _, err := Of(feature.OfDouble(1), 16); err == nil {
		t.Error("a double was accepted as a key")
	}
}
