package model

import (
	"slices"
	"sync"

	"github.com/freshet-io/freshet/internal/fault"
)

// Parts of a node (see the package comment).
const (
	leftBits    = 24
	columnBits  = 15
	leftMask    = 1<<leftBits - 1
	columnMask  = 1<<columnBits - 1
	catBit      = 1 << (leftBits + columnBits)
	rankShift   = 40
	leafBit     = 1 << 63
	leafRank    = leafBit >> rankShift // above every rank
	leafMask    = leafRank - 1
	maxColumns  = 1 << columnBits
	notCategory = leafRank - 1 // the code of what is in no set; like every rank below leafRank
)

// compiled is an ensemble ready to be evaluated.
type compiled struct {
	inputs     []string
	outputs    int
	iterations int
	average    bool
	transform  transform

	ranked  []rankedInput
	columns int // of a row of ranks
	trees   []compiledTree
	sets    [][]uint32
	scratch sync.Pool // of *block
}

// compiledTree is a tree's nodes, root first, and its leaves.
type compiledTree struct {
	nodes       []uint64
	leaves      []float64
	categorical bool
}

// rankedInput says which columns of a row of ranks come from an input; -1 is none.
type rankedInput struct {
	input    int
	cuts     []float64 // thresholds, ascending, each once
	zero     uint32    // rank of 0
	columns  [3][2]int // by missing and default: right, left
	category int       // column of category codes
}

// compile turns an ensemble into what Predict walks.
func compile(e *ensemble) (*compiled, error) {
	c := &compiled{
		inputs: e.inputs, outputs: e.outputs, iterations: len(e.trees) / e.outputs,
		average: e.average, transform: e.transform,
	}
	inputs := make([]rankedInput, len(e.inputs))
	for i := range inputs {
		inputs[i] = rankedInput{input: i, columns: [3][2]int{{-1, -1}, {-1, -1}, {-1, -1}}, category: -1}
	}
	for _, t := range e.trees {
		for _, s := range t.splits {
			r := &inputs[s.input]
			column := &r.category
			if len(s.set) > notCategory/32 {
				return nil, fault.New(fault.Usage, "input %q has more than %d categories", e.inputs[s.input], notCategory)
			}
			if !s.categorical {
				r.cuts = append(r.cuts, s.threshold)
				column = r.column(s)
			}
			if *column < 0 {
				*column = c.columns
				c.columns++
			}
		}
	}
	if c.columns >= maxColumns {
		return nil, fault.New(fault.Usage, "the model splits on too many inputs: %d columns, at most %d", c.columns, maxColumns-1)
	}
	for i := range inputs {
		r := &inputs[i]
		slices.Sort(r.cuts)
		r.cuts = slices.Clip(slices.Compact(r.cuts))
		r.zero = rank(r.cuts, 0)
		if len(r.cuts) >= leafRank {
			return nil, fault.New(fault.Usage, "input %q has %d thresholds, at most %d", e.inputs[i], len(r.cuts), leafRank-1)
		}
		if len(r.cuts) > 0 || r.category >= 0 {
			c.ranked = append(c.ranked, *r)
		}
	}
	for _, t := range e.trees {
		c.trees = append(c.trees, c.tree(t, inputs))
	}
	return c, nil
}

// column gives the place of the column that a numerical split reads.
func (r *rankedInput) column(s split) *int {
	left := 0
	if s.defaultLeft && s.missing != missingNone {
		left = 1
	}
	return &r.columns[s.missing][left]
}

// tree lays a tree out, level by level, so that siblings are neighbours.
func (c *compiled) tree(t tree, inputs []rankedInput) compiledTree {
	out := compiledTree{nodes: make([]uint64, 1, 2*len(t.leaves)-1), leaves: t.leaves}
	root := 0
	if len(t.splits) == 0 {
		root = ^0
	}
	level := []int{root} // children in the order of their nodes
	at := 0
	for len(level) > 0 {
		var next []int
		for _, child := range level {
			if child < 0 {
				out.nodes[at] = uint64(leafRank|^child)<<rankShift | uint64(at)
				at++
				continue
			}
			s := &t.splits[child]
			r := &inputs[s.input]
			left := uint64(len(out.nodes))
			if s.categorical {
				out.categorical = true
				out.nodes[at] = uint64(len(c.sets))<<rankShift | catBit | uint64(r.category)<<leftBits | left
				c.sets = append(c.sets, s.set)
			} else {
				place, _ := slices.BinarySearch(r.cuts, s.threshold)
				out.nodes[at] = uint64(place)<<rankShift | uint64(*r.column(*s))<<leftBits | left
			}
			at++
			out.nodes = append(out.nodes, 0, 0)
			next = append(next, s.left, s.right)
		}
		level = next
	}
	return out
}

// rank gives the number of cuts below x, which is not NaN.
func rank(cuts []float64, x float64) uint32 {
	base, n := 0, len(cuts)
	for n > 0 {
		half := (n + 1) / 2
		if cuts[base+half-1] < x {
			base += half
		}
		n -= half
	}
	return uint32(base)
}
