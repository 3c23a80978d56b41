package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// Recorder collects the operations of all processes. It is safe for concurrent
// use.
type Recorder struct {
	start time.Time

	mu      sync.Mutex
	next    int
	process int
	open    map[int]*Op
	done    []Op
}

// NewRecorder starts the clock of a history.
func NewRecorder() *Recorder {
	return &Recorder{start: time.Now(), open: map[int]*Op{}}
}

// Now is the time in the history, in nanoseconds.
func (r *Recorder) Now() int64 { return int64(time.Since(r.start)) }

// Process hands out the number of a new process.
func (r *Recorder) Process() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.process++
	return r.process
}

// Begin records that an operation was called. The caller goes on filling it in
// and gives it to End, in the same goroutine.
func (r *Recorder) Begin(op Op) *Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	op.Index, op.Invoked = r.next, r.Now()
	r.next++
	o := &op
	r.open[o.Index] = o
	return o
}

// End records how the operation ended. An unknown one goes on for ever.
func (r *Recorder) End(o *Op, t Type, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, is := r.open[o.Index]; !is {
		return
	}
	delete(r.open, o.Index)
	o.Type, o.Returned = t, r.Now()
	if err != nil {
		o.Error = err.Error()
	}
	r.done = append(r.done, *o)
}

// Also records an operation that began when another did, which op is a copy
// of, and ends now: a part of it that ended in another way.
func (r *Recorder) Also(op Op, t Type, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	op.Index, op.Type, op.Returned = r.next, t, r.Now()
	r.next++
	if err != nil {
		op.Error = err.Error()
	}
	r.done = append(r.done, op)
}

// Event records something that happened at once.
func (r *Recorder) Event(op Op) { r.End(r.Begin(op), OK, nil) }

// Count tells how many operations have ended.
func (r *Recorder) Count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.done)
}

// Ended tells whether an operation that was called at a time or later has ended
// for which f holds.
func (r *Recorder) Ended(from int64, f func(*Op) bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.done, func(o Op) bool { return o.Invoked >= from && f(&o) })
}

// Each calls f for every operation that has ended. f may not call the recorder.
func (r *Recorder) Each(f func(*Op)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.done {
		f(&r.done[i])
	}
}

// History is everything so far, in the order of the calls. What has not ended
// is unknown and without what it would have said. No process may be at work.
func (r *Recorder) History() []Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := slices.Clone(r.done)
	for _, o := range r.open {
		op := *o
		op.Type, op.Returned, op.Error = Info, Never, "did not end"
		out = append(out, op)
	}
	return Sorted(out)
}

// Sorted puts operations in the order of their calls and numbers them so.
func Sorted(ops []Op) []Op {
	slices.SortStableFunc(ops, func(a, b Op) int {
		switch {
		case a.Invoked != b.Invoked:
			if a.Invoked < b.Invoked {
				return -1
			}
			return 1
		default:
			return a.Index - b.Index
		}
	})
	for i := range ops {
		ops[i].Index = i
	}
	return ops
}

// Write writes a history, an operation a line.
func Write(w io.Writer, ops []Op) error {
	b := bufio.NewWriter(w)
	enc := json.NewEncoder(b)
	for i := range ops {
		if err := enc.Encode(&ops[i]); err != nil {
			return fmt.Errorf("operation %d: %w", i, err)
		}
	}
	return b.Flush()
}

// Load reads what Write wrote.
func Load(r io.Reader) ([]Op, error) {
	var out []Op
	dec := json.NewDecoder(bufio.NewReader(r))
	for {
		var op Op
		if err := dec.Decode(&op); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, fmt.Errorf("operation %d: %w", len(out), err)
		}
		out = append(out, op)
	}
}
