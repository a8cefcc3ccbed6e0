package initial

import (
	"context"
	"fmt"
	"sync"
)

// ahead holds what workers have read and the sink has not: blocks of whole lines, per chunk. All
// together they are bounded in bytes. The chunk being delivered may always put one block, else chunks
// read ahead could take all the room and nothing would move.
type ahead struct {
	mu     sync.Mutex
	moved  *sync.Cond
	limit  int64
	used   int64
	head   int // the chunk being delivered
	next   int // the first chunk no worker has
	chunks []queue
	spare  [][]byte
}

type queue struct {
	blocks [][]byte
	held   int64 // bytes of the block that the sink looks at
	done   bool
}

func newAhead(chunks int, limit int64) *ahead {
	a := &ahead{limit: limit, chunks: make([]queue, chunks)}
	a.moved = sync.NewCond(&a.mu)
	return a
}

// wait waits for a condition; lock held. A cancelled context ends it.
func (a *ahead) wait(ctx context.Context, ready func() bool) error {
	if ready() {
		return nil
	}
	defer context.AfterFunc(ctx, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.moved.Broadcast()
	})()
	for !ready() {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%w", err)
		}
		a.moved.Wait()
	}
	return nil
}

// claim gives a worker the next chunk, or -1.
func (a *ahead) claim() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.next == len(a.chunks) {
		return -1
	}
	a.next++
	return a.next - 1
}

// put hands a block over and gives an empty one back.
func (a *ahead) put(ctx context.Context, chunk int, block []byte) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	q, n := &a.chunks[chunk], int64(len(block))
	err := a.wait(ctx, func() bool {
		return a.used+n <= a.limit || (chunk == a.head && len(q.blocks) == 0)
	})
	if err != nil {
		return nil, err
	}
	a.used += n
	q.blocks = append(q.blocks, block)
	a.moved.Broadcast()
	if last := len(a.spare) - 1; last >= 0 {
		block, a.spare = a.spare[last], a.spare[:last]
		return block[:0], nil
	}
	return nil, nil
}

// finish says that a chunk has no more blocks.
func (a *ahead) finish(chunk int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.chunks[chunk].done = true
	a.moved.Broadcast()
}

// take gives the next block of the chunk being delivered, nil at its end. The one before is given up.
func (a *ahead) take(ctx context.Context, chunk int, before []byte) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := &a.chunks[chunk]
	if q.held > 0 {
		a.used -= q.held
		q.held = 0
		if cap(before) <= 2*blockBytes && len(a.spare) < 16 {
			a.spare = append(a.spare, before)
		}
		a.moved.Broadcast()
	}
	if err := a.wait(ctx, func() bool { return len(q.blocks) > 0 || q.done }); err != nil {
		return nil, err
	}
	if len(q.blocks) == 0 {
		return nil, nil
	}
	block := q.blocks[0]
	q.blocks[0] = nil
	q.blocks = q.blocks[1:]
	q.held = int64(len(block))
	a.moved.Broadcast() // the chunk being delivered may put its next one
	return block, nil
}

// advance goes on to the next chunk.
func (a *ahead) advance() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.head++
	a.moved.Broadcast()
}
