package metadata

import (
	"iter"
	"slices"
)

// maxChunk bounds the entries of a chunk: what one change copies.
const maxChunk = 128

// smap is an immutable sorted map: a sorted slice cut into chunks. A change
// copies one chunk and the slice of chunks, a hundredth of the entries each at
// ten thousand of them, and shares the rest; a smapEdit makes many changes with
// one copy of each. Walking it in order needs no sort, and comparing two
// versions skips the chunks they share.
type smap[K, V any] struct {
	cmp    func(a, b K) int
	chunks []*chunk[K, V]
	n      int
}

// chunk holds 1 to maxChunk entries. It may be written only by its owner.
type chunk[K, V any] struct {
	keys  []K
	vals  []V
	owner *editToken
}

// editToken is the identity of one edit.
type editToken struct{ _ byte }

// find returns the index of the chunk in which key is or would be.
func (m *smap[K, V]) find(key K) int {
	lo, hi := 0, len(m.chunks)
	for lo < hi {
		mid := (lo + hi) / 2
		if m.cmp(m.chunks[mid].keys[0], key) <= 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return max(lo-1, 0)
}

func (m *smap[K, V]) get(key K) (v V, ok bool) {
	if len(m.chunks) == 0 {
		return v, false
	}
	c := m.chunks[m.find(key)]
	i, ok := slices.BinarySearchFunc(c.keys, key, m.cmp)
	if !ok {
		return v, false
	}
	return c.vals[i], true
}

// all yields the entries in order.
func (m *smap[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, c := range m.chunks {
			for i, k := range c.keys {
				if !yield(k, c.vals[i]) {
					return
				}
			}
		}
	}
}

// from yields the entries that are not below key, in order.
func (m *smap[K, V]) from(key K, yield func(K, V) bool) {
	if len(m.chunks) == 0 {
		return
	}
	first := m.find(key)
	start, _ := slices.BinarySearchFunc(m.chunks[first].keys, key, m.cmp)
	for _, c := range m.chunks[first:] {
		for i := start; i < len(c.keys); i++ {
			if !yield(c.keys[i], c.vals[i]) {
				return
			}
		}
		start = 0
	}
}

// smapEdit makes changes to a copy of a map. The map it began with stays as
// it was.
type smapEdit[K, V any] struct {
	smap[K, V]
	token  *editToken
	copied bool // chunks is our own slice
}

func (m smap[K, V]) edit(token *editToken) smapEdit[K, V] {
	return smapEdit[K, V]{smap: m, token: token}
}

// done returns the changed map. The edit must not be used afterwards.
func (e *smapEdit[K, V]) done() smap[K, V] { return e.smap }

// own makes chunk i writable.
func (e *smapEdit[K, V]) own(i int) *chunk[K, V] {
	if !e.copied {
		e.chunks = slices.Clone(e.chunks)
		e.copied = true
	}
	c := e.chunks[i]
	if c.owner != e.token {
		c = &chunk[K, V]{keys: slices.Clone(c.keys), vals: slices.Clone(c.vals), owner: e.token}
		e.chunks[i] = c
	}
	return c
}

func (e *smapEdit[K, V]) set(key K, v V) {
	if len(e.chunks) == 0 {
		e.chunks = []*chunk[K, V]{{keys: []K{key}, vals: []V{v}, owner: e.token}}
		e.copied = true
		e.n = 1
		return
	}
	at := e.find(key)
	c := e.own(at)
	i, found := slices.BinarySearchFunc(c.keys, key, e.cmp)
	if found {
		c.vals[i] = v
		return
	}
	c.keys = slices.Insert(c.keys, i, key)
	c.vals = slices.Insert(c.vals, i, v)
	e.n++
	if len(c.keys) > maxChunk {
		e.split(at)
	}
}

// split halves chunk i, which is owned. Filling in ascending order leaves
// full chunks behind, because a new key at the end starts the next chunk.
func (e *smapEdit[K, V]) split(i int) {
	c := e.chunks[i]
	half := len(c.keys) / 2
	if i == len(e.chunks)-1 {
		half = len(c.keys) - 1
	}
	right := &chunk[K, V]{keys: slices.Clone(c.keys[half:]), vals: slices.Clone(c.vals[half:]), owner: e.token}
	clear(c.keys[half:])
	clear(c.vals[half:])
	c.keys, c.vals = c.keys[:half], c.vals[:half]
	e.chunks = slices.Insert(e.chunks, i+1, right)
}

func (e *smapEdit[K, V]) del(key K) {
	if len(e.chunks) == 0 {
		return
	}
	at := e.find(key)
	i, found := slices.BinarySearchFunc(e.chunks[at].keys, key, e.cmp)
	if !found {
		return
	}
	c := e.own(at)
	c.keys = slices.Delete(c.keys, i, i+1)
	c.vals = slices.Delete(c.vals, i, i+1)
	e.n--
	switch {
	case len(c.keys) == 0:
		e.chunks = slices.Delete(e.chunks, at, at+1)
	case at+1 < len(e.chunks) && len(c.keys)+len(e.chunks[at+1].keys) <= maxChunk/2:
		// Small neighbours grow together, so that emptying a map also
		// shortens its slice of chunks.
		next := e.chunks[at+1]
		c.keys = append(c.keys, next.keys...)
		c.vals = append(c.vals, next.vals...)
		e.chunks = slices.Delete(e.chunks, at+1, at+2)
	}
}

// diff calls changed with each key whose value differs between a and b, in
// order; the value of a side that lacks the key is zero and its flag false.
// Chunks that both share are skipped unseen.
func diff[K any, V comparable](a, b smap[K, V], changed func(key K, old V, inOld bool, new V, inNew bool)) {
	cmp := a.cmp
	if cmp == nil {
		cmp = b.cmp
	}
	var zero V
	ca, cb := cursor[K, V]{chunks: a.chunks}, cursor[K, V]{chunks: b.chunks}
	for {
		for ca.i == 0 && cb.i == 0 && len(ca.chunks) > 0 && len(cb.chunks) > 0 && ca.chunks[0] == cb.chunks[0] {
			ca.chunks, cb.chunks = ca.chunks[1:], cb.chunks[1:]
		}
		switch {
		case ca.end() && cb.end():
			return
		case cb.end():
			changed(ca.key(), ca.val(), true, zero, false)
			ca.next()
			continue
		case ca.end():
			changed(cb.key(), zero, false, cb.val(), true)
			cb.next()
			continue
		}
		switch c := cmp(ca.key(), cb.key()); {
		case c < 0:
			changed(ca.key(), ca.val(), true, zero, false)
			ca.next()
		case c > 0:
			changed(cb.key(), zero, false, cb.val(), true)
			cb.next()
		default:
			if ca.val() != cb.val() {
				changed(ca.key(), ca.val(), true, cb.val(), true)
			}
			ca.next()
			cb.next()
		}
	}
}

type cursor[K, V any] struct {
	chunks []*chunk[K, V]
	i      int
}

func (c *cursor[K, V]) end() bool { return len(c.chunks) == 0 }
func (c *cursor[K, V]) key() K    { return c.chunks[0].keys[c.i] }
func (c *cursor[K, V]) val() V    { return c.chunks[0].vals[c.i] }
func (c *cursor[K, V]) next() {
	if c.i++; c.i == len(c.chunks[0].keys) {
		c.chunks, c.i = c.chunks[1:], 0
	}
}
