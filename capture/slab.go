package capture

// slabBytes is how much room for values is made at once.
const slabBytes = 64 << 10

// slab keeps encoded values one behind another until Kafka has them: a value takes what it is long, and
// room is made for many at once. What was given stays as it is; a block lives as long as one of its values.
type slab struct{ free []byte }

// keep copies a value.
func (s *slab) keep(value []byte) []byte {
	n := len(value)
	if n > slabBytes/4 { // it would leave too much of a block unused
		return append(make([]byte, 0, n), value...)
	}
	if n > len(s.free) {
		s.free = make([]byte, slabBytes)
	}
	out := s.free[:n:n]
	s.free = s.free[n:]
	copy(out, value)
	return out
}
