package storage

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// txnLog appends to a log as transactional producers and their coordinator do.
type txnLog struct {
	t *testing.T
	l *Log
}

func newTxnLog(t *testing.T) *txnLog {
	t.Helper()
	l, err := newTestManager(t).CreateLog(TopicPartition{"t", 0}, TopicID{1}, DefaultLogConfig())
	if err != nil {
		t.Fatal(err)
	}
	return &txnLog{t, l}
}

type txnBatch struct {
	id    int64
	epoch int16
	seq   int32
	plain bool
}

func (b txnBatch) bytes() []byte {
	return protocol.AppendBatch(nil, protocol.BatchParams{
		BaseTimestamp: time.Now().UnixMilli(), Transactional: !b.plain,
		Producer: &protocol.Producer{ID: b.id, Epoch: b.epoch, BaseSequence: b.seq},
	}, []protocol.Record{{Value: []byte("v")}})
}

func (x *txnLog) append(b txnBatch, o AppendOptions) (AppendResult, error) {
	o.Version = 12
	res, err := x.l.AppendAsLeader(b.bytes(), o)
	x.l.SetHighWatermark(x.l.LogEndOffset())
	return res, err
}

func (x *txnLog) guard(b txnBatch, bumps bool) uint64 {
	return x.l.StartVerification(b.id, b.epoch, b.seq, bumps)
}

// begin verifies and appends.
func (x *txnLog) begin(b txnBatch, bumps bool) {
	x.t.Helper()
	g := x.guard(b, bumps)
	if _, err := x.append(b, AppendOptions{Verify: true, Guard: g}); err != nil {
		x.t.Fatal(err)
	}
}

func (x *txnLog) marker(id int64, epoch int16, commit bool, coordinatorEpoch int32, version int16) (AppendResult, error) {
	kind := protocol.ControlAbort
	if commit {
		kind = protocol.ControlCommit
	}
	res, err := x.l.AppendAsLeader(protocol.AppendControlBatch(nil, protocol.ControlParams{
		TimestampMs: time.Now().UnixMilli(), ProducerID: id, ProducerEpoch: epoch, Type: kind, CoordinatorEpoch: coordinatorEpoch,
	}), AppendOptions{Origin: Coordinator, TxnVersion: version})
	x.l.SetHighWatermark(x.l.LogEndOffset())
	return res, err
}

func (x *txnLog) unstable(want int64) {
	x.t.Helper()
	got, ok := x.l.FirstUnstableOffset()
	if !ok {
		got = -1
	}
	if got != want {
		x.t.Fatalf("first unstable offset %d, want %d", got, want)
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if want == nil && err != nil || want != nil && !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

func TestTransactionBeginsOnlyWithAGuard(t *testing.T) {
	x := newTxnLog(t)
	b := txnBatch{id: 7}
	_, err := x.append(b, AppendOptions{Verify: true})
	wantErr(t, err, kerr.InvalidTxnState)
	g := x.guard(b, false)
	if g == 0 || x.guard(b, false) != g {
		t.Fatal("no guard, or another one for a batch beside it")
	}
	_, err = x.append(b, AppendOptions{Verify: true, Guard: g + 1})
	wantErr(t, err, kerr.InvalidTxnState)
	_, err = x.append(b, AppendOptions{Verify: true, Guard: g})
	wantErr(t, err, nil)
	// The transaction is open: nothing more is needed.
	if x.guard(txnBatch{id: 7, seq: 1}, false) != 0 {
		t.Fatal("a guard for an open transaction")
	}
	_, err = x.append(txnBatch{id: 7, seq: 1}, AppendOptions{Verify: true})
	wantErr(t, err, nil)
	// But not with another epoch.
	_, err = x.append(txnBatch{id: 7, epoch: 1}, AppendOptions{Verify: true})
	wantErr(t, err, kerr.InvalidTxnState)
	x.unstable(0)
}

// The ABA of KIP-890: verified, ended, and only then written.
func TestGuardIsWorthlessAfterTheEnd(t *testing.T) {
	for _, opened := range []bool{true, false} {
		x := newTxnLog(t)
		late := txnBatch{id: 7}
		g := x.guard(late, false)
		if opened {
			_, err := x.append(late, AppendOptions{Verify: true, Guard: g})
			wantErr(t, err, nil)
			late.seq = 1
		}
		_, err := x.marker(7, 0, false, 0, 0)
		wantErr(t, err, nil)
		_, err = x.append(late, AppendOptions{Verify: true, Guard: g})
		wantErr(t, err, kerr.InvalidTxnState)
		// Verified once more, for the next transaction.
		if again := x.guard(late, false); again == g {
			t.Fatal("the same guard again")
		}
		_, err = x.append(late, AppendOptions{Verify: true, Guard: g})
		wantErr(t, err, kerr.InvalidTxnState)
		x.unstable(-1)
	}
}

// With version 2 a producer begins its next transaction while the marker of the
// last is under way: that marker, which has the next one's epoch, leaves the
// guard valid; that of the next one does not.
func TestGuardForTheNextTransaction(t *testing.T) {
	x := newTxnLog(t)
	x.begin(txnBatch{id: 7}, true)
	next := txnBatch{id: 7, epoch: 1}
	g := x.guard(next, true)
	for range 2 { // the second one is a retry
		_, err := x.marker(7, 1, true, 0, 2)
		wantErr(t, err, nil)
	}
	_, err := x.append(next, AppendOptions{Verify: true, Guard: g})
	wantErr(t, err, nil)
	x.unstable(3)
	_, err = x.marker(7, 2, true, 0, 2)
	wantErr(t, err, nil)

	late := txnBatch{id: 7, epoch: 2}
	g = x.guard(late, true)
	_, err = x.marker(7, 3, false, 0, 2) // it ended before anything was written here
	wantErr(t, err, nil)
	_, err = x.append(late, AppendOptions{Verify: true, Guard: g})
	wantErr(t, err, kerr.InvalidTxnState)
	x.unstable(-1)
}

// While the coordinator is asked, batches may overtake each other: the log has
// nothing of the producer yet that would tell.
func TestBatchesInOrderWhileVerified(t *testing.T) {
	x := newTxnLog(t)
	g := x.guard(txnBatch{id: 7, seq: 3}, false)
	x.guard(txnBatch{id: 7, seq: 5}, false)
	_, err := x.append(txnBatch{id: 7, seq: 5}, AppendOptions{Verify: true, Guard: g})
	wantErr(t, err, kerr.OutOfOrderSequenceNumber)
	_, err = x.append(txnBatch{id: 7, seq: 3}, AppendOptions{Verify: true, Guard: g})
	wantErr(t, err, nil) // an unknown producer may begin with any sequence

	// With version 2 a transaction begins with sequence 0.
	b := txnBatch{id: 8, epoch: 2, seq: 3}
	g = x.guard(b, true)
	_, err = x.append(b, AppendOptions{Verify: true, Guard: g})
	wantErr(t, err, kerr.OutOfOrderSequenceNumber)
	b.seq = 0
	x.guard(b, true)
	_, err = x.append(b, AppendOptions{Verify: true, Guard: g})
	wantErr(t, err, nil)
}

// Marker with an epoch that the log has seen: with version 2 it comes late, and
// must not end the transaction that runs (KIP-1228).
// The network repeats a request of a transaction that has ended. It asks for a guard in vain, and the
// producer, which keeps its epoch, goes on with the next transaction.
func TestRepeatedAfterTheEnd(t *testing.T) {
	for _, late := range []int32{0, 1} {
		x := newTxnLog(t)
		x.begin(txnBatch{id: 7}, false)
		_, err := x.append(txnBatch{id: 7, seq: 1}, AppendOptions{Verify: true})
		wantErr(t, err, nil)
		_, err = x.marker(7, 0, true, 0, 0)
		wantErr(t, err, nil)
		if x.guard(txnBatch{id: 7, seq: late}, false) == 0 {
			t.Fatal("no guard")
		}
		// What it overtook is still missed.
		g := x.guard(txnBatch{id: 7, seq: 3}, false)
		_, err = x.append(txnBatch{id: 7, seq: 3}, AppendOptions{Verify: true, Guard: g})
		wantErr(t, err, kerr.OutOfOrderSequenceNumber)
		x.begin(txnBatch{id: 7, seq: 2}, false)
		x.unstable(3)
	}
}

func TestMarkerWithEqualEpoch(t *testing.T) {
	x := newTxnLog(t)
	x.begin(txnBatch{id: 7, epoch: 3}, true)
	_, err := x.marker(7, 3, false, 0, 2)
	wantErr(t, err, kerr.InvalidProducerEpoch)
	wantErr(t, x.l.CheckMarker(7, 3, 0, 2), kerr.InvalidProducerEpoch)
	x.unstable(0)
	_, err = x.marker(7, 4, true, 0, 2)
	wantErr(t, err, nil)
	x.unstable(-1)
	// Before version 2 the marker has the epoch of the records.
	x.begin(txnBatch{id: 8, epoch: 3}, false)
	_, err = x.marker(8, 2, false, 0, 0)
	wantErr(t, err, kerr.InvalidProducerEpoch)
	_, err = x.marker(8, 3, false, 0, 0)
	wantErr(t, err, nil)
	x.unstable(-1)
}

// A retried marker is taken (KAFKA-19999): else the coordinator would try for
// ever.
func TestRetriedMarker(t *testing.T) {
	x := newTxnLog(t)
	x.begin(txnBatch{id: 7, epoch: 3}, true)
	for range 2 {
		_, err := x.marker(7, 4, true, 0, 2)
		wantErr(t, err, nil)
	}
	// When the next transaction runs it is late, and does nothing.
	x.begin(txnBatch{id: 7, epoch: 4}, true)
	_, err := x.marker(7, 4, true, 0, 2)
	wantErr(t, err, kerr.InvalidProducerEpoch)
	x.unstable(3)
}

func TestMarkerOfAnOldCoordinator(t *testing.T) {
	x := newTxnLog(t)
	x.begin(txnBatch{id: 7}, true)
	_, err := x.marker(7, 1, true, 5, 2)
	wantErr(t, err, nil)
	for _, version := range []int16{0, 2} {
		_, err = x.marker(7, 2, false, 4, version)
		wantErr(t, err, kerr.TransactionCoordinatorFenced)
	}
	_, err = x.marker(7, 2, false, 5, 2)
	wantErr(t, err, nil)
}

// After a marker that bumps the epoch the producer before is fenced, and the
// next transaction begins with sequence 0.
func TestMarkerFences(t *testing.T) {
	x := newTxnLog(t)
	x.begin(txnBatch{id: 7}, true)
	_, err := x.marker(7, 1, true, 0, 2)
	wantErr(t, err, nil)
	for _, seq := range []int32{0, 1} { // a duplicate and a new batch
		_, err = x.append(txnBatch{id: 7, seq: seq}, AppendOptions{})
		wantErr(t, err, kerr.InvalidProducerEpoch)
	}
	wantErr(t, x.l.CheckTransactional(7, 0, 0, false), kerr.InvalidProducerEpoch)
	_, err = x.append(txnBatch{id: 7, epoch: 1, seq: 1}, AppendOptions{})
	wantErr(t, err, kerr.OutOfOrderSequenceNumber)
	x.begin(txnBatch{id: 7, epoch: 1}, true)
	_, err = x.append(txnBatch{id: 7, epoch: 1, seq: 1, plain: true}, AppendOptions{})
	wantErr(t, err, kerr.InvalidTxnState)
}

// What a coordinator writes in a transaction (offsets) has no sequence.
func TestCoordinatorWritesInATransaction(t *testing.T) {
	x := newTxnLog(t)
	b := txnBatch{id: 7, seq: -1}
	wantErr(t, x.l.CheckTransactional(7, 0, 0, true), kerr.InvalidTxnState)
	g := x.guard(b, true)
	wantErr(t, x.l.CheckTransactional(7, 0, g, true), nil)
	for range 3 {
		_, err := x.append(b, AppendOptions{Origin: Coordinator})
		wantErr(t, err, nil)
	}
	wantErr(t, x.l.CheckTransactional(7, 0, 0, true), nil)
	x.unstable(0)
	_, err := x.append(b, AppendOptions{})
	wantErr(t, err, kerr.InvalidRecord) // a client may not
	_, err = x.marker(7, 1, true, 0, 2)
	wantErr(t, err, nil)
	x.unstable(-1)
}

// Guards are soft: a new leader's log has none, but it knows the open
// transactions, their producers' epochs and coordinators.
func TestTransactionsSurviveARestart(t *testing.T) {
	fs := vfs.NewMem()
	open := func() (*Manager, *txnLog) {
		m, err := Open(Options{FS: fs, Dirs: []string{"data"}, NodeID: 1})
		if err != nil {
			t.Fatal(err)
		}
		l := m.Log(TopicPartition{"t", 0})
		if l == nil {
			if l, err = m.CreateLog(TopicPartition{"t", 0}, TopicID{1}, DefaultLogConfig()); err != nil {
				t.Fatal(err)
			}
		}
		return m, &txnLog{t, l}
	}
	m, x := open()
	x.begin(txnBatch{id: 7, epoch: 3}, true)
	x.begin(txnBatch{id: 8}, true)
	_, err := x.marker(8, 1, false, 5, 2)
	wantErr(t, err, nil)
	g := x.guard(txnBatch{id: 9}, true)
	for range 2 {
		if err := m.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		m, x = open()
		x.unstable(0)
		_, err = x.append(txnBatch{id: 9}, AppendOptions{Verify: true, Guard: g})
		wantErr(t, err, kerr.InvalidTxnState)
		_, err = x.append(txnBatch{id: 8, seq: 1}, AppendOptions{})
		wantErr(t, err, kerr.InvalidProducerEpoch)
		_, err = x.marker(8, 2, false, 4, 2)
		wantErr(t, err, kerr.TransactionCoordinatorFenced)
		_, err = x.marker(7, 3, true, 0, 2)
		wantErr(t, err, kerr.InvalidProducerEpoch)
		if aborted, err := x.l.AbortedTxns(0, x.l.LogEndOffset()); err != nil || len(aborted) != 1 || aborted[0] != (AbortedTxn{8, 1}) {
			t.Fatalf("aborted %v, %v", aborted, err)
		}
	}
	_, err = x.append(txnBatch{id: 7, epoch: 3, seq: 1}, AppendOptions{Verify: true})
	wantErr(t, err, nil)
	_, err = x.marker(7, 4, true, 0, 2)
	wantErr(t, err, nil)
	x.unstable(-1)
	if err := m.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// A retry is answered with the offset that the batch got, though retention has taken its records away meanwhile
// (redpanda#5355): a client that is told anything else writes it once more.
func TestRetryAfterItsRecordsAreGone(t *testing.T) {
	x := newTxnLog(t)
	for seq := range int32(3) {
		_, err := x.append(txnBatch{id: 7, seq: seq, plain: true}, AppendOptions{})
		wantErr(t, err, nil)
	}
	if err := x.l.SetLogStartOffset(3); err != nil {
		t.Fatal(err)
	}
	for seq := range int32(3) {
		res, err := x.append(txnBatch{id: 7, seq: seq, plain: true}, AppendOptions{})
		wantErr(t, err, nil)
		if !res.Duplicate || res.FirstOffset != int64(seq) || res.LastOffset != int64(seq) {
			t.Fatalf("retry of sequence %d: %+v", seq, res)
		}
	}
	if end := x.l.LogEndOffset(); end != 3 {
		t.Fatalf("the log ends at %d, want 3", end)
	}
}

// A transaction stays unstable until its marker is below the high watermark: the marker may still be lost with this
// leader, and whoever has read the records would have read what is aborted then.
func TestUnstableUntilTheMarkerIsCommitted(t *testing.T) {
	x := newTxnLog(t)
	x.begin(txnBatch{id: 7}, true)
	marker := protocol.AppendControlBatch(nil, protocol.ControlParams{
		TimestampMs: time.Now().UnixMilli(), ProducerID: 7, ProducerEpoch: 1, Type: protocol.ControlCommit,
	})
	_, err := x.l.AppendAsLeader(marker, AppendOptions{Origin: Coordinator, TxnVersion: 2})
	wantErr(t, err, nil)
	x.unstable(0)
	if lso := x.l.LastStableOffset(); lso != 0 {
		t.Fatalf("last stable offset %d while the marker is not committed", lso)
	}
	x.l.SetHighWatermark(2)
	x.unstable(-1)
	if lso := x.l.LastStableOffset(); lso != 2 {
		t.Fatalf("last stable offset %d", lso)
	}
}

// TestStableOffsetIsNotBelowTheLogStart: a reader that was sent to where the deleted part of an open transaction began
// would be told that there is no such offset, and sent there again.
func TestStableOffsetIsNotBelowTheLogStart(t *testing.T) {
	x := newTxnLog(t)
	x.begin(txnBatch{id: 7}, true)
	x.begin(txnBatch{id: 8}, true)
	wantErr(t, x.l.SetLogStartOffset(1), nil)
	if lso := x.l.LastStableOffset(); lso != 1 {
		t.Fatalf("last stable offset %d, the log starts at 1", lso)
	}
	x.begin(txnBatch{id: 9}, true)
	if lso := x.l.LastStableOffset(); lso != 1 {
		t.Fatalf("last stable offset %d, the log starts at 1", lso)
	}
	_, err := x.marker(7, 1, true, 0, 2)
	wantErr(t, err, nil)
	_, err = x.marker(8, 1, true, 0, 2)
	wantErr(t, err, nil)
	if lso := x.l.LastStableOffset(); lso != 2 {
		t.Fatalf("last stable offset %d, a transaction is open from 2 on", lso)
	}
}

// TestMarkerWhereBatchesAreSmall: max.message.bytes that was lowered below the size of a marker keeps no transaction open.
func TestMarkerWhereBatchesAreSmall(t *testing.T) {
	x := newTxnLog(t)
	x.begin(txnBatch{id: 7}, true)
	cfg := x.l.Config()
	cfg.MaxMessageBytes = 1
	x.l.SetConfig(cfg)
	_, err := x.append(txnBatch{id: 7, seq: 1}, AppendOptions{})
	wantErr(t, err, kerr.MessageTooLarge)
	_, err = x.marker(7, 1, true, 0, 2)
	wantErr(t, err, nil)
	x.unstable(-1)
}

// TestAbortedOfASegmentThatGoes: a reader that has records of a segment is told which of them were aborted, though the
// segment was taken away right after the read.
func TestAbortedOfASegmentThatGoes(t *testing.T) {
	fs := vfs.NewMem()
	open := func() (*Manager, *Log) {
		t.Helper()
		m, err := Open(Options{FS: fs, Dirs: []string{"data"}, NodeID: 1})
		if err != nil {
			t.Fatal(err)
		}
		return m, m.Log(TopicPartition{"t", 0})
	}
	m, _ := open()
	l, err := m.CreateLog(TopicPartition{"t", 0}, TopicID{1}, DefaultLogConfig())
	if err != nil {
		t.Fatal(err)
	}
	x := &txnLog{t, l}
	x.begin(txnBatch{id: 8}, true)
	_, err = x.marker(8, 1, false, 5, 2)
	wantErr(t, err, nil)
	l.SetHighWatermark(l.LogEndOffset())
	l.hk.Lock()
	err = l.forceRoll(time.Now())
	l.hk.Unlock()
	wantErr(t, err, nil)
	wantErr(t, m.Close(t.Context()), nil)
	for _, loaded := range []bool{false, true} {
		m, l := open()
		if loaded {
			if _, err := l.AbortedTxns(0, 1); err != nil {
				t.Fatal(err)
			}
		}
		s, err := l.Read(0, 1<<20, l.LogEndOffset(), true)
		wantErr(t, err, nil)
		before := fs.KillClone()
		if loaded {
			wantErr(t, m.DeleteLog(l.TopicPartition()), nil)
		} else if n, err := l.applyRetention(time.Now().Add(1000 * time.Hour)); n == 0 || err != nil {
			t.Fatalf("%d segments went, %v", n, err)
		}
		if aborted, err := s.Aborted(); err != nil || len(aborted) != 1 || aborted[0] != (AbortedTxn{8, 0}) {
			t.Errorf("loaded %v: aborted %v, %v", loaded, aborted, err)
		}
		s.Release()
		fs = before
	}
}
