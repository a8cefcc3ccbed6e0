package model

import (
	"math"

	"github.com/freshet-io/freshet/internal/fault"
)

// missing says which values of a numerical split are missing; the others are compared.
type missing uint8

// The numbers are those of LightGBM's decision_type.
const (
	missingNone missing = iota // NaN counts as 0
	missingZero                // NaN and what is nearly 0
	missingNaN
)

// zeroThreshold is what LightGBM takes for nearly 0: the float32 nearest to 1e-35, as a double.
const zeroThreshold = float64(float32(1e-35))

// ensemble is a model as its text says it.
type ensemble struct {
	inputs    []string
	outputs   int // trees of one iteration
	trees     []tree
	average   bool // outputs are means over the iterations, not sums
	transform transform
}

// tree is a binary tree: splits[0] is its root; without splits it is the one leaf.
type tree struct {
	splits []split
	leaves []float64
}

// split sends a row left or right. A child of at least 0 is a split, a negative one the leaf ^child.
type split struct {
	input       int
	left, right int
	threshold   float64 // numerical: x <= threshold goes left
	missing     missing
	defaultLeft bool
	categorical bool
	set         []uint32 // categorical: the bits of the categories that go left
}

// check refuses what is no tree: an input or a child out of range, a child with two parents or none.
func (t *tree) check(inputs int) error {
	if len(t.leaves) != len(t.splits)+1 {
		return fault.New(fault.Usage, "%d leaves for %d splits", len(t.leaves), len(t.splits))
	}
	for i, v := range t.leaves {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fault.New(fault.Usage, "leaf %d is %v", i, v)
		}
	}
	splits, leaves := make([]bool, len(t.splits)), make([]bool, len(t.leaves))
	var todo []int
	visit := func(child int) error {
		seen, at := splits, child
		if child < 0 {
			seen, at = leaves, ^child
		}
		if at >= len(seen) {
			return fault.New(fault.Usage, "child %d is not in the tree", child)
		}
		if seen[at] {
			return fault.New(fault.Usage, "child %d has two parents", child)
		}
		seen[at] = true
		if child >= 0 {
			todo = append(todo, child)
		}
		return nil
	}
	root := 0
	if len(t.splits) == 0 {
		root = ^0
	}
	if err := visit(root); err != nil {
		return err
	}
	reached := 0
	for ; len(todo) > 0; reached++ {
		s := &t.splits[todo[len(todo)-1]]
		todo = todo[:len(todo)-1]
		if s.input < 0 || s.input >= inputs {
			return fault.New(fault.Usage, "split on input %d of %d", s.input, inputs)
		}
		if err := visit(s.left); err != nil {
			return err
		}
		if err := visit(s.right); err != nil {
			return err
		}
	}
	if reached != len(t.splits) {
		return fault.New(fault.Usage, "%d of %d splits cannot be reached", len(t.splits)-reached, len(t.splits))
	}
	return nil
}
