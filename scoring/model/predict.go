package model

import "math"

const (
	laneBits  = 3
	lanes     = 1 << laneBits
	blockRows = 256 // a multiple of lanes
)

// block is the ranks and sums of some rows.
type block struct {
	ranks []uint32  // blockRows × columns: of eight rows together, column after column
	sums  []float64 // blockRows × outputs
}

// Inputs gives the names of the inputs.
func (c *compiled) Inputs() []string { return c.inputs }

// Outputs gives the number of values per row.
func (c *compiled) Outputs() int { return c.outputs }

// Predict evaluates rows; it panics if in or out is too short.
func (c *compiled) Predict(in [][]float64, rows int, out []float64) {
	b, _ := c.scratch.Get().(*block)
	if b == nil {
		b = &block{ranks: make([]uint32, blockRows*c.columns), sums: make([]float64, blockRows*c.outputs)}
	}
	defer c.scratch.Put(b)
	out = out[:rows*c.outputs]
	for from := 0; from < rows; from += blockRows {
		n := min(blockRows, rows-from)
		for i := range c.ranked {
			r := &c.ranked[i]
			r.fill(in[r.input][from:from+n], b.ranks, c.columns)
		}
		clear(b.sums)
		padded := (n + lanes - 1) / lanes * lanes // rows of an earlier block, or of nothing, fill the last lanes
		for t := range c.trees {
			tree, sums := &c.trees[t], b.sums[t%c.outputs:]
			if tree.categorical {
				c.walkOne(tree, b.ranks, n, sums)
			} else {
				tree.walk(b.ranks, c.columns, padded, sums, c.outputs)
			}
		}
		c.finish(b.sums[:n*c.outputs], out[from*c.outputs:])
	}
}

// finish makes outputs of sums.
func (c *compiled) finish(sums, out []float64) {
	if c.average {
		for i := range sums {
			sums[i] /= float64(c.iterations)
		}
	}
	for i := 0; i < len(sums); i += c.outputs {
		c.transform(sums[i : i+c.outputs])
	}
	copy(out, sums)
}

// fill ranks the values of one input into its columns of ranks.
func (r *rankedInput) fill(values []float64, ranks []uint32, columns int) {
	cuts, high := r.cuts, uint32(len(r.cuts))
	none, zeroRight, zeroLeft := r.columns[missingNone][0], r.columns[missingZero][0], r.columns[missingZero][1]
	nanRight, nanLeft := r.columns[missingNaN][0], r.columns[missingNaN][1]
	for i, x := range values {
		row := ranks[i/lanes*lanes*columns+i%lanes:] // column c is at c × lanes
		nan := math.IsNaN(x)
		zero := nan || (x >= -zeroThreshold && x <= zeroThreshold)
		at := r.zero // what is nearly 0 is 0, as in a sparse row
		if !zero {
			at = rank(cuts, x)
		}
		if none >= 0 {
			row[none*lanes] = at
		}
		if zeroRight >= 0 {
			row[zeroRight*lanes] = instead(zero, high, at)
		}
		if zeroLeft >= 0 {
			row[zeroLeft*lanes] = instead(zero, 0, at)
		}
		if nanRight >= 0 {
			row[nanRight*lanes] = instead(nan, high, at)
		}
		if nanLeft >= 0 {
			row[nanLeft*lanes] = instead(nan, 0, at)
		}
		if r.category >= 0 {
			row[r.category*lanes] = category(x)
		}
	}
}

func instead(is bool, then, otherwise uint32) uint32 {
	if is {
		return then
	}
	return otherwise
}

// category gives the code of a value: its whole part, if that is at least 0 and in reach of a set.
func category(x float64) uint32 {
	if x > -1 && x < notCategory {
		return uint32(int64(x))
	}
	return notCategory
}

// walk adds the leaf of each row to sums, every stride-th; rows is a multiple of lanes.
func (t *compiledTree) walk(ranks []uint32, columns, rows int, sums []float64, stride int) {
	nodes := t.nodes
	for from := 0; from < rows; from += lanes {
		r := ranks[from*columns : (from+lanes)*columns]
		n0 := nodes[0]
		n1, n2, n3, n4, n5, n6, n7 := n0, n0, n0, n0, n0, n0, n0
		for n0&n1&n2&n3&n4&n5&n6&n7&leafBit == 0 {
			n0, n1 = nodes[step(n0, r, 0)], nodes[step(n1, r, 1)]
			n2, n3 = nodes[step(n2, r, 2)], nodes[step(n3, r, 3)]
			n4, n5 = nodes[step(n4, r, 4)], nodes[step(n5, r, 5)]
			n6, n7 = nodes[step(n6, r, 6)], nodes[step(n7, r, 7)]
		}
		for i, n := range [lanes]uint64{n0, n1, n2, n3, n4, n5, n6, n7} {
			sums[(from+i)*stride] += t.leaves[n>>rankShift&leafMask]
		}
	}
}

// step gives the child that the lane's row goes to from a node.
func step(node uint64, r []uint32, lane uint64) uint64 {
	over := (node>>rankShift - uint64(r[node>>(leftBits-laneBits)&(columnMask<<laneBits)+lane])) >> 63 // 1: above the threshold
	return node&leftMask + over
}

// walkOne is walk for trees with categorical splits, a row at a time.
func (c *compiled) walkOne(t *compiledTree, ranks []uint32, rows int, sums []float64) {
	for i := range rows {
		from, lane := i/lanes*lanes, i%lanes
		r := ranks[from*c.columns : (from+lanes)*c.columns]
		n := t.nodes[0]
		for n&leafBit == 0 {
			if n&catBit == 0 {
				n = t.nodes[step(n, r, uint64(lane))]
				continue
			}
			set, code, right := c.sets[n>>rankShift], r[int(n>>leftBits&columnMask)*lanes+lane], uint64(1)
			if word := int(code / 32); word < len(set) {
				right = uint64(^set[word] >> (code % 32) & 1)
			}
			n = t.nodes[n&leftMask+right]
		}
		sums[i*c.outputs] += t.leaves[n>>rankShift&leafMask]
	}
}
