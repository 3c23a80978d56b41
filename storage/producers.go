package storage

import (
	"maps"
	"slices"
	"sort"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/protocol"
)

// rememberedBatches is how many batches of a producer are known for finding duplicates: as many as an idempotent producer
// may have in flight.
const rememberedBatches = 5

const noEpoch = -1

// producerBatch is what is remembered of a batch.
type producerBatch struct {
	lastSeq     int32
	offsetDelta int32 // last offset - first offset
	lastOffset  int64
	timestamp   int64
}

func (b *producerBatch) firstOffset() int64 { return b.lastOffset - int64(b.offsetDelta) }

func (b *producerBatch) firstSeq() int32 {
	first := int64(b.lastSeq) - int64(b.offsetDelta)
	if first < 0 { // the batch wrapped: sequences go from 2^31-1 to 0
		first += 1 << 31
	}
	return int32(first)
}

// producer is the state of one producer id in one log.
type producer struct {
	id          int64
	epoch       int16
	coordEpoch  int32 // of the last marker; -1 if there was none
	timestamp   int64 // of the last batch or marker
	txnFirst    int64 // first offset of the open transaction; -1 if there is none
	batches     [rememberedBatches]producerBatch
	batchesUsed int8 // the first so many of batches, oldest first
}

func (p *producer) last() *producerBatch {
	if p.batchesUsed == 0 {
		return nil
	}
	return &p.batches[p.batchesUsed-1]
}

// lastSeq is the sequence of the last record, or -1.
func (p *producer) lastSeq() int32 {
	if b := p.last(); b != nil {
		return b.lastSeq
	}
	return -1
}

func (p *producer) lastOffset() int64 {
	if b := p.last(); b != nil {
		return b.lastOffset
	}
	return -1
}

func (p *producer) remember(b producerBatch) {
	if p.batchesUsed == rememberedBatches {
		copy(p.batches[:], p.batches[1:])
		p.batchesUsed--
	}
	p.batches[p.batchesUsed] = b
	p.batchesUsed++
}

func (p *producer) bumpEpoch(epoch int16) {
	if p.epoch != epoch {
		p.epoch, p.batchesUsed = epoch, 0
	}
}

// openTxn is a transaction without a marker yet.
type openTxn struct {
	producerID  int64
	firstOffset int64
}

// endedTxn is a transaction whose marker is not below the high watermark yet.
type endedTxn struct {
	producerID  int64
	firstOffset int64
	lastOffset  int64 // of the marker
	aborted     bool
}

// producers is the state of all idempotent and transactional producers of a log: a function of its batches. Guarded by
// Log.mu.
type producers struct {
	byID  map[int64]*producer
	open  []openTxn  // ascending first offset
	ended []endedTxn // ascending marker offset, until the high watermark passes

	// unverified are the producers that want to begin a transaction here and of which the transaction coordinator was
	// or is being asked; see verify.go. Soft state.
	unverified map[int64]*verification
	guards     uint64 // the last one given out
}

func newProducers() *producers {
	return &producers{byID: map[int64]*producer{}, unverified: map[int64]*verification{}}
}

func (ps *producers) reset() {
	clear(ps.byID)
	clear(ps.unverified) // their guards are worth nothing any more
	ps.open, ps.ended = nil, nil
}

// findDuplicate returns the remembered batch that b repeats, or nil.
func (ps *producers) findDuplicate(b protocol.Batch) *producerBatch {
	p := ps.byID[b.ProducerID()]
	if p == nil || p.epoch != b.ProducerEpoch() {
		return nil
	}
	first, last := b.BaseSequence(), b.LastSequence()
	for i := range p.batches[:p.batchesUsed] {
		if pb := &p.batches[i]; pb.lastSeq == last && pb.firstSeq() == first {
			return pb
		}
	}
	return nil
}

// check says whether a batch of an idempotent producer may be appended. Sequences are checked for clients only; a
// follower takes what its leader took.
func (ps *producers) check(b protocol.Batch, opts *AppendOptions) error {
	if opts.Origin == Replication || b.ProducerID() < 0 {
		return nil
	}
	p := ps.byID[b.ProducerID()]
	if b.IsControl() {
		return ps.checkMarkerBatch(p, b, opts)
	}
	if opts.Verify && b.IsTransactional() {
		if err := ps.checkGuard(b.ProducerID(), b.ProducerEpoch(), opts.Guard); err != nil {
			return err
		}
	}
	if p != nil && b.ProducerEpoch() < p.epoch {
		return clientErrorf(kerr.InvalidProducerEpoch, "producer %d has epoch %d, the batch has %d", p.id, p.epoch, b.ProducerEpoch())
	}
	if opts.Origin == Client {
		if err := ps.checkLowestSequence(p, b); err != nil {
			return err
		}
	}
	if opts.StrictSequence && (p == nil || p.epoch == noEpoch) && b.BaseSequence() != 0 {
		return clientErrorf(kerr.OutOfOrderSequenceNumber, "producer %d is not known and begins with sequence %d", b.ProducerID(), b.BaseSequence())
	}
	if p == nil {
		// Never seen, expired, or all its records are gone: any sequence is taken (KIP-360).
		return nil
	}
	if opts.Origin == Client {
		if err := checkSequence(p, b); err != nil {
			return err
		}
	}
	if p.txnFirst >= 0 && !b.IsTransactional() {
		return clientErrorf(kerr.InvalidTxnState, "producer %d has a transaction open since offset %d", p.id, p.txnFirst)
	}
	return nil
}

func checkSequence(p *producer, b protocol.Batch) error {
	first := b.BaseSequence()
	if b.ProducerEpoch() != p.epoch {
		if first != 0 && p.epoch != noEpoch {
			return clientErrorf(kerr.OutOfOrderSequenceNumber, "producer %d begins epoch %d with sequence %d instead of 0", p.id, b.ProducerEpoch(), first)
		}
		return nil
	}
	if last := p.lastSeq(); p.epoch != noEpoch && first != nextSequence(last) {
		return clientErrorf(kerr.OutOfOrderSequenceNumber, "producer %d epoch %d: sequence %d after %d", p.id, p.epoch, first, last)
	}
	return nil
}

// nextSequence is the sequence expected after last; 0 after none.
func nextSequence(last int32) int32 {
	if last < 0 {
		return 0
	}
	return protocol.NextSequence(last, 1)
}

func (ps *producers) checkMarkerBatch(p *producer, b protocol.Batch, opts *AppendOptions) error {
	if p == nil {
		return nil
	}
	_, coordEpoch, err := protocol.ParseControlBatch(b)
	if err != nil {
		return err
	}
	return p.checkMarker(b.ProducerEpoch(), coordEpoch, opts.TxnVersion)
}

// apply takes in a batch that is in the log. It returns the transaction that the batch ended, if it did.
func (ps *producers) apply(b protocol.Batch) (done endedTxn, ended bool) {
	if id := b.ProducerID(); id >= 0 {
		p := ps.byID[id]
		if p == nil {
			p = &producer{id: id, epoch: noEpoch, coordEpoch: -1, txnFirst: -1, timestamp: -1}
			ps.byID[id] = p
		}
		if b.IsControl() {
			done, ended = ps.applyMarker(p, b)
		} else {
			ps.applyData(p, b)
		}
	}
	return done, ended
}

func (ps *producers) applyData(p *producer, b protocol.Batch) {
	p.bumpEpoch(b.ProducerEpoch())
	p.timestamp = b.MaxTimestamp()
	if b.IsTransactional() {
		delete(ps.unverified, p.id) // the transaction is open now
	}
	p.remember(producerBatch{
		lastSeq:     b.LastSequence(),
		offsetDelta: b.LastOffsetDelta(),
		lastOffset:  b.LastOffset(),
		timestamp:   b.MaxTimestamp(),
	})
	if b.IsTransactional() && p.txnFirst < 0 {
		p.txnFirst = b.BaseOffset()
		ps.open = append(ps.open, openTxn{p.id, p.txnFirst})
	}
}

func (ps *producers) applyMarker(p *producer, b protocol.Batch) (endedTxn, bool) {
	kind, coordEpoch, err := protocol.ParseControlBatch(b)
	if err != nil || (kind != protocol.ControlAbort && kind != protocol.ControlCommit) {
		return endedTxn{}, false // a control record of another kind does not concern producers
	}
	ps.endVerification(p.id, b.ProducerEpoch())
	p.bumpEpoch(b.ProducerEpoch())
	p.coordEpoch, p.timestamp = coordEpoch, b.MaxTimestamp()
	if p.txnFirst < 0 {
		return endedTxn{}, false // nothing was written in that transaction here
	}
	done := endedTxn{p.id, p.txnFirst, b.LastOffset(), kind == protocol.ControlAbort}
	p.txnFirst = -1
	ps.open = slices.DeleteFunc(ps.open, func(t openTxn) bool { return t.producerID == p.id })
	ps.ended = append(ps.ended, done)
	return done, true
}

// stableAfter is the last stable offset right after done ended, if the high watermark had passed it.
func (ps *producers) stableAfter(done endedTxn) int64 {
	if len(ps.open) > 0 {
		return ps.open[0].firstOffset
	}
	return done.lastOffset + 1
}

// passWatermark forgets ended transactions whose marker is below the high watermark.
func (ps *producers) passWatermark(hw int64) {
	n := 0
	for n < len(ps.ended) && ps.ended[n].lastOffset < hw {
		n++
	}
	if n > 0 {
		ps.ended = slices.Delete(ps.ended, 0, n)
	}
}

// firstUnstable is the first offset of the earliest transaction that is open or not yet below the high watermark; -1 if
// there is none.
func (ps *producers) firstUnstable() int64 {
	first := int64(-1)
	if len(ps.open) > 0 {
		first = ps.open[0].firstOffset
	}
	for i := range ps.ended { // few, and not in order of their first offset
		if off := ps.ended[i].firstOffset; first < 0 || off < first {
			first = off
		}
	}
	return first
}

// oldestTxnMs is when the producer of the earliest open transaction wrote last, by its batches' timestamps; -1 if no
// transaction is open.
func (ps *producers) oldestTxnMs() int64 {
	if len(ps.open) == 0 {
		return -1
	}
	return ps.byID[ps.open[0].producerID].timestamp
}

// forgetBelow drops ended transactions that lie below the log start.
func (ps *producers) forgetBelow(start int64) {
	ps.ended = slices.DeleteFunc(ps.ended, func(t endedTxn) bool { return t.lastOffset < start })
}

// expire forgets producers that have no open transaction and were silent for too long.
func (ps *producers) expire(nowMs, expirationMs int64) int {
	n := 0
	for id, p := range ps.byID {
		if p.txnFirst < 0 && nowMs-p.timestamp >= expirationMs {
			delete(ps.byID, id)
			n++
		}
	}
	if n > len(ps.byID) {
		kept := make(map[int64]*producer, len(ps.byID)) // a map keeps the size that it once had, and so does its clone
		maps.Copy(kept, ps.byID)
		ps.byID = kept
	}
	for id, v := range ps.unverified {
		if nowMs-v.timestamp >= expirationMs {
			delete(ps.unverified, id)
		}
	}
	return n
}

// list describes all producers, sorted by id.
func (ps *producers) list() []ProducerState {
	out := make([]ProducerState, 0, len(ps.byID))
	for _, p := range ps.byID {
		out = append(out, ProducerState{
			ProducerID: p.id, ProducerEpoch: p.epoch, LastSequence: p.lastSeq(), LastTimestamp: p.timestamp,
			CoordinatorEpoch: p.coordEpoch, TxnStartOffset: p.txnFirst, LastOffset: p.lastOffset(),
		})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ProducerID < out[j].ProducerID })
	return out
}
