package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/compat-tests/chaos/nemesis"
	"github.com/gregor-broker/gregor/compat-tests/chaos/work"
	"github.com/gregor-broker/gregor/compat-tests/harness"
)

// roles find nodes, of which the first ones are brokers, by what they are.
func roles(nodes []*harness.Broker, brokers int) []nemesis.Role {
	at := func(id int32) int {
		return slices.IndexFunc(nodes, func(b *harness.Broker) bool { return b.ID == int(id) })
	}
	ask := func(ctx context.Context, req kmsg.Request) (kmsg.Response, error) {
		cl, err := kgo.NewClient(kgo.SeedBrokers(addresses(nodes[:brokers])...))
		if err != nil {
			return nil, err
		}
		defer cl.Close()
		return cl.Request(ctx, req)
	}
	coordinator := func(kind int8, key string) func(context.Context) (int, error) {
		return func(ctx context.Context) (int, error) {
			req := kmsg.NewPtrFindCoordinatorRequest()
			req.CoordinatorType, req.CoordinatorKey, req.CoordinatorKeys = kind, key, []string{key}
			resp, err := ask(ctx, req)
			if err != nil {
				return 0, err
			}
			r := resp.(*kmsg.FindCoordinatorResponse)
			if len(r.Coordinators) == 0 {
				return at(r.NodeID), kerr.ErrorForCode(r.ErrorCode)
			}
			return at(r.Coordinators[0].NodeID), kerr.ErrorForCode(r.Coordinators[0].ErrorCode)
		}
	}
	return []nemesis.Role{
		{Name: "a leader", Find: func(ctx context.Context) (int, error) {
			req := kmsg.NewPtrMetadataRequest()
			topic := kmsg.NewMetadataRequestTopic()
			topic.Topic = kmsg.StringPtr(work.MixTopic)
			req.Topics = append(req.Topics, topic)
			resp, err := ask(ctx, req)
			if err != nil {
				return 0, err
			}
			r := resp.(*kmsg.MetadataResponse)
			if len(r.Topics) == 0 || len(r.Topics[0].Partitions) == 0 {
				return 0, errors.New("no partitions")
			}
			return at(r.Topics[0].Partitions[0].Leader), nil
		}},
		{Name: "the controller", Find: func(ctx context.Context) (int, error) {
			req := kmsg.NewPtrDescribeQuorumRequest()
			topic := kmsg.NewDescribeQuorumRequestTopic()
			topic.Topic = "__cluster_metadata"
			topic.Partitions = append(topic.Partitions, kmsg.NewDescribeQuorumRequestTopicPartition())
			req.Topics = append(req.Topics, topic)
			resp, err := ask(ctx, req)
			if err != nil {
				return 0, err
			}
			r := resp.(*kmsg.DescribeQuorumResponse)
			if len(r.Topics) == 0 || len(r.Topics[0].Partitions) == 0 {
				return 0, fmt.Errorf("no quorum: %w", kerr.ErrorForCode(r.ErrorCode))
			}
			return at(r.Topics[0].Partitions[0].LeaderID), nil
		}},
		{Name: "a coordinator of groups", Find: coordinator(0, "movers-classic")},
		{Name: "a coordinator of transactions", Find: coordinator(1, "mixer-3")},
	}
}
