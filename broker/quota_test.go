package broker

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// A client that waits as long as it is told comes down to its quota, whatever
// the size of what it sends.
func TestRateComesDownToQuota(t *testing.T) {
	const quota = 1000.0
	for _, size := range []float64{1, 10, 333, 5_000, 50_000} {
		r := newRate(11, time.Second)
		now, sent := epoch, 0.0
		for now.Sub(epoch) < 10*time.Minute {
			r.record(now, size)
			sent += size
			wait := r.throttle(now, quota)
			if most := seconds(size/quota + 11); wait > most {
				t.Fatalf("size %v: told to wait %v", size, wait)
			}
			now = now.Add(max(wait, time.Millisecond))
		}
		// The windows forgive what is older than they are, so that more than
		// they hold at once is forgiven in part, as in Kafka.
		most := 1.1 * quota
		if held := 10 * quota; size > held {
			most *= size / (size - held)
		}
		if got := sent / now.Sub(epoch).Seconds(); got > most || got < 0.8*quota {
			t.Errorf("size %v: %v per second, the quota is %v", size, got, quota)
		}
	}
}

func TestRateWindows(t *testing.T) {
	r := newRate(11, time.Second)
	// Ten seconds of quota are free for who was quiet; then it has to wait for
	// what is above.
	r.record(epoch, 10_000)
	if w := r.throttle(epoch, 1000); w != 0 {
		t.Errorf("at the quota: %v", w)
	}
	r.record(epoch, 2000)
	if w := r.throttle(epoch, 1000); w != 2*time.Second {
		t.Errorf("2000 above 1000/s: %v, want 2s", w)
	}
	if got, span := r.measure(epoch.Add(2500 * time.Millisecond)); span != 10500*time.Millisecond || math.Abs(got-12_000/10.5) > 0.001 {
		t.Errorf("%v over %v", got, span)
	}
	if got, _ := r.measure(epoch.Add(11 * time.Second)); got != 0 {
		t.Errorf("after all windows: %v", got)
	}
}

func TestBucket(t *testing.T) {
	b := bucket{burst: 11 * time.Second}
	const quota = 2.0
	if !b.take(epoch, quota, 22, true) || b.throttle(epoch, quota) != 0 {
		t.Error("the burst was refused")
	}
	if !b.take(epoch, quota, 5, true) {
		t.Error("an empty bucket refuses; only one below zero should")
	}
	if w := b.throttle(epoch, quota); w != 2500*time.Millisecond {
		t.Errorf("5 tokens owed at 2/s: %v", w)
	}
	if b.take(epoch.Add(time.Second), quota, 1, true) {
		t.Error("taken below zero")
	}
	if !b.take(epoch.Add(time.Second), quota, 1, false) {
		t.Error("refused although not strict")
	}
	if !b.take(epoch.Add(4*time.Second), quota, 1, true) {
		t.Error("refused although filled up")
	}
	b.refill(epoch.Add(time.Hour), quota)
	if b.tokens != 22 {
		t.Errorf("%v tokens, want no more than the burst", b.tokens)
	}
}

// Meters that remember nothing go; who still holds one gets the new one.
func TestMetersAreDropped(t *testing.T) {
	q := newQuotas(&Options{QuotaWindows: 11, QuotaWindow: time.Second, MutationQuotaWindows: 11, MutationQuotaWindow: time.Second})
	client := func(n int) metadata.QuotaEntity {
		return metadata.QuotaEntity{Client: metadata.QuotaName{Given: true, Name: fmt.Sprint(n)}}
	}
	old := bound{key: metadata.QuotaProducerBytes, quota: 1, sharer: client(0)}
	old.charge(q, epoch, 100)
	for n := range 5000 {
		b := bound{key: metadata.QuotaProducerBytes, quota: 1, sharer: client(n + 1)}
		b.charge(q, epoch.Add(time.Duration(n)*100*time.Millisecond), 100)
	}
	if len(q.meters) > 2*minSweep {
		t.Errorf("%d meters", len(q.meters))
	}
	late := epoch.Add(time.Hour)
	if was := old.m; old.charge(q, late, 100) == 0 || old.m == was {
		t.Error("a dropped meter still counts")
	}
	again := bound{key: metadata.QuotaProducerBytes, quota: 1, sharer: client(0)}
	if again.charge(q, late, 0); again.m != old.m {
		t.Error("two meters for one quota")
	}
}

// setQuota sets one quota, or removes it with 0. The entity's parts are type,
// name; the name "" is the default.
func (b *testBroker) setQuota(key string, value float64, entity ...string) {
	b.t.Helper()
	a := metadata.QuotaAlteration{Ops: []metadata.QuotaOp{{Key: key, Value: value, Remove: value == 0}}}
	for i := 0; i < len(entity); i += 2 {
		p := metadata.QuotaPart{Type: entity[i]}
		if entity[i+1] != "" {
			p.Name = &entity[i+1]
		}
		a.Entity = append(a.Entity, p)
	}
	res, err := b.controller.AlterQuotas(b.t.Context(), []metadata.QuotaAlteration{a}, func(string) bool { return true }, false)
	if err != nil || res[0].Err != nil {
		b.t.Fatal(err, res)
	}
}

// A producer above its quota gets its answer at once, is told for how long it
// is held up, and then is.
func TestProducerIsHeldUp(t *testing.T) {
	b := startBroker(t, nil)
	id := b.createTopic("t", 1, nil)
	c := b.dial()
	produce := func() (int32, time.Duration) {
		start := time.Now()
		req := addRecords(produceRequest(9, 1), "t", id, 0, records(protocol.BatchParams{}, 1, 10_000))
		return c.ask(req).(*kmsg.ProduceResponse).ThrottleMillis, time.Since(start)
	}
	if ms, _ := produce(); ms != 0 {
		t.Fatalf("held up without a quota: %d ms", ms)
	}
	b.setQuota(metadata.QuotaProducerBytes, 1000, "user", "ANONYMOUS")
	if ms, _ := produce(); ms > 200 {
		t.Errorf("10 kB at 1 kB/s are within 11 windows: %d ms", ms)
	}
	b.setQuota(metadata.QuotaProducerBytes, 20_000, "user", "ANONYMOUS", "client-id", "")
	var told int32
	var answered time.Duration
	for n := 0; told == 0 && n < 40; n++ {
		told, answered = produce()
	}
	if told == 0 || told > 1000 || answered > time.Second {
		t.Fatalf("told to wait %d ms after %v", told, answered)
	}
	b.setQuota(metadata.QuotaProducerBytes, 0, "user", "ANONYMOUS", "client-id", "")
	b.setQuota(metadata.QuotaProducerBytes, 0, "user", "ANONYMOUS")
	if ms, took := produce(); ms != 0 || took < time.Duration(told)*time.Millisecond/2 {
		t.Errorf("answered after %v with %d ms, was to be held up for %d ms", took, ms, told)
	}
}

// What another broker hands on was counted there, and its connection is not held up.
func TestHandedOnIsNotCounted(t *testing.T) {
	b := startBroker(t, nil)
	id := b.createTopic("t", 1, nil)
	c := b.dial()
	b.setQuota(metadata.QuotaProducerBytes, 100, "client-id", "")
	produce := func(handedOn bool) int32 {
		req := addRecords(produceRequest(13, 1), "t", id, 0, records(protocol.BatchParams{}, 1, 10_000))
		if handedOn {
			req.UnknownTags.Set(29_551, nil)
		}
		return c.ask(req).(*kmsg.ProduceResponse).ThrottleMillis
	}
	if ms := produce(true); ms != 0 {
		t.Errorf("a broker was held up for %d ms", ms)
	}
	if ms := produce(false); ms == 0 {
		t.Error("a client was not held up")
	}
}

// Shutting down does not wait for clients that are held up.
func TestShutdownEndsThrottling(t *testing.T) {
	b := startBroker(t, nil)
	id := b.createTopic("t", 1, nil)
	b.setQuota(metadata.QuotaProducerBytes, 1, "client-id", "")
	c := b.dial()
	req := addRecords(produceRequest(9, 1), "t", id, 0, records(protocol.BatchParams{}, 1, 100_000))
	if ms := c.ask(req).(*kmsg.ProduceResponse).ThrottleMillis; ms < 10_000 {
		t.Fatalf("%d ms", ms)
	}
	start := time.Now()
	if err := b.s.Shutdown(t.Context()); err != nil || time.Since(start) > 5*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

func TestConsumerIsHeldUp(t *testing.T) {
	b := startBroker(t, nil)
	id := b.createTopic("t", 1, nil)
	c := b.dial()
	for range 20 {
		c.produce(9, 1, "t", id, 0, records(protocol.BatchParams{}, 1, 10_000))
	}
	b.setQuota(metadata.QuotaConsumerBytes, 2000, "user", "")
	fetch := func() *kmsg.FetchResponse {
		r := fetchRequest(12)
		r.MaxBytes = 1 << 20
		addFetch(r, "t", id, 0, 0)
		return c.fetch(r)
	}
	resp := fetch()
	if n := len(resp.Topics[0].Partitions[0].RecordBatches); n == 0 || n > 2000*10+10_200 {
		t.Errorf("%d bytes, the quota allows 20,000 in all windows", n)
	}
	if resp.ThrottleMillis > 11_000 {
		t.Errorf("%d ms", resp.ThrottleMillis)
	}
}

func TestControllerMutationRate(t *testing.T) {
	b := startBroker(t, nil)
	b.setQuota(metadata.QuotaMutations, 0.5, "user", "ANONYMOUS")
	c := b.dial()
	create := func(version int16, names ...string) *kmsg.CreateTopicsResponse {
		r := kmsg.NewPtrCreateTopicsRequest()
		r.Version, r.TimeoutMillis = version, 10_000
		for _, n := range names {
			topic := kmsg.NewCreateTopicsRequestTopic()
			topic.Topic, topic.NumPartitions, topic.ReplicationFactor = n, 6, 1
			r.Topics = append(r.Topics, topic)
		}
		return c.ask(r).(*kmsg.CreateTopicsResponse)
	}
	// 5.5 tokens: the first topic takes 6, the second finds none.
	resp := create(7, "a", "b")
	codes := map[string]int16{}
	for _, topic := range resp.Topics {
		codes[topic.Topic] = topic.ErrorCode
	}
	if codes["a"] != 0 || codes["b"] != kerr.ThrottlingQuotaExceeded.Code {
		t.Errorf("%v", codes)
	}
	if resp.ThrottleMillis <= 0 || resp.ThrottleMillis > 1000 {
		t.Errorf("%d ms, owed half a token at half a token a second", resp.ThrottleMillis)
	}
	// A topic that could not be created costs nothing, and old clients are only
	// held up.
	b.setQuota(metadata.QuotaMutations, 1000, "user", "ANONYMOUS")
	if resp := create(7, "a"); resp.Topics[0].ErrorCode != kerr.TopicAlreadyExists.Code {
		t.Errorf("%+v", resp)
	}
	if resp := create(5, "c"); resp.Topics[0].ErrorCode != 0 {
		t.Errorf("%+v", resp)
	}
}

func TestRequestPercentage(t *testing.T) {
	b := startBroker(t, nil)
	b.setQuota(metadata.QuotaRequestPercent, 0.0001, "client-id", "")
	c := b.dial()
	var told int32
	// Some kernels count a thread's time in ticks of 10 ms.
	for end := time.Now().Add(20 * time.Second); told == 0 && time.Now().Before(end); {
		told = c.ask(apiVersionsRequest(3)).(*kmsg.ApiVersionsResponse).ThrottleMillis
	}
	if told == 0 || told > 1000 {
		t.Errorf("%d ms, want at most a window", told)
	}
}

func TestConnectionCreationRate(t *testing.T) {
	b := startBroker(t, nil)
	b.setQuota(metadata.QuotaConnections, 1, "ip", "127.0.0.1")
	refused := false
	for n := 0; !refused && n < 20; n++ {
		c := b.dial()
		c.send(c.frame(apiVersionsRequest(0)))
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		var size [4]byte
		_, err := c.Read(size[:])
		refused = err != nil
		if refused && n < 9 {
			t.Errorf("connection %d refused: ten are free", n)
		}
	}
	if !refused {
		t.Error("no connection was refused")
	}
}
