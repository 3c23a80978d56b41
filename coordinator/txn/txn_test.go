package txn

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/runtime"
)

func TestCommitOfBothVersions(t *testing.T) {
	for version, after := range map[int16]string{0: "CompleteCommit 1001/0", V2: "CompleteCommit 1001/1"} {
		w := newWorld(t)
		p := w.mustInit("x")
		w.want("x", "Empty 1001/0")
		want(t, w.add("x", p, version, a0, b0), nil)
		want(t, w.add("x", p, version, a0, a1), nil)
		w.want("x", "Ongoing 1001/0")
		next, err := w.end("x", p, version, true)
		want(t, err, nil)
		markers := w.takeEffects()
		if len(markers) != 1 || !markers[0].Commit || len(markers[0].Partitions) != 3 || markers[0].Version != version {
			t.Fatalf("markers %+v", markers)
		}
		if version >= V2 && (next.epoch != 1 || markers[0].Epoch != 1) || version < V2 && markers[0].Epoch != 0 {
			t.Fatalf("next %v, markers %+v", next, markers)
		}
		w.complete(markers[0])
		w.want("x", after)
	}
}

// The first record must not be written before the transaction is durable: the
// answer to AddPartitions waits for its record (redpanda#6018).
func TestAnswerToAddWaitsForTheTransactionToBeDurable(t *testing.T) {
	w := newWorld(t)
	p := w.mustInit("x")
	w.commits = false
	ticket := w.startAdd("x", p, V2, 0, a0)
	want(t, w.added(ticket), errNotYet)
	verify := w.call(func(t runtime.Ticket) runtime.Result {
		return w.s.AddPartitions(w.now, t, AddPartitions{TransactionalID: "x", ProducerID: p.id, Epoch: p.epoch, Partitions: []TopicPartition{a0}, VerifyOnly: true})
	})
	want(t, w.added(verify), errNotYet) // what it saw may be lost
	w.commit(len(w.log))
	want(t, w.added(ticket), nil)
	want(t, w.added(verify), nil)
}

// If the record is lost with the coordinator, so is the transaction, and nobody
// was told of it.
func TestLostAddIsNoTransaction(t *testing.T) {
	w := newWorld(t)
	p := w.mustInit("x")
	w.commits = false
	ticket := w.startAdd("x", p, V2, 0, a0)
	w.load()
	want(t, w.added(ticket), errNotYet)
	w.want("x", "Empty 1001/0")
	w.commits = true
	want(t, w.verify("x", p, a0), kerr.TransactionAbortable)
}

// Prepare is the decision: no marker before it is committed.
func TestMarkersWaitForTheDecision(t *testing.T) {
	w := newWorld(t)
	p := w.mustInit("x")
	want(t, w.add("x", p, V2, a0), nil)
	w.commits = false
	_, err := w.end("x", p, V2, true)
	want(t, err, errNotYet)
	if len(w.effects) != 0 {
		t.Fatal("markers before the decision is committed")
	}
	w.load() // and without it
	if len(w.effects) != 0 {
		t.Fatal("markers of a decision that is lost")
	}
	w.want("x", "Ongoing 1001/0")
}

// A new coordinator finishes what the one before decided.
func TestNewCoordinatorSendsMarkersAgain(t *testing.T) {
	w := newWorld(t)
	p := w.mustInit("x")
	want(t, w.add("x", p, V2, a0, b0), nil)
	_, err := w.end("x", p, V2, false)
	want(t, err, nil)
	first := w.takeEffects()
	w.load()
	again := w.takeEffects()
	if len(again) != 1 || again[0].Epoch != first[0].Epoch || again[0].Commit || len(again[0].Partitions) != 2 {
		t.Fatalf("%+v, before %+v", again, first)
	}
	w.complete(again[0])
	w.want("x", "CompleteAbort 1001/1")
}

// Two writers of the completion (KAFKA-10080): the second changes nothing, and
// neither does one that is late by a transaction.
func TestOneCompletion(t *testing.T) {
	w := newWorld(t)
	p := w.mustInit("x")
	want(t, w.add("x", p, 0, a0), nil)
	_, err := w.end("x", p, 0, true)
	want(t, err, nil)
	m := w.takeEffects()[0]
	w.complete(m)
	records := len(w.log)
	w.complete(m)
	if len(w.log) != records {
		t.Fatal("completed twice")
	}
	want(t, w.add("x", p, 0, b0), nil)
	w.complete(m)
	w.want("x", "Ongoing 1001/0")
	_, err = w.end("x", p, 0, false)
	want(t, err, nil)
	w.complete(m) // says commit, and this one aborts
	w.want("x", "PrepareAbort 1001/0")
	w.completeAll()
	w.want("x", "CompleteAbort 1001/0")
	for epoch := range int16(2) {
		want(t, w.add("x", producer{1001, epoch}, V2, a0), nil)
		_, err = w.end("x", producer{1001, epoch}, V2, true)
		want(t, err, nil)
		w.complete(m) // of the first transaction, which committed too
		if got := w.s.ids["x"].state; got != PrepareCommit {
			t.Fatalf("%s by a completion of another epoch", got)
		}
		w.completeAll()
	}
}

// A late report of a transaction does not complete the next one, whose markers are
// still to be written, though producer, epoch and outcome are the same.
func TestCompletionOfTheTransactionBefore(t *testing.T) {
	w := newWorld(t)
	p := w.mustInit("x")
	var decided []SendMarkers
	for range 2 {
		want(t, w.add("x", p, 0, a0), nil)
		w.advance(time.Millisecond)
		_, err := w.end("x", p, 0, true)
		want(t, err, nil)
		decided = append(decided, w.takeEffects()...)
		w.complete(decided[0])
	}
	w.want("x", "PrepareCommit 1001/0")
	w.complete(decided[1])
	w.want("x", "CompleteCommit 1001/0")
}

// A delayed EndTxn must not end a later transaction (KAFKA-17754): with version
// 2 it cannot.
func TestDelayedEndTxnEndsNoLaterTransaction(t *testing.T) {
	for _, commit := range []bool{true, false} {
		w := newWorld(t)
		p := w.mustInit("x")
		want(t, w.add("x", p, V2, a0), nil)
		next, err := w.end("x", p, V2, commit)
		want(t, err, nil)
		_, err = w.end("x", p, V2, commit) // markers are under way
		want(t, err, kerr.ConcurrentTransactions)
		_, err = w.end("x", p, V2, !commit)
		want(t, err, kerr.InvalidTxnState)
		w.completeAll()
		again, err := w.end("x", p, V2, commit) // a retry gets what it missed
		want(t, err, nil)
		if again != next {
			t.Fatalf("retry got %v, before %v", again, next)
		}
		want(t, w.add("x", next, V2, b0), nil)
		for _, late := range []bool{true, false} {
			_, err = w.end("x", p, V2, late)
			want(t, err, kerr.ProducerFenced)
		}
		w.want("x", "Ongoing 1001/1")
	}
}

// CONCURRENT_TRANSACTIONS while the last transaction completes (KAFKA-18575).
func TestNextTransactionWhileTheLastCompletes(t *testing.T) {
	w := newWorld(t)
	p := w.mustInit("x")
	want(t, w.add("x", p, V2, a0), nil)
	next, err := w.end("x", p, V2, true)
	want(t, err, nil)
	want(t, w.add("x", next, V2, b0), kerr.ConcurrentTransactions)
	want(t, w.verify("x", next, a0), kerr.ConcurrentTransactions)
	_, err = w.init("x", newProducer)
	want(t, err, kerr.ConcurrentTransactions)
	_, err = w.init("x", next)
	want(t, err, kerr.ConcurrentTransactions)
	want(t, w.add("x", p, V2, b0), kerr.ProducerFenced) // the old epoch needs not wait
	w.completeAll()
	want(t, w.add("x", next, V2, b0), nil)
	w.want("x", "Ongoing 1001/1")
}

// Who has the patience gets its answer when the last transaction completes.
func TestAddWaitsForTheLastTransaction(t *testing.T) {
	w := newWorld(t)
	p := w.mustInit("x")
	want(t, w.add("x", p, V2, a0), nil)
	next, err := w.end("x", p, V2, true)
	want(t, err, nil)
	patient := w.startAdd("x", next, V2, 100*time.Millisecond, b0)
	second := w.startAdd("x", next, V2, 80*time.Millisecond, a1)
	hasty := w.startAdd("x", next, V2, 20*time.Millisecond, a1)
	want(t, w.added(patient), errNotYet)
	w.advance(30 * time.Millisecond)
	want(t, w.added(hasty), kerr.ConcurrentTransactions)
	want(t, w.added(patient), errNotYet)
	w.completeAll()
	want(t, w.added(patient), nil)
	want(t, w.added(second), nil)
	if got := len(w.s.ids["x"].partitions()); got != 2 {
		t.Fatalf("%d partitions, want b-0 and a-1", got)
	}
	w.advance(time.Second)
	w.load()
	w.want("x", "Ongoing 1001/1")
	if got := len(w.s.ids["x"].partitions()); got != 2 {
		t.Fatalf("%d partitions after a load", got)
	}
}

// The epochs of a producer id end: EndTxn continues with another id, whose first
// requests may come before the old one is done (KAFKA-18660).
func TestEpochOverflowAtEndTxn(t *testing.T) {
	w := newWorld(t)
	w.mustInit("x")
	p := producer{1001, math.MaxInt16 - 1}
	w.s.ids["x"].epoch = p.epoch
	want(t, w.add("x", p, V2, a0), nil)
	next, err := w.end("x", p, V2, true)
	want(t, err, nil)
	if next != (producer{1002, 0}) {
		t.Fatalf("continues with %v", next)
	}
	w.want("x", "PrepareCommit 1001/32767")
	_, err = w.end("x", p, V2, true)
	want(t, err, kerr.ConcurrentTransactions)
	want(t, w.add("x", next, V2, b0), kerr.ConcurrentTransactions)
	_, err = w.end("x", next, V2, false)
	want(t, err, kerr.ConcurrentTransactions)
	_, err = w.init("x", next)
	want(t, err, kerr.ConcurrentTransactions)
	w.load()
	m := w.takeEffects()
	if m[len(m)-1].Epoch != math.MaxInt16 || m[len(m)-1].ProducerID != 1001 {
		t.Fatalf("markers %+v", m)
	}
	w.complete(m[len(m)-1])
	w.want("x", "CompleteCommit 1002/0")
	again, err := w.end("x", p, V2, true) // a retry that overlooked all that
	want(t, err, nil)
	if again != next {
		t.Fatalf("retry got %v, want %v", again, next)
	}
	want(t, w.add("x", p, V2, b0), kerr.InvalidProducerIDMapping)
	want(t, w.add("x", next, V2, b0), nil)
	_, err = w.end("x", p, V2, true)
	want(t, err, kerr.InvalidProducerIDMapping)
}

func TestEpochOverflowAtInit(t *testing.T) {
	w := newWorld(t)
	w.mustInit("x")
	last := producer{1001, math.MaxInt16 - 1}
	w.s.ids["x"].epoch = last.epoch
	p, err := w.init("x", last)
	want(t, err, nil)
	if p != (producer{1002, 0}) {
		t.Fatalf("%v", p)
	}
	again, err := w.init("x", last) // a retry
	want(t, err, nil)
	if again != p {
		t.Fatalf("retry got %v, want %v", again, p)
	}
	// Another producer, after which the retry is fenced.
	q, err := w.init("x", newProducer)
	want(t, err, nil)
	if q != (producer{1002, 1}) {
		t.Fatalf("%v", q)
	}
	_, err = w.init("x", last)
	want(t, err, kerr.ProducerFenced)
}

// Fencing never runs out of epochs: the last one is kept for it.
func TestFenceAtTheLastEpoch(t *testing.T) {
	for _, version := range []int16{0, 2} {
		w := newWorld(t)
		w.cfg.Version = func() int16 { return version }
		w.mustInit("x")
		p := producer{1001, math.MaxInt16 - 1}
		w.s.ids["x"].epoch = p.epoch
		want(t, w.add("x", p, 0, a0), nil)
		_, err := w.init("x", newProducer)
		want(t, err, kerr.ConcurrentTransactions)
		m := w.takeEffects()
		if len(m) != 1 || m[0].Epoch != math.MaxInt16 || m[0].Commit {
			t.Fatalf("markers %+v", m)
		}
		w.complete(m[0])
		q, err := w.init("x", newProducer)
		want(t, err, nil)
		if q != (producer{1002, 0}) {
			t.Fatalf("%v", q)
		}
	}
}

// Who was fenced with the last epoch may go on with version 2, but not in that
// epoch: its transactions could not be ended, because there is none above it
// that their markers could have.
func TestNobodyHasTheLastEpoch(t *testing.T) {
	ways := map[string]func(w *world, p producer) (producer, error){
		"InitProducerId": func(w *world, p producer) (producer, error) { return w.init("x", p) },
		"EndTxn":         func(w *world, p producer) (producer, error) { return w.end("x", p, V2, false) },
	}
	for name, goOn := range ways {
		w := newWorld(t)
		w.mustInit("x")
		p := producer{1001, math.MaxInt16 - 1}
		w.s.ids["x"].epoch = p.epoch
		want(t, w.add("x", p, V2, a0), nil)
		w.advance(2 * time.Minute) // beyond its timeout
		w.want("x", "PrepareAbort 1001/32767")
		w.completeAll()
		q, err := goOn(w, p)
		want(t, err, nil)
		if q != (producer{1002, 0}) {
			t.Fatalf("%s: goes on with %v", name, q)
		}
		retry, err := goOn(w, p)
		want(t, err, nil)
		if retry != q {
			t.Fatalf("%s: retry got %v, want %v", name, retry, q)
		}
		want(t, w.add("x", q, V2, a0), nil)
		if _, err := w.end("x", q, V2, true); err != nil {
			t.Fatal(err)
		}
		if m := w.takeEffects(); len(m) != 1 || m[0].ProducerID != 1002 || m[0].Epoch != 1 {
			t.Fatalf("markers %+v", m)
		}
	}
}

// KIP-360: a producer recovers with the id and epoch that it has, unless another
// came between.
func TestInitOfKnownProducer(t *testing.T) {
	w := newWorld(t)
	p := w.mustInit("x")
	q, err := w.init("x", p)
	want(t, err, nil)
	again, err := w.init("x", p)
	want(t, err, nil)
	if q != (producer{1001, 1}) || again != q {
		t.Fatalf("%v, then %v", q, again)
	}
	r := w.mustInit("x")
	if r != (producer{1001, 2}) {
		t.Fatalf("%v", r)
	}
	for _, old := range []producer{p, q, {1001, 3}, {77, 2}} {
		_, err = w.init("x", old)
		want(t, err, kerr.ProducerFenced)
	}
	// What is not in the log: after a change of coordinators a retry is fenced.
	s, err := w.init("x", r)
	want(t, err, nil)
	w.load()
	_, err = w.init("x", r)
	want(t, err, kerr.ProducerFenced)
	_, err = w.init("x", s)
	want(t, err, nil)
}

func TestFenceOfOngoing(t *testing.T) {
	w := newWorld(t)
	p := w.mustInit("x")
	want(t, w.add("x", p, V2, a0), nil)
	_, err := w.init("x", newProducer)
	want(t, err, kerr.ConcurrentTransactions)
	want(t, w.add("x", p, V2, b0), kerr.ProducerFenced)
	_, err = w.end("x", p, V2, true)
	want(t, err, kerr.InvalidTxnState) // it is being aborted
	w.completeAll()
	q := w.mustInit("x")
	if q != (producer{1001, 2}) {
		t.Fatalf("%v", q)
	}
	_, err = w.end("x", p, V2, true)
	want(t, err, kerr.ProducerFenced)
}

func TestTimeoutAbortsAndFences(t *testing.T) {
	for version, fenced := range map[int16]error{0: kerr.ProducerFenced, V2: kerr.InvalidTxnState} {
		w := newWorld(t)
		p := w.mustInit("x")
		q := w.mustInit("idle")
		want(t, w.add("x", p, version, a0), nil)
		w.advance(60 * time.Second)
		w.want("x", "Ongoing 1001/0")
		w.advance(11 * time.Second)
		w.want("x", "PrepareAbort 1001/1")
		w.want("idle", "Empty 1002/0")
		_, err := w.end("x", p, version, true)
		want(t, err, fenced)
		want(t, w.add("x", p, version, a0), kerr.ProducerFenced)
		w.advance(time.Hour) // once is enough
		if m := w.takeEffects(); len(m) != 1 || m[0].Commit || m[0].Epoch != 1 {
			t.Fatalf("markers %+v", m)
		} else {
			w.complete(m[0])
		}
		w.want("x", "CompleteAbort 1001/1")
		_ = q
	}
}

// A transaction that was begun again has its time again.
func TestTimeoutCountsFromTheFirstPartition(t *testing.T) {
	w := newWorld(t)
	p := w.mustInit("x")
	for range 5 {
		want(t, w.add("x", p, 0, a0), nil)
		w.advance(50 * time.Second)
		_, err := w.end("x", p, 0, true)
		want(t, err, nil)
		w.completeAll()
	}
	want(t, w.add("x", p, 0, a0), nil)
	w.advance(40 * time.Second)
	want(t, w.add("x", p, 0, b0), nil) // does not begin it anew
	w.advance(40 * time.Second)
	w.want("x", "PrepareAbort 1001/1")
}

func TestAbortWithoutTransaction(t *testing.T) {
	w := newWorld(t)
	p := w.mustInit("x")
	_, err := w.end("x", p, V2, true)
	want(t, err, kerr.InvalidTxnState)
	next, err := w.end("x", p, V2, false)
	want(t, err, nil)
	if next.epoch != 1 || len(w.takeEffects()) != 0 {
		t.Fatalf("continues with %v", next)
	}
	w.want("x", "CompleteAbort 1001/1")
	again, err := w.end("x", p, V2, false)
	want(t, err, nil)
	if again != next {
		t.Fatalf("retry got %v", again)
	}
	_, err = w.end("x", next, 0, true)
	want(t, err, kerr.InvalidTxnState)
	w.load()
	w.want("x", "CompleteAbort 1001/1")
}

func TestExpiryOfTransactionalIDs(t *testing.T) {
	w := newWorld(t)
	p := w.mustInit("done")
	want(t, w.add("done", p, 0, a0), nil)
	_, err := w.end("done", p, 0, true)
	want(t, err, nil)
	w.completeAll()
	q := w.mustInit("stuck")
	want(t, w.add("stuck", q, 0, a0), nil)
	_, err = w.end("stuck", q, 0, true)
	want(t, err, nil)
	w.advance(7*24*time.Hour - time.Hour)
	r := w.mustInit("young")
	w.want("done", "CompleteCommit 1001/0")
	w.advance(2 * time.Hour)
	w.want("done", "none")
	w.want("stuck", "PrepareCommit 1002/0") // it has to end first
	w.want("young", "Empty 1003/0")
	w.load()
	w.want("done", "none")
	// Who comes back has lost nothing: it gets an id that nobody had.
	p, err = w.init("done", p)
	want(t, err, nil)
	if p != (producer{1004, 0}) {
		t.Fatalf("%v", p)
	}
	_ = r
}

func TestTooManyPartitions(t *testing.T) {
	w := newWorld(t)
	w.cfg.MaxRecordBytes = 200
	p := w.mustInit("x")
	var n int
	for ; n < 100; n++ {
		if err := w.add("x", p, V2, TopicPartition{"topic", int32(n)}); err != nil {
			want(t, err, kerr.MessageTooLarge)
			break
		}
	}
	if n < 10 || n == 100 {
		t.Fatalf("%d partitions in 200 bytes", n)
	}
	_, err := w.end("x", p, V2, true)
	want(t, err, nil)
	if m := w.takeEffects(); len(m[0].Partitions) != n {
		t.Fatalf("%d markers for %d partitions", len(m[0].Partitions), n)
	}
}

// Before transaction.version is finalized the records are those that older
// versions of Kafka read.
// What is due at once may be more than one append takes: all of it happens, or
// else none would ever.
func TestMoreThanOneAppendTakes(t *testing.T) {
	for _, version := range []int16{0, V2} {
		w := newWorld(t)
		w.batch, w.cfg.IDExpiration = 2048, time.Hour
		ids := make([]string, 100)
		for i := range ids {
			ids[i] = fmt.Sprint("x", i)
			want(t, w.add(ids[i], w.mustInit(ids[i]), version, a0, a1, b0), nil)
		}
		w.advance(2 * time.Minute) // beyond the timeout of all
		for _, id := range ids {
			if tx := w.s.ids[id]; tx.state != PrepareAbort {
				t.Fatalf("transaction of %q is %s after its timeout", id, tx.state)
			}
		}
		if m := w.takeEffects(); len(m) != len(ids) {
			t.Fatalf("markers of %d transactions, want %d", len(m), len(ids))
		} else {
			for _, m := range m {
				w.complete(m)
			}
		}
		w.advance(w.cfg.IDExpiration + 2*w.cfg.ExpirationInterval)
		if n := len(w.s.ids); n != 0 {
			t.Fatalf("%d transactional ids did not expire", n)
		}
	}
}

// The same for what waited for a transaction to complete: were its completion
// refused with them, it would hang.
func TestCompletionWithManyWhoWait(t *testing.T) {
	w := newWorld(t)
	w.batch, w.cfg.MaxRecordBytes = 2048, 1024
	p := w.mustInit("x")
	want(t, w.add("x", p, V2, a0), nil)
	next, err := w.end("x", p, V2, true)
	want(t, err, nil)
	m := w.takeEffects()
	topic := strings.Repeat("t", 249)
	var waiting []runtime.Ticket
	for i := range 10 {
		for j := range 20 {
			waiting = append(waiting, w.startAdd("x", next, V2, time.Second, TopicPartition{topic, int32(20*i + j)}))
		}
	}
	w.complete(m[0])
	for _, ticket := range waiting {
		if err := w.added(ticket); err != nil && !errors.Is(err, kerr.MessageTooLarge) {
			t.Fatal(err)
		}
	}
	if tx := w.s.ids["x"]; tx.state != Ongoing || len(tx.partitions()) < 100 {
		t.Fatalf("%s with %d partitions", tx.state, len(tx.partitions()))
	}
}

func TestRecordVersions(t *testing.T) {
	for level, version := range map[int16]int16{0: 0, 1: 1, 2: 1} {
		w := newWorld(t)
		w.cfg.Version = func() int16 { return level }
		p := w.mustInit("x")
		want(t, w.add("x", p, 0, a0, a1, b0), nil)
		for i, r := range w.log {
			k, v := kmsg.NewTxnMetadataKey(), kmsg.NewTxnMetadataValue()
			if err := k.ReadFrom(r.Key); err != nil || k.Version != 0 || k.TransactionalID != "x" {
				t.Fatalf("record %d: key %+v, %v", i, k, err)
			}
			if err := v.ReadFrom(r.Value); err != nil || v.Version != version {
				t.Fatalf("record %d: value %+v, %v", i, v, err)
			}
			if (v.Topics == nil) != (v.State == Empty) {
				t.Fatalf("record %d in %s: topics %v", i, v.State, v.Topics)
			}
		}
		before := w.state("x")
		w.load()
		w.want("x", before)
	}
}

func TestReplayRefusesWhatIsCorrupt(t *testing.T) {
	bad := kmsg.NewTxnMetadataValue()
	bad.State = PrepareEpochFence
	future := kmsg.NewTxnMetadataValue()
	future.Version = 7
	for name, r := range map[string]runtime.Record{
		"short key":         {Key: []byte{0}},
		"cut key":           {Key: []byte{0, 0, 0, 9, 'x'}},
		"cut value":         {Key: recordKey("x"), Value: []byte{0, 0, 1}},
		"impossible state":  {Key: recordKey("x"), Value: bad.AppendTo(nil)},
		"version of values": {Key: recordKey("x"), Value: future.AppendTo(nil)},
	} {
		if err := NewShard(newWorld(t).cfg, nil).Replay(0, nil, r); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	s := NewShard(newWorld(t).cfg, nil)
	if err := s.Replay(0, nil, runtime.Record{Key: []byte{0, 9, 1, 2, 3}, Value: []byte{1}}); err != nil {
		t.Errorf("a key of a later version is not skipped: %v", err)
	}
	if err := s.ReplayMarker(0, runtime.Marker{}); err != nil {
		t.Errorf("a marker, which ends nothing here, is not skipped: %v", err)
	}
}

func BenchmarkReplay(b *testing.B) {
	w := newWorld(b)
	p := w.mustInit("x")
	for range 10 {
		if err := w.add("x", p, V2, a0, b0); err != nil {
			b.Fatal(err)
		}
		var err error
		if p, err = w.end("x", p, V2, true); err != nil {
			b.Fatal(err)
		}
		w.completeAll()
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if err := w.s.Replay(0, nil, w.log[i%len(w.log)]); err != nil {
			b.Fatal(err)
		}
	}
}
