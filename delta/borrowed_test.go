package delta

import (
	"bytes"
	"context"
	"slices"
)

// lent folds records whose memory is written over when they are folded, as that of a reader's is.
func lent(ctx context.Context, p *Partition, fold func(context.Context, []Input) error, records []Input) error {
	in := slices.Clone(records)
	for i := range in {
		in[i].Value = bytes.Clone(in[i].Value)
	}
	err := fold(ctx, in)
	for i := range in[:max(len(in)-p.Holds(), 0)] {
		for j := range in[i].Value {
			in[i].Value[j] = 0xAA
		}
	}
	return err
}
