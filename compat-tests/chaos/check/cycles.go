package check

import (
	"fmt"
	"slices"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

// cycles is P13 (G0) and P14 (G1c): operations that follow each other in a
// circle. T1 -ww-> T2 where a value of T1 comes right before one of T2 in a
// log; T1 -wr-> T2 where T2 polled a value of T1. Kafka writes of several
// transactions interleave, so circles with ww edges are notes; one of wr edges
// alone means that two transactions each read what the other had not
// committed.
func cycles(a *analysis) {
	ww, wr := graph{}, graph{}
	for _, k := range a.keys() {
		var before *history.Op
		for _, v := range a.order[k] {
			w := a.writer[written{k, v}]
			if w != nil && before != nil && w != before {
				ww.add(before.Index, w.Index)
			}
			before = w
		}
	}
	for i := range a.ops {
		op := &a.ops[i]
		if op.Type != history.OK {
			continue
		}
		op.Reads(func(k history.Key, reads []history.Read) {
			for _, r := range reads {
				if w := a.writer[written{k, r.Value}]; w != nil && w != op {
					wr.add(w.Index, op.Index)
				}
			}
		})
	}
	if n := len(ww.components()); n > 0 {
		a.note("P13 G0: %d circles of writes, which Kafka allows", n)
	}
	for _, circle := range wr.components() {
		a.find(Finding{"P14", "G1c", history.Key{}, fmt.Sprintf("%d operations each read of the next", len(circle)), circle[:min(len(circle), 10)]})
	}
	both := graph{}
	for _, g := range []graph{ww, wr} {
		for from, tos := range g {
			for to := range tos {
				both.add(from, to)
			}
		}
	}
	if n := len(both.components()); n > 0 {
		a.note("P14 G1c: %d circles of writes and reads, which follow from G0", n)
	}
}

// graph has edges between the indexes of operations.
type graph map[int]map[int]bool

func (g graph) add(from, to int) {
	if g[from] == nil {
		g[from] = map[int]bool{}
	}
	g[from][to] = true
}

// components are the strongly connected components with more than one node,
// by Tarjan, without recursion since a chain may be as long as the history.
func (g graph) components() [][]int {
	nodes := make([]int, 0, len(g))
	for n := range g {
		nodes = append(nodes, n)
	}
	slices.Sort(nodes)
	t := &tarjan{graph: g, index: map[int]int{}, low: map[int]int{}, on: map[int]bool{}}
	for _, n := range nodes {
		if _, visited := t.index[n]; !visited {
			t.visit(n)
		}
	}
	return t.found
}

type tarjan struct {
	graph graph
	index map[int]int
	low   map[int]int
	on    map[int]bool
	stack []int
	found [][]int
}

// frame is a node whose edges are being followed.
type frame struct {
	node int
	next []int
}

func (t *tarjan) enter(n int) frame {
	t.index[n] = len(t.index)
	t.low[n] = t.index[n]
	t.on[n] = true
	t.stack = append(t.stack, n)
	next := make([]int, 0, len(t.graph[n]))
	for to := range t.graph[n] {
		next = append(next, to)
	}
	slices.Sort(next)
	return frame{n, next}
}

func (t *tarjan) visit(root int) {
	frames := []frame{t.enter(root)}
	for len(frames) > 0 {
		f := &frames[len(frames)-1]
		if len(f.next) > 0 {
			to := f.next[0]
			f.next = f.next[1:]
			if _, visited := t.index[to]; !visited {
				frames = append(frames, t.enter(to))
			} else if t.on[to] {
				t.low[f.node] = min(t.low[f.node], t.index[to])
			}
			continue
		}
		node := f.node
		frames = frames[:len(frames)-1]
		if len(frames) > 0 {
			parent := frames[len(frames)-1].node
			t.low[parent] = min(t.low[parent], t.low[node])
		}
		if t.low[node] == t.index[node] {
			t.pop(node)
		}
	}
}

// pop takes the component whose root is node from the stack.
func (t *tarjan) pop(node int) {
	var component []int
	for {
		n := t.stack[len(t.stack)-1]
		t.stack = t.stack[:len(t.stack)-1]
		t.on[n] = false
		component = append(component, n)
		if n == node {
			break
		}
	}
	if len(component) > 1 {
		slices.Sort(component)
		t.found = append(t.found, component)
	}
}
