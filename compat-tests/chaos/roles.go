package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/compat-tests/chaos/nemesis"
	"github.com/gregor-broker/gregor/compat-tests/chaos/work"
	"github.com/gregor-broker/gregor/compat-tests/harness"
)

// roles find brokers by what they are. Broker i has the node id i+1.
func roles(brokers []*harness.Broker) []nemesis.Role {
	ask := func(ctx context.Context, req kmsg.Request) (kmsg.Response, error) {
		var addrs []string
		for _, b := range brokers {
			addrs = append(addrs, b.Addr)
		}
		cl, err := kgo.NewClient(kgo.SeedBrokers(addrs...))
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
				return int(r.NodeID) - 1, kerr.ErrorForCode(r.ErrorCode)
			}
			return int(r.Coordinators[0].NodeID) - 1, kerr.ErrorForCode(r.Coordinators[0].ErrorCode)
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
			return int(r.Topics[0].Partitions[0].Leader) - 1, nil
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
			return int(r.Topics[0].Partitions[0].LeaderID) - 1, nil
		}},
		{Name: "a coordinator of groups", Find: coordinator(0, "movers-classic")},
		{Name: "a coordinator of transactions", Find: coordinator(1, "mixer-3")},
	}
}
