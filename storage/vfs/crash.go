package vfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// CrashClone returns a copy of the file system as a power cut at this moment might leave it. The seed decides; the same
// seed and history give the same clone. What was synced is there. Of what was not, the seed picks:
//
//   - each change of names happened or not, by itself or, for some seeds, only as a prefix of all changes (a journal);
//   - each write to a file reached the disk or not, or only some of its 512-byte sectors did, in any order, so that a
//     file may have its new size with zeros in it; each truncation happened or not.
//
// The original is not changed and may be in use meanwhile. Locks are not held in the clone.
func (m *Mem) CrashClone(seed uint64) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := cloner{rng: rand.New(rand.NewPCG(seed, 0x67726567)), nodes: map[*memNode]*memNode{}, ops: map[*memNode][]dirOp{}}
	names := m.names
	keep := c.rng.Float64()
	if c.rng.IntN(3) == 0 { // journalled: a prefix
		names, keep = names[:c.rng.IntN(len(names)+1)], 1
	}
	for _, op := range names {
		if c.rng.Float64() < keep {
			c.ops[op.dir] = append(c.ops[op.dir], op)
		}
	}
	c.keepWrite = c.rng.Float64()
	return m.cloneWith(&c)
}

// KillClone returns a copy as the end of the process (but not of the machine) leaves it: everything written is there.
func (m *Mem) KillClone() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := cloner{nodes: map[*memNode]*memNode{}, ops: map[*memNode][]dirOp{}}
	for _, op := range m.names {
		c.ops[op.dir] = append(c.ops[op.dir], op)
	}
	return m.cloneWith(&c)
}

func (m *Mem) cloneWith(c *cloner) *Mem {
	return &Mem{root: c.clone(m.root), locks: map[string]bool{}, size: m.size}
}

// cloner copies nodes, each once, however many names it has.
type cloner struct {
	rng       *rand.Rand // nil: every write survives
	keepWrite float64    // how likely a write survives whole
	nodes     map[*memNode]*memNode
	ops       map[*memNode][]dirOp // surviving changes of names
}

func (c *cloner) clone(n *memNode) *memNode {
	if done := c.nodes[n]; done != nil {
		return done
	}
	out := &memNode{modTime: n.modTime}
	c.nodes[n] = out
	if !n.isDir() {
		out.synced = c.contents(n)
		out.data = slices.Clone(out.synced)
		return out
	}
	names := maps.Clone(n.durable)
	for _, op := range c.ops[n] {
		apply(names, op.changes)
	}
	out.children = map[string]*memNode{}
	for _, name := range slices.Sorted(maps.Keys(names)) { // in order, for the seed's sake
		out.children[name] = c.clone(names[name])
	}
	out.durable = maps.Clone(out.children)
	return out
}

// contents returns what is left of a file.
func (c *cloner) contents(n *memNode) []byte {
	if c.rng == nil {
		return slices.Clone(n.data)
	}
	data := slices.Clone(n.synced)
	for _, op := range n.ops {
		switch {
		case c.rng.Float64() < c.keepWrite:
			if op.data == nil {
				data = resize(data, op.off)
			} else {
				data = writeAt(data, op.data, op.off)
			}
		case op.data != nil && c.rng.IntN(2) == 0:
			data = c.tear(data, op)
		}
	}
	return data
}

const sector = 512

// tear lets some sectors of a write reach the disk, and perhaps the new size.
func (c *cloner) tear(data []byte, op fileOp) []byte {
	if c.rng.IntN(2) == 0 {
		data = resize(data, max(int64(len(data)), op.off+int64(len(op.data))))
	}
	for start := op.off; start < op.off+int64(len(op.data)); {
		end := min((start/sector+1)*sector, op.off+int64(len(op.data)))
		if c.rng.IntN(2) == 0 {
			data = writeAt(data, op.data[start-op.off:end-op.off], start)
		}
		start = end
	}
	return data
}
