package spool

import (
	"slices"
	"sort"
)

// rangeBytes is what one span of an aborted set costs in memory.
const rangeBytes = 8

// span is ids from first to last, both included.
type span struct{ first, last uint32 }

// aborted is a set of subtransactions, by their distance from the transaction, in order. Neighbours
// share a span.
type aborted []span

// find gives the index of the first span that ends at id or after it.
func (a aborted) find(id uint32) int {
	return sort.Search(len(a), func(i int) bool { return a[i].last >= id })
}

func (a aborted) has(id uint32) bool {
	i := a.find(id)
	return i < len(a) && a[i].first <= id
}

func (a aborted) add(id uint32) aborted {
	i := a.find(id)
	if i < len(a) && a[i].first <= id {
		return a
	}
	left := i > 0 && a[i-1].last+1 == id
	right := i < len(a) && a[i].first-1 == id
	switch {
	case left && right:
		a[i-1].last = a[i].last
		return slices.Delete(a, i, i+1)
	case left:
		a[i-1].last = id
	case right:
		a[i].first = id
	default:
		return slices.Insert(a, i, span{id, id})
	}
	return a
}

// upTo drops what is larger than id.
func (a aborted) upTo(id uint32) aborted {
	i := a.find(id)
	if i < len(a) && a[i].first <= id {
		a[i].last = id
		i++
	}
	if i == 0 {
		return nil
	}
	return a[:i]
}
