package storage

import (
	"crypto/sha256"
	"encoding/binary"
)

// offsetMap maps keys to their last offset, as the cleaner needs it: with a fixed amount of memory per key, whatever its
// length, and no way to delete. A key is known by 128 bits of its hash; two keys with the same hash would pass for one, so
// it is a hash that nobody finds collisions for. Open addressing with linear probing over one table.
type offsetMap struct {
	slots []mapSlot
	used  int
	most  int   // keys that it takes
	last  int64 // everything up to here is in it
}

// mapSlot is 24 bytes, as Kafka's: what log.cleaner.dedupe.buffer.size buys is the same.
type mapSlot struct {
	high, low uint64
	next      int64 // offset + 1; 0: the slot is free
}

const mapSlotSize = 24

// newOffsetMap makes a map of at most size bytes that may become full to the given load. It takes no more memory than
// records keys can fill.
func newOffsetMap(size int64, load float64, records int64) *offsetMap {
	slots := size / mapSlotSize
	if load <= 0 || load > 1 {
		load = 0.9
	}
	if float64(records) < float64(slots)*load {
		slots = min(slots, int64(float64(records)/load)+2)
	}
	// One slot stays free, so that every search ends.
	m := &offsetMap{slots: make([]mapSlot, max(slots, 2)), last: -1}
	m.most = min(max(int(float64(slots)*load), 1), len(m.slots)-1)
	return m
}

// find returns the slot of a key, or the free one where it belongs.
func (m *offsetMap) find(key []byte) (slot *mapSlot, high, low uint64) {
	sum := sha256.Sum256(key)
	high, low = binary.BigEndian.Uint64(sum[:]), binary.BigEndian.Uint64(sum[8:])
	i := int(high % uint64(len(m.slots)))
	for {
		s := &m.slots[i]
		if s.next == 0 || (s.high == high && s.low == low) {
			return s, high, low
		}
		if i++; i == len(m.slots) {
			i = 0
		}
	}
}

// put notes that key is at offset; offsets must not descend. It says false if there is no room for one more key.
func (m *offsetMap) put(key []byte, offset int64) bool {
	s, high, low := m.find(key)
	if s.next == 0 {
		if m.used >= m.most {
			return false
		}
		m.used++
	}
	s.high, s.low, s.next = high, low, offset+1
	return true
}

// get returns the last offset of key, or -1.
func (m *offsetMap) get(key []byte) int64 {
	s, _, _ := m.find(key)
	return s.next - 1
}

// utilization is how much of the room for keys is used, from 0 to 1.
func (m *offsetMap) utilization() float64 { return float64(m.used) / float64(m.most) }
