package delta

import (
	"encoding/binary"
	"hash/maphash"
)

// index finds the entities of a view that are in memory by their keys. It is a table with linear probing in which the hash
// lies beside the pointer, so that who looks many keys up reads first one line of memory of each, all side by side, and no
// key: that of the entity found is compared when the entity is worked on. Nothing depends on its order.
type index struct {
	places []place // as many as a power of two, at most half of them taken
	n      int
	seed   maphash.Seed
}

type place struct {
	hash uint64
	e    *entity // nil: empty
}

const fewestPlaces = 64

// hash gives that of a key; it is never 0.
func (x *index) hash(id []byte) uint64 {
	if x.places == nil {
		return 1 // nothing is there to be found
	}
	return max(maphash.Bytes(x.seed, id), 1)
}

// near reads where a hash would be, so that it is in the processor's cache when it is looked for.
func (x *index) near(hash uint64) uint64 {
	if x.n == 0 {
		return 0
	}
	return x.places[x.first(hash)].hash
}

func (x *index) first(hash uint64) int { return int(hash & uint64(len(x.places)-1)) }

// likely gives the entity with a hash, or nil. That it has the key that the hash is of is as good as certain, and no more.
func (x *index) likely(hash uint64) *entity {
	if x.n == 0 {
		return nil
	}
	for i := x.first(hash); ; i = (i + 1) & (len(x.places) - 1) {
		if p := &x.places[i]; p.e == nil || p.hash == hash {
			return p.e
		}
	}
}

// get gives the entity with a key, or nil.
func (x *index) get(id []byte) *entity {
	if x.n == 0 {
		return nil
	}
	hash := x.hash(id)
	for i := x.first(hash); ; i = (i + 1) & (len(x.places) - 1) {
		if p := &x.places[i]; p.e == nil || p.hash == hash && p.e.is(id) {
			return p.e
		}
	}
}

// put takes in an entity that is not there.
func (x *index) put(e *entity) {
	if 2*(x.n+1) > len(x.places) {
		x.grow()
	}
	x.n++
	x.set(place{x.hash([]byte(e.id)), e})
}

func (x *index) set(p place) {
	i := x.first(p.hash)
	for x.places[i].e != nil {
		i = (i + 1) & (len(x.places) - 1)
	}
	x.places[i] = p
}

func (x *index) grow() {
	if x.places == nil {
		x.seed = maphash.MakeSeed()
	}
	old := x.places
	x.places = make([]place, max(2*len(old), fewestPlaces))
	for _, p := range old {
		if p.e != nil {
			x.set(p)
		}
	}
}

// remove takes out an entity, and moves what is behind it up to where it would be found (Knuth, The Art of Computer
// Programming 3, section 6.4, algorithm R).
func (x *index) remove(e *entity) {
	mask := len(x.places) - 1
	gap := x.first(x.hash([]byte(e.id)))
	for x.places[gap].e != e {
		if x.places[gap].e == nil {
			return
		}
		gap = (gap + 1) & mask
	}
	for i := (gap + 1) & mask; x.places[i].e != nil; i = (i + 1) & mask {
		if first := x.first(x.places[i].hash); (i-first)&mask >= (i-gap)&mask {
			x.places[gap] = x.places[i]
			gap = i
		}
	}
	x.places[gap] = place{}
	x.n--
}

// clear forgets all.
func (x *index) clear() {
	clear(x.places)
	x.n = 0
}

// is tells whether a key is the entity's. Its first bytes lie with the rest of the entity; a longer one lies elsewhere.
func (e *entity) is(id []byte) bool {
	return len(e.id) == len(id) && e.order == orderOf(id) && (len(id) <= len(e.order)*8 || e.id == string(id))
}

// orderOf gives the first 16 bytes of a key as numbers that compare as they do.
func orderOf(id []byte) (r [2]uint64) {
	if len(id) >= 16 {
		return [2]uint64{binary.BigEndian.Uint64(id), binary.BigEndian.Uint64(id[8:])}
	}
	var b [16]byte
	copy(b[:], id)
	return [2]uint64{binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:])}
}
