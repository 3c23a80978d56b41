package runtime

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
)

// memLog is a PartitionLog in memory whose high watermark the test moves.
type memLog struct {
	mu        sync.Mutex
	bytes     []byte
	end, hw   int64
	autoHW    bool
	fail      error
	max       int   // what a batch may take
	epoch     int32 // appends below it are refused, as a partition does
	appends   int
	listeners map[int]func(int64)
	nextID    int
}

func newMemLog(autoHW bool) *memLog {
	return &memLog{autoHW: autoHW, max: 1000, listeners: make(map[int]func(int64))}
}

func (m *memLog) Append(b Batch) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return 0, m.fail
	}
	if b.LeaderEpoch < m.epoch {
		return 0, kerr.NotLeaderForPartition
	}
	if recordsSize(b.Records) > m.max {
		return 0, kerr.MessageTooLarge
	}
	m.appends++
	p := protocol.BatchParams{BaseOffset: m.end, LeaderEpoch: b.LeaderEpoch, BaseTimestamp: b.Timestamp.UnixMilli()}
	first := m.end
	if b.Marker != nil {
		t := protocol.ControlAbort
		if b.Marker.Commit {
			t = protocol.ControlCommit
		}
		m.bytes = protocol.AppendControlBatch(m.bytes, protocol.ControlParams{
			BaseOffset: m.end, ProducerID: b.Marker.Producer.ID, ProducerEpoch: b.Marker.Producer.Epoch, Type: t,
			CoordinatorEpoch: b.Marker.CoordinatorEpoch,
		})
		m.end++
	} else {
		if b.Producer != nil {
			p.Transactional = true
			p.Producer = &protocol.Producer{ID: b.Producer.ID, Epoch: b.Producer.Epoch}
		}
		records := make([]protocol.Record, len(b.Records))
		for i, r := range b.Records {
			records[i] = protocol.Record{OffsetDelta: int32(i), Key: r.Key, Value: r.Value}
		}
		m.bytes = protocol.AppendBatch(m.bytes, p, records)
		m.end += int64(len(records))
	}
	if m.autoHW {
		m.setHW(m.end)
	}
	return first, nil
}

func (m *memLog) Writable() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fail
}

func (m *memLog) MaxBatchBytes() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.max
}

func (m *memLog) setMax(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.max = n
}

func (m *memLog) setHW(hw int64) {
	m.hw = hw
	for _, fn := range m.listeners {
		fn(hw)
	}
}

func (m *memLog) raise(hw int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.setHW(hw)
}

func (m *memLog) fence(epoch int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.epoch = epoch
}

func (m *memLog) setFail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

func (m *memLog) Read(offset int64, maxBytes int, buf []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rest := m.bytes
	for len(rest) > 0 {
		b, after, err := protocol.NextBatch(rest)
		if err != nil {
			return nil, err
		}
		rest = after
		if b.LastOffset() < offset {
			continue
		}
		buf = append(buf, b...)
		if len(buf) >= maxBytes {
			break
		}
	}
	return buf, nil
}

func (m *memLog) Bounds() (start, hw, end int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return 0, m.hw, m.end, nil
}

func (m *memLog) OnHighWatermark(fn func(int64)) func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := m.nextID
	m.nextID++
	m.listeners[id] = fn
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.listeners, id)
	}
}

// register is a shard that holds strings by key and counts what happened.
type register struct {
	values    map[string]string
	open      map[int64]map[string]string // by producer id, until its marker
	onTimeout func(now time.Time, key string) Result
	onLoaded  func(now time.Time) Result
}

func newRegister(int32) *register {
	return &register{values: make(map[string]string), open: make(map[int64]map[string]string)}
}

func (r *register) Replay(_ int64, p *Producer, rec Record) error {
	if string(rec.Key) == "corrupt" {
		return errors.New("corrupt")
	}
	if p != nil {
		if r.open[p.ID] == nil {
			r.open[p.ID] = make(map[string]string)
		}
		r.open[p.ID][string(rec.Key)] = string(rec.Value)
		return nil
	}
	if rec.Value == nil {
		delete(r.values, string(rec.Key))
	} else {
		r.values[string(rec.Key)] = string(rec.Value)
	}
	return nil
}

func (r *register) ReplayMarker(_ int64, m Marker) error {
	if m.Commit {
		for k, v := range r.open[m.Producer.ID] {
			r.values[k] = v
		}
	}
	delete(r.open, m.Producer.ID)
	return nil
}

func (r *register) Loaded(now time.Time) Result {
	if r.onLoaded != nil {
		return r.onLoaded(now)
	}
	return Result{}
}

func (r *register) Timeout(now time.Time, key string) Result {
	if r.onTimeout != nil {
		return r.onTimeout(now, key)
	}
	return Result{}
}

func put(k, v string) Handler[*register] {
	return func(_ *register, _ time.Time, t Ticket) Result {
		return Result{Records: []Record{{[]byte(k), []byte(v)}}, Replies: []Reply{{Ticket: t, Response: v}}}
	}
}

func get(k string) Handler[*register] {
	return func(s *register, _ time.Time, t Ticket) Result {
		return Result{Replies: []Reply{{Ticket: t, Response: s.values[k]}}}
	}
}

func newRuntime(t *testing.T, shard func(int32) *register) *Runtime[*register] {
	t.Helper()
	r, err := New(Options[*register]{
		Name: "test", NewShard: func(p int32, _ func() error) *register { return shard(p) }, Now: time.Now, Log: zerolog.Nop(),
		LoadBufferBytes: 64,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// goCall runs a call beside the test; its outcome comes on the channel.
func goCall(r *Runtime[*register], partition int32, h Handler[*register]) <-chan outcome {
	c := make(chan outcome, 1)
	go func() {
		v, err := r.Call(context.Background(), partition, h)
		c <- outcome{v, err}
	}()
	return c
}

func wantParked(t *testing.T, c <-chan outcome) {
	t.Helper()
	synctest.Wait()
	select {
	case o := <-c:
		t.Fatalf("answered %v, should be parked", o)
	default:
	}
}

func wantAnswer(t *testing.T, c <-chan outcome, want any) {
	t.Helper()
	synctest.Wait()
	select {
	case o := <-c:
		if o.err != nil || o.response != want {
			t.Fatalf("answered %v, want %v", o, want)
		}
	default:
		t.Fatalf("not answered, want %v", want)
	}
}

func wantError(t *testing.T, c <-chan outcome, want error) {
	t.Helper()
	synctest.Wait()
	select {
	case o := <-c:
		if !errors.Is(o.err, want) {
			t.Fatalf("answered %v, want error %v", o, want)
		}
	default:
		t.Fatalf("not answered, want error %v", want)
	}
}

func TestAnswerWaitsForHighWatermark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog(false)
		r := newRuntime(t, newRegister)
		defer r.Close()
		r.Elected(0, 1, log)
		synctest.Wait()
		c := goCall(r, 0, put("a", "1"))
		wantParked(t, c)
		log.raise(1)
		wantAnswer(t, c, "1")
	})
}

// A read that saw what is not committed must wait for it.
func TestReadOfUncommittedWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog(false)
		r := newRuntime(t, newRegister)
		defer r.Close()
		r.Elected(0, 1, log)
		synctest.Wait()
		w := goCall(r, 0, put("a", "1"))
		wantParked(t, w)
		g := goCall(r, 0, get("a"))
		wantParked(t, g)
		log.raise(1)
		wantAnswer(t, w, "1")
		wantAnswer(t, g, "1")
	})
}

// putTogether has requests queue behind one that is held up, and lets them go.
func putTogether(t *testing.T, r *Runtime[*register], n int) {
	t.Helper()
	hold := make(chan struct{})
	first := goCall(r, 0, func(_ *register, _ time.Time, t Ticket) Result {
		<-hold
		return Result{Replies: []Reply{{Ticket: t, Response: "held"}}}
	})
	synctest.Wait()
	var calls []<-chan outcome
	for i := range n {
		calls = append(calls, goCall(r, 0, put("k"+strconv.Itoa(i), "v")))
	}
	synctest.Wait()
	close(hold)
	wantAnswer(t, first, "held")
	for _, c := range calls {
		wantAnswer(t, c, "v")
	}
}

func TestRequestsThatQueuedShareOneAppend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog(true)
		r := newRuntime(t, newRegister)
		defer r.Close()
		r.Elected(0, 1, log)
		synctest.Wait()
		putTogether(t, r, 10)
		if log.appends != 1 {
			t.Fatalf("%d appends for what queued behind one request, want 1", log.appends)
		}
	})
}

// What one append takes can change while the broker runs, either way.
func TestBatchesAreAsLargeAsTheLogTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog(true)
		r := newRuntime(t, newRegister)
		defer r.Close()
		r.Elected(0, 1, log)
		synctest.Wait()
		for _, limit := range []int{100, 3000} {
			log.setMax(limit)
			putTogether(t, r, 10)
			large := string(make([]byte, limit-recordOverhead-len("a")))
			wantAnswer(t, goCall(r, 0, put("a", large)), large)
			wantError(t, goCall(r, 0, put("a", large+"b")), kerr.MessageTooLarge)
		}
	})
}

func TestTimerIsAnInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog(true)
		var parked Ticket
		r := newRuntime(t, func(int32) *register {
			s := newRegister(0)
			s.onTimeout = func(_ time.Time, key string) Result {
				return Result{Records: []Record{{[]byte("fired"), []byte(key)}}, Replies: []Reply{{Ticket: parked, Response: key}}}
			}
			return s
		})
		defer r.Close()
		r.Elected(0, 1, log)
		synctest.Wait()
		c := goCall(r, 0, func(_ *register, now time.Time, t Ticket) Result {
			parked = t
			return Result{Timers: []Timer{{"late", now.Add(50 * time.Second)}, {"session", now.Add(45 * time.Second)}, {"gone", now.Add(time.Second)}}}
		})
		wantParked(t, c)
		cancel := goCall(r, 0, func(_ *register, now time.Time, t Ticket) Result {
			return Result{Timers: []Timer{{Key: "gone"}, {"late", now.Add(90 * time.Second)}}, Replies: []Reply{{Ticket: t}}}
		})
		wantAnswer(t, cancel, nil)
		began := time.Now()
		if o := <-c; o.response != "session" || time.Since(began) != 45*time.Second {
			t.Fatalf("%v after %v, want session after 45 s", o, time.Since(began))
		}
		wantAnswer(t, goCall(r, 0, get("fired")), "session")
	})
}

func TestFailedAppendLoadsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog(true)
		r := newRuntime(t, newRegister)
		defer r.Close()
		r.Elected(0, 1, log)
		synctest.Wait()
		wantAnswer(t, goCall(r, 0, put("a", "kept")), "kept")
		log.setFail(kerr.NotEnoughReplicas)
		wantError(t, goCall(r, 0, put("a", "lost")), kerr.NotEnoughReplicas)
		log.setFail(nil)
		wantAnswer(t, goCall(r, 0, get("a")), "kept")
	})
}

// TestRefusedWhileNotWritable: what is refused for lack of replicas leaves the
// others alone, those who wait as well as those who only read.
func TestRefusedWhileNotWritable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog(false)
		loads := 0
		r := newRuntime(t, func(p int32) *register {
			s := newRegister(p)
			s.onLoaded = func(time.Time) Result { loads++; return Result{} }
			return s
		})
		defer r.Close()
		r.Elected(0, 1, log)
		synctest.Wait()
		waits := goCall(r, 0, put("a", "before"))
		wantParked(t, waits)
		log.setFail(kerr.NotEnoughReplicas)
		refusable := func(h Handler[*register]) Handler[*register] {
			return func(s *register, now time.Time, t Ticket) Result {
				res := h(s, now, t)
				res.Refusable = true
				return res
			}
		}
		marker := func(_ *register, _ time.Time, t Ticket) Result {
			return Result{Marker: &Marker{Producer: Producer{ID: 1}}, Replies: []Reply{{Ticket: t}}}
		}
		wantError(t, goCall(r, 0, refusable(put("a", "lost"))), kerr.NotEnoughReplicas)
		wantError(t, goCall(r, 0, refusable(marker)), kerr.NotEnoughReplicas)
		refused := func(*register, time.Time, Ticket) Result { return Result{Refused: kerr.NotEnoughReplicas} }
		wantError(t, goCall(r, 0, refused), kerr.NotEnoughReplicas)
		wantParked(t, waits)
		reads := goCall(r, 0, refusable(get("a"))) // sees what is not committed, and waits for it
		wantParked(t, reads)
		log.setFail(nil)
		log.raise(1)
		wantAnswer(t, waits, "before")
		wantAnswer(t, reads, "before")
		if loads != 1 {
			t.Errorf("loaded %d times", loads)
		}
	})
}

// TestCheckSeesWhatIsPending: what is asked of the log before something is written
// to it is asked when the requests of before are in it, and refuses one caller.
func TestCheckSeesWhatIsPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog(true)
		r := newRuntime(t, newRegister)
		defer r.Close()
		r.Elected(0, 1, log)
		synctest.Wait()
		hold := make(chan struct{})
		first := goCall(r, 0, func(_ *register, _ time.Time, t Ticket) Result {
			<-hold
			return Result{Replies: []Reply{{Ticket: t, Response: "held"}}}
		})
		synctest.Wait()
		written := func(n int64) func() error {
			return func() error {
				if _, _, end, err := log.Bounds(); err != nil || end != n {
					return fmt.Errorf("%w: the log ends at %d, want %d", kerr.InvalidProducerEpoch, end, n)
				}
				return nil
			}
		}
		add := func(p *Producer, v string, check func() error) <-chan outcome {
			c := goCall(r, 0, func(_ *register, _ time.Time, t Ticket) Result {
				return Result{
					Producer: p, Records: []Record{{[]byte(v), []byte(v)}}, Check: check, Replies: []Reply{{Ticket: t, Response: v}},
				}
			})
			synctest.Wait()
			return c
		}
		end := func(id int64, check func() error) <-chan outcome {
			c := goCall(r, 0, func(_ *register, _ time.Time, t Ticket) Result {
				return Result{Marker: &Marker{Producer: Producer{ID: id}, Commit: true}, Check: check, Replies: []Reply{{Ticket: t, Response: "end"}}}
			})
			synctest.Wait()
			return c
		}
		seven, eight := &Producer{ID: 7}, &Producer{ID: 8}
		a, same := add(seven, "a", written(0)), add(&Producer{ID: 7}, "b", written(0)) // they share an append
		other := add(eight, "c", written(2))
		refused := add(eight, "d", func() error { return kerr.InvalidTxnState })
		none, marker := end(7, written(0)), end(7, written(3))
		close(hold)
		wantAnswer(t, first, "held")
		wantAnswer(t, a, "a")
		wantAnswer(t, same, "b")
		wantAnswer(t, other, "c")
		wantError(t, refused, kerr.InvalidTxnState)
		wantError(t, none, kerr.InvalidProducerEpoch)
		wantAnswer(t, marker, "end")
		wantAnswer(t, goCall(r, 0, get("b")), "b")
		wantAnswer(t, end(8, nil), "end")
		wantAnswer(t, goCall(r, 0, get("c")), "c")
		wantAnswer(t, goCall(r, 0, get("d")), "")
	})
}

func TestResignedFailsCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog(false)
		r := newRuntime(t, newRegister)
		defer r.Close()
		r.Elected(0, 5, log)
		synctest.Wait()
		c := goCall(r, 0, put("a", "1"))
		wantParked(t, c)
		r.Resigned(0, 4) // old news
		wantParked(t, c)
		r.Resigned(0, 5)
		wantError(t, c, kerr.NotCoordinator)
		wantError(t, goCall(r, 0, get("a")), kerr.NotCoordinator)
		if n := len(log.listeners); n != 0 {
			t.Fatalf("%d listeners are left on the log", n)
		}
	})
}

func TestNewEpochTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog(true)
		r := newRuntime(t, newRegister)
		defer r.Close()
		r.Elected(0, 1, log)
		synctest.Wait()
		wantAnswer(t, goCall(r, 0, put("a", "1")), "1")
		r.Elected(0, 2, log)
		r.Elected(0, 1, newMemLog(true)) // old news
		synctest.Wait()
		wantAnswer(t, goCall(r, 0, get("a")), "1")
	})
}

func TestCorruptRecordLeavesNoCoordinator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog(true)
		if _, err := log.Append(Batch{Records: []Record{{Key: []byte("corrupt")}}, Timestamp: time.Now()}); err != nil {
			t.Fatal(err)
		}
		r := newRuntime(t, newRegister)
		defer r.Close()
		r.Elected(0, 1, log)
		r.Elected(1, 1, newMemLog(true))
		synctest.Wait()
		wantError(t, goCall(r, 0, get("a")), kerr.NotCoordinator)
		if got := r.Counts(); got != (Counts{Active: 1, Failed: 1}) {
			t.Fatalf("%+v", got)
		}
		r.Resigned(0, 2)
		if got := r.Counts(); got != (Counts{Active: 1}) {
			t.Fatalf("%+v after the broken one was taken away", got)
		}
	})
}

func TestTooLargeIsRefusedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog(true)
		r := newRuntime(t, newRegister)
		defer r.Close()
		r.Elected(0, 1, log)
		synctest.Wait()
		wantError(t, goCall(r, 0, put("a", string(make([]byte, 2000)))), kerr.MessageTooLarge)
		wantAnswer(t, goCall(r, 0, get("a")), "")
		wantAnswer(t, goCall(r, 0, put("a", "1")), "1")
	})
}

// What is good in parts (expired offsets, those of deleted topics) is as much as
// there is, and one append does not take that.
func TestDivisibleIsWrittenInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog(true)
		r := newRuntime(t, newRegister)
		defer r.Close()
		r.Elected(0, 1, log)
		synctest.Wait()
		const records = 95
		many := func(_ *register, _ time.Time, t Ticket) Result {
			res := Result{Divisible: true, Replies: []Reply{{Ticket: t, Response: "done"}}}
			for i := range records {
				res.Records = append(res.Records, Record{[]byte(strconv.Itoa(i)), make([]byte, 98)})
			}
			return res
		}
		count := func(s *register, _ time.Time, t Ticket) Result {
			return Result{Replies: []Reply{{Ticket: t, Response: len(s.values)}}}
		}
		wantAnswer(t, goCall(r, 0, many), "done")
		wantAnswer(t, goCall(r, 0, count), records)
		if log.appends < records*98/1000 || log.end != records {
			t.Fatalf("%d appends of %d records in all", log.appends, log.end)
		}
		r.Elected(0, 2, log)
		synctest.Wait()
		wantAnswer(t, goCall(r, 0, count), records)
	})
}

func TestLoadReplaysMarkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog(true)
		r := newRuntime(t, newRegister)
		r.Elected(0, 1, log)
		synctest.Wait()
		txn := func(pid int64, k, v string) Handler[*register] {
			return func(_ *register, _ time.Time, t Ticket) Result {
				return Result{Producer: &Producer{ID: pid}, Records: []Record{{[]byte(k), []byte(v)}}, Replies: []Reply{{Ticket: t}}}
			}
		}
		end := func(pid int64, commit bool) Handler[*register] {
			return func(_ *register, _ time.Time, t Ticket) Result {
				return Result{Marker: &Marker{Producer: Producer{ID: pid}, Commit: commit}, Replies: []Reply{{Ticket: t}}}
			}
		}
		for _, h := range []Handler[*register]{txn(7, "a", "7"), txn(8, "b", "8"), put("c", "plain"), end(7, true), end(8, false)} {
			wantAnswer(t, goCall(r, 0, h), reply(h))
		}
		r.Close()
		r = newRuntime(t, newRegister)
		defer r.Close()
		r.Elected(0, 2, log)
		synctest.Wait()
		wantAnswer(t, goCall(r, 0, get("a")), "7")
		wantAnswer(t, goCall(r, 0, get("b")), "")
		wantAnswer(t, goCall(r, 0, get("c")), "plain")
	})
}

// reply tells what a handler of TestLoadReplaysMarkers answers.
func reply(h Handler[*register]) any {
	res := h(newRegister(0), time.Time{}, 1)
	return res.Replies[0].Response
}

// TestRandomSchedules: whatever was acknowledged is in the state after any
// mixture of commits, failed appends and changes of leaders.
func TestRandomSchedules(t *testing.T) {
	seed := time.Now().UnixNano()
	for i := range 50 {
		t.Run(fmt.Sprint("seed=", seed+int64(i)), func(t *testing.T) {
			rng := rand.New(rand.NewSource(seed + int64(i)))
			synctest.Test(t, func(t *testing.T) { randomSchedule(t, rng) })
		})
	}
}

func randomSchedule(t *testing.T, rng *rand.Rand) {
	log := newMemLog(false)
	r := newRuntime(t, newRegister)
	defer func() { r.Close() }()
	epoch := int32(1)
	r.Elected(0, epoch, log)
	synctest.Wait()
	type sent struct {
		key string
		c   <-chan outcome
	}
	var open []sent
	acked := make(map[string]bool)
	collect := func() {
		synctest.Wait()
		rest := open[:0]
		for _, s := range open {
			select {
			case o := <-s.c:
				if o.err == nil {
					acked[s.key] = true
				}
			default:
				rest = append(rest, s)
			}
		}
		open = rest
	}
	elect := func() {
		epoch++
		log.setFail(nil)
		log.fence(epoch)
		r.Elected(0, epoch, log)
	}
	for n := range 200 {
		switch rng.Intn(10) {
		case 0:
			log.setFail(kerr.NotEnoughReplicas)
		case 1:
			elect()
		case 2, 3:
			_, hw, end, _ := log.Bounds()
			log.raise(hw + rng.Int63n(end-hw+1))
		default:
			if rng.Intn(2) == 0 {
				log.setFail(nil)
			}
			k := strconv.Itoa(n)
			open = append(open, sent{k, goCall(r, 0, put(k, "v"))})
		}
		if rng.Intn(2) == 0 {
			collect()
		}
	}
	elect()
	synctest.Wait()
	_, _, end, _ := log.Bounds()
	log.raise(end)
	collect()
	if len(acked) == 0 {
		t.Fatal("nothing was acknowledged: the schedule proves nothing")
	}
	for k := range acked {
		wantAnswer(t, goCall(r, 0, get(k)), "v")
	}
}

// Effects leave when the records of their result are committed, in order, and
// not at all if the records are lost.
func TestEffectsWaitForTheirRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog(false)
		var effects []string
		r, err := New(Options[*register]{
			Name: "test", NewShard: func(int32, func() error) *register {
				s := newRegister(0)
				s.onLoaded = func(time.Time) Result { return Result{Effects: []any{"loaded"}} }
				return s
			}, Now: time.Now, Log: zerolog.Nop(), LoadBufferBytes: 64,
			OnEffect: func(partition, epoch int32, effect any) {
				effects = append(effects, fmt.Sprint(partition, "@", epoch, ":", effect))
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		want := func(want ...string) {
			t.Helper()
			synctest.Wait()
			if fmt.Sprint(effects) != fmt.Sprint(want) {
				t.Fatalf("effects %v, want %v", effects, want)
			}
		}
		with := func(effect string) Handler[*register] {
			return func(s *register, now time.Time, ticket Ticket) Result {
				res := put(effect, "v")(s, now, ticket)
				res.Effects = []any{effect}
				return res
			}
		}
		r.Elected(0, 3, log)
		want("0@3:loaded")
		c := goCall(r, 0, with("a"))
		d := goCall(r, 0, with("b"))
		wantParked(t, c)
		wantParked(t, d)
		want("0@3:loaded")
		log.raise(2)
		synctest.Wait()
		if len(effects) != 3 {
			t.Fatalf("effects %v", effects)
		}
		log.setFail(kerr.NotEnoughReplicas)
		wantError(t, goCall(r, 0, with("lost")), kerr.NotEnoughReplicas)
		synctest.Wait()
		if len(effects) != 4 || effects[3] != "0@3:loaded" {
			t.Fatalf("effects %v", effects)
		}
	})
}
