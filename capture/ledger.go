package capture

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/topic"
)

// ledger keeps in the registry what capture must know after a restart. The registry topic cannot fence: a
// capture that was stopped, taken over, and goes on, can still write there. So each capture writes under
// keys of its own term, key@term, and the highest term counts:
//
//	source/freshet@0000000007-0000000000001234-0003
//	               term       producer id      epoch
//
// A term is one more than the highest there is when capture takes over. Should two come to the same, the
// later one has the higher producer epoch, or id, as Kafka gives them out.
type ledger struct {
	registry *topic.Registry
	term     string // "" before capture has taken over
}

// claim begins a term of the writer's. The registry must be fresh.
func (l *ledger) claim(ctx context.Context, w *topic.Writer, prefixes ...string) error {
	id, epoch, err := w.Identity(ctx)
	if err != nil {
		return err
	}
	last := uint64(0)
	for _, prefix := range prefixes {
		for _, kv := range l.registry.List(prefix) {
			_, term := cutTerm(kv.Key)
			n, err := strconv.ParseUint(term[:min(len(term), 10)], 10, 64)
			if err == nil {
				last = max(last, n)
			}
		}
	}
	l.term = fmt.Sprintf("%010d-%016x-%04x", last+1, uint64(id), uint16(epoch))
	return nil
}

// cutTerm takes the key of an entry apart; one that was written without a term has "".
func cutTerm(key string) (base, term string) {
	at := strings.LastIndexByte(key, '@')
	if at < 0 {
		return key, ""
	}
	return key[:at], key[at+1:]
}

// list gives the entries whose keys begin with a prefix, each as the highest term has it.
func (l *ledger) list(prefix string) map[string][]byte {
	out, terms := map[string][]byte{}, map[string]string{}
	for _, kv := range l.registry.List(prefix) {
		base, term := cutTerm(kv.Key)
		if old, ok := terms[base]; !ok || term > old {
			out[base], terms[base] = kv.Value, term
		}
	}
	return out
}

// get gives an entry.
func (l *ledger) get(key string) ([]byte, bool) {
	b, ok := l.list(key)[key]
	return b, ok
}

// put writes an entry under this term, and takes those of earlier terms out.
func (l *ledger) put(ctx context.Context, key string, value []byte) error {
	if l.term == "" {
		return fault.New(fault.Unreachable, "capture has not taken over yet").ToMend("try again when it has")
	}
	own := key + "@" + l.term
	if err := l.registry.Put(ctx, own, value); err != nil {
		return err
	}
	for _, kv := range l.registry.List(key) {
		if base, term := cutTerm(kv.Key); base == key && term < l.term {
			if err := l.registry.Put(ctx, kv.Key, nil); err != nil {
				return err
			}
		}
	}
	return nil
}
