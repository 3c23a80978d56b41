package handler

import (
	"errors"
	"fmt"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/replication"
	"github.com/gregor-broker/gregor/storage"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Produce (0), versions 3 to 13; 0 to 2 are advertised and refused.
//
//   - Apache Kafka 4 advertises 0 to 2, because librdkafka takes their absence
//     for a broker without compression, and closes the connection of a client
//     that sends one: their record format is not supported any more.
//   - v3 brought record batches (KIP-98), v7 zstd (KIP-110), v5 the log start
//     offset, v8 the errors of single records (KIP-467), v9 is flexible, v10
//     names the current leader on NOT_LEADER_OR_FOLLOWER (KIP-951), v11 and
//     v12 belong to transactions (KIP-890), v13 names topics by id (KIP-516).
//   - With acks=0 there is no response. An error closes the connection then,
//     which is the only way to make the client look for the leader.
//   - Who comes to a replica that does not lead yet is answered when it does, if
//     that takes no longer than newsPatience; who comes to the leader of a moment ago
//     is served by the one of now (handOn).
//   - The records alias the frame and are stamped in place; nothing of them is
//     copied on their way to the log. A request of a size seen before allocates
//     next to nothing: decoded request and response are kept with the Request.
func produce(b *Broker, r *Request) (kmsg.Response, error) {
	c := &r.produce
	req := &c.req
	resp := c.answer()
	transactional := c.transactional()
	if transactional && req.TransactionID == nil {
		c.refuseAll(kerr.TransactionalIDAuthorizationFailed)
		return c.finish()
	}
	if transactional {
		if err := c.enterTransaction(b, r); err != nil {
			c.refuseAll(err)
			return c.finish()
		}
	}
	opts := replication.AppendOptions{
		Acks: req.Acks, Version: req.Version, Origin: storage.Client,
		AllowInternal:  r.Header.ClientID == adminClientID,
		StrictSequence: c.handedOn,
		Now:            b.Now(),
	}
	for i := range req.Topics {
		t, rt := &req.Topics[i], &resp.Topics[i]
		for j := range t.Partitions {
			out := &rt.Partitions[j]
			var end int64
			entry := c.entry(i, j)
			opts.Verify, opts.Guard = entry.verify, entry.guard
			p, err := entry.replica, entry.err
			if err == nil {
				p, end, err = produceTo(b, t, &t.Partitions[j], opts, out)
				if c.news.leads(r, p, err) {
					p, end, err = produceTo(b, t, &t.Partitions[j], opts, out)
				}
			}
			w := produced{p: p, t: t, rec: &t.Partitions[j], out: out}
			if err != nil {
				c.refused(b, r, w, err)
			} else if req.Acks == -1 {
				c.wait(w, end)
			}
		}
	}
	if len(c.pending) > 0 {
		c.await(b, r)
	}
	if len(c.moved) > 0 {
		c.handOn(b, r)
	}
	return c.finish()
}

// adminClientID is the client id that Kafka lets write to internal topics: the
// one its own tools send.
const adminClientID = "__admin_client"

func validAcks(acks int16) bool { return acks >= -1 && acks <= 1 }

// transactional reports whether any batch is. Every batch is looked at, whatever
// the request says of itself (CVE-2018-17196).
func (c *produceCall) transactional() bool {
	for i := range c.req.Topics {
		for j := range c.req.Topics[i].Partitions {
			if isTransactional(c.req.Topics[i].Partitions[j].Records) {
				return true
			}
		}
	}
	return false
}

func isTransactional(records []byte) bool {
	for len(records) > 0 {
		batch, rest, err := protocol.NextBatch(records)
		if err != nil {
			return false // Append says what is wrong with it
		}
		if batch.IsTransactional() {
			return true
		}
		records = rest
	}
	return false
}

// errOldProduce closes the connection, as Kafka does.
var errOldProduce = errors.New("produce versions 0 to 2 are not supported")

// produceTo appends the records of one partition, fills in the answer and
// returns the offset behind them. The partition is nil if it is not on this
// broker.
func produceTo(b *Broker, t *kmsg.ProduceRequestTopic, rec *kmsg.ProduceRequestTopicPartition, opts replication.AppendOptions, out *kmsg.ProduceResponseTopicPartition) (*replication.Partition, int64, error) {
	p, err := producedPartition(b, opts.Version, t, rec.Partition)
	if err != nil {
		return nil, 0, err
	}
	if err := refuseRecords(rec.Records, opts.Acks); err != nil {
		return p, 0, err
	}
	res, err := p.Append(rec.Records, opts)
	if err != nil {
		return p, 0, err
	}
	out.BaseOffset, out.LogAppendTime, out.LogStartOffset = res.FirstOffset, res.LogAppendTimeMs, res.LogStartOffset
	return p, res.LastOffset + 1, nil
}

// producedPartition finds a partition of a request on this broker.
func producedPartition(b *Broker, version int16, t *kmsg.ProduceRequestTopic, partition int32) (*replication.Partition, error) {
	if version >= 13 {
		return b.Partitions.PartitionByID(t.TopicID, partition)
	}
	return b.Partitions.Partition(t.Topic, partition)
}

// refuseRecords says why records cannot even be tried: acks that do not exist, which
// Kafka finds out only after it has looked at the batch.
func refuseRecords(records []byte, acks int16) error {
	if !validAcks(acks) {
		if !isOneBatch(records) {
			return kerr.InvalidRecord
		}
		return kerr.InvalidRequiredAcks
	}
	return nil
}

// produceCall is what one produce request needs, kept for the next.
type produceCall struct {
	req     kmsg.ProduceRequest
	resp    produceResponse
	pending []pendingProduce
	waiter  replication.ProduceWait
	// moved are partitions that others lead since a moment ago.
	moved []produced
	// handedOn tells that the request comes from the leader of before.
	handedOn bool
	// entries are the transactional batches of the request, in its order.
	entries []transactionEntry
	news    newsWait
}

// produced is one partition of a request: what is to be written to it, and the answer.
// p is nil if it is not on this broker.
type produced struct {
	p   *replication.Partition
	t   *kmsg.ProduceRequestTopic
	rec *kmsg.ProduceRequestTopicPartition
	out *kmsg.ProduceResponseTopicPartition
}

// pendingProduce is one partition's answer that waits for the high watermark.
type pendingProduce struct {
	produced
	part int
}

const keepElements = 64 // of a reused slice, so that one huge request does not stay

func (c *produceCall) reset() {
	c.news.end()
	if cap(c.req.Topics) > keepElements {
		*c = produceCall{}
		return
	}
	all := c.req.Topics[:cap(c.req.Topics)]
	for i := range all {
		if cap(all[i].Partitions) > keepElements {
			*c = produceCall{}
			return
		}
		for j := range all[i].Partitions {
			all[i].Partitions[j].Records = nil // of the frame's buffer
		}
	}
	clear(c.pending)
	c.pending = c.pending[:0]
	c.moved = nil
	c.entries = nil
	c.waiter.Reset()
	c.resp.failed = nil
}

// decodeProduce is kmsg's decoding into memory that is used again.
func decodeProduce(r *Request, body []byte) (kmsg.Request, error) {
	req := &r.produce.req
	req.Version = r.Header.Version
	if req.Version < 3 {
		return nil, errOldProduce
	}
	w := protocol.NewWireReader(body, req.Version >= 9)
	req.TransactionID = nil
	if id, null := w.NullableStr(""); !null {
		s := id // only this one escapes
		req.TransactionID = &s
	}
	req.Acks = w.Int16()
	req.TimeoutMillis = w.Int32()
	leastTopic := 1 + 1 + 1
	if req.Version < 9 {
		leastTopic = 2 + 4
	}
	req.Topics = resize(req.Topics, w.Count(leastTopic))
	for i := range req.Topics {
		t := &req.Topics[i]
		if req.Version >= 13 {
			t.TopicID = w.UUID()
		} else {
			t.Topic = w.Str(t.Topic)
		}
		t.Partitions = resize(t.Partitions, w.Count(4+1))
		for j := range t.Partitions {
			p := &t.Partitions[j]
			p.Partition = w.Int32()
			p.Records = w.Bytes()
			w.SkipTags()
		}
		w.SkipTags()
	}
	r.produce.handedOn = false
	for n := w.TagCount(); n > 0 && !w.Failed(); n-- {
		if tag, _ := w.Tag(); tag == handedOnTag {
			r.produce.handedOn = true
		}
	}
	if w.Failed() {
		return nil, errMalformed
	}
	return req, nil
}

// resize returns s with n elements, which keep what they held before: nested
// slices are used again, everything else must be set.
func resize[T any](s []T, n int) []T {
	if n <= cap(s) {
		return s[:n]
	}
	return append(s[:cap(s)], make([]T, n-cap(s))...)
}

// answer prepares a response with an entry for each partition asked for.
func (c *produceCall) answer() *produceResponse {
	resp := &c.resp
	resp.Version = c.req.Version
	resp.ThrottleMillis, resp.Brokers, resp.failed = 0, nil, nil
	resp.handedOn = c.handedOn
	resp.Topics = resize(resp.Topics, len(c.req.Topics))
	for i := range resp.Topics {
		t := &resp.Topics[i]
		t.Topic, t.TopicID = c.req.Topics[i].Topic, c.req.Topics[i].TopicID
		t.Partitions = resize(t.Partitions, len(c.req.Topics[i].Partitions))
		for j := range t.Partitions {
			t.Partitions[j] = kmsg.ProduceResponseTopicPartition{
				Partition:  c.req.Topics[i].Partitions[j].Partition,
				BaseOffset: -1, LogAppendTime: -1, LogStartOffset: -1,
				CurrentLeader: kmsg.ProduceResponseTopicPartitionCurrentLeader{LeaderID: -1, LeaderEpoch: -1},
			}
		}
	}
	return resp
}

// refuseAll answers every partition with the same error.
func (c *produceCall) refuseAll(err error) {
	for i := range c.resp.Topics {
		for j := range c.resp.Topics[i].Partitions {
			c.resp.Topics[i].Partitions[j].ErrorCode = protocol.Code(err)
		}
	}
	c.resp.failed = err
}

// refused deals with a partition that this broker did not append to.
func (c *produceCall) refused(b *Broker, r *Request, w produced, err error) {
	if c.toHandOn(b, r, w.p, err) {
		c.moved = append(c.moved, w)
		return
	}
	c.failed(b, r, w, err)
}

// failed fills in the answer of a partition that was not appended to.
func (c *produceCall) failed(b *Broker, r *Request, w produced, err error) {
	out, p := w.out, w.p
	out.ErrorCode = protocol.Code(err)
	c.resp.failed = err
	if out.ErrorCode == kerr.UnknownServerError.Code {
		b.Log.Error().Err(err).Str("topic", w.t.Topic).Int32("partition", out.Partition).Msg("cannot append")
	}
	var invalid *storage.InvalidRecordError
	if errors.As(err, &invalid) {
		out.ErrorMessage = &invalid.Message
		for _, re := range invalid.Records {
			e := kmsg.NewProduceResponseTopicPartitionErrorRecord()
			e.RelativeOffset = re.Index
			e.ErrorMessage = kmsg.StringPtr(re.Message)
			out.ErrorRecords = append(out.ErrorRecords, e)
		}
	}
	if errors.Is(err, protocol.ErrBatchMagic) {
		out.ErrorMessage = kmsg.StringPtr(fmt.Sprintf("Invalid magic found in record: %d", protocol.Batch(w.rec.Records).Magic()))
	}
	if p != nil && tellsLogStart(c.req.Version, out.ErrorCode, w.rec.Records) {
		out.LogStartOffset = p.Snapshot().LogStart
	}
	if out.ErrorCode == kerr.NotLeaderForPartition.Code {
		c.redirect(b, r, w)
	}
}

// tellsLogStart says which errors Kafka answers with the log start offset: those
// of the producer's state and of the batch's content, for which it tells the
// producer whether what it misses was deleted.
func tellsLogStart(version, code int16, records []byte) bool {
	switch code {
	case kerr.OutOfOrderSequenceNumber.Code, kerr.InvalidProducerEpoch.Code, kerr.UnknownProducerID.Code,
		kerr.InvalidTimestamp.Code, kerr.InvalidTxnState.Code:
		return true
	case kerr.UnsupportedCompressionType.Code:
		// Before v7 the codec is refused by the version, not by the log.
		return version >= 7
	case kerr.InvalidRecord.Code:
		return isOneBatch(records)
	}
	return false
}

// isOneBatch tells whether records is what a partition of a request has to be.
// What is not is refused before the log is asked.
func isOneBatch(records []byte) bool {
	_, rest, err := protocol.NextBatch(records)
	return err == nil && len(rest) == 0
}

// leaderTold is the first version that names the current leader (KIP-951).
const leaderTold = 10

// redirect tells a client that took this broker for the leader where to go instead
// (KIP-951).
func (c *produceCall) redirect(b *Broker, r *Request, w produced) {
	if c.req.Version < leaderTold {
		return
	}
	img := b.Cluster.Image()
	topic := img.Topic(w.t.Topic)
	if c.req.Version >= 13 {
		topic = img.TopicByID(w.t.TopicID)
	}
	leader, epoch := laterLeader(topic, w.out.Partition, w.p)
	w.out.CurrentLeader.LeaderID, w.out.CurrentLeader.LeaderEpoch = leader, epoch
	for _, known := range c.resp.Brokers {
		if known.NodeID == leader {
			return
		}
	}
	if broker, ep := endpointOf(img, leader, r.Conn.Listener); ep != nil {
		e := kmsg.NewProduceResponseBroker()
		e.NodeID, e.Host, e.Port, e.Rack = leader, ep.Host, ep.Port, rackOf(broker)
		c.resp.Brokers = append(c.resp.Brokers, e)
	}
}

// leaderOf is the leader and leader epoch of a partition, -1 where unknown.
func leaderOf(t *metadata.Topic, partition int32) (leader, epoch int32) {
	if t == nil || partition < 0 || int(partition) >= len(t.Partitions) {
		return -1, -1
	}
	p := t.Partitions[partition]
	return p.Leader, p.LeaderEpoch
}

// laterLeader is leaderOf, unless the replica of this broker, nil if it has none,
// knows of a later epoch: it resigns before the image is published, and a client that
// is told of no later epoch than it knew backs off.
func laterLeader(t *metadata.Topic, partition int32, replica *replication.Partition) (leader, epoch int32) {
	leader, epoch = leaderOf(t, partition)
	if replica == nil {
		return leader, epoch
	}
	if l, e := replica.Leader(); e > epoch {
		return l, e
	}
	return leader, epoch
}

// endpointOf is how clients of a listener reach a broker; nil if they cannot.
func endpointOf(img *metadata.Image, id int32, listener string) (*metadata.Broker, *metadata.Endpoint) {
	broker := img.Broker(id)
	if broker == nil || broker.Fenced {
		return nil, nil
	}
	for i := range broker.Endpoints {
		if broker.Endpoints[i].Listener == listener {
			return broker, &broker.Endpoints[i]
		}
	}
	return nil, nil
}

func rackOf(b *metadata.Broker) *string {
	if b.Rack == "" {
		return nil
	}
	return &b.Rack
}

// wait notes that an answer waits until the high watermark reaches end.
func (c *produceCall) wait(w produced, end int64) {
	c.pending = append(c.pending, pendingProduce{produced: w, part: c.waiter.Add(w.p, end)})
}

// await waits for all partitions. What was not committed in time was appended
// all the same; its base offset stands.
func (c *produceCall) await(b *Broker, r *Request) {
	c.waiter.Wait(r.Ctx, time.Duration(c.req.TimeoutMillis)*time.Millisecond)
	for _, w := range c.pending {
		switch err := c.waiter.Err(w.part); {
		case err == nil:
		case !c.toHandOn(b, r, w.p, err):
			w.out.ErrorCode = protocol.Code(err)
			c.resp.failed = err
			if errors.Is(err, kerr.NotLeaderForPartition) {
				c.redirect(b, r, w.produced)
			}
		case !resendable(w.rec.Records):
			c.sendAway(b, r, w.produced)
		default:
			c.moved = append(c.moved, w.produced)
		}
	}
}

// errProduceFailed closes the connection of a client that wants no response.
var errProduceFailed = errors.New("produce with acks=0 failed")

func (c *produceCall) finish() (kmsg.Response, error) {
	if c.req.Acks != 0 {
		return &c.resp, nil
	}
	if c.resp.failed != nil {
		return nil, fmt.Errorf("%w: %w", errProduceFailed, c.resp.failed)
	}
	return nil, nil
}

// produceResponse is kmsg's response with an encoder that needs no reflection.
type produceResponse struct {
	kmsg.ProduceResponse
	// failed is the error of one of the partitions.
	failed error
	// handedOn tells that it goes to the leader of before.
	handedOn bool
}

// Unmetered reports that no client's quota counts the request: the leader of before
// did, and is not to be held up when it has something else to ask.
func (r *produceResponse) Unmetered() bool { return r.handedOn }

// AppendTo encodes the response; the tests compare it with kmsg's.
func (r *produceResponse) AppendTo(dst []byte) []byte {
	v := r.Version
	flex := v >= 9
	dst = appendCount(dst, flex, len(r.Topics))
	for i := range r.Topics {
		t := &r.Topics[i]
		if v >= 13 {
			dst = append(dst, t.TopicID[:]...)
		} else {
			dst = appendString(dst, flex, t.Topic)
		}
		dst = appendCount(dst, flex, len(t.Partitions))
		for j := range t.Partitions {
			dst = appendProduced(dst, v, &t.Partitions[j])
		}
		if flex {
			dst = append(dst, 0)
		}
	}
	dst = be.AppendUint32(dst, uint32(r.ThrottleMillis))
	if !flex {
		return dst
	}
	if len(r.Brokers) == 0 {
		return append(dst, 0)
	}
	at := len(dst)
	dst = appendCount(append(dst, 1, 0), true, len(r.Brokers))
	for i := range r.Brokers {
		e := &r.Brokers[i]
		dst = appendEndpoint(dst, e.NodeID, e.Host, e.Port, e.Rack)
	}
	return sizeTag(dst, at+2)
}

func appendProduced(dst []byte, v int16, p *kmsg.ProduceResponseTopicPartition) []byte {
	flex := v >= 9
	dst = be.AppendUint32(dst, uint32(p.Partition))
	dst = be.AppendUint16(dst, uint16(p.ErrorCode))
	dst = be.AppendUint64(dst, uint64(p.BaseOffset))
	dst = be.AppendUint64(dst, uint64(p.LogAppendTime))
	if v >= 5 {
		dst = be.AppendUint64(dst, uint64(p.LogStartOffset))
	}
	if v >= 8 {
		dst = appendCount(dst, flex, len(p.ErrorRecords))
		for i := range p.ErrorRecords {
			dst = be.AppendUint32(dst, uint32(p.ErrorRecords[i].RelativeOffset))
			dst = appendNullableString(dst, flex, p.ErrorRecords[i].ErrorMessage)
			if flex {
				dst = append(dst, 0)
			}
		}
		dst = appendNullableString(dst, flex, p.ErrorMessage)
	}
	if !flex {
		return dst
	}
	if p.CurrentLeader.LeaderID < 0 && p.CurrentLeader.LeaderEpoch < 0 {
		return append(dst, 0)
	}
	return appendLeaderTag(append(dst, 1), 0, p.CurrentLeader.LeaderID, p.CurrentLeader.LeaderEpoch)
}
