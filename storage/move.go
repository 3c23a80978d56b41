package storage

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/storage/vfs"
)

// Move takes a log from one log directory to another while it is written and read. Its owner calls
//
//	BeginMove   the copy's directory is there, <topic>-<partition>.<unique>-future
//	Copy        copies until little is left, and makes that durable. Nobody waits for it
//	Switch      with no append, read or truncation under way: copies the rest, and the log is in its new place. ErrBehind:
//	            too much was appended meanwhile, or what was copied is no longer what the log has; Copy again
//	Finish      takes the old log's directory away
//
// or, before Switch succeeded, Abandon, which removes the copy, or Leave, after which the next start finds it.
//
// # Why exactly one log is found after a crash
//
// No rename takes a directory from one disk to another, so for a moment both have a log of that name. Before that moment a
// file in the old log's directory (moved-to) names the new one, durably, and one in the new log's (moved-from) the old one.
//
//  1. the copy is complete and durable, under the name -future         a start finds the old log; the copy is removed
//  2. rename -future to the log's name, SyncDir                        from here on the new log counts: the old one says so
//  3. remove moved-from, SyncDir                                       a start finds the new log without asking the old one's
//  4. rename the old log's directory to -delete, SyncDir               there is one
//
// If 2 fails, nobody knows which name the disk has. The old log then goes on, but not before its moved-to is gone, durably:
// so the new log loses at the next start, which knows by moved-from that it is no log of its own. If 4 fails, the old
// directory is offline, and its log loses whenever it comes back. A log with moved-to or moved-from, where the directory
// that it names cannot be looked into, is left alone: it may be out of date (settleMoves).
//
// What recovery must know of the new log before it recovers it, namely below which offset gaps are the cleaner's work, is in
// the checkpoints of the new directory before 2.
//
// # What may happen to the log meanwhile
//
// Sealed segments do not change. One that compaction or truncation replaced is another segment, and copied anew; one that
// retention deleted goes from the copy. Truncation also shortens a segment in place: Log.lowestCut tells how far down, and what
// was copied from there on is copied anew. The log is not cleaned while it is moved, as Kafka's is not: a clean rewrites
// all of it from its start, and a copy that is slow on purpose would never be done.
//
// Errors of the new directory take that one offline, errors of the old one that. A new directory without room is no such
// error: the move ends, and what it has copied makes room again.
type Move struct {
	m    *Manager
	log  *Log // the old one
	to   *logDir
	made *Log // the new one, in service after Switch

	// The rest is the owner's, who calls one method at a time.
	copied    []*copiedSegment // ascending
	snapshots map[int64]bool   // those that the copy has
	epochs    []EpochStart     // as written to the copy
	marked    bool             // what does not change is written: topic id, moved-from, moved-to
	marking   bool             // moved-to may be there
	announced bool             // the checkpoints of the new directory are right for the copy
	buf       []byte
	leaves    int64                                  // what Copy may leave to Switch
	limit     int64                                  // how much Switch may copy; grows with each call that was in vain
	pace      func(ctx context.Context, n int) error // asked before each piece of Copy
	switched  bool
	old       string // where the old log's directory went

	size, end atomic.Int64 // what Moves tells
}

// copiedSegment is one segment of the copy.
type copiedSegment struct {
	from  *segment
	made  *segment
	file  vfs.File // nil once it is whole
	bytes int64    // copied
	dirty bool     // not synced
	whole bool     // sealed, synced, with its indexes
}

// moveMark is the contents of moved-to and moved-from.
type moveMark struct {
	// Directory is the id of the other directory.
	Directory string `json:"directory"`
}

const (
	movedToFile   = "moved-to"
	movedFromFile = "moved-from"

	moveChunk = 512 << 10
	// copyLeaves is what Copy leaves to Switch: it costs appends a few milliseconds.
	copyLeaves = 1 << 20
	// switchCopies is how much Switch takes upon itself at first, and switchCopiesMost however often it was called.
	switchCopies     = 8 << 20
	switchCopiesMost = 128 << 20
)

// ErrBehind says that Copy must be called before Switch can succeed.
var ErrBehind = errors.New("storage: the copy is behind the log")

// MoveInfo describes a move under way.
type MoveInfo struct {
	TopicPartition
	Dir  string // where to
	Size int64  // bytes copied
	End  int64  // about the offset up to which records were copied
}

// BeginMove makes room for a copy of a log in another directory. There is one move of a log at a time.
func (m *Manager) BeginMove(l *Log, dir string) (*Move, error) {
	d := m.dirAt(dir)
	if d == nil {
		return nil, clientErrorf(kerr.LogDirNotFound, "%s is not among the log directories", dir)
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	mv := &Move{m: m, log: l, to: d, snapshots: map[int64]bool{}, leaves: copyLeaves, limit: switchCopies, pace: m.movePace.wait}
	mv.made = m.newLog(d, l.tp, l.Config())
	unique, err := m.enterMove(mv)
	if err != nil {
		return nil, err
	}
	mv.made.path = path.Join(d.path, l.tp.String()+unique)
	err = d.fs.MkdirAll(mv.made.path)
	if err == nil {
		err = d.fs.SyncDir(d.path)
	}
	if err != nil {
		mv.leave()
		if vfs.NoSpace(err) {
			return nil, clientErrorf(kerr.KafkaStorageError, "%v", err)
		}
		return nil, d.failOpen(err)
	}
	m.dropLeftovers(l.tp) // its successor is there
	return mv, nil
}

// MovableName says whether the copy of a log can have a name: that must not be longer than a file name.
func MovableName(tp TopicPartition) bool {
	return len(tp.String())+len(".")+32+len(futureDirSuffix) <= 255
}

// enterMove makes the move known, and returns the end of its directory's name.
func (m *Manager) enterMove(mv *Move) (unique string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	tp := mv.log.tp
	if m.closed || m.logs[tp] != mv.log || m.moves[tp] != nil || mv.log.dir == mv.to {
		return "", clientErrorf(kerr.KafkaStorageError, "log %s cannot be moved to %s now", tp, mv.to.path)
	}
	m.moves[tp] = mv
	delete(m.preferred, tp) // it is heeded
	mv.log.moving.Store(true)
	var id [16]byte
	_, _ = rand.Read(id[:])                                       // does not fail
	return "." + hex.EncodeToString(id[:]) + futureDirSuffix, nil // no leftover has that name
}

// leave makes the move unknown.
func (mv *Move) leave() {
	mv.m.mu.Lock()
	defer mv.m.mu.Unlock()
	if mv.m.moves[mv.log.tp] == mv {
		delete(mv.m.moves, mv.log.tp)
	}
	mv.log.moving.Store(false)
}

// Log is the log that is moved.
func (mv *Move) Log() *Log { return mv.log }

// Dir is the directory that the log is moved to.
func (mv *Move) Dir() string { return mv.to.path }

// Moves lists the moves under way.
func (m *Manager) Moves() []MoveInfo {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []MoveInfo
	for _, mv := range m.moves {
		out = append(out, MoveInfo{mv.log.tp, mv.to.path, mv.size.Load(), mv.end.Load()})
	}
	return out
}

// SetMoveRate bounds the bytes per second that all moves together copy, those under way included; 0 makes them stand still.
func (m *Manager) SetMoveRate(bytesPerSecond int64) { m.movePace.setRate(bytesPerSecond) }

// MovedBytes is how much all moves copied so far.
func (m *Manager) MovedBytes() int64 { return m.movePace.total.Load() }

// Copy copies what the log has until at most a little is left, and makes that durable. It may be called again.
func (mv *Move) Copy(ctx context.Context) error {
	for {
		left, err := mv.pass(ctx)
		if err != nil {
			return mv.failed(err)
		}
		if left <= mv.leaves {
			return mv.failed(mv.ready())
		}
	}
}

// failed judges an error of the new directory; those of the old one were judged where they happened.
func (mv *Move) failed(err error) error {
	var target *targetError
	switch {
	case err == nil || !errors.As(err, &target):
		return err
	case vfs.NoSpace(err):
		return fmt.Errorf("no room in %s: %w", mv.to.path, target.error)
	}
	return mv.to.failOpen(target.error)
}

// targetError is an error of the directory that a log is moved to.
type targetError struct{ error }

func (e *targetError) Unwrap() error { return e.error }

func target(err error) error {
	if err == nil {
		return nil
	}
	return &targetError{err}
}

// moveSample is what a log consists of at one moment.
type moveSample struct {
	segs  []*segment
	sizes []int64
	end   int64
}

// sample looks at the log, and drops of the copy what the log has no more. Under the log's hk: what a truncation does is
// then seen wholly or not at all. stale: something was dropped.
func (mv *Move) sample() (s moveSample, stale bool, err error) {
	l := mv.log
	if err := mv.alive(); err != nil {
		return s, false, err
	}
	if err := l.finishRolls(); err != nil {
		return s, false, err
	}
	l.mu.Lock()
	s.segs = *l.segs.Load()
	s.end = l.tail.end
	for _, seg := range s.segs {
		s.sizes = append(s.sizes, seg.size.Load())
	}
	s.sizes[len(s.sizes)-1] = l.tail.size
	l.mu.Unlock()
	l.dir.ckptMu.Lock()
	cut := l.lowestCut
	l.lowestCut = math.MaxInt64
	l.dir.ckptMu.Unlock()
	stale, err = mv.drop(s.segs, cut)
	return s, stale, err
}

// alive says whether the move can go on. Under the log's hk.
func (mv *Move) alive() error {
	if err := mv.to.err(); err != nil {
		return err
	}
	return mv.log.alive()
}

// drop takes out of the copy what is not of these segments, and what was copied from cut on.
func (mv *Move) drop(segs []*segment, cut int64) (stale bool, err error) {
	there := make(map[*segment]bool, len(segs))
	for _, s := range segs {
		there[s] = true
	}
	var kept []*copiedSegment
	for i, c := range mv.copied {
		below := cut == math.MaxInt64 || i+1 < len(mv.copied) && mv.copied[i+1].made.base <= cut
		if there[c.from] && below {
			kept = append(kept, c)
			continue
		}
		stale = stale || !there[c.from] && c.from.base >= segs[0].base || !below
		if !below {
			mv.end.Store(min(mv.end.Load(), cut))
		}
		if err := mv.remove(c); err != nil {
			return stale, err
		}
	}
	mv.copied = kept
	mv.announced = mv.announced && !stale
	for off := range mv.snapshots {
		if cut != math.MaxInt64 && off >= cut {
			if err := mv.removeFile(fileName(off, snapshotSuffix)); err != nil {
				return stale, err
			}
			delete(mv.snapshots, off)
		}
	}
	return stale, nil
}

func (mv *Move) remove(c *copiedSegment) error {
	if c.file != nil {
		c.file.Close()
	}
	c.made.retire()
	mv.size.Add(-c.bytes)
	for _, suffix := range []string{logSuffix, offsetsSuffix, timesSuffix, txnSuffix} {
		if err := mv.removeFile(fileName(c.made.base, suffix)); err != nil {
			return err
		}
	}
	return nil
}

func (mv *Move) removeFile(name string) error {
	mv.made.dirUnsynced = true
	err := mv.to.fs.Remove(path.Join(mv.made.path, name))
	if errors.Is(err, errNotExist) {
		return nil
	}
	return target(err)
}

// pass copies what the log had when it began, and tells how much came since.
func (mv *Move) pass(ctx context.Context) (left int64, err error) {
	mv.log.hk.Lock()
	s, _, err := mv.sample()
	mv.log.hk.Unlock()
	if err != nil {
		return 0, err
	}
	err = mv.copyAll(s, func(n int) error { return mv.pace(ctx, n) })
	if errors.Is(err, errGone) || mv.wasCut(err) {
		return math.MaxInt64, ctx.Err() // the log is another by now
	}
	if err == nil {
		err = mv.copySnapshots()
	}
	if err != nil {
		return 0, mv.judgeShort(err)
	}
	mv.log.hk.Lock()
	defer mv.log.hk.Unlock()
	s, _, err = mv.sample()
	return mv.missing(s), err
}

// wasCut says whether a segment is short because it was truncated.
func (mv *Move) wasCut(err error) bool {
	var short *shortSegment
	if !errors.As(err, &short) {
		return false
	}
	mv.log.hk.Lock()
	defer mv.log.hk.Unlock()
	mv.log.dir.ckptMu.Lock()
	defer mv.log.dir.ckptMu.Unlock()
	return mv.log.lowestCut != math.MaxInt64
}

// missing is how many bytes the copy lacks of a sample.
func (mv *Move) missing(s moveSample) (n int64) {
	for i, seg := range s.segs {
		n += s.sizes[i]
		if c := mv.copyOf(seg); c != nil {
			n -= c.bytes
		}
	}
	return n
}

func (mv *Move) copyOf(s *segment) *copiedSegment {
	i, ok := slices.BinarySearchFunc(mv.copied, s.base, func(c *copiedSegment, base int64) int {
		switch {
		case c.made.base < base:
			return -1
		case c.made.base > base:
			return 1
		}
		return 0
	})
	if !ok || mv.copied[i].from != s {
		return nil
	}
	return mv.copied[i]
}

// copyAll brings the copy up to a sample. pace is asked before each piece.
func (mv *Move) copyAll(s moveSample, pace func(n int) error) error {
	for i, seg := range s.segs {
		c := mv.copyOf(seg)
		if c == nil {
			var err error
			if c, err = mv.newCopy(seg); err != nil {
				return err
			}
		}
		if c.whole {
			continue
		}
		if err := mv.copySegment(c, s.sizes[i], pace); err != nil {
			return err
		}
		end := s.end
		if i+1 < len(s.segs) {
			end = s.segs[i+1].base
			if err := mv.complete(c, s.segs, i); err != nil {
				return err
			}
		}
		mv.end.Store(max(mv.end.Load(), end))
	}
	return nil
}

func (mv *Move) newCopy(from *segment) (*copiedSegment, error) {
	made := newSegment(mv.made, from.base)
	made.created = from.created
	f, err := mv.to.fs.Create(made.name(logSuffix))
	if err != nil {
		return nil, target(err)
	}
	mv.made.dirUnsynced = true
	c := &copiedSegment{from: from, made: made, file: f}
	mv.copied = append(mv.copied, c)
	slices.SortFunc(mv.copied, func(a, b *copiedSegment) int {
		if a.made.base < b.made.base {
			return -1
		}
		return 1
	})
	return c, nil
}

// copySegment copies the bytes of a segment up to size.
func (mv *Move) copySegment(c *copiedSegment, size int64, pace func(n int) error) error {
	h, err := c.from.acquire()
	if err != nil {
		return mv.source(err)
	}
	defer h.release()
	if mv.buf == nil {
		mv.buf = make([]byte, moveChunk) // not before: thousands of moves may wait for their turn
	}
	for c.bytes < size {
		n := int(min(size-c.bytes, int64(len(mv.buf))))
		if err := pace(n); err != nil {
			return err
		}
		if err := mv.log.dir.err(); err != nil {
			return err
		}
		if err := readFull(h.file, mv.buf[:n], c.bytes); errors.Is(err, io.ErrUnexpectedEOF) {
			return &shortSegment{c.from, size}
		} else if err != nil {
			return mv.source(err)
		}
		if err := writeFull(c.file, mv.buf[:n], c.bytes); err != nil {
			return target(err)
		}
		c.bytes += int64(n)
		c.dirty = true
		mv.size.Add(int64(n))
		mv.m.movePace.total.Add(int64(n))
		if rel, _, ok := c.from.offsets.searchPosition(c.bytes); ok {
			mv.end.Store(max(mv.end.Load(), c.from.base+int64(rel)))
		}
	}
	return nil
}

// shortSegment says that a segment's file ends before size. That is so if the log was truncated since the sample.
type shortSegment struct {
	seg  *segment
	size int64
}

func (e *shortSegment) Error() string {
	return fmt.Sprintf("%s is shorter than %d bytes", e.seg.name(logSuffix), e.size)
}

// judgeShort takes the log's directory offline for a segment that is short without reason.
func (mv *Move) judgeShort(err error) error {
	if short := (*shortSegment)(nil); errors.As(err, &short) {
		return mv.source(err)
	}
	return err
}

// source judges an error of the log that is moved.
func (mv *Move) source(err error) error {
	switch {
	case errors.Is(err, errGone):
		return err
	case mv.log.removed.Load():
		return errSuperseded
	}
	return mv.log.lookupError(err)
}

// complete makes the copy of a sealed segment whole and durable: i is its place in the log.
func (mv *Move) complete(c *copiedSegment, segs []*segment, i int) error {
	if err := mv.copyIndexes(c, segs, i); err != nil {
		return err
	}
	c.made.sealed.Store(true)
	if err := c.made.writeIndexes(true); err != nil {
		return target(err)
	}
	if err := c.file.Sync(); err != nil {
		return target(err)
	}
	if err := c.file.Close(); err != nil {
		return target(err)
	}
	mv.made.dirUnsynced = true
	c.file, c.dirty, c.whole = nil, false, true
	c.made.durable.Store(true)
	c.made.unload()
	return nil
}

// copyIndexes gives the copy of a segment what the log knows of that one.
func (mv *Move) copyIndexes(c *copiedSegment, segs []*segment, i int) error {
	from, made := c.from, c.made
	if err := from.load(); err != nil {
		return mv.source(err)
	}
	from.touch()
	aborted, err := mv.log.abortedIn(segs, i)
	if err != nil {
		return mv.source(err)
	}
	ts, off, err := from.maxTimestamp()
	if err != nil {
		return mv.source(err)
	}
	made.offsets.replace(from.offsets.entries())
	made.times.replace(from.times.entries())
	made.txns.startEmpty()
	for _, e := range aborted {
		if err := made.txns.append(e); err != nil {
			return err
		}
	}
	made.maxTs.mu.Lock()
	made.maxTs.loaded, made.maxTs.ts, made.maxTs.offset = true, ts, off
	made.maxTs.mu.Unlock()
	made.size.Store(c.bytes)
	return nil
}

// copySnapshots makes the copy's producer snapshots those of the log.
func (mv *Move) copySnapshots() error {
	there, err := mv.listSnapshots()
	if err != nil {
		return err
	}
	for off := range mv.snapshots {
		if !there[off] {
			if err := mv.removeFile(fileName(off, snapshotSuffix)); err != nil {
				return err
			}
			delete(mv.snapshots, off)
		}
	}
	for off := range there {
		if mv.snapshots[off] {
			continue
		}
		data, err := mv.readSnapshot(off)
		if err != nil {
			return err
		}
		if data == nil {
			continue
		}
		if err := target(mv.made.writeSnapshot(off, data)); err != nil {
			return err
		}
		mv.snapshots[off] = true
	}
	return nil
}

func (mv *Move) listSnapshots() (map[int64]bool, error) {
	infos, err := mv.log.fs.List(mv.log.path)
	if err != nil {
		return nil, mv.source(err)
	}
	there := map[int64]bool{}
	for _, in := range infos {
		if off, suffix, ok := parseFileName(in.Name); ok && suffix == snapshotSuffix {
			there[off] = true
		}
	}
	return there, nil
}

// readSnapshot reads a snapshot of the log. One that is not there, or being written, is nil.
func (mv *Move) readSnapshot(off int64) ([]byte, error) {
	data, err := readFile(mv.log.fs, path.Join(mv.log.path, fileName(off, snapshotSuffix)), 1<<31)
	switch {
	case errors.Is(err, errNotExist):
		return nil, nil
	case err != nil:
		return nil, mv.source(err)
	case newProducers().restore("", data) != nil:
		data = nil
	}
	return data, nil
}

// ready makes durable what was copied, and all that Switch can be spared.
func (mv *Move) ready() error {
	mv.log.hk.Lock()
	defer mv.log.hk.Unlock()
	s, stale, err := mv.sample()
	if err != nil || stale || len(mv.copied) == 0 {
		return err // Switch will say that it is behind
	}
	if err := mv.syncCopy(); err != nil {
		return err
	}
	n := mv.made
	if !mv.marked {
		id := mv.log.ID()
		n.id.Store(&id)
		if err := target(n.writeID(id)); err != nil {
			return err
		}
		if id != (TopicID{}) {
			if err := target(syncPath(n.fs, path.Join(n.path, partitionMetaFile))); err != nil {
				return err
			}
		}
		if err := target(writeMark(n.fs, path.Join(n.path, movedFromFile), mv.log.dir.id)); err != nil {
			return err
		}
		// What the move that brought the log here left must not speak against it, should this one fail.
		if err := n.fs.Remove(path.Join(mv.log.path, movedFromFile)); err != nil && !errors.Is(err, errNotExist) {
			return mv.source(err)
		}
		mv.marking = true
		if err := writeMark(n.fs, path.Join(mv.log.path, movedToFile), mv.to.id); vfs.NoSpace(err) {
			return err // a log may well be moved because its disk is full
		} else if err != nil {
			return mv.source(err)
		}
		mv.marked = true
	}
	if err := mv.syncNames(); err != nil {
		return err
	}
	return mv.announce(s)
}

// announce has the checkpoints of the new directory speak of the copy. What they say may be older than the log is when it
// is switched, as after any crash; but all segments that are sealed lie below the recovery point.
func (mv *Move) announce(s moveSample) error {
	n, l, d := mv.made, mv.log, mv.to
	made := mv.segments()
	whole := made[0].base
	for i, c := range mv.copied { // which is how the log begins
		if !c.whole || i+1 == len(s.segs) {
			break
		}
		whole = s.segs[i+1].base
	}
	d.ckptMu.Lock()
	n.segs.Store(&made)
	n.recoveryPoint.Store(whole)
	n.start.Store(l.start.Load())
	n.hw.Store(l.hw.Load())
	n.cleaned.Store(l.cleaned.Load())
	if d.incoming == nil {
		d.incoming = map[TopicPartition]*Log{}
	}
	d.incoming[n.tp] = n
	d.ckptMu.Unlock()
	for _, file := range []string{recoveryPointFile, logStartFile, highWatermarkFile, cleanerFile} {
		if err := mv.m.checkpoint(d, file); err != nil {
			return err
		}
	}
	mv.announced = true
	return nil
}

func (mv *Move) segments() []*segment {
	segs := make([]*segment, len(mv.copied))
	for i, c := range mv.copied {
		segs[i] = c.made
	}
	return segs
}

// syncCopy makes the bytes of segments that are not whole durable, and the leader epochs.
func (mv *Move) syncCopy() error {
	for _, c := range mv.copied {
		if c.dirty {
			if err := c.file.Sync(); err != nil {
				return target(err)
			}
			c.dirty = false
		}
	}
	entries := mv.log.EpochEntries()
	if mv.epochs != nil && slices.Equal(entries, mv.epochs) {
		return nil
	}
	if err := writeFileAtomic(mv.made.fs, path.Join(mv.made.path, epochFile), formatEpochs(entries)); err != nil {
		return target(err)
	}
	mv.epochs = append([]EpochStart{}, entries...)
	return nil
}

func (mv *Move) syncNames() error {
	if !mv.made.dirUnsynced {
		return nil
	}
	if err := mv.made.fs.SyncDir(mv.made.path); err != nil {
		return target(err)
	}
	mv.made.dirUnsynced = false
	return nil
}

func writeMark(files vfs.FS, name string, id TopicID) error {
	data, err := json.Marshal(moveMark{id.String()})
	if err != nil {
		return err
	}
	return writeFileAtomic(files, name, append(data, '\n'))
}

// Switch puts the log into its new place and returns it from there; the old one is as if deleted. The caller sees to it that
// nobody appends, truncates or begins to read meanwhile; slices that were read before stay good. After an error the old
// log is in use as before, if its directory is.
func (mv *Move) Switch() (*Log, error) {
	// Nobody makes a log of this name where the old one's directory is until Finish.
	mv.log.dir.changeMu.Lock()
	if err := mv.switchLog(); err != nil {
		mv.log.dir.changeMu.Unlock()
		return nil, err
	}
	mv.publish()
	return mv.made, nil
}

func (mv *Move) switchLog() error {
	mv.log.hk.Lock()
	defer mv.log.hk.Unlock()
	if err := mv.catchUp(); err != nil {
		return mv.failed(err)
	}
	if err := mv.handOver(); err != nil {
		return err
	}
	if err := mv.rename(); err != nil {
		return err
	}
	mv.retireOld()
	return nil
}

// catchUp copies the rest. Under hk.
func (mv *Move) catchUp() error {
	s, stale, err := mv.sample()
	if err != nil {
		return err
	}
	if stale || !mv.announced || mv.missing(s) > mv.limit {
		mv.limit = min(2*mv.limit, switchCopiesMost)
		return ErrBehind
	}
	if err := mv.copyAll(s, func(int) error { return nil }); err != nil {
		if errors.Is(err, errGone) {
			return ErrBehind
		}
		return mv.judgeShort(err)
	}
	if err := mv.copySnapshots(); err != nil {
		return err
	}
	for _, p := range mv.log.snapshots { // not written yet
		if err := target(mv.made.writeSnapshot(p.offset, p.data)); err != nil {
			return err
		}
		mv.snapshots[p.offset] = true
	}
	if err := mv.syncCopy(); err != nil {
		return err
	}
	return mv.syncNames()
}

// handOver gives the new log what the old one knows of its active segment, and all else that is not on disk or would be
// less than it is now: what a clean start would read. Under hk.
func (mv *Move) handOver() error {
	l, n := mv.log, mv.made
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	last := mv.copied[len(mv.copied)-1]
	if err := l.loadForAppend(last.from); err != nil {
		return l.dir.failOpen(err)
	}
	segs := *l.segs.Load()
	if err := mv.copyIndexes(last, segs, len(segs)-1); err != nil {
		return err
	}
	last.made.sinceIndex, last.made.firstBatchTs = last.from.sinceIndex, last.from.firstBatchTs
	n.publishSegments(mv.segments())
	n.setTail(last.made, l.tail.size, l.tail.end)
	n.cfg.Store(l.cfg.Load())
	n.jitterMs, n.spareSeq, n.touched, n.lastFlush = l.jitterMs, l.spareSeq, true, l.now()
	n.start.Store(l.start.Load())
	n.hw.Store(l.hw.Load())
	n.recoveryPoint.Store(l.tail.end)
	n.firstUnstable.Store(l.firstUnstable.Load())
	n.txnsEnded.Store(l.txnsEnded.Load())
	n.epochMu.Lock()
	n.epochs.entries = slices.Clone(mv.epochs)
	n.epochMu.Unlock()
	return nil
}

// rename is step 2 of what Move says. Under hk.
func (mv *Move) rename() error {
	n := mv.made
	home := path.Join(mv.to.path, n.tp.String())
	if err := renameDurably(n.fs, n.path, home); err != nil {
		err = mv.to.fail(err)
		if merr := mv.unmark(); merr != nil {
			return merr
		}
		return err
	}
	n.path = home
	for _, s := range *n.segs.Load() {
		s.rebase(home)
	}
	if last := mv.copied[len(mv.copied)-1]; last.file != nil {
		last.file.Close() // opened again with the first append or read
		last.file = nil
	}
	return nil
}

// unmark has the old log claim no more that the new one counts, durably. Under hk.
func (mv *Move) unmark() error {
	l := mv.log
	if gone := l.removed.Load() || l.dir.err() != nil; gone || !mv.marking {
		return nil
	}
	if err := removeDurably(l.fs, path.Join(l.path, movedToFile)); err != nil {
		return l.dir.fail(err)
	}
	mv.marked, mv.marking = false, false
	return nil
}

// retireOld takes the old log out of service. Under hk.
func (mv *Move) retireOld() {
	l := mv.log
	l.spareMu.Lock()
	defer l.spareMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.removed.Store(true)
	mv.made.producers = l.producers
	l.producers = newProducers()
	l.shutLocked()
}

// publish takes the new log into service.
func (mv *Move) publish() {
	m, l, n := mv.m, mv.log, mv.made
	m.mu.Lock()
	m.logs[n.tp] = n
	l.dir.logs--
	n.dir.logs++
	delete(m.moves, n.tp)
	m.deleteID++
	seq := m.deleteID
	m.mu.Unlock()
	mv.dismiss()
	mv.old = m.outName(l, deleteDirSuffix, seq)
	mv.switched = true
}

// dismiss has the checkpoints of the new directory speak of the copy no more, if it is not in service.
func (mv *Move) dismiss() {
	mv.to.ckptMu.Lock()
	defer mv.to.ckptMu.Unlock()
	if mv.to.incoming[mv.log.tp] == mv.made {
		delete(mv.to.incoming, mv.log.tp)
	}
}

// Finish takes the old log's directory away, after Switch. An error has taken a directory offline; the log is in its new
// place all the same. It must be called.
func (mv *Move) Finish() error {
	defer mv.log.dir.changeMu.Unlock() // locked by Switch
	err := mv.settled()
	if mv.log.dir.err() != nil {
		return err // nothing may be changed there; the next start finds that it does not count
	}
	return errors.Join(err, mv.clearOld())
}

func (mv *Move) clearOld() error {
	l, m := mv.log, mv.m
	if err := renameDurably(l.fs, l.path, mv.old); err != nil {
		return l.dir.fail(err)
	}
	m.background.remove(mv.old, m.opts.Now().Add(time.Duration(mv.made.Config().FileDeleteDelayMs)*time.Millisecond))
	return nil
}

// settled has the new log say no more where it came from, durably: the old log says itself that it does not count.
func (mv *Move) settled() error {
	n := mv.made
	n.hk.Lock()
	defer n.hk.Unlock()
	if n.alive() != nil {
		return nil
	}
	if err := removeDurably(n.fs, path.Join(n.path, movedFromFile)); err != nil {
		return n.dir.fail(err)
	}
	return nil
}

// Abandon ends a move that was not switched and removes the copy.
func (mv *Move) Abandon() error {
	mv.close()
	mv.log.hk.Lock()
	err := mv.unmark()
	mv.log.hk.Unlock()
	mv.dismiss()
	defer mv.leave()
	if err != nil {
		return err
	}
	if mv.to.err() != nil {
		return nil // nothing may be changed there; the next start removes it
	}
	if err := mv.to.fs.RemoveAll(mv.made.path); err != nil {
		return mv.to.fail(err)
	}
	return nil
}

// Leave ends a move that was not switched because the broker ends. Its directory stays, so that the next start knows of it.
// The old log says no more that the new one may count: the next start uses it whatever became of the new directory.
func (mv *Move) Leave() {
	mv.close()
	if mv.marking { // else nobody need wait for hk
		mv.log.hk.Lock()
		_ = mv.unmark() // an error has taken the directory offline
		mv.log.hk.Unlock()
	}
	mv.dismiss()
	mv.leave()
}

func (mv *Move) close() {
	for _, c := range mv.copied {
		if c.file != nil {
			c.file.Close()
			c.file = nil
		}
		c.made.retire()
	}
	mv.copied = nil
}

// mostPreferred bounds what Prefer remembers: anybody may ask for directories of partitions that never come.
const mostPreferred = 100_000

// Prefer has a log that is not there be made in a directory, should it be made while the process lives.
func (m *Manager) Prefer(tp TopicPartition, dir string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for other := range m.preferred {
		if len(m.preferred) < mostPreferred {
			break
		}
		delete(m.preferred, other)
	}
	m.preferred[tp] = dir
}

// Preferred is what Prefer said last of a log, "" if nothing.
func (m *Manager) Preferred(tp TopicPartition) string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.preferred[tp]
}

// movePace bounds how many bytes a second are copied on average. A rate takes effect at once.
type movePace struct {
	total atomic.Int64 // copied

	mu      sync.Mutex
	rate    int64
	begin   time.Time
	bytes   float64 // since begin
	changed chan struct{}
}

func (p *movePace) init() { p.rate, p.changed = math.MaxInt64, make(chan struct{}) }

func (p *movePace) setRate(rate int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if rate == p.rate {
		return
	}
	p.rate, p.begin, p.bytes = rate, time.Time{}, 0
	close(p.changed)
	p.changed = make(chan struct{})
}

// wait returns when n bytes may be copied, or ctx ends.
func (p *movePace) wait(ctx context.Context, n int) error {
	for {
		d, changed := p.take(time.Now(), n)
		if d <= 0 {
			return ctx.Err()
		}
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
		}
		timer.Stop()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// take counts n bytes unless they have to wait: then it returns how long, and what is closed when that changes.
func (p *movePace) take(now time.Time, n int) (time.Duration, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.rate == math.MaxInt64:
		return 0, nil
	case p.rate <= 0:
		return time.Hour, p.changed
	}
	passed := now.Sub(p.begin)
	if passed > throttleWindow && p.bytes <= float64(p.rate)*passed.Seconds() {
		p.begin, p.bytes, passed = now, 0, 0 // what was not used is not saved up
	}
	if due := time.Duration(min(p.bytes/float64(p.rate)*float64(time.Second), float64(time.Hour))); due > passed {
		return due - passed, p.changed
	}
	p.bytes += float64(n)
	return 0, nil
}

// Leftovers lists the moves that the process before did not end: for each log the directory that it was to go to.
func (m *Manager) Leftovers() map[TopicPartition]string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := map[TopicPartition]string{}
	for tp, names := range m.leftovers {
		for _, d := range m.dirs {
			if path.Clean(d.path) == path.Dir(names[0]) {
				out[tp] = d.path // as it is configured: with a slash at its end, say
			}
		}
	}
	return out
}

// DropLeftovers removes what is left of moves that nobody began anew.
func (m *Manager) DropLeftovers() {
	for tp := range m.Leftovers() {
		m.dropLeftovers(tp)
	}
}

func (m *Manager) dropLeftovers(tp TopicPartition) {
	m.mu.Lock()
	names := m.leftovers[tp]
	delete(m.leftovers, tp)
	m.mu.Unlock()
	for _, name := range names {
		m.background.remove(name, m.opts.Now())
	}
}
