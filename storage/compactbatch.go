package storage

import (
	"errors"
	"fmt"
	"slices"

	"github.com/gregor-broker/gregor/protocol"
)

// batchFilter decides what stays of the batches of a log, in the order of their offsets, and writes that down. Kafka's
// rules (KIP-98, KIP-534):
//
//   - A record stays if its key has no later one, as far as the map reaches. A record without key goes.
//   - A record without value (a tombstone) stays until the delete horizon of its batch. The horizon is set when the batch
//     is cleaned for the first time: by then all that the tombstone deletes is gone from below it, so that from then on a
//     reader has delete.retention.ms to come by. It takes the place of the base timestamp.
//   - Records of aborted transactions go. A marker stays until no batch of its transaction is left, then until a horizon of
//     its own.
//   - What is left of a batch keeps its offsets, sequences, producer and epoch. A batch without records stays if its
//     producer's last sequence is in it, or if it is the last one before what is not cleaned.
type batchFilter struct {
	keys      *offsetMap
	txns      *txnFilter
	producers map[int64]lastOfProducer
	upTo      int64 // exclusive bound of what is cleaned
	nowMs     int64
	cfg       *LogConfig

	plain    []byte // scratch: decompressed records
	retained []protocol.Record

	kept, read, keyless int64 // records
}

// lastOfProducer is what a log must not forget of a producer.
type lastOfProducer struct {
	dataOffset int64 // last offset of its last batch, -1 if only a marker is known
	epoch      int16
}

// batchFate says what becomes of a batch.
type batchFate struct {
	noRecords    bool // none of them stay
	evenEmpty    bool // the batch stays without records
	emptyTxn     bool // it is the marker of a transaction of which nothing is left
	tombstonesGo bool
}

// appendKept appends to dst what stays of b, which may be nothing. The result may alias b if all of it stays.
func (f *batchFilter) appendKept(dst []byte, b protocol.Batch) ([]byte, error) {
	if !b.ValidCRC() {
		return dst, &CorruptError{Reason: fmt.Sprintf("CRC of the batch at offset %d does not match", b.BaseOffset())}
	}
	f.read += int64(b.Count())
	fate := f.judge(b)
	f.retained = f.retained[:0]
	whole, tombstones := false, false
	if !fate.noRecords {
		var err error
		if whole, tombstones, err = f.filterRecords(b, fate); err != nil {
			return dst, err
		}
	}
	f.kept += int64(len(f.retained))
	needsHorizon := (tombstones || fate.emptyTxn) && !b.HasDeleteHorizon()
	switch {
	case len(f.retained) == 0 && fate.evenEmpty:
		return f.appendEmpty(dst, b), nil
	case len(f.retained) == 0:
		return dst, nil
	case whole && !needsHorizon:
		return append(dst, b...), nil
	case needsHorizon:
		return f.appendRebuilt(dst, b, f.nowMs+f.cfg.DeleteRetentionMs, true), nil
	}
	return f.appendRebuilt(dst, b, b.BaseTimestamp(), b.HasDeleteHorizon()), nil
}

func (f *batchFilter) judge(b protocol.Batch) batchFate {
	past := b.HasDeleteHorizon() && b.BaseTimestamp() <= f.nowMs
	fate := batchFate{tombstonesGo: past}
	if b.IsControl() {
		fate.emptyTxn = f.txns.marker(b)
		fate.noRecords = fate.emptyTxn && past
	} else {
		fate.noRecords = f.txns.data(b)
	}
	fate.evenEmpty = f.isLastOfProducer(b) || b.LastOffset()+1 == f.upTo
	return fate
}

func (f *batchFilter) isLastOfProducer(b protocol.Batch) bool {
	last, ok := f.producers[b.ProducerID()]
	switch {
	case !ok || b.ProducerID() < 0:
		return false
	case last.dataOffset >= 0:
		return b.LastOffset() == last.dataOffset
	}
	return b.IsControl() && b.ProducerEpoch() == last.epoch
}

// filterRecords gathers the records that stay. whole: these are all; tombstones: there are some without value among them.
func (f *batchFilter) filterRecords(b protocol.Batch, fate batchFate) (whole, tombstones bool, err error) {
	whole = true
	err = eachRecord(b, &f.plain, func(rec protocol.Record) {
		if !b.IsControl() && !f.stays(b, rec, fate) {
			whole = false
			return
		}
		if len(rec.Headers) > 0 { // the reader uses its slice again
			rec.Headers = slices.Clone(rec.Headers)
		}
		f.retained = append(f.retained, rec)
		tombstones = tombstones || rec.Value == nil
	})
	return whole, tombstones, err
}

func (f *batchFilter) stays(b protocol.Batch, rec protocol.Record, fate batchFate) bool {
	offset := b.BaseOffset() + int64(rec.OffsetDelta)
	if offset > f.keys.last {
		return true
	}
	if rec.Key == nil {
		f.keyless++
		return false
	}
	return offset >= f.keys.get(rec.Key) && (rec.Value != nil || !fate.tombstonesGo)
}

// appendRebuilt appends b with the retained records only. Timestamps stay; their deltas count from the delete horizon if
// there is one, else from the first record.
func (f *batchFilter) appendRebuilt(dst []byte, b protocol.Batch, base int64, horizon bool) []byte {
	old := b.BaseTimestamp()
	if b.LogAppendTime() {
		old = b.MaxTimestamp() // all records have that one
		for i := range f.retained {
			f.retained[i].TimestampDelta = 0
		}
	}
	if !horizon {
		base = old + f.retained[0].TimestampDelta
	}
	for i := range f.retained {
		f.retained[i].TimestampDelta += old - base
	}
	p := f.paramsOf(b)
	p.BaseTimestamp, p.DeleteHorizon = base, horizon
	p.Codec = b.Codec()
	p.Level = level(f.cfg, p.Codec)
	return protocol.AppendBatch(dst, p, f.retained)
}

// appendEmpty appends b without records: what it says of its producer and its offsets.
func (f *batchFilter) appendEmpty(dst []byte, b protocol.Batch) []byte {
	p := f.paramsOf(b)
	p.BaseTimestamp = -1
	n := len(dst)
	dst = protocol.AppendBatch(dst, p, nil)
	if !p.LogAppendTime {
		protocol.Batch(dst[n:]).SetMaxTimestamp(b.MaxTimestamp())
	}
	return dst
}

func (f *batchFilter) paramsOf(b protocol.Batch) protocol.BatchParams {
	p := protocol.BatchParams{
		BaseOffset: b.BaseOffset(), LeaderEpoch: b.LeaderEpoch(), LastOffsetDelta: b.LastOffsetDelta(),
		LogAppendTime: b.LogAppendTime(), LogAppendTimeMs: b.MaxTimestamp(),
		Transactional: b.IsTransactional(), Control: b.IsControl(),
	}
	if b.ProducerID() >= 0 {
		p.Producer = &protocol.Producer{ID: b.ProducerID(), Epoch: b.ProducerEpoch(), BaseSequence: b.BaseSequence()}
	}
	return p
}

// eachRecord calls f for every record of a batch. What is decompressed goes to *scratch, which grows; the records alias it
// or the batch.
func eachRecord(b protocol.Batch, scratch *[]byte, f func(protocol.Record)) error {
	if b.Count() == 0 {
		return nil // cleaned before
	}
	payload := b.Payload()
	if b.Codec() != protocol.None {
		plain, err := protocol.Decompress((*scratch)[:0], b.Codec(), payload, decompressLimit)
		if err != nil {
			return &CorruptError{Reason: fmt.Sprintf("batch at offset %d: %v", b.BaseOffset(), err)}
		}
		*scratch, payload = plain, plain
	}
	r := protocol.NewRecordReader(payload, b.Count())
	for rec, ok := r.Next(); ok; rec, ok = r.Next() {
		f(rec)
	}
	if err := r.Err(); err != nil {
		return &CorruptError{Reason: fmt.Sprintf("batch at offset %d: %v", b.BaseOffset(), err)}
	}
	return nil
}

// txnFilter knows which transactional batches were aborted and which markers still have batches of their transaction.
// Batches must be shown to it in the order of their offsets, from the log's first on: a marker may go only when nothing of
// its transaction was seen.
type txnFilter struct {
	aborted map[int64][]abortedTxn // by producer, ascending
	seen    map[int64]int64        // producers with batches since their last marker, and the first of these
	// entries is the transaction index of what was seen since it was taken: of aborted transactions that still have
	// batches, if only empty ones.
	entries []abortedTxn
}

func newTxnFilter(aborted []abortedTxn) *txnFilter {
	t := &txnFilter{aborted: map[int64][]abortedTxn{}, seen: map[int64]int64{}}
	for _, e := range aborted {
		t.aborted[e.producerID] = append(t.aborted[e.producerID], e)
	}
	return t
}

// data says whether a batch that is no marker belongs to an aborted transaction.
func (t *txnFilter) data(b protocol.Batch) (aborted bool) {
	if !b.IsTransactional() {
		return false
	}
	id := b.ProducerID()
	if _, ok := t.seen[id]; !ok {
		t.seen[id] = b.BaseOffset()
	}
	return t.find(id, b.BaseOffset()) != nil
}

// find returns the aborted transaction of a producer that covers offset. Those that end below are dropped: nobody asks
// for them again.
func (t *txnFilter) find(id, offset int64) *abortedTxn {
	list := t.aborted[id]
	for len(list) > 0 && list[0].lastOffset < offset {
		list = list[1:]
	}
	t.aborted[id] = list
	if len(list) > 0 && list[0].firstOffset <= offset {
		return &list[0]
	}
	return nil
}

// marker says whether nothing was seen of the transaction that the control batch ends.
func (t *txnFilter) marker(b protocol.Batch) (emptyTxn bool) {
	if b.Count() == 0 {
		return true
	}
	kind, _, err := protocol.ParseControlBatch(b)
	if err != nil || (kind != protocol.ControlAbort && kind != protocol.ControlCommit) {
		return false // of another kind, or of a time to come: not ours to remove
	}
	id := b.ProducerID()
	_, seen := t.seen[id]
	delete(t.seen, id)
	if e := t.find(id, b.LastOffset()); e != nil && seen && e.lastOffset == b.LastOffset() {
		t.entries = append(t.entries, *e)
	}
	return !seen
}

// takeEntries returns the index entries gathered since the last call.
func (t *txnFilter) takeEntries() []abortedTxn {
	e := t.entries
	t.entries = nil
	return e
}

var (
	errMapTooSmall     = errors.New("log.cleaner.dedupe.buffer.size is too small for the keys of one batch")
	errSegmentTooLarge = errors.New("the cleaned segment would be larger than a segment may be")
)
