package handler

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/twmb/franz-go/pkg/kerr"
)

// What a client may do is answered as a set of bits, numbered by ACL operation
// (KIP-430). Where nothing is restrained, it may do everything that applies.
const (
	// topicOperations: read, write, create, delete, alter, describe, describe
	// configs, alter configs.
	topicOperations int32 = 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<10 | 1<<11
	// clusterOperations: create, alter, describe, cluster action, describe
	// configs, alter configs, idempotent write.
	clusterOperations int32 = 1<<5 | 1<<7 | 1<<8 | 1<<9 | 1<<10 | 1<<11 | 1<<12
)

// view is the cluster as the clients of one listener see it.
type view struct {
	img      *metadata.Image
	listener string
}

func (b *Broker) view(r *Request) view {
	v := view{img: b.Cluster.Image()}
	if r.Conn != nil {
		v.listener = r.Conn.Listener
	}
	return v
}

// endpoint is where clients of this listener reach a broker; false if the
// broker has no such listener.
func (v view) endpoint(br *metadata.Broker) (metadata.Endpoint, bool) {
	for _, e := range br.Endpoints {
		if e.Listener == v.listener {
			return e, true
		}
	}
	return metadata.Endpoint{}, false
}

// alive are the brokers that these clients can reach.
func (v view) alive(yield func(*metadata.Broker, metadata.Endpoint) bool) {
	for _, br := range v.img.Brokers() {
		if br.Fenced {
			continue
		}
		if e, ok := v.endpoint(br); ok && !yield(br, e) {
			return
		}
	}
}

// reachable says whether these clients can reach the broker with that id.
func (v view) reachable(id int32) bool {
	br := v.img.Broker(id)
	if br == nil || br.Fenced {
		return false
	}
	_, ok := v.endpoint(br)
	return ok
}

// controllerID is the broker that administration is sent to: the controller, or
// this broker while there is none that these clients can reach.
func (v view) controllerID(self int32) int32 {
	if id := v.img.ControllerID(); v.reachable(id) {
		return id
	}
	return self
}

// partition is the state of a partition as clients see it.
type partition struct {
	code                   int16
	leader, epoch          int32
	replicas, isr, offline []int32
}

// partition describes p. Before Metadata v6 a leader without this listener
// counts as missing, and v0 clients learn of no replica that is down.
func (v view) partition(p *metadata.Partition, oldLeaderError, onlyReachable bool) partition {
	out := partition{leader: p.Leader, epoch: p.LeaderEpoch, replicas: p.Replicas, isr: p.ISR}
	for _, id := range p.Replicas {
		if !v.reachable(id) || slices.Contains(p.OfflineReplicas, id) {
			out.offline = append(out.offline, id)
		}
	}
	if onlyReachable {
		out.replicas, out.isr = v.onlyReachable(p.Replicas), v.onlyReachable(p.ISR)
	}
	switch {
	case !v.reachable(p.Leader):
		out.leader = metadata.NoLeader
		out.code = kerr.LeaderNotAvailable.Code
		if br := v.img.Broker(p.Leader); br != nil && !br.Fenced && !oldLeaderError {
			out.code = kerr.ListenerNotFound.Code
		}
	case len(out.replicas) < len(p.Replicas) || len(out.isr) < len(p.ISR):
		out.code = kerr.ReplicaNotAvailable.Code
	}
	return out
}

func (v view) onlyReachable(ids []int32) []int32 {
	var out []int32
	for _, id := range ids {
		if v.reachable(id) {
			out = append(out, id)
		}
	}
	return out
}

// withTimeout bounds a change of the cluster by the time that the client gives
// it. Clients that give none mean as long as it takes.
func (r *Request) withTimeout(ms int32) (context.Context, context.CancelFunc) {
	if ms <= 0 {
		ms = 30_000
	}
	return context.WithTimeout(r.Ctx, time.Duration(ms)*time.Millisecond)
}

// awaitReplicas is REQUEST_TIMED_OUT, with the outcome open, if this broker's replicas
// of a topic are not what was decided when ctx ends. That is so in a log directory that
// hangs: the metadata does not wait for it, but what an operator is told to have
// happened to replicas there has. Topics without any there are not waited for, nor are
// topics that are created because somebody asks for them: where they are led by nobody
// yet, clients come again.
func (b *Broker) awaitReplicas(ctx context.Context, topic string) error {
	if b.Partitions.AwaitTopic(ctx, topic) != nil {
		return kerr.RequestTimedOut
	}
	return nil
}

// message is a nullable text: absent if empty.
func message(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// failure is the code and the text of a result: the text that the decision
// gave, or else that of the error itself.
func failure(err error, text string) (code int16, msg *string) {
	if err == nil {
		return 0, nil
	}
	code = protocol.Code(err)
	if text == "" {
		if e := kerr.TypedErrorForCode(code); e != nil {
			text = e.Description
		}
	}
	return code, &text
}

// otherNode says why a broker's settings are not this broker's to change.
func (b *Broker) otherNode(name string) string {
	text := b.otherBroker(name, "Unexpected broker id, expected %d, but received %d")
	return strings.Replace(text, "Broker id must", "Node id must", 1)
}

// brokerListMessage words a refused APPEND or SUBTRACT as Kafka does for
// brokers, which differs from what it says of topics.
func brokerListMessage(text string) string {
	for kind, verb := range map[string]string{"APPEND": "append", "SUBTRACT": "subtract"} {
		if rest, ok := strings.CutPrefix(text, "Can't "+kind+" to key "); ok {
			key := strings.TrimSuffix(rest, " because its type is not LIST.")
			return "Config value " + verb + " is not allowed for config key: " + key
		}
	}
	return text
}
