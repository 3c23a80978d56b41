package storage

import "sort"

// epochCache knows where each leader epoch began (KIP-101). It is a plain value guarded by the log's append lock; the
// file is written outside of it, and before the recovery point passes an entry.
type epochCache struct {
	entries []EpochStart // ascending in both columns
	dirty   bool         // differs from the file
}

func (c *epochCache) latest() int32 {
	if n := len(c.entries); n > 0 {
		return c.entries[n-1].Epoch
	}
	return -1
}

// assign notes that epoch begins at start. Entries that this contradicts go: the log was truncated since.
func (c *epochCache) assign(epoch int32, start int64) {
	if epoch < 0 || start < 0 {
		return
	}
	n := len(c.entries)
	if n > 0 && epoch == c.entries[n-1].Epoch && start >= c.entries[n-1].StartOffset {
		return
	}
	for n > 0 && (c.entries[n-1].Epoch >= epoch || c.entries[n-1].StartOffset >= start) {
		n--
	}
	c.entries = append(c.entries[:n:n], EpochStart{epoch, start})
	c.dirty = true
}

// endOffset returns the largest known epoch that is not above epoch, and its end; (-1, -1) if there is no answer.
func (c *epochCache) endOffset(epoch int32, logEnd int64) (int32, int64) {
	if epoch < 0 || len(c.entries) == 0 {
		return -1, -1
	}
	if epoch == c.latest() {
		return epoch, logEnd
	}
	higher := sort.Search(len(c.entries), func(i int) bool { return c.entries[i].Epoch > epoch })
	if higher == len(c.entries) {
		return -1, -1 // an epoch this log has not heard of
	}
	if higher == 0 {
		return epoch, c.entries[0].StartOffset // before everything that is left: it ended where the log begins
	}
	return c.entries[higher-1].Epoch, c.entries[higher].StartOffset
}

// truncateFromEnd drops the epochs that began at end or later.
func (c *epochCache) truncateFromEnd(end int64) {
	n := len(c.entries)
	for n > 0 && c.entries[n-1].StartOffset >= end {
		n--
	}
	if n < len(c.entries) {
		c.entries = c.entries[:n:n]
		c.dirty = true
	}
}

// truncateFromStart drops the epochs that ended before start; the one in force there begins at start from now on.
func (c *epochCache) truncateFromStart(start int64) {
	i := sort.Search(len(c.entries), func(i int) bool { return c.entries[i].StartOffset > start })
	if i == 0 || (i == 1 && c.entries[0].StartOffset == start) {
		return
	}
	kept := append([]EpochStart(nil), c.entries[i-1:]...)
	kept[0].StartOffset = start
	c.entries = kept
	c.dirty = true
}

func (c *epochCache) clear() {
	c.dirty = c.dirty || len(c.entries) > 0
	c.entries = nil
}
