// Command member is a member of a consumer group that uses franz-go. It prints
// the events that Kafka's VerifiableConsumer prints: see harness/member.go.
//
//	member BROKER TOPIC GROUP BALANCER
//
// BALANCER is range, roundrobin, sticky or cooperative-sticky, or one of
// consumer:uniform and consumer:range, with which the broker assigns (KIP-848).
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

type partition struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	MinOffset *int64 `json:"minOffset,omitempty"`
	MaxOffset *int64 `json:"maxOffset,omitempty"`
}

// speaker prints events, one at a time.
type speaker struct{ mu sync.Mutex }

func (s *speaker) say(name string, partitions []partition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := json.Marshal(map[string]any{"name": name, "timestamp": time.Now().UnixMilli(), "partitions": partitions})
	if err != nil {
		panic(err) // strings and numbers
	}
	fmt.Println(string(b))
}

func (s *speaker) heard(name string) func(context.Context, *kgo.Client, map[string][]int32) {
	return func(_ context.Context, _ *kgo.Client, m map[string][]int32) {
		ps := []partition{}
		for t, ids := range m {
			for _, id := range ids {
				ps = append(ps, partition{Topic: t, Partition: id})
			}
		}
		s.say(name, ps)
	}
}

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: member BROKER TOPIC GROUP BALANCER")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func balancer(name string) ([]kgo.Opt, error) {
	classic := []kgo.Opt{kgo.SessionTimeout(10 * time.Second), kgo.HeartbeatInterval(500 * time.Millisecond)}
	switch name {
	case "range":
		return append(classic, kgo.Balancers(kgo.RangeBalancer())), nil
	case "roundrobin":
		return append(classic, kgo.Balancers(kgo.RoundRobinBalancer())), nil
	case "sticky":
		return append(classic, kgo.Balancers(kgo.StickyBalancer())), nil
	case "cooperative-sticky":
		return append(classic, kgo.Balancers(kgo.CooperativeStickyBalancer())), nil
	case "consumer:uniform":
		return []kgo.Opt{kgo.ServerSideBalancer(), kgo.Balancers(kgo.StickyBalancer())}, nil
	case "consumer:range":
		return []kgo.Opt{kgo.ServerSideBalancer(), kgo.Balancers(kgo.RangeBalancer())}, nil
	}
	return nil, fmt.Errorf("no balancer %s", name)
}

func run(addr, topic, group, how string) error {
	opts, err := balancer(how)
	if err != nil {
		return err
	}
	s := &speaker{}
	cl, err := kgo.NewClient(append(opts,
		kgo.SeedBrokers(addr), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		// Nothing is revoked between a poll and the commit of what it gave.
		kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.MetadataMaxAge(time.Second), kgo.MetadataMinAge(100*time.Millisecond),
		kgo.OnPartitionsAssigned(s.heard("partitions_assigned")),
		kgo.OnPartitionsRevoked(s.heard("partitions_revoked")),
		kgo.OnPartitionsLost(s.heard("partitions_revoked")),
	)...)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	for ctx.Err() == nil {
		fs := cl.PollFetches(ctx)
		var ps []partition
		fs.EachPartition(func(p kgo.FetchTopicPartition) {
			if n := len(p.Records); n > 0 {
				ps = append(ps, partition{p.Topic, p.Partition, &p.Records[0].Offset, &p.Records[n-1].Offset})
			}
		})
		if len(ps) > 0 {
			s.say("records_consumed", ps)
			if err := cl.CommitRecords(context.Background(), fs.Records()...); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
		cl.AllowRebalance()
	}
	cl.CloseAllowingRebalance()
	s.say("shutdown_complete", nil)
	return nil
}
