package compat

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/gregor-broker/gregor/compat-tests/chaos/check"
	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
	"github.com/gregor-broker/gregor/compat-tests/chaos/proxy"
	"github.com/gregor-broker/gregor/compat-tests/harness"
)

// TestDelayedEndTxn is the case of KIP-890: the network keeps an EndTxn that
// commits while the client's repetition of it gets through, and delivers it
// when the client's next transaction is open.
//
// With the transactions of clients before 4.0 the late request is
// indistinguishable from one that ends the later transaction: both brokers
// commit records that nobody asked to commit, and the checker finds the
// aborted read. With transactions of version 2 each has an epoch of its own,
// and both brokers refuse it.
func TestDelayedEndTxn(t *testing.T) {
	onAll(t, func(t *testing.T, b *harness.Broker) {
		t.Run("version 1", func(t *testing.T) {
			late, findings := delayedEndTxn(t, b, kgo.MaxVersions(kversion.V3_8_0()))
			if late != nil {
				t.Errorf("the late EndTxn: %v, but nothing tells it from a timely one", late)
			}
			if !slices.ContainsFunc(findings, func(f check.Finding) bool { return f.Property == "P5" }) {
				t.Errorf("the checker did not find the aborted read, but %v", findings)
			}
		})
		t.Run("version 2", func(t *testing.T) {
			late, findings := delayedEndTxn(t, b)
			if late == nil {
				t.Error("the late EndTxn of another epoch was accepted")
			}
			t.Logf("the late EndTxn: %v", late)
			if len(findings) > 0 {
				t.Errorf("findings: %v", findings)
			}
		})
	})
}

// delayedEndTxn plays the case and returns how the late request was answered
// and what the checker says of the history.
func delayedEndTxn(t *testing.T, b *harness.Broker, opts ...kgo.Opt) (error, []check.Finding) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	net, err := proxy.New(1, b.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer net.Close()
	release, stranded, answered := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	net.Use(&proxy.Rule{
		Match: proxy.Keys(kmsg.EndTxn), Times: 1, Action: proxy.Strand, Release: release,
		Did: func(*proxy.Request) { close(stranded) },
		Answered: func(frame []byte) {
			// Correlation id, tags, throttle time; then the code.
			if len(frame) < 11 {
				answered <- fmt.Errorf("an answer of %d bytes", len(frame))
				return
			}
			answered <- kerr.ErrorForCode(int16(binary.BigEndian.Uint16(frame[9:])))
		},
	})
	topic := fmt.Sprintf("delayed-endtxn-%d", time.Now().UnixNano())
	client := func(more ...kgo.Opt) *kgo.Client {
		cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(net.Addrs()...)}, more...)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		return cl
	}
	newProducer := func() *kgo.Client {
		return client(append([]kgo.Opt{kgo.TransactionalID(topic), kgo.RecordPartitioner(kgo.ManualPartitioner())}, opts...)...)
	}
	producer := newProducer()
	if r, err := kadm.NewClient(client()).CreateTopic(ctx, 1, 1, nil, topic); err != nil || r.Err != nil {
		t.Fatal(err, r.Err)
	}
	rec, k := history.NewRecorder(), history.Key{Topic: topic}
	begin := func(v int64) *history.Op {
		t.Helper()
		if err := producer.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		o := rec.Begin(history.Op{Process: 1, F: history.Txn, Mops: []history.Mop{{Send: &history.Sent{Key: k, Value: v, Offset: -1}}}})
		r, err := producer.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: fmt.Append(nil, v)}).First()
		if err != nil {
			t.Fatal(err)
		}
		o.Mops[0].Send.Offset = r.Offset
		return o
	}

	first := begin(1)
	if err := producer.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatalf("the commit, which the client repeats: %v", err)
	}
	rec.End(first, history.OK, nil)
	<-stranded
	second := begin(2)
	close(release)
	late := <-answered
	// Whatever the broker now says, this transaction was never to be committed.
	err = producer.EndTransaction(ctx, kgo.TryAbort)
	rec.End(second, history.Fail, err)
	if err != nil {
		t.Logf("the abort: %v", err)
		producer = newProducer()
	}
	third := begin(3)
	if err := producer.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatalf("the third transaction: %v", err)
	}
	rec.End(third, history.OK, nil)

	consumer := client(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	for saw := int64(0); saw != 3; {
		o := rec.Begin(history.Op{Process: 2, F: history.Poll})
		fetches := consumer.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatal("the third transaction does not arrive: ", fetches.Err())
		}
		poll := map[history.Key][]history.Read{}
		fetches.EachRecord(func(r *kgo.Record) {
			saw = int64(r.Value[0] - '0')
			poll[k] = append(poll[k], history.Read{Offset: r.Offset, Value: saw})
		})
		o.Mops = []history.Mop{{Poll: poll}}
		rec.End(o, history.OK, nil)
	}
	return late, check.Run(rec.History(), check.Options{Final: true}).Findings
}
