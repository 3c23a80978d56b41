package handler

import (
	"math"
	"time"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/replication"
	"github.com/gregor-broker/gregor/storage"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Fetch (1), versions 4 to 18.
//
//   - v4 brought isolation levels (KIP-98), v5 the log start offset, v7
//     incremental sessions (KIP-227), v9 leader epochs (KIP-320), v11 the
//     reader's rack (KIP-392), v12 is flexible and tells divergence (KIP-595),
//     v13 names topics by id (KIP-516), v15 moves the replica id into a tag
//     (KIP-903), v16 names the current leader (KIP-951), v17 and v18 belong to
//     followers (KIP-853, KIP-1166).
//   - The answer leaves when min bytes are there, when max wait is over, or at
//     once when a partition fails to be read. As in Kafka an unknown topic is no
//     reason to hurry: a client that asks for one would ask without pause.
//   - A consumer that names a later epoch than this broker has heard of is answered
//     when it has, if that takes no longer than newsPatience.
//   - Max bytes, of the request and of a partition, bound the answer, except
//     that the first batch of the first partition that has any is sent whole.
//   - The records stay in their files; see fetchResponse.
//   - Followers fetch like consumers, but up to the log end, and what they ask
//     for is what they have: their progress moves the high watermark. Only
//     requests that came over the inter-broker listener may name a replica, and
//     those of a process that registered anew since are refused with
//     STALE_BROKER_EPOCH.
//   - A follower that is not in sync gets nothing of a throttled partition while
//     this broker sends more than it should (KIP-73).
//   - A consumer that names its rack may be told to read from a replica there,
//     and replicas that do not lead serve consumers up to the high watermark
//     that they know (KIP-392).
//   - What a poll of a session costs depends on how many partitions have
//     something, not on how many are subscribed; see fetchSession.
func fetch(b *Broker, r *Request) (kmsg.Response, error) {
	f := &r.fetch
	f.b, f.r, f.looks = b, r, 0
	f.resp.reset(f.req.Version)
	f.limits()
	if err := f.checkReplica(); err != nil {
		f.resp.ErrorCode = protocol.Code(err)
		return &f.resp, nil
	}
	s, err := b.sessions.open(f)
	if err != nil {
		f.resp.ErrorCode = protocol.Code(err)
		return &f.resp, nil
	}
	if err := s.poll(f); err != nil {
		f.resp.dropResults()
		f.resp.ErrorCode, f.resp.SessionID = protocol.Code(err), s.id
	}
	if f.resp.replica {
		f.resp.countReplicated()
	}
	return &f.resp, nil
}

// fetchCall is what one fetch request needs, kept for the next.
type fetchCall struct {
	req  kmsg.FetchRequest
	resp fetchResponse

	b *Broker
	r *Request

	replicaID          int32
	brokerEpoch        int64
	turn               int64 // of a replica's fetch
	maxBytes, minBytes int
	maxWait            time.Duration

	// ready is scratch for the watches that a poll looks at. entries and single
	// are what a request without a session asks for.
	ready   []*replication.Watch
	entries []fetchEntry
	single  fetchSession
	timer   *time.Timer
	// partitions is how many the request names.
	partitions int
	news       newsWait

	// What this pass over the partitions found:
	bytes  int
	served bool // a partition gave records
	hurry  bool // the answer must not wait
	known  bool // a partition of the cluster was asked for
	// looks is how many partitions were looked at, for the tests.
	looks int
}

func (f *fetchCall) reset() {
	f.resp.dropResults()
	f.b, f.r = nil, nil
	f.news.end()
	if f.partitions > keepElements || len(f.req.Topics) > keepElements || cap(f.ready) > keepElements || cap(f.resp.results) > keepElements {
		*f = fetchCall{timer: f.timer}
		return
	}
	clear(f.entries)
	clear(f.ready[:cap(f.ready)])
	f.entries, f.ready, f.partitions = f.entries[:0], f.ready[:0], 0
}

// longestWait bounds max wait: it is as long as Kafka lets a connection be
// without traffic, so no client can rely on more.
const longestWait = 10 * time.Minute

// limits derives what bounds the answer.
func (f *fetchCall) limits() {
	req := &f.req
	f.maxBytes = int(max(0, min(req.MaxBytes, f.b.fetchMaxBytes)))
	f.minBytes = min(int(req.MinBytes), f.maxBytes)
	f.maxWait = min(time.Duration(req.MaxWaitMillis)*time.Millisecond, longestWait)
	f.replicaID, f.brokerEpoch = req.ReplicaID, -1
	if req.Version >= 15 {
		f.replicaID, f.brokerEpoch = req.ReplicaState.ID, req.ReplicaState.Epoch
	}
}

// checkReplica says whether who calls itself a replica may be one.
func (f *fetchCall) checkReplica() error {
	f.resp.replica = f.replicaID >= 0
	if !f.resp.replica {
		return nil
	}
	if !f.b.fromBroker(f.r) {
		return kerr.ClusterAuthorizationFailed
	}
	known := f.b.Cluster.Image().Broker(f.replicaID)
	if known != nil && f.brokerEpoch >= 0 && f.brokerEpoch < known.Epoch {
		return kerr.StaleBrokerEpoch
	}
	f.turn = f.b.sessions.turns.Add(1)
	return nil
}

// fetchEntry is one partition that a request or a session asks for.
type fetchEntry struct {
	topic     string
	id        [16]byte
	partition int32

	// As the client told last:
	offset, logStart       int64
	leaderEpoch, lastEpoch int32
	maxBytes               int32

	// part is nil while the partition is not known here, watch while nobody
	// has waited for it. lost is set while a session keeps it among its lost.
	part  *replication.Partition
	watch *replication.Watch
	lost  bool

	// What the last answer of the session told, -1 after an error: only what
	// differs is told again.
	toldHighWatermark, toldLogStart int64
}

// newFetchEntry is an entry of which the client was told nothing yet.
func newFetchEntry(t *kmsg.FetchRequestTopic, p *kmsg.FetchRequestTopicPartition) fetchEntry {
	e := fetchEntry{topic: t.Topic, id: t.TopicID, partition: p.Partition, toldHighWatermark: -1, toldLogStart: -1}
	e.set(p)
	return e
}

// set takes over what a request says about the partition. Only the position
// changes: responses that are being sent still read the rest.
func (e *fetchEntry) set(p *kmsg.FetchRequestTopicPartition) {
	e.offset, e.logStart = p.FetchOffset, p.LogStartOffset
	e.leaderEpoch, e.lastEpoch = p.CurrentLeaderEpoch, p.LastFetchedEpoch
	e.maxBytes = p.PartitionMaxBytes
}

// find looks the partition up unless it is known.
func (e *fetchEntry) find(b *Broker, byID bool) (err error) {
	if e.part != nil {
		return nil
	}
	if byID {
		e.part, err = b.Partitions.PartitionByID(e.id, e.partition)
	} else {
		e.part, err = b.Partitions.Partition(e.topic, e.partition)
	}
	return err
}

// unwatch forgets the partition and the interest in it.
func (e *fetchEntry) unwatch() {
	if e.watch != nil {
		e.watch.Close()
	}
	e.watch, e.part = nil, nil
}

// begin starts a pass over the partitions.
func (f *fetchCall) begin() {
	f.resp.dropResults()
	f.bytes, f.served, f.hurry, f.known = 0, false, false, false
}

// read reads one partition into the response, and out of it again if onlyNews
// is set and there is no news.
func (f *fetchCall) read(e *fetchEntry, onlyNews bool) {
	f.looks++
	hurry := f.hurry
	res := f.resp.add(e)
	err := f.readPartition(e, res)
	if err != nil && e.part != nil && e.part.Gone() != nil {
		// Deleted, and perhaps created anew; who waited for it hears of it.
		f.hurry = true
		e.unwatch()
		err = f.readPartition(e, res)
	}
	if f.news.heard(f.r, e.part, f.replicaID, e.leaderEpoch, err) {
		f.hurry = hurry
		err = f.readPartition(e, res)
	}
	if err != nil {
		f.failed(e, res, err)
		return
	}
	if f.req.IsolationLevel == 1 && res.Aborted == nil {
		res.Aborted = []storage.AbortedTxn{} // none, but not null
	}
	f.bytes += res.Slice.Len
	f.served = f.served || res.Slice.Len > 0
	if (res.Throttled || res.Late) && e.watch != nil {
		e.watch.Requeue() // to be looked at when the wait is over: no append will tell
	}
	if onlyNews && !res.news() {
		f.resp.dropLast()
	}
}

// readPartition looks the partition up and reads it.
func (f *fetchCall) readPartition(e *fetchEntry, res *fetchResult) error {
	if err := e.find(f.b, f.byID()); err != nil {
		if code := protocol.Code(err); code != kerr.UnknownTopicOrPartition.Code && code != kerr.UnknownTopicID.Code {
			f.known, f.hurry = true, true
		}
		return err
	}
	f.known, res.part = true, e.part
	var err error
	res.ReadResult, err = e.part.Read(replication.ReadOptions{
		Offset: e.offset, MaxBytes: max(0, min(int(e.maxBytes), f.maxBytes-f.bytes)), MinOneBatch: !f.served,
		Isolation: f.req.IsolationLevel, CurrentLeaderEpoch: e.leaderEpoch, LastFetchedEpoch: e.lastEpoch,
		ReplicaID: f.replicaID, BrokerEpoch: f.brokerEpoch, LogStart: e.logStart, Turn: f.turn,
		AllowFollower: f.req.Version >= 11, Rack: f.req.Rack,
	})
	f.hurry = f.hurry || err != nil || res.Diverging != nil || res.PreferredReplica >= 0
	return err
}

// failed makes res the answer of a partition that could not be read.
func (f *fetchCall) failed(e *fetchEntry, res *fetchResult, err error) {
	res.Slice.Release()
	res.ReadResult = replication.ReadResult{HighWatermark: -1, LastStableOffset: -1, LogStartOffset: -1, PreferredReplica: -1}
	res.code = protocol.Code(err)
	switch res.code {
	case kerr.UnknownServerError.Code:
		f.b.Log.Error().Err(err).Str("topic", e.topic).Int32("partition", e.partition).Msg("cannot read")
	case kerr.NotLeaderForPartition.Code, kerr.FencedLeaderEpoch.Code:
		if f.req.Version >= 16 {
			f.nameLeader(e, res)
		}
	}
	if e.part == nil {
		res.Aborted = []storage.AbortedTxn{} // as Kafka has it
	}
}

// nameLeader tells the client where to go instead (KIP-951).
func (f *fetchCall) nameLeader(e *fetchEntry, res *fetchResult) {
	img := f.b.Cluster.Image()
	topic := img.Topic(e.topic)
	if f.byID() {
		topic = img.TopicByID(e.id)
	}
	res.leader, res.leaderEpoch = laterLeader(topic, e.partition, e.part)
	f.resp.addEndpoint(img, res.leader, f.r.Conn.Listener)
}

// byID tells how the request names topics.
func (f *fetchCall) byID() bool { return f.req.Version >= 13 }

// enough reports whether the answer can leave.
func (f *fetchCall) enough() bool {
	return f.hurry || !f.known || f.bytes >= f.minBytes
}

// startTimer starts the clock of max wait.
func (f *fetchCall) startTimer() {
	if f.timer == nil {
		f.timer = time.NewTimer(f.maxWait)
	} else {
		f.timer.Reset(f.maxWait)
	}
}

// decodeFetch is kmsg's decoding into memory that is used again.
func decodeFetch(r *Request, body []byte) (kmsg.Request, error) {
	req := &r.fetch.req
	v := r.Header.Version
	req.Version = v
	req.ClusterID = nil
	req.ReplicaID, req.ReplicaState.ID, req.ReplicaState.Epoch = -1, -1, -1
	req.SessionID, req.SessionEpoch = 0, -1
	w := protocol.NewWireReader(body, v >= 12)
	if v <= 14 {
		req.ReplicaID = w.Int32()
	}
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.IsolationLevel = w.Int32(), w.Int32(), w.Int32(), w.Int8()
	if v >= 7 {
		req.SessionID, req.SessionEpoch = w.Int32(), w.Int32()
	}
	leastTopic, leastPartition := 3, 4+8+4
	if v < 12 {
		leastTopic = 2 + 4
	}
	req.Topics = resize(req.Topics, w.Count(leastTopic))
	for i := range req.Topics {
		t := &req.Topics[i]
		if v >= 13 {
			t.Topic, t.TopicID = "", w.UUID()
		} else {
			t.Topic, t.TopicID = w.Str(t.Topic), [16]byte{}
		}
		t.Partitions = resize(t.Partitions, w.Count(leastPartition))
		r.fetch.partitions += len(t.Partitions)
		for j := range t.Partitions {
			decodeFetchPartition(&w, v, &t.Partitions[j])
		}
		w.SkipTags()
	}
	req.ForgottenTopics = req.ForgottenTopics[:0]
	if v >= 7 {
		decodeForgotten(&w, v, req)
	}
	if v >= 11 {
		req.Rack = w.Str(req.Rack)
	}
	decodeFetchTags(&w, v, req)
	if w.Failed() {
		return nil, errMalformed
	}
	return req, nil
}

func decodeFetchPartition(w *protocol.WireReader, v int16, p *kmsg.FetchRequestTopicPartition) {
	p.CurrentLeaderEpoch, p.LastFetchedEpoch, p.LogStartOffset = -1, -1, -1
	p.HighWatermark = math.MaxInt64 // not told (KIP-1166)
	p.Partition = w.Int32()
	if v >= 9 {
		p.CurrentLeaderEpoch = w.Int32()
	}
	p.FetchOffset = w.Int64()
	if v >= 12 {
		p.LastFetchedEpoch = w.Int32()
	}
	if v >= 5 {
		p.LogStartOffset = w.Int64()
	}
	p.PartitionMaxBytes = w.Int32()
	for n := w.TagCount(); n > 0 && !w.Failed(); n-- {
		switch tag, body := w.Tag(); tag {
		case 0: // the replica's directory
			body.Skip(16)
			w.Require(v >= 17 && body.Done())
		case 1: // the replica's high watermark
			body.Skip(8)
			w.Require(v >= 18 && body.Done())
		}
	}
}

// decodeFetchTags reads what stands in tags: who the replica is. As protocol.Decode
// it refuses a known tag that is malformed or of another version.
func decodeFetchTags(w *protocol.WireReader, v int16, req *kmsg.FetchRequest) {
	for n := w.TagCount(); n > 0 && !w.Failed(); n-- {
		switch tag, body := w.Tag(); tag {
		case 0: // the cluster's id
			body.Bytes()
			w.Require(body.Done())
		case 1:
			req.ReplicaState.ID, req.ReplicaState.Epoch = body.Int32(), body.Int64()
			body.SkipTags()
			w.Require(v >= 15 && body.Done())
		}
	}
}

func decodeForgotten(w *protocol.WireReader, v int16, req *kmsg.FetchRequest) {
	least := 3
	if v < 12 {
		least = 2 + 4
	}
	req.ForgottenTopics = resize(req.ForgottenTopics, w.Count(least))
	for i := range req.ForgottenTopics {
		t := &req.ForgottenTopics[i]
		if v >= 13 {
			t.Topic, t.TopicID = "", w.UUID()
		} else {
			t.Topic, t.TopicID = w.Str(t.Topic), [16]byte{}
		}
		t.Partitions = resize(t.Partitions, w.Count(4))
		for j := range t.Partitions {
			t.Partitions[j] = w.Int32()
		}
		w.SkipTags()
	}
}
