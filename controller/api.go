package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
)

// CreateTopics creates topics, or with validateOnly says what would come of
// it. A topic that is answered without error is in the published image, and
// this node's subscribers have applied it. Topics that stand several times in
// the request are answered once.
//
// Errors that concern the whole request are answered for every topic:
// NOT_CONTROLLER when another node decides, REQUEST_TIMED_OUT when ctx ended
// first, with the outcome open.
func (c *Controller) CreateTopics(ctx context.Context, topics []metadata.NewTopic, validateOnly bool) []metadata.TopicResult {
	topics = append([]metadata.NewTopic(nil), topics...)
	for i := range topics {
		topics[i].ID = newID()
	}
	return c.topicRequest(ctx, func(img *metadata.Image, _ bool) []metadata.TopicDecision {
		return metadata.CreateTopics(img, &c.env, topics)
	}, func(err error) (results []metadata.TopicResult) {
		for _, t := range topics {
			results = append(results, metadata.TopicResult{Name: t.Name, Err: err, Partitions: -1, ReplicationFactor: -1})
		}
		return results
	}, validateOnly)
}

// DeleteTopics deletes topics by name or by id. The partitions' logs are the
// subscribers' to remove.
func (c *Controller) DeleteTopics(ctx context.Context, refs []metadata.TopicRef) []metadata.TopicResult {
	return c.topicRequest(ctx, func(img *metadata.Image, retried bool) []metadata.TopicDecision {
		return metadata.DeleteTopics(img, refs, retried)
	}, func(err error) (results []metadata.TopicResult) {
		for _, r := range refs {
			results = append(results, metadata.TopicResult{Name: r.Name, ID: r.ID, Err: err})
		}
		return results
	}, false)
}

// CreatePartitions adds partitions to topics, or with validateOnly says what
// would come of it.
func (c *Controller) CreatePartitions(ctx context.Context, topics []metadata.NewPartitions, validateOnly bool) []metadata.TopicResult {
	return c.topicRequest(ctx, func(img *metadata.Image, retried bool) []metadata.TopicDecision {
		return metadata.CreatePartitions(img, &c.env, topics, retried)
	}, func(err error) (results []metadata.TopicResult) {
		for _, t := range topics {
			results = append(results, metadata.TopicResult{Name: t.Topic, Err: err})
		}
		return results
	}, validateOnly)
}

func (c *Controller) topicRequest(ctx context.Context, decide func(*metadata.Image, bool) []metadata.TopicDecision,
	failed func(error) []metadata.TopicResult, validateOnly bool,
) []metadata.TopicResult {
	var results []metadata.TopicResult
	err := c.submit(&request{ctx: ctx, decide: func(img *metadata.Image, retried bool) (plans []metadata.Plan, ok bool) {
		decisions := decide(img, retried)
		results = make([]metadata.TopicResult, len(decisions))
		ok = true
		for i, d := range decisions {
			results[i] = d.Result
			ok = ok && d.Result.Err == nil
			if !validateOnly {
				plans = append(plans, d.Plan)
			}
		}
		return plans, ok
	}})
	if err != nil {
		return failed(err)
	}
	return results
}

// AlterConfigs changes the configs of topics, brokers, groups and client
// metrics subscriptions.
func (c *Controller) AlterConfigs(ctx context.Context, alterations []metadata.ConfigAlteration, validateOnly bool) []metadata.ConfigResult {
	var results []metadata.ConfigResult
	err := c.submit(&request{ctx: ctx, elects: metadata.AffectsElections(alterations), decide: func(img *metadata.Image, _ bool) (plans []metadata.Plan, ok bool) {
		decisions := metadata.AlterConfigs(img, &c.env, alterations)
		results = make([]metadata.ConfigResult, len(decisions))
		ok = true
		for i, d := range decisions {
			results[i] = d.Result
			ok = ok && d.Result.Err == nil
			if !validateOnly {
				plans = append(plans, d.Plan)
			}
		}
		return plans, ok
	}})
	if err != nil {
		results = make([]metadata.ConfigResult, len(alterations))
		for i, a := range alterations {
			results[i] = metadata.ConfigResult{Resource: a.Resource, Err: err}
		}
	}
	return results
}

// AllocateProducerIDs takes a block of producer ids, which nobody else will
// ever get. Any node may: the compare-and-set of the one key is all it needs.
func (c *Controller) AllocateProducerIDs(ctx context.Context) (first int64, count int32, err error) {
	c.producerMu.Lock()
	defer c.producerMu.Unlock()
	for {
		kvs, revision, err := c.opts.Store.Get(ctx, metadata.ProducerIDsKey)
		if err != nil {
			return 0, 0, unavailable(ctx, err)
		}
		img, err := metadata.FromKVs(kvs, revision)
		if err != nil {
			return 0, 0, err
		}
		first, change := metadata.AllocateProducerIDs(img)
		result, err := c.opts.Store.Txn(ctx, txnOf(nil, []metadata.Change{change}))
		if err != nil {
			// If it happened, the block is lost, and nothing else.
			return 0, 0, unavailable(ctx, err)
		}
		if result.Succeeded {
			return first, metadata.ProducerIDBlock, nil
		}
	}
}

// unavailable wraps an error of the store in what clients understand: that
// trying again may help.
func unavailable(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", kerr.RequestTimedOut, err)
	}
	return fmt.Errorf("%w: %w", kerr.CoordinatorLoadInProgress, err)
}

// ElectLeaders carries out elections that an operator asks for; nil topics
// stand for all partitions. See metadata.ElectLeaders.
func (c *Controller) ElectLeaders(ctx context.Context, kind metadata.ElectionType, topics []metadata.TopicPartitions) ([]metadata.PartitionResult, error) {
	return c.partitionRequest(ctx, func(img *metadata.Image) ([]metadata.PartitionResult, []metadata.Plan) {
		return metadata.ElectLeaders(img, &c.env, kind, topics)
	})
}

// Reassign begins, changes and undoes reassignments. See metadata.Reassign.
func (c *Controller) Reassign(ctx context.Context, asked []metadata.Reassignment, allowRFChange bool) ([]metadata.PartitionResult, error) {
	return c.partitionRequest(ctx, func(img *metadata.Image) ([]metadata.PartitionResult, []metadata.Plan) {
		return metadata.Reassign(img, &c.env, asked, allowRFChange)
	})
}

// AlterPartition asks for other in-sync sets of partitions that this broker
// leads; see metadata.AlterISR for the checks and errors. A change that is
// answered without error is in the published image.
//
// Of REQUEST_TIMED_OUT and every other error that concerns the whole request the
// outcome is open (rule 12): the leader stays with the stricter of the two sets
// until the metadata shows which it is, or asks again.
func (c *Controller) AlterPartition(ctx context.Context, changes []metadata.ISRChange) []metadata.ISRResult {
	return c.alterISR(ctx, metadata.ISRRequest{BrokerID: c.opts.NodeID, BrokerEpoch: c.BrokerEpoch(), Changes: changes})
}

func (c *Controller) alterISR(ctx context.Context, req metadata.ISRRequest) []metadata.ISRResult {
	var results []metadata.ISRResult
	err := c.submit(&request{ctx: ctx, decide: func(img *metadata.Image, retried bool) (plans []metadata.Plan, ok bool) {
		results, plans = metadata.AlterISR(img, &c.env, req, retried)
		return plans, !slices.ContainsFunc(results, func(r metadata.ISRResult) bool { return r.Err != nil })
	}})
	if err != nil {
		results = make([]metadata.ISRResult, len(req.Changes))
		for i, ch := range req.Changes {
			results[i] = metadata.ISRResult{Topic: ch.Topic, Partition: ch.Partition, Err: err}
		}
	}
	return results
}

func (c *Controller) partitionRequest(ctx context.Context, decide func(*metadata.Image) ([]metadata.PartitionResult, []metadata.Plan)) ([]metadata.PartitionResult, error) {
	var results []metadata.PartitionResult
	err := c.submit(&request{ctx: ctx, decide: func(img *metadata.Image, _ bool) (plans []metadata.Plan, ok bool) {
		results, plans = decide(img)
		return plans, !slices.ContainsFunc(results, func(r metadata.PartitionResult) bool { return r.Err != nil })
	}})
	if err != nil {
		return nil, err
	}
	return results, nil
}

// AlterQuotas changes the quotas of users, client ids and addresses, or with
// validateOnly says what would come of it. See metadata.AlterQuotas.
func (c *Controller) AlterQuotas(ctx context.Context, alterations []metadata.QuotaAlteration, resolves func(host string) bool, validateOnly bool) ([]metadata.QuotaResult, error) {
	var results []metadata.QuotaResult
	err := c.submit(&request{ctx: ctx, decide: func(img *metadata.Image, _ bool) (plans []metadata.Plan, ok bool) {
		results, plans = metadata.AlterQuotas(img, alterations, resolves)
		if validateOnly {
			plans = nil
		}
		return plans, !slices.ContainsFunc(results, func(r metadata.QuotaResult) bool { return r.Err != nil })
	}})
	if err != nil {
		return nil, err
	}
	return results, nil
}

// AlterScram stores and deletes SCRAM credentials. See metadata.AlterScram.
func (c *Controller) AlterScram(ctx context.Context, deletions []metadata.ScramID, upsertions []metadata.ScramUpsertion) ([]metadata.ScramResult, error) {
	var results []metadata.ScramResult
	err := c.submit(&request{ctx: ctx, decide: func(img *metadata.Image, _ bool) (plans []metadata.Plan, ok bool) {
		results, plans = metadata.AlterScram(img, deletions, upsertions)
		return plans, !slices.ContainsFunc(results, func(r metadata.ScramResult) bool { return r.Err != nil })
	}})
	if err != nil {
		return nil, err
	}
	return results, nil
}
