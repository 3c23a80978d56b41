package handler

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/replication"
)

// What comes to the leader of a moment ago.
//
// When a leadership moves in order, as it does when a broker stops, clients hear of it
// from the answers to what they send to the leader of before. An error costs a client
// its retry.backoff.ms before it tries again, 100 ms with librdkafka, which is a
// hundred times what the move took. So for a moment the leader of before has the
// leader of now write the records, and answers with what that one says and with
// who it is: librdkafka goes there from then on, and the client saw nothing but one
// answer that took longer. Clients that read who leads from errors only (Java,
// franz-go) get theirs when the moment is over; they try again at once.
//
// It is Kafka's Produce between brokers, of the version that the client sent. What
// this broker had appended before it resigned and could not commit is handed on as
// well, if it is of an idempotent producer, as the client would send it again: what
// the new leader has of it already it knows as a duplicate.
//
// Nothing of a producer may overtake what it has to send again. So the leader of now
// takes no producer that it does not know but from its first sequence on, and once
// somebody was sent away, so is everybody.

const (
	// handOnFor is how long after it resigned a broker hands on. It is half of the
	// time for which a stopping broker serves on, in whose second half clients that
	// do not learn from this are sent away.
	handOnFor = 100 * time.Millisecond
	// handOnPatience bounds the wait of one request for the new leaders. After that the
	// client is sent away, as it would have been before.
	handOnPatience = time.Second
	// mostHandedOn bounds the bytes that are being handed on at a time, of which
	// there is a copy each, and with leastHandedOn, which a request counts as at least,
	// the connections. What is above is sent away.
	mostHandedOn  = 32 << 20
	leastHandedOn = 256 << 10
	// handedOnTag marks a request that was handed on, in a tagged field which is not
	// of Kafka's: nobody hands it on again.
	handedOnTag = 29_551
)

// HandedOn counts what a broker handed on to the leader of now.
type HandedOn struct {
	// Partitions counts those of all requests, Failed those of them that the new
	// leader did not answer.
	Partitions, Failed atomic.Int64

	bytes atomic.Int64
}

// toHandOn tells whether a partition's records, refused with err, are for another
// broker to write and the client can be told so.
func (c *produceCall) toHandOn(b *Broker, r *Request, p *replication.Partition, err error) bool {
	if p == nil || b.Peers == nil || c.handedOn || c.req.Acks == 0 || c.req.Version < leaderTold ||
		r.Header.ClientID == adminClientID || !errors.Is(err, kerr.NotLeaderForPartition) {
		return false
	}
	_, ok := p.Successor(handOnFor)
	return ok
}

// resendable makes a batch that was appended here what the client sent, and tells whether
// it may be sent again: not without a producer, of whom the new leader could not know that
// it has it, nor where the topic's own timestamps replaced the producer's.
func resendable(records []byte) bool {
	b := protocol.Batch(records)
	b.SetBaseOffset(0)
	return b.ProducerID() >= 0 && !b.LogAppendTime()
}

// handOn has other brokers write what is in moved, and fills in the answers.
func (c *produceCall) handOn(b *Broker, r *Request) {
	byLeader := map[int32][]produced{}
	for _, w := range c.moved {
		leader, ok := w.p.Successor(handOnPatience)
		if !ok {
			c.sendAway(b, r, w)
			continue
		}
		byLeader[leader] = append(byLeader[leader], w)
	}
	ctx, cancel := context.WithTimeout(r.Ctx, handOnPatience)
	defer cancel()
	for leader, ws := range byLeader {
		b.HandedOn.Partitions.Add(int64(len(ws)))
		answers, err := c.askLeader(ctx, b, leader, ws)
		if err != nil {
			b.HandedOn.Failed.Add(int64(len(ws)))
			b.Log.Debug().Err(err).Int32("broker", leader).Msg("the new leader did not answer for what was handed on to it")
		}
		for i, w := range ws {
			if err != nil {
				c.sendAway(b, r, w)
				continue
			}
			c.answered(b, r, w, answers[i])
		}
	}
}

// sendAway answers who was to be served by the new leader and is not. The others go
// the same way from then on: of an idempotent producer that the new leader does not
// know it takes any sequence, so that a batch which was handed on after one that was
// sent away would stand, and the one before it never be taken.
func (c *produceCall) sendAway(b *Broker, r *Request, w produced) {
	w.p.SendAway()
	c.failed(b, r, w, kerr.NotLeaderForPartition)
}

var (
	errTooMuchHandedOn = errors.New("too much is being handed on already")
	errOtherAnswer     = errors.New("the answer is to other partitions")
)

// askLeader has one broker write some partitions and returns its answer for each.
func (c *produceCall) askLeader(ctx context.Context, b *Broker, leader int32, ws []produced) ([]*kmsg.ProduceResponseTopicPartition, error) {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.TransactionID, req.Acks = c.req.Version, c.req.TransactionID, c.req.Acks
	req.TimeoutMillis = min(c.req.TimeoutMillis, int32(handOnPatience.Milliseconds()))
	req.UnknownTags.Set(handedOnTag, nil)
	size := int64(0)
	for i, w := range ws {
		if i == 0 || ws[i-1].t != w.t {
			t := kmsg.NewProduceRequestTopic()
			t.Topic, t.TopicID = w.t.Topic, w.t.TopicID
			req.Topics = append(req.Topics, t)
		}
		t := &req.Topics[len(req.Topics)-1]
		t.Partitions = append(t.Partitions, *w.rec)
		size += int64(len(w.rec.Records))
	}
	size = max(size, leastHandedOn)
	defer b.HandedOn.bytes.Add(-size)
	if b.HandedOn.bytes.Add(size) > mostHandedOn {
		return nil, errTooMuchHandedOn
	}
	answer, err := b.Peers.Request(ctx, leader, req)
	if err != nil {
		return nil, err
	}
	resp, ok := answer.(*kmsg.ProduceResponse)
	if !ok {
		return nil, errOtherAnswer
	}
	var out []*kmsg.ProduceResponseTopicPartition
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			p := &resp.Topics[i].Partitions[j]
			if len(out) == len(ws) || p.Partition != ws[len(out)].rec.Partition {
				return nil, errOtherAnswer
			}
			out = append(out, p)
		}
	}
	if len(out) != len(ws) {
		return nil, errOtherAnswer
	}
	return out, nil
}

// answered passes on that the new leader took what a partition was sent, and who that
// is. What it refuses, or could not commit in time, the client is to hear from it.
func (c *produceCall) answered(b *Broker, r *Request, w produced, said *kmsg.ProduceResponseTopicPartition) {
	if said.ErrorCode != 0 {
		c.sendAway(b, r, w)
		return
	}
	*w.out = *said
	c.redirect(b, r, w)
}
