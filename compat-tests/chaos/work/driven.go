package work

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
	"github.com/gregor-broker/gregor/compat-tests/harness"
)

// driven is one client of a driver.
type driven struct {
	*life
	d    *harness.Driver
	name string
	lost bool // it did not answer in time
}

// driven makes a client. It is of no more use once its driver's program ended.
func (l *life) driven(s *harness.Standing) (*driven, error) {
	d, err := s.Driver()
	return &driven{life: l, d: d, name: strconv.Itoa(l.process)}, err
}

// driverLimit is how long a driver may take for a command: its clients give up
// after opLimit.
const driverLimit = opLimit + 10*time.Second

// offsetsLimit is the same for librdkafka's sending of offsets to a transaction, a call
// that does not always return: its handler of the answer (rdkafka_txnmgr.c) leaves
// without an outcome where the answer came too late to be its own. Its client is
// replaced then, in time for what is asked of all others once faults are healed.
const offsetsLimit = 18 * time.Second

func (f *driven) limit(command string) time.Duration {
	if command == "sendoffsets" && f.librdkafka() {
		return offsetsLimit
	}
	return driverLimit
}

// do gives the client a command and waits for its end, whatever becomes of the
// run. Errors are Kafka's where a broker answered with one.
func (f *driven) do(command string, args ...string) ([][]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), f.limit(command))
	defer cancel()
	lines, err := f.d.Do(ctx, f.name, command, args...)
	if errors.Is(err, context.DeadlineExceeded) {
		f.lost = true
		err = fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	return lines, known(err)
}

// known makes an error with one of Kafka's codes one of kerr's.
func known(err error) error {
	var code *harness.CodeError
	if errors.As(err, &code) && code.Code > 0 {
		return fmt.Errorf("%w: %w", kerr.ErrorForCode(code.Code), err)
	}
	return err
}

// settings are what both kinds of clients have: they try for as long as
// franz-go's do, and come back as fast once a broker does.
func (f *driven) settings(name string) map[string]string {
	s := map[string]string{
		"bootstrap.servers": strings.Join(f.Addrs, ","), "client.id": name,
		"reconnect.backoff.ms": "30", "reconnect.backoff.max.ms": "300", "retry.backoff.ms": "30", "retry.backoff.max.ms": "300",
		"socket.connection.setup.timeout.ms": "3000",
	}
	if f.librdkafka() {
		s["topic.metadata.refresh.interval.ms"], s["log_level"] = "10000", "0"
		// With "rebootstrap" librdkafka 2.16 waits for ever in
		// send_offsets_to_transaction, for a coordinator that it has taken out of
		// service.
		s["metadata.recovery.strategy"] = "none"
	} else {
		s["metadata.max.age.ms"], s["request.timeout.ms"] = "10000", "5000"
	}
	return s
}

func (f *driven) librdkafka() bool { return f.d.Name == "librdkafka" }

func ms(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

func pairs(settings map[string]string) []string {
	var out []string
	for k, v := range settings {
		out = append(out, k+"="+v)
	}
	return out
}

// producer makes the client's producer, idempotent, or of transactions where
// there is an id.
func (f *driven) producer(id string) error {
	name := fmt.Sprintf("sender-%d", f.slot)
	limit := opLimit
	if id != "" {
		name, limit = id, min(opLimit, f.TxnTimeout)
	}
	s := f.settings(name)
	codecs := []string{"none", "gzip", "snappy", "lz4", "zstd"}
	s["enable.idempotence"], s["acks"], s["linger.ms"], s["compression.type"] = "true", "all", "0", codecs[f.rng.IntN(len(codecs))]
	if f.librdkafka() {
		s["message.timeout.ms"], s["request.timeout.ms"] = ms(limit), "5000"
	} else {
		s["delivery.timeout.ms"], s["max.block.ms"] = ms(limit), ms(opLimit)
	}
	if id != "" {
		s["transactional.id"], s["transaction.timeout.ms"] = id, ms(f.TxnTimeout)
	}
	if _, err := f.do("producer", pairs(s)...); err != nil || id == "" {
		return err
	}
	_, err := f.do("init")
	return err
}

// drivenProducer is a client with a producer, of transactions where there is an
// id.
func (l *life) drivenProducer(d *harness.Standing, id string) (producer, error) {
	f, err := l.driven(d)
	if err != nil {
		return nil, err
	}
	if err := f.producer(id); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *driven) produce(sends []*history.Sent) []error {
	var args []string
	for _, s := range sends {
		args = append(args, s.Key.Topic, strconv.Itoa(int(s.Key.Partition)), string(encode(s)))
	}
	lines, err := f.do("send", args...)
	offsets, errs := harness.Refused(lines)
	for i, s := range sends {
		switch {
		case i >= len(errs):
			errs = append(errs, errors.Join(errNoAnswer, err))
		case errs[i] == nil:
			s.Offset = offsets[i]
		default:
			errs[i] = known(errs[i])
		}
	}
	return errs
}

func (f *driven) begin() error {
	_, err := f.do("begin")
	return err
}

func (f *driven) end(_ context.Context, commit bool) error {
	command := "abort"
	if commit {
		command = "commit"
	}
	_, err := f.do(command)
	return err
}

func (f *driven) close() { f.leave("close") }

// leave ends the client, with or without a farewell. Its driver's threads may be
// waiting for a broker that is gone, so nobody waits for one that was lost.
func (f *driven) leave(command string) {
	ctx, cancel := context.WithTimeout(context.Background(), driverLimit)
	defer cancel()
	if f.lost {
		cancel() // it is told, and not waited for
	}
	if _, err := f.d.Do(ctx, f.name, command); err != nil {
		f.Logf("%s: %v", f.d.Name, err)
	}
}

// consumer makes the client's consumer, of a group where there is one.
func (f *driven) consumer(name, group, protocol string) error {
	s := f.settings(name)
	s["isolation.level"], s["enable.auto.commit"] = "read_committed", "false"
	if f.librdkafka() {
		s["group.id"], s["auto.offset.reset"], s["fetch.wait.max.ms"] = name, "error", "200"
	} else {
		s["auto.offset.reset"], s["fetch.max.wait.ms"], s["max.poll.records"], s["default.api.timeout.ms"] = "none", "200", "60", ms(opLimit)
	}
	if group != "" {
		s["group.id"], s["auto.offset.reset"], s["group.protocol"], s["max.poll.interval.ms"] = group, "earliest", protocol, "30000"
		if protocol == "classic" {
			s["session.timeout.ms"], s["heartbeat.interval.ms"] = ms(sessionTimeout), "1000"
			s["partition.assignment.strategy"] = "cooperative-sticky"
			if !f.librdkafka() {
				s["partition.assignment.strategy"] = "org.apache.kafka.clients.consumer.CooperativeStickyAssignor"
			}
		}
	}
	_, err := f.do("consumer", pairs(s)...)
	return err
}

// polledKeys reads topic and partition of each.
func polledKeys(words []string) []history.Key {
	var out []history.Key
	for i := 0; i+1 < len(words); i += 2 {
		p, _ := strconv.ParseInt(words[i+1], 10, 32) // a driver's own words
		out = append(out, history.Key{Topic: words[i], Partition: int32(p)})
	}
	return out
}

// poll is one poll. It tells a membership, where there is one, what came and went.
func (f *driven) poll(m *membership) (map[history.Key][]history.Read, error) {
	lines, err := f.do("poll", ms(pollFor))
	out := map[history.Key][]history.Read{}
	for _, w := range lines {
		switch w[0] {
		case "came":
			m.came(w[1], m.generation(w[2]), polledKeys(w[3:]))
		case "went":
			m.went(polledKeys(w[1:]))
		case "record":
			k := polledKeys(w[1:3])[0]
			offset, _ := strconv.ParseInt(w[3], 10, 64)
			epoch, _ := strconv.ParseInt(w[4], 10, 32)
			out[k] = append(out[k], history.Read{Offset: offset, Value: Decode([]byte(w[5])), Epoch: int32(epoch)})
		}
	}
	return out, err
}

// generation is that in which a driver's client says that it was given
// partitions, 0 where that is not sure: Java's client tells its application of a
// new generation when it calls back, and commits in it before that; the member
// epoch of the new protocol goes on meanwhile.
func (m *membership) generation(word string) int32 {
	n, err := strconv.ParseInt(word, 10, 32)
	if err != nil || !m.classic {
		return 0
	}
	return int32(n)
}

func offsetWords(at map[history.Key]int64) []string {
	var out []string
	for k, o := range at {
		out = append(out, k.Topic, strconv.Itoa(int(k.Partition)), strconv.FormatInt(o, 10))
	}
	return out
}

// assigned reads what it assigns itself, with a driver's client.
func (r *Run) assigned(d *harness.Standing) func(context.Context, *life) error {
	return func(ctx context.Context, l *life) error {
		f, err := l.driven(d)
		if err != nil {
			return err
		}
		defer f.close()
		if err := f.consumer(fmt.Sprintf("reader-%d", l.slot), "", ""); err != nil {
			return err
		}
		var at map[history.Key]int64
		for l.pace(ctx) {
			if at == nil || l.rng.IntN(40) == 0 {
				var err error
				if at, err = f.assign(at); err != nil {
					return err
				}
			}
			o := l.rec.Begin(l.op(history.Poll))
			poll, err := f.poll(nil)
			o.Mops = append(o.Mops, history.Mop{Poll: poll})
			l.rec.End(o, history.OK, nil)
			if err != nil {
				return err
			}
			for k, list := range poll {
				at[k] = list[len(list)-1].Offset + 1
			}
		}
		return nil
	}
}

// assign makes the client read some keys, from where it read before or, now and
// then, from their beginning. It returns where.
func (f *driven) assign(before map[history.Key]int64) (map[history.Key]int64, error) {
	op := f.op(history.Assign)
	op.Keys = f.someKeys()
	f.rec.Event(op)
	fromStart := f.rng.IntN(3) == 0
	at := map[history.Key]int64{}
	for _, k := range op.Keys {
		at[k] = 0
		if !fromStart {
			at[k] = before[k]
		}
	}
	_, err := f.do("assign", offsetWords(at)...)
	return at, err
}

// joined makes a member of a group of a driver's clients and subscribes.
func (f *driven) joined(group, topic, protocol string) (*membership, error) {
	m := f.joining(group, protocol)
	if err := f.consumer(fmt.Sprintf("member-%d", f.slot), group, protocol); err != nil {
		return nil, err
	}
	f.subscribe(group, topic)
	_, err := f.do("subscribe", topic)
	return m, err
}

// Java's members speak the one group protocol where librdkafka's speak the other.
func (f *driven) protocols() (movers, members string) {
	if f.librdkafka() {
		return "classic", "consumer"
	}
	return "consumer", "classic"
}

// drivenMember is member with a driver's client.
func (r *Run) drivenMember(d *harness.Standing) func(context.Context, *life) error {
	return func(ctx context.Context, l *life) error {
		f, err := l.driven(d)
		if err != nil {
			return err
		}
		farewell := "close"
		defer func() { f.leave(farewell) }()
		_, protocol := f.protocols()
		m, err := f.joined("members-"+d.Name, groupTopic(d.Name), protocol)
		if err != nil {
			return err
		}
		for end := 40 + l.rng.IntN(200); end > 0 && l.pace(ctx); end-- {
			if err := f.consume(m, l.rng.IntN(3) > 0); err != nil {
				farewell = "drop"
				return err
			}
		}
		if l.rng.IntN(2) == 0 && ctx.Err() == nil {
			farewell = "drop"
		}
		return nil
	}
}

// consume polls, and commits.
func (f *driven) consume(m *membership, commit bool) error {
	o := f.rec.Begin(f.op(history.Poll))
	poll, err := f.poll(m)
	m.polled(o, poll)
	f.rec.End(o, history.OK, nil)
	if err != nil {
		return err
	}
	at := m.offsets()
	if !commit || len(at) == 0 {
		return nil
	}
	op := f.op(history.Commit)
	op.Group, op.Classic, op.Offsets = m.group, m.classic, maps.Clone(at)
	o = f.rec.Begin(op)
	lines, err := f.do("commitoffsets", offsetWords(at)...)
	if len(lines) > 0 {
		o.Member = lines[0][1] // in which generation no client tells, see generation
	}
	if err != nil {
		// A client repeats a commit by itself, so what is not ok is unknown.
		f.rec.End(o, history.Info, err)
		if f.lost {
			return err
		}
		return nil
	}
	f.rec.End(o, history.OK, nil)
	return nil
}

// drivenMover is mover with a driver's clients, a consumer and a producer.
func (r *Run) drivenMover(d *harness.Standing) func(context.Context, *life) error {
	return func(ctx context.Context, l *life) error {
		f, err := l.driven(d)
		if err != nil {
			return err
		}
		farewell := "close"
		defer func() { f.leave(farewell) }()
		if err := f.producer(fmt.Sprintf("mover-%d", l.slot)); err != nil {
			return err
		}
		protocol, _ := f.protocols()
		m, err := f.joined("movers-"+d.Name, pipeIn(d.Name), protocol)
		if err != nil {
			return err
		}
		for end := 60 + l.rng.IntN(300); end > 0 && l.pace(ctx); end-- {
			if err := f.move(m); err != nil {
				farewell = "drop"
				return err
			}
		}
		return nil
	}
}

// move is one transaction of a mover; an error says that its client is of no
// more use.
func (f *driven) move(m *membership) error {
	poll, err := f.poll(m)
	if err != nil {
		return err
	}
	if len(poll) == 0 {
		return nil
	}
	if err := f.begin(); err != nil {
		return err
	}
	o := f.rec.Begin(f.op(history.Txn))
	m.polled(o, poll)
	var sends []*history.Sent
	for k, list := range poll {
		for _, r := range list {
			n := f.sent(history.Key{Topic: pipeOut(f.d.Name), Partition: k.Partition})
			n.From = r.Value
			sends = append(sends, n)
		}
	}
	o.Mops = append(o.Mops, mops(sends)...)
	o.Group, o.Classic, o.Offsets = m.group, m.classic, m.offsets()
	failed := errors.Join(f.produce(sends)...)
	if failed == nil {
		_, failed = f.do("sendoffsets", offsetWords(o.Offsets)...)
	}
	if failed == nil && f.rng.IntN(6) > 0 {
		err := f.end(context.Background(), true)
		f.rec.End(o, history.Classify(history.EndCommit, err), err)
		return err
	}
	if !f.lost {
		err = f.end(context.Background(), false)
	}
	// Nobody ever asks to commit it.
	f.rec.End(o, history.Fail, errors.Join(failed, err))
	if f.lost || err != nil {
		return errors.Join(failed, err)
	}
	if _, err := f.do("rewind"); err != nil {
		return err
	}
	m.rewound()
	return nil
}
