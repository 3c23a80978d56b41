package runtime

import (
	"fmt"

	"github.com/gregor-broker/gregor/protocol"
)

// load replays the log into a new shard: up to the log end offset, because a
// new leader's log holds every committed record though it may not know yet how
// many of them are (reliability rule: serve only after replay to the end, and
// answer only behind the high watermark).
func (l *loop[S]) load() error {
	began := l.o.Now()
	l.shard = l.o.NewShard(l.partition, l.log.Writable)
	l.timers = newTimers()
	l.waiting = make(map[Ticket]chan<- outcome)
	l.pending, l.parked = pending{}, nil

	start, hw, end, err := l.log.Bounds()
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	l.raiseHighWatermark(hw)
	l.next = start
	var records int64
	var buf []byte // as large as what there is to read: most shards are small
	for l.next < end && !l.isStopped() {
		buf, err = l.log.Read(l.next, l.o.LoadBufferBytes, buf[:0])
		if err != nil {
			return fmt.Errorf("load, read from offset %d: %w", l.next, err)
		}
		if len(buf) == 0 {
			return fmt.Errorf("load: nothing at offset %d before the log end offset %d", l.next, end)
		}
		n, err := l.replayBatches(buf)
		if err != nil {
			return err
		}
		records += n
	}
	l.next = max(l.next, end)
	l.mu.Lock()
	l.loaded.Store(!l.stopped)
	l.mu.Unlock()
	if l.o.OnLoaded != nil {
		l.o.OnLoaded(l.partition, l.o.Now().Sub(began), records)
	}
	return nil
}

// replayBatches replays the records of whole batches from offset next on.
func (l *loop[S]) replayBatches(buf []byte) (records int64, err error) {
	for len(buf) > 0 {
		b, rest, err := protocol.NextBatch(buf)
		if err != nil {
			return records, fmt.Errorf("load, batch at offset %d: %w", l.next, err)
		}
		buf = rest
		if b.LastOffset() < l.next {
			continue // the first batch of a read may begin before what was asked for
		}
		n, err := l.replayBatch(b)
		if err != nil {
			return records, fmt.Errorf("load, batch at offset %d: %w", b.BaseOffset(), err)
		}
		records += n
		l.next = b.LastOffset() + 1
	}
	return records, nil
}

func (l *loop[S]) replayBatch(b protocol.Batch) (int64, error) {
	if !b.ValidCRC() {
		return 0, fmt.Errorf("CRC is %#x, not %#x", b.ComputeCRC(), b.CRC())
	}
	var producer *Producer
	if b.IsTransactional() {
		producer = &Producer{ID: b.ProducerID(), Epoch: b.ProducerEpoch()}
	}
	if b.IsControl() {
		if b.Count() == 0 {
			return 0, nil // emptied by compaction
		}
		t, epoch, err := protocol.ParseControlBatch(b)
		if err != nil {
			return 0, err
		}
		if producer == nil || (t != protocol.ControlCommit && t != protocol.ControlAbort) {
			return 0, nil // not an end of a transaction
		}
		m := Marker{Producer: *producer, Commit: t == protocol.ControlCommit, CoordinatorEpoch: epoch}
		return 1, l.shard.ReplayMarker(b.BaseOffset(), m)
	}
	payload := b.Payload()
	if c := b.Codec(); c != protocol.None {
		var err error
		if payload, err = protocol.Decompress(nil, c, payload, maxDecompressed); err != nil {
			return 0, err
		}
	}
	var n int64
	r := protocol.NewRecordReader(payload, b.Count())
	for {
		rec, ok := r.Next()
		if !ok {
			return n, r.Err()
		}
		offset := b.BaseOffset() + int64(rec.OffsetDelta)
		if offset < l.next {
			continue
		}
		if err := l.shard.Replay(offset, producer, Record{Key: rec.Key, Value: rec.Value}); err != nil {
			return n, fmt.Errorf("record at offset %d: %w", offset, err)
		}
		n++
	}
}

// maxDecompressed bounds a coordinator's batch in memory: above the largest
// that message.max.bytes allows in practice, below what could exhaust a broker.
const maxDecompressed = 256 << 20
