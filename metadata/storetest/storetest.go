// Package storetest is the contract of metadata.Store as tests: each
// implementation runs it on itself.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"pgregory.net/rapid"
)

// Subject is a store under test, empty at first, with what the contract leaves
// to others.
type Subject struct {
	Store metadata.Store
	// Compact forgets the history up to a revision, inclusive.
	Compact func(t *testing.T, revision int64)
	// Pass lets so much time pass that a lease of ttl runs out.
	Pass func(t *testing.T, ttl time.Duration)
	// Cut breaks the connections between the store and what is behind it;
	// nil where there are none.
	Cut func(t *testing.T)
	// Reopen closes the store and opens it on the same data; nil where
	// there is none.
	Reopen func(t *testing.T) metadata.Store
}

// Run runs the contract. open returns a new subject, which it closes at the
// end of t.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s Subject)
	}{
		{"Txn", testTxn},
		{"TxnBounds", testTxnBounds},
		{"Get", testGet},
		{"GetLarge", testGetLarge},
		{"Watch", testWatch},
		{"WatchOrder", testWatchOrder},
		{"WatchLargeRevision", testWatchLargeRevision},
		{"WatchCompacted", testWatchCompacted},
		{"WatchEnds", testWatchEnds},
		{"WatchCut", testWatchCut},
		{"Lease", testLease},
		{"LeaseRevoked", testLeaseRevoked},
		{"CompareAndSetRace", testRace},
		{"Model", testModel},
		{"Reopen", testReopen},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

func ctxOf(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func put(key, value string) metadata.Op { return metadata.Op{Key: key, Value: []byte(value)} }

func del(key string) metadata.Op { return metadata.Op{Kind: metadata.OpDelete, Key: key} }

func modIs(key string, revision int64) metadata.Compare {
	return metadata.Compare{Key: key, Revision: revision}
}

func createIs(key string, revision int64) metadata.Compare {
	return metadata.Compare{Key: key, Target: metadata.CreateRevision, Revision: revision}
}

// must commits a transaction that succeeds and returns its revision.
func must(t testing.TB, s metadata.Store, txn metadata.Txn) int64 {
	t.Helper()
	r, err := s.Txn(ctxOf(t), txn)
	if err != nil || !r.Succeeded {
		t.Fatalf("txn %v: %+v, %v", txn, r, err)
	}
	return r.Revision
}

func refused(t testing.TB, s metadata.Store, txn metadata.Txn) {
	t.Helper()
	r, err := s.Txn(ctxOf(t), txn)
	if err != nil || r.Succeeded {
		t.Fatalf("txn %v: %+v, %v, want a refusal", txn, r, err)
	}
}

// get returns one key, the zero KV if it is absent.
func get(t testing.TB, s metadata.Store, key string) metadata.KV {
	t.Helper()
	kvs, _, err := s.Get(ctxOf(t), key)
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range kvs {
		if kv.Key == key {
			return kv
		}
	}
	return metadata.KV{}
}

func testTxn(t *testing.T, sub Subject) {
	s := sub.Store
	first := must(t, s, metadata.Txn{
		If:   []metadata.Compare{modIs("a", 0), createIs("a", 0)},
		Then: []metadata.Op{put("a", "1"), put("b", "1")},
	})
	for _, key := range []string{"a", "b"} {
		kv := get(t, s, key)
		if string(kv.Value) != "1" || kv.CreateRevision != first || kv.ModRevision != first {
			t.Fatalf("%+v, want revision %d", kv, first)
		}
	}
	refused(t, s, metadata.Txn{If: []metadata.Compare{modIs("a", 0)}, Then: []metadata.Op{put("a", "2")}})
	refused(t, s, metadata.Txn{If: []metadata.Compare{modIs("a", first), modIs("c", first)}, Then: []metadata.Op{put("a", "2")}})
	second := must(t, s, metadata.Txn{
		If:   []metadata.Compare{modIs("a", first), createIs("a", first), modIs("c", 0)},
		Then: []metadata.Op{put("a", "2"), del("b"), del("none")},
	})
	if second <= first {
		t.Errorf("revision %d after %d", second, first)
	}
	if kv := get(t, s, "a"); string(kv.Value) != "2" || kv.CreateRevision != first || kv.ModRevision != second {
		t.Errorf("%+v", kv)
	}
	if kv := get(t, s, "b"); kv.Key != "" {
		t.Errorf("b is still there: %+v", kv)
	}
	// A key that comes back is a new one.
	third := must(t, s, metadata.Txn{If: []metadata.Compare{modIs("b", 0)}, Then: []metadata.Op{put("b", "3")}})
	if kv := get(t, s, "b"); kv.CreateRevision != third {
		t.Errorf("%+v", kv)
	}
	// No compare always holds; nothing changed is no new revision.
	if r := must(t, s, metadata.Txn{Then: []metadata.Op{del("none")}}); r != third {
		t.Errorf("revision %d after deleting nothing at %d", r, third)
	}
	must(t, s, metadata.Txn{Then: []metadata.Op{put("p/1", "x"), put("p/2", "x"), put("q", "x")}})
	must(t, s, metadata.Txn{Then: []metadata.Op{{Kind: metadata.OpDeletePrefix, Key: "p/"}, put("q", "y")}})
	if kvs, _, err := s.Get(ctxOf(t), "p/"); err != nil || len(kvs) != 0 {
		t.Errorf("left: %v, %v", kvs, err)
	}
}

func testTxnBounds(t *testing.T, sub Subject) {
	s := sub.Store
	limits := s.Limits()
	ops := func(n int, value string) (ops []metadata.Op) {
		for i := range n {
			ops = append(ops, put(fmt.Sprintf("k%06d", i), value))
		}
		return ops
	}
	must(t, s, metadata.Txn{Then: ops(limits.Ops, "x")})
	value := strings.Repeat("v", limits.Bytes/limits.Ops-16)
	must(t, s, metadata.Txn{Then: ops(limits.Ops, value)})
	for name, txn := range map[string]metadata.Txn{
		"operations": {Then: ops(limits.Ops+1, "x")},
		"compares":   {If: make([]metadata.Compare, limits.Ops+1), Then: ops(1, "x")},
		"bytes":      {Then: ops(2, strings.Repeat("v", limits.Bytes/2))},
	} {
		if _, err := s.Txn(ctxOf(t), txn); !errors.Is(err, metadata.ErrTxnTooLarge) {
			t.Errorf("%s over the limit: %v", name, err)
		}
	}
	for name, txn := range map[string]metadata.Txn{
		"twice":  {Then: []metadata.Op{put("a", "1"), del("a")}},
		"prefix": {Then: []metadata.Op{{Kind: metadata.OpDeletePrefix, Key: "a"}, put("ab", "1")}},
	} {
		if r, err := s.Txn(ctxOf(t), txn); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func testGet(t *testing.T, sub Subject) {
	s := sub.Store
	revision := must(t, s, metadata.Txn{Then: []metadata.Op{put("b/2", "2"), put("a", "a"), put("b/1", "1"), put("c", "c"), put("b", "b")}})
	kvs, at, err := s.Get(ctxOf(t), "b/")
	if err != nil || at != revision || len(kvs) != 2 || kvs[0].Key != "b/1" || kvs[1].Key != "b/2" {
		t.Errorf("%v at %d, %v", kvs, at, err)
	}
	if kvs, _, err := s.Get(ctxOf(t), ""); err != nil || len(kvs) != 5 || kvs[0].Key != "a" || kvs[4].Key != "c" {
		t.Errorf("%v, %v", kvs, err)
	}
	if kvs, at, err := s.Get(ctxOf(t), "none"); err != nil || len(kvs) != 0 || at != revision {
		t.Errorf("%v at %d, %v", kvs, at, err)
	}
	// The bytes given out are the store's own or copies, never the caller's.
	value := []byte("before")
	must(t, s, metadata.Txn{Then: []metadata.Op{{Key: "a", Value: value}}})
	copy(value, "after!")
	if kv := get(t, s, "a"); string(kv.Value) != "before" {
		t.Errorf("%q", kv.Value)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := s.Get(ended, ""); err == nil {
		t.Error("no error from an ended context")
	}
}

// testGetLarge lists more than stores answer with at once.
func testGetLarge(t *testing.T, sub Subject) {
	s := sub.Store
	const total = 12000
	var last int64
	for i := 0; i < total; {
		var ops []metadata.Op
		for len(ops) < s.Limits().Ops && i < total {
			ops = append(ops, put(fmt.Sprintf("k/%06d", i), "v"))
			i++
		}
		last = must(t, s, metadata.Txn{Then: ops})
	}
	kvs, at, err := s.Get(ctxOf(t), "k/")
	if err != nil || len(kvs) != total || at != last {
		t.Fatalf("%d keys at %d, want %d at %d: %v", len(kvs), at, total, last, err)
	}
	for i, kv := range kvs {
		if want := fmt.Sprintf("k/%06d", i); kv.Key != want {
			t.Fatalf("key %d is %s", i, kv.Key)
		}
	}
}

// take returns the next events, waiting for them.
func take(t testing.TB, w metadata.Watcher) []metadata.Event {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		events, err := w.Take()
		if err != nil {
			t.Fatal(err)
		}
		if len(events) > 0 {
			return events
		}
		select {
		case <-w.Ready():
		case <-timeout:
			t.Fatal("no events")
		}
	}
}

// takeUntil returns the events up to a revision.
func takeUntil(t testing.TB, w metadata.Watcher, revision int64) []metadata.Event {
	t.Helper()
	var all []metadata.Event
	for len(all) == 0 || all[len(all)-1].ModRevision < revision {
		all = append(all, take(t, w)...)
	}
	return all
}

func describe(events []metadata.Event) string {
	var b strings.Builder
	for _, e := range events {
		if e.Deleted {
			fmt.Fprintf(&b, "-%s ", e.Key)
		} else {
			fmt.Fprintf(&b, "%s=%s ", e.Key, e.Value)
		}
	}
	return strings.TrimSpace(b.String())
}

func testWatch(t *testing.T, sub Subject) {
	s := sub.Store
	r1 := must(t, s, metadata.Txn{Then: []metadata.Op{put("a/1", "1"), put("b", "1")}})
	r2 := must(t, s, metadata.Txn{Then: []metadata.Op{put("a/2", "2")}})
	// From the past on, of a prefix.
	w := s.Watch(context.Background(), "a/", r1)
	defer w.Close()
	if got := describe(takeUntil(t, w, r2)); got != "a/1=1 a/2=2" {
		t.Errorf("history: %s", got)
	}
	// And what comes.
	must(t, s, metadata.Txn{Then: []metadata.Op{put("b", "2")}})
	r3 := must(t, s, metadata.Txn{Then: []metadata.Op{put("a/1", "3"), del("a/2"), del("a/none")}})
	events := takeUntil(t, w, r3)
	if got := describe(events); got != "a/1=3 -a/2" {
		t.Errorf("%s", got)
	}
	for _, e := range events {
		if e.ModRevision != r3 || !e.Deleted && e.CreateRevision != r1 {
			t.Errorf("%+v", e)
		}
	}
	if events, err := w.Take(); len(events) > 0 || err != nil {
		t.Errorf("%v, %v", events, err)
	}
	// From the future on: nothing of before.
	late := s.Watch(context.Background(), "", r3+2)
	defer late.Close()
	must(t, s, metadata.Txn{Then: []metadata.Op{put("x", "1")}})
	r5 := must(t, s, metadata.Txn{Then: []metadata.Op{put("x", "2")}})
	if got := describe(takeUntil(t, late, r5)); got != "x=2" {
		t.Errorf("from the future: %s", got)
	}
}

// testWatchOrder has many writers and watchers: each watcher sees each revision
// once, whole and in order.
func testWatchOrder(t *testing.T, sub Subject) {
	s := sub.Store
	const writers, each = 4, 50
	start := must(t, s, metadata.Txn{Then: []metadata.Op{put("start", "")}})
	var wg sync.WaitGroup
	for range 3 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			w := s.Watch(context.Background(), "k/", start+1)
			defer w.Close()
			seen, last := 0, start
			for seen < 2*writers*each {
				for _, e := range take(t, w) {
					seen++
					if e.ModRevision < last || seen%2 == 1 && e.ModRevision == last || seen%2 == 0 && e.ModRevision != last {
						t.Errorf("event %d has revision %d after %d", seen, e.ModRevision, last)
						return
					}
					last = e.ModRevision
				}
			}
		}()
	}
	for n := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range each {
				value := fmt.Sprint(i)
				must(t, s, metadata.Txn{Then: []metadata.Op{put(fmt.Sprintf("k/%d", n), value), put(fmt.Sprintf("k/%d-b", n), value)}})
			}
		}()
	}
	wg.Wait()
}

// testWatchLargeRevision deletes more in one revision than fits a message.
func testWatchLargeRevision(t *testing.T, sub Subject) {
	s := sub.Store
	total := 0
	var last int64
	for total < 9000 {
		var ops []metadata.Op
		for range s.Limits().Ops {
			ops = append(ops, put(fmt.Sprintf("%s/%06d", strings.Repeat("long", 40), total), "v"))
			total++
		}
		last = must(t, s, metadata.Txn{Then: ops})
	}
	w := s.Watch(context.Background(), "", last+1)
	defer w.Close()
	gone := must(t, s, metadata.Txn{Then: []metadata.Op{{Kind: metadata.OpDeletePrefix, Key: "long"}}})
	events := take(t, w)
	if len(events) != total || events[0].ModRevision != gone || events[total-1].ModRevision != gone {
		t.Errorf("%d events of %d in the first take", len(events), total)
	}
}

func testWatchCompacted(t *testing.T, sub Subject) {
	s := sub.Store
	first := must(t, s, metadata.Txn{Then: []metadata.Op{put("a", "0")}})
	var last int64
	for i := range 10 {
		last = must(t, s, metadata.Txn{Then: []metadata.Op{put("a", fmt.Sprint(i))}})
	}
	sub.Compact(t, last-1)
	w := s.Watch(context.Background(), "", first)
	defer w.Close()
	if err := awaitError(t, w); !errors.Is(err, metadata.ErrCompacted) {
		t.Fatalf("watch from before the compaction: %v", err)
	}
	// Listing and watching from there goes on.
	kvs, at, err := s.Get(ctxOf(t), "")
	if err != nil || len(kvs) != 1 || at != last {
		t.Fatalf("%v at %d, %v", kvs, at, err)
	}
	again := s.Watch(context.Background(), "", at+1)
	defer again.Close()
	next := must(t, s, metadata.Txn{Then: []metadata.Op{put("b", "1")}})
	if got := describe(takeUntil(t, again, next)); got != "b=1" {
		t.Errorf("%s", got)
	}
}

func awaitError(t testing.TB, w metadata.Watcher) error {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		if _, err := w.Take(); err != nil {
			return err
		}
		select {
		case <-w.Ready():
		case <-timeout:
			t.Fatal("the watch did not end")
		}
	}
}

func testWatchEnds(t *testing.T, sub Subject) {
	s := sub.Store
	ctx, cancel := context.WithCancel(context.Background())
	w := s.Watch(ctx, "", 1)
	defer w.Close()
	cancel()
	if err := awaitError(t, w); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	other := s.Watch(context.Background(), "", 1)
	defer other.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := awaitError(t, other); !errors.Is(err, metadata.ErrClosed) && !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, err := s.Txn(ctxOf(t), metadata.Txn{Then: []metadata.Op{put("a", "1")}}); err == nil {
		t.Error("a closed store took a transaction")
	}
}

func testWatchCut(t *testing.T, sub Subject) {
	if sub.Cut == nil {
		t.Skip("there is no connection to cut")
	}
	s := sub.Store
	start := must(t, s, metadata.Txn{Then: []metadata.Op{put("n", "start")}})
	w := s.Watch(context.Background(), "", start+1)
	defer w.Close()
	want := ""
	for i := range 20 {
		if i%5 == 2 {
			sub.Cut(t)
		}
		want += fmt.Sprintf(" n=%d", i)
		for {
			// A cut leaves open whether the transaction happened: here
			// writing the value twice would show in the watch.
			now := get(t, s, "n")
			if string(now.Value) == fmt.Sprint(i) {
				break
			}
			_, err := s.Txn(ctxOf(t), metadata.Txn{If: []metadata.Compare{modIs("n", now.ModRevision)}, Then: []metadata.Op{put("n", fmt.Sprint(i))}})
			if err == nil {
				break
			}
		}
	}
	end := must(t, s, metadata.Txn{Then: []metadata.Op{put("n", "end")}})
	if got := describe(takeUntil(t, w, end)); " "+got != want+" n=end" {
		t.Errorf("got  %s\nwant%s n=end", got, want)
	}
}

func testLease(t *testing.T, sub Subject) {
	s := sub.Store
	const ttl = time.Second
	grant := func() metadata.LeaseID {
		lease, err := s.Grant(ctxOf(t), ttl)
		if err != nil || lease == 0 {
			t.Fatalf("lease %d, %v", lease, err)
		}
		return lease
	}
	kept, left := grant(), grant()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	lost, err := s.KeepAlive(ctx, kept)
	if err != nil {
		t.Fatal(err)
	}
	start := must(t, s, metadata.Txn{Then: []metadata.Op{
		{Key: "kept", Value: []byte("1"), Lease: kept},
		{Key: "left", Value: []byte("1"), Lease: left},
		{Key: "freed", Value: []byte("1"), Lease: left},
	}})
	if kv := get(t, s, "kept"); kv.Lease != kept {
		t.Errorf("%+v", kv)
	}
	// A put without the lease takes the key off it.
	must(t, s, metadata.Txn{Then: []metadata.Op{put("freed", "2")}})
	w := s.Watch(context.Background(), "", start+2)
	defer w.Close()
	sub.Pass(t, ttl)
	if got := describe(take(t, w)); got != "-left" {
		t.Errorf("ran out: %s", got)
	}
	if get(t, s, "kept").Key == "" || get(t, s, "freed").Key == "" {
		t.Error("a key is gone that should not be")
	}
	select {
	case <-lost:
		t.Error("the lease that was kept alive is lost")
	default:
	}
	// When nobody keeps it alive any more it goes too.
	cancel()
	<-lost
	sub.Pass(t, ttl)
	if got := describe(take(t, w)); got != "-kept" {
		t.Errorf("ran out: %s", got)
	}
	if _, err := s.Txn(ctxOf(t), metadata.Txn{Then: []metadata.Op{{Key: "x", Lease: kept}}}); !errors.Is(err, metadata.ErrLeaseNotFound) {
		t.Errorf("put under a lease that ran out: %v", err)
	}
}

func testLeaseRevoked(t *testing.T, sub Subject) {
	s := sub.Store
	lease, err := s.Grant(ctxOf(t), 3*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	lost, err := s.KeepAlive(ctxOf(t), lease)
	if err != nil {
		t.Fatal(err)
	}
	start := must(t, s, metadata.Txn{Then: []metadata.Op{{Key: "a", Lease: lease}, {Key: "b", Lease: lease}}})
	w := s.Watch(context.Background(), "", start+1)
	defer w.Close()
	if err := s.Revoke(ctxOf(t), lease); err != nil {
		t.Fatal(err)
	}
	if events := take(t, w); len(events) != 2 || events[0].ModRevision != events[1].ModRevision {
		t.Errorf("revoked: %s", describe(events))
	}
	select {
	case <-lost:
	case <-time.After(20 * time.Second):
		t.Error("nobody told that the lease is gone")
	}
	if err := s.Revoke(ctxOf(t), lease); !errors.Is(err, metadata.ErrLeaseNotFound) {
		t.Errorf("revoked again: %v", err)
	}
}

// testRace has many add one to the same value: none may be lost.
func testRace(t *testing.T, sub Subject) {
	s := sub.Store
	var wg sync.WaitGroup
	const writers, each = 8, 10
	for range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for done := 0; done < each; {
				old := get(t, s, "n")
				n := 0
				if old.Key != "" {
					if _, err := fmt.Sscan(string(old.Value), &n); err != nil {
						t.Error(err)
						return
					}
				}
				r, err := s.Txn(ctxOf(t), metadata.Txn{If: []metadata.Compare{modIs("n", old.ModRevision)}, Then: []metadata.Op{put("n", fmt.Sprint(n+1))}})
				if err != nil {
					t.Error(err)
					return
				}
				if r.Succeeded {
					done++
				}
			}
		}()
	}
	wg.Wait()
	if kv := get(t, s, "n"); string(kv.Value) != fmt.Sprint(writers*each) {
		t.Errorf("%s after %d increments", kv.Value, writers*each)
	}
}

// testModel compares a store with a map under random transactions, and what a
// watch tells with what a listing shows.
func testModel(t *testing.T, sub Subject) {
	s := sub.Store
	keys := []string{"a", "a/1", "a/2", "b", "b/1"}
	rapid.Check(t, func(rt *rapid.T) {
		must(t, s, metadata.Txn{Then: []metadata.Op{{Kind: metadata.OpDeletePrefix, Key: ""}}})
		start := must(t, s, metadata.Txn{Then: []metadata.Op{put("start", "")}})
		w := s.Watch(context.Background(), "", start+1)
		defer w.Close()
		model := map[string]metadata.KV{}
		last := start
		for range rapid.IntRange(1, 8).Draw(rt, "txns") {
			var txn metadata.Txn
			holds := true
			for _, k := range rapid.SliceOfNDistinct(rapid.SampledFrom(keys), 0, 2, rapid.ID).Draw(rt, "compares") {
				right := rapid.Bool().Draw(rt, "right")
				c := modIs(k, model[k].ModRevision)
				if rapid.Bool().Draw(rt, "create") {
					c = createIs(k, model[k].CreateRevision)
				}
				if !right {
					c.Revision++
					holds = false
				}
				txn.If = append(txn.If, c)
			}
			for _, k := range rapid.SliceOfNDistinct(rapid.SampledFrom(keys), 1, 4, rapid.ID).Draw(rt, "ops") {
				op := put(k, rapid.StringMatching(`[a-z]{0,5}`).Draw(rt, "value"))
				if rapid.Bool().Draw(rt, "delete") {
					op = del(k)
				}
				txn.Then = append(txn.Then, op)
			}
			r, err := s.Txn(ctxOf(t), txn)
			if err != nil || r.Succeeded != holds {
				rt.Fatalf("%v: %+v, %v, want %v", txn, r, err, holds)
			}
			if !holds {
				continue
			}
			last = max(last, applyModel(model, txn.Then, r.Revision))
		}
		kvs, _, err := s.Get(ctxOf(t), "")
		if err != nil || len(kvs) != len(model)+1 {
			rt.Fatalf("%v, want %v and the start", kvs, model)
		}
		seen := map[string]metadata.KV{}
		if last > start {
			for _, e := range takeUntil(t, w, last) {
				if e.Deleted {
					delete(seen, e.Key)
				} else {
					seen[e.Key] = e.KV
				}
			}
		}
		for _, kv := range kvs {
			if want := model[kv.Key]; kv.Key != "start" && !same(kv, want) {
				rt.Fatalf("%+v, want %+v", kv, want)
			}
			if kv.Key != "start" && !same(kv, seen[kv.Key]) {
				rt.Fatalf("listed %+v, watched %+v", kv, seen[kv.Key])
			}
		}
	})
}

func same(a, b metadata.KV) bool {
	return bytes.Equal(a.Value, b.Value) && a.CreateRevision == b.CreateRevision && a.ModRevision == b.ModRevision
}

// applyModel does ops on the model and returns the revision if they changed it.
func applyModel(model map[string]metadata.KV, ops []metadata.Op, revision int64) int64 {
	changed := int64(0)
	for _, op := range ops {
		old, there := model[op.Key]
		if op.Kind == metadata.OpDelete {
			if there {
				changed = revision
			}
			delete(model, op.Key)
			continue
		}
		changed = revision
		kv := metadata.KV{Key: op.Key, Value: op.Value, CreateRevision: revision, ModRevision: revision}
		if there {
			kv.CreateRevision = old.CreateRevision
		}
		model[op.Key] = kv
	}
	return changed
}

func testReopen(t *testing.T, sub Subject) {
	if sub.Reopen == nil {
		t.Skip("nothing is kept")
	}
	var last int64
	for i := range 20 {
		last = must(t, sub.Store, metadata.Txn{Then: []metadata.Op{put(fmt.Sprintf("k%d", i), "v")}})
	}
	s := sub.Reopen(t)
	kvs, at, err := s.Get(ctxOf(t), "")
	if err != nil || len(kvs) != 20 || at != last {
		t.Fatalf("%d keys at %d after reopening, want 20 at %d: %v", len(kvs), at, last, err)
	}
	next := must(t, s, metadata.Txn{If: []metadata.Compare{modIs("k0", kvs[0].ModRevision)}, Then: []metadata.Op{put("k0", "w")}})
	if next <= last {
		t.Errorf("revision %d after %d", next, last)
	}
}
