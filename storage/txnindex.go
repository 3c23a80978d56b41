package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/gregor-broker/gregor/storage/vfs"
)

const abortedEntrySize = 34

// abortedTxn is an entry of a .txnindex file: version int16 (0), then the four fields.
type abortedTxn struct {
	producerID       int64
	firstOffset      int64
	lastOffset       int64 // of the abort marker
	lastStableOffset int64 // when the marker was written
}

// txnIndex lists the transactions whose abort marker lies in a segment, in the order of the markers. Most segments have
// none, and then no file either.
type txnIndex struct {
	fs   vfs.FS
	path string

	mu      sync.Mutex
	entries []abortedTxn
	loaded  bool
	onDisk  int  // entries in the file; -1: the file must be written anew
	dirty   bool // the file was written to since the last sync
}

func newTxnIndex(fsys vfs.FS, path string) *txnIndex { return &txnIndex{fs: fsys, path: path} }

func (t *txnIndex) startEmpty() {
	t.mu.Lock()
	t.entries, t.loaded, t.onDisk = nil, true, 0
	t.mu.Unlock()
}

// replace takes entries that were made anew, whatever the file holds.
func (t *txnIndex) replace(entries []abortedTxn) {
	t.mu.Lock()
	t.entries, t.loaded, t.onDisk = entries, true, -1
	t.mu.Unlock()
}

// all returns the entries; the slice must not be changed.
func (t *txnIndex) all() ([]abortedTxn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.loadLocked(); err != nil {
		return nil, err
	}
	return t.entries[:len(t.entries):len(t.entries)], nil
}

func (t *txnIndex) loadLocked() error {
	if t.loaded {
		return nil
	}
	data, err := readFile(t.fs, t.path, 1<<31)
	if errors.Is(err, fs.ErrNotExist) {
		t.loaded = true
		return nil
	}
	if err != nil {
		return err
	}
	entries, err := parseTxnIndex(t.path, data)
	if err != nil {
		return err
	}
	t.entries, t.loaded, t.onDisk = entries, true, len(entries)
	return nil
}

func (t *txnIndex) append(e abortedTxn) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.loadLocked(); err != nil {
		return err
	}
	t.entries = append(t.entries, e)
	return nil
}

// truncateTo drops the transactions that ended at offset or later.
func (t *txnIndex) truncateTo(offset int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.loadLocked(); err != nil {
		return err
	}
	n := len(t.entries)
	for n > 0 && t.entries[n-1].lastOffset >= offset {
		n--
	}
	if n < len(t.entries) {
		// Readers may hold the old slice: the next append must not write into it.
		t.entries = append([]abortedTxn(nil), t.entries[:n]...)
		if n < t.onDisk {
			t.onDisk = -1
		}
	}
	return nil
}

// write brings the file up to date and, if there is one, syncs it when asked.
func (t *txnIndex) write(sync bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.loaded || (t.onDisk == len(t.entries) && !(sync && t.dirty)) {
		return nil
	}
	from := max(t.onDisk, 0)
	f, err := t.fs.OpenOrCreate(t.path)
	if err != nil {
		return err
	}
	defer f.Close()
	var buf []byte
	for _, e := range t.entries[from:] {
		buf = appendAborted(buf, e)
	}
	if err := writeFull(f, buf, int64(from)*abortedEntrySize); err != nil {
		return err
	}
	if err := f.Truncate(int64(len(t.entries)) * abortedEntrySize); err != nil {
		return err
	}
	t.onDisk, t.dirty = len(t.entries), true
	if !sync {
		return nil
	}
	if err := f.Sync(); err != nil {
		return err
	}
	t.dirty = false
	return nil
}

func appendAborted(buf []byte, e abortedTxn) []byte {
	buf = binary.BigEndian.AppendUint16(buf, 0)
	buf = binary.BigEndian.AppendUint64(buf, uint64(e.producerID))
	buf = binary.BigEndian.AppendUint64(buf, uint64(e.firstOffset))
	buf = binary.BigEndian.AppendUint64(buf, uint64(e.lastOffset))
	return binary.BigEndian.AppendUint64(buf, uint64(e.lastStableOffset))
}

func parseTxnIndex(name string, data []byte) ([]abortedTxn, error) {
	if len(data)%abortedEntrySize != 0 {
		return nil, &CorruptError{File: name, Pos: int64(len(data)), Reason: "size is not a multiple of the entry size"}
	}
	entries := make([]abortedTxn, 0, len(data)/abortedEntrySize)
	last := int64(-1)
	for i := 0; i < len(data); i += abortedEntrySize {
		b := data[i:]
		e := abortedTxn{
			producerID:       int64(binary.BigEndian.Uint64(b[2:])),
			firstOffset:      int64(binary.BigEndian.Uint64(b[10:])),
			lastOffset:       int64(binary.BigEndian.Uint64(b[18:])),
			lastStableOffset: int64(binary.BigEndian.Uint64(b[26:])),
		}
		if v := binary.BigEndian.Uint16(b); v != 0 || e.lastOffset <= last || e.firstOffset > e.lastOffset {
			return nil, &CorruptError{File: name, Pos: int64(i), Reason: fmt.Sprintf("bad entry: version %d, offsets %d to %d after %d", v, e.firstOffset, e.lastOffset, last)}
		}
		last = e.lastOffset
		entries = append(entries, e)
	}
	return entries, nil
}
