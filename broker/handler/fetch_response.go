package handler

import (
	"encoding/binary"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/replication"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// fetchResponse is a Fetch response whose records are slices of logs. It is
// encoded by hand: as the bytes between the records, and where these belong
// (see RecordsResponse). The tests compare each version with kmsg's encoding.
type fetchResponse struct {
	// Of kmsg's response, version, error, session and brokers are used; the
	// topics follow from results.
	kmsg.FetchResponse
	results []fetchResult
	splices []Splice
	// replica tells that it goes to a follower.
	replica bool
}

// Unmetered reports that no client's quota counts the response: it goes to
// another broker.
func (r *fetchResponse) Unmetered() bool { return r.replica }

// fetchResult is the answer for one partition.
type fetchResult struct {
	replication.ReadResult
	e    *fetchEntry
	part *replication.Partition // that was read, nil if none was
	code int16
	// leader and its epoch are told if one of them is not -1 (KIP-951).
	leader, leaderEpoch int32
}

// news reports whether a session has to tell this.
func (r *fetchResult) news() bool {
	return r.code != 0 || r.Slice.Len > 0 || r.Diverging != nil || r.PreferredReplica >= 0 ||
		r.HighWatermark != r.e.toldHighWatermark || r.LogStartOffset != r.e.toldLogStart
}

// told notes what the client knows once it has the answer.
func (r *fetchResult) told() {
	r.e.toldHighWatermark, r.e.toldLogStart = r.HighWatermark, r.LogStartOffset
}

func (r *fetchResponse) reset(version int16) {
	r.dropResults()
	r.FetchResponse = kmsg.FetchResponse{Version: version}
}

// add appends a result for a partition.
func (r *fetchResponse) add(e *fetchEntry) *fetchResult {
	r.results = append(r.results, fetchResult{e: e, leader: -1, leaderEpoch: -1})
	return &r.results[len(r.results)-1]
}

// dropLast takes the last result back.
func (r *fetchResponse) dropLast() {
	last := &r.results[len(r.results)-1]
	last.Slice.Release()
	*last = fetchResult{}
	r.results = r.results[:len(r.results)-1]
}

// dropResults takes all results back, and lets go of their records.
func (r *fetchResponse) dropResults() {
	for i := range r.results {
		r.results[i].Slice.Release()
	}
	clear(r.results)
	clear(r.splices)
	r.results, r.splices = r.results[:0], r.splices[:0]
}

// addEndpoint adds how to reach a broker, once.
func (r *fetchResponse) addEndpoint(img *metadata.Image, id int32, listener string) {
	for i := range r.Brokers {
		if r.Brokers[i].NodeID == id {
			return
		}
	}
	if broker, ep := endpointOf(img, id, listener); ep != nil {
		e := kmsg.NewFetchResponseBroker()
		e.NodeID, e.Host, e.Port, e.Rack = id, ep.Host, ep.Port, rackOf(broker)
		r.Brokers = append(r.Brokers, e)
	}
}

// countReplicated counts what followers get against the throttle of replication.
func (r *fetchResponse) countReplicated() {
	for i := range r.results {
		// Not of the entry: it belongs to the session, which may be closed by now.
		if res := &r.results[i]; res.part != nil {
			res.part.SentToFollower(res.Slice.Len)
		}
	}
}

// SizeHint is about how long the frame is without the records.
func (r *fetchResponse) SizeHint() int {
	n := 64
	for i := range r.results {
		n += 96 + len(r.results[i].e.topic) + 17*len(r.results[i].Aborted)
	}
	return n
}

// Bytes is about how long the frame is with its records.
func (r *fetchResponse) Bytes() int {
	n := r.SizeHint()
	for i := range r.results {
		n += r.results[i].Slice.Len
	}
	return n
}

// AppendFrame appends the frame without its records and with 0 for its size.
func (r *fetchResponse) AppendFrame(dst []byte, correlationID int32) ([]byte, []Splice) {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = protocol.AppendResponseHeader(dst, correlationID, r.Key(), r.Version >= 12)
	dst = r.appendBody(dst, start)
	return dst, r.splices
}

// AppendTo encodes the body with a copy of the records. The sender does not use
// it; it makes fetchResponse a kmsg.Response like any other. Records that cannot
// be read are left out.
func (r *fetchResponse) AppendTo(dst []byte) []byte {
	body := r.appendBody(nil, 0)
	at := 0
	for _, s := range r.splices {
		dst = append(dst, body[at:s.At]...)
		at = s.At
		if with, err := s.Slice.AppendTo(dst); err == nil {
			dst = with
		}
	}
	return append(dst, body[at:]...)
}

// appendBody appends the body; splices are counted from start.
func (r *fetchResponse) appendBody(dst []byte, start int) []byte {
	v, flex := r.Version, r.Version >= 12
	clear(r.splices)
	r.splices = r.splices[:0]
	dst = be.AppendUint32(dst, uint32(r.ThrottleMillis))
	if v >= 7 {
		dst = be.AppendUint16(dst, uint16(r.ErrorCode))
		dst = be.AppendUint32(dst, uint32(r.SessionID))
	}
	dst = appendCount(dst, flex, r.topics())
	for i := 0; i < len(r.results); {
		n := r.run(i)
		if e := r.results[i].e; v >= 13 {
			dst = append(dst, e.id[:]...)
		} else {
			dst = appendString(dst, flex, e.topic)
		}
		dst = appendCount(dst, flex, n)
		for ; n > 0; n-- {
			dst = r.appendPartition(dst, start, &r.results[i])
			i++
		}
		if flex {
			dst = append(dst, 0)
		}
	}
	if flex {
		dst = r.appendTags(dst)
	}
	return dst
}

// topics is the number of runs of results that are of one topic.
func (r *fetchResponse) topics() int {
	n := 0
	for i := 0; i < len(r.results); i += r.run(i) {
		n++
	}
	return n
}

// run is how many results from i on are of the same topic.
func (r *fetchResponse) run(i int) int {
	first := r.results[i].e
	n := 1
	for i+n < len(r.results) && r.results[i+n].e.id == first.id && r.results[i+n].e.topic == first.topic {
		n++
	}
	return n
}

func (r *fetchResponse) appendPartition(dst []byte, start int, p *fetchResult) []byte {
	v, flex := r.Version, r.Version >= 12
	dst = be.AppendUint32(dst, uint32(p.e.partition))
	dst = be.AppendUint16(dst, uint16(p.code))
	dst = be.AppendUint64(dst, uint64(p.HighWatermark))
	dst = be.AppendUint64(dst, uint64(p.LastStableOffset))
	if v >= 5 {
		dst = be.AppendUint64(dst, uint64(p.LogStartOffset))
	}
	dst = appendAborted(dst, flex, p)
	if v >= 11 {
		dst = be.AppendUint32(dst, uint32(p.PreferredReplica))
	}
	// No records are 0 bytes, not null: librdkafka takes null for an error.
	if flex {
		dst = binary.AppendUvarint(dst, uint64(p.Slice.Len)+1)
	} else {
		dst = be.AppendUint32(dst, uint32(p.Slice.Len))
	}
	if p.Slice.Len > 0 {
		r.splices = append(r.splices, Splice{At: len(dst) - start, Slice: &p.Slice})
	}
	if flex {
		dst = appendFetchTags(dst, p)
	}
	return dst
}

// appendAborted appends the aborted transactions: null where the reader did not
// ask for committed records only.
func appendAborted(dst []byte, flex bool, p *fetchResult) []byte {
	if p.Aborted == nil {
		if flex {
			return append(dst, 0)
		}
		return append(dst, 0xff, 0xff, 0xff, 0xff)
	}
	dst = appendCount(dst, flex, len(p.Aborted))
	for _, a := range p.Aborted {
		dst = be.AppendUint64(dst, uint64(a.ProducerID))
		dst = be.AppendUint64(dst, uint64(a.FirstOffset))
		if flex {
			dst = append(dst, 0)
		}
	}
	return dst
}

func appendFetchTags(dst []byte, p *fetchResult) []byte {
	var n byte
	if p.Diverging != nil {
		n++
	}
	tellsLeader := p.leader != -1 || p.leaderEpoch != -1
	if tellsLeader {
		n++
	}
	dst = append(dst, n)
	if p.Diverging != nil {
		dst = append(dst, 0, 4+8+1)
		dst = be.AppendUint32(dst, uint32(p.Diverging.Epoch))
		dst = be.AppendUint64(dst, uint64(p.Diverging.EndOffset))
		dst = append(dst, 0)
	}
	if tellsLeader {
		dst = appendLeaderTag(dst, 1, p.leader, p.leaderEpoch)
	}
	return dst
}

func (r *fetchResponse) appendTags(dst []byte) []byte {
	if len(r.Brokers) == 0 {
		return append(dst, 0)
	}
	dst = append(dst, 1, 0)
	at := len(dst)
	dst = appendCount(dst, true, len(r.Brokers))
	for i := range r.Brokers {
		e := &r.Brokers[i]
		dst = appendEndpoint(dst, e.NodeID, e.Host, e.Port, e.Rack)
	}
	return sizeTag(dst, at)
}
