package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
)

// The names by which nodes call operations.
const (
	opCreateTopics     = "CreateTopics"
	opDeleteTopics     = "DeleteTopics"
	opCreatePartitions = "CreatePartitions"
	opAlterConfigs     = "AlterConfigs"
	opElectLeaders     = "ElectLeaders"
	opReassign         = "Reassign"
	opAlterQuotas      = "AlterQuotas"
	opAlterScram       = "AlterScram"
	opUpdateFeatures   = "UpdateFeatures"
	opUnregisterBroker = "UnregisterBroker"
	opAlterPartition   = "AlterPartition"
)

type createTopicsArgs struct {
	Topics       []metadata.NewTopic
	ValidateOnly bool
}

// CreateTopics creates topics, or with validateOnly says what would come of
// it. A topic that is answered without error is in the published image, and
// this node's subscribers have applied it. Topics that stand several times in
// the request are answered once.
//
// Like all that only the controller decides, it is sent to the node that is,
// if there is a way (Options.Call). Errors that concern the whole request are
// answered for every topic: NOT_CONTROLLER when another node decides and there
// is no way to it, REQUEST_TIMED_OUT when ctx ended first, with the outcome
// open.
func (c *Controller) CreateTopics(ctx context.Context, topics []metadata.NewTopic, validateOnly bool) []metadata.TopicResult {
	topics = append([]metadata.NewTopic(nil), topics...)
	for i := range topics {
		topics[i].ID = newID()
	}
	results, err := do(ctx, c, c.createTopics(createTopicsArgs{topics, validateOnly}))
	if err != nil {
		results = nil
		for _, t := range topics {
			results = append(results, metadata.TopicResult{Name: t.Name, Err: err, Partitions: -1, ReplicationFactor: -1})
		}
	}
	return results
}

func (c *Controller) createTopics(a createTopicsArgs) operation[metadata.TopicResult] {
	return topicOperation(opCreateTopics, a, a.ValidateOnly, func(img *metadata.Image, _ bool) []metadata.TopicDecision {
		return metadata.CreateTopics(img, &c.env, a.Topics)
	})
}

func topicOperation(name string, args any, validateOnly bool, decide func(*metadata.Image, bool) []metadata.TopicDecision) operation[metadata.TopicResult] {
	return operation[metadata.TopicResult]{
		name: name, args: args, fault: func(r *metadata.TopicResult) *error { return &r.Err },
		decide: func(img *metadata.Image, retried bool) (results []metadata.TopicResult, plans []metadata.Plan) {
			for _, d := range decide(img, retried) {
				results = append(results, d.Result)
				if !validateOnly {
					plans = append(plans, d.Plan)
				}
			}
			return results, plans
		},
	}
}

// DeleteTopics deletes topics by name or by id. The partitions' logs are the
// subscribers' to remove.
func (c *Controller) DeleteTopics(ctx context.Context, refs []metadata.TopicRef) []metadata.TopicResult {
	results, err := do(ctx, c, c.deleteTopics(refs))
	if err != nil {
		results = nil
		for _, r := range refs {
			results = append(results, metadata.TopicResult{Name: r.Name, ID: r.ID, Err: err})
		}
	}
	return results
}

func (c *Controller) deleteTopics(refs []metadata.TopicRef) operation[metadata.TopicResult] {
	return topicOperation(opDeleteTopics, refs, false, func(img *metadata.Image, retried bool) []metadata.TopicDecision {
		return metadata.DeleteTopics(img, refs, retried)
	})
}

type createPartitionsArgs struct {
	Topics       []metadata.NewPartitions
	ValidateOnly bool
}

// CreatePartitions adds partitions to topics, or with validateOnly says what
// would come of it.
func (c *Controller) CreatePartitions(ctx context.Context, topics []metadata.NewPartitions, validateOnly bool) []metadata.TopicResult {
	results, err := do(ctx, c, c.createPartitions(createPartitionsArgs{topics, validateOnly}))
	if err != nil {
		results = nil
		for _, t := range topics {
			results = append(results, metadata.TopicResult{Name: t.Topic, Err: err})
		}
	}
	return results
}

func (c *Controller) createPartitions(a createPartitionsArgs) operation[metadata.TopicResult] {
	return topicOperation(opCreatePartitions, a, a.ValidateOnly, func(img *metadata.Image, retried bool) []metadata.TopicDecision {
		return metadata.CreatePartitions(img, &c.env, a.Topics, retried)
	})
}

type alterConfigsArgs struct {
	Alterations  []metadata.ConfigAlteration
	ValidateOnly bool
}

// AlterConfigs changes the configs of topics, brokers, groups and client
// metrics subscriptions.
func (c *Controller) AlterConfigs(ctx context.Context, alterations []metadata.ConfigAlteration, validateOnly bool) []metadata.ConfigResult {
	results, err := do(ctx, c, c.alterConfigs(alterConfigsArgs{alterations, validateOnly}))
	if err != nil {
		results = make([]metadata.ConfigResult, len(alterations))
		for i, a := range alterations {
			results[i] = metadata.ConfigResult{Resource: a.Resource, Err: err}
		}
	}
	return results
}

func (c *Controller) alterConfigs(a alterConfigsArgs) operation[metadata.ConfigResult] {
	return operation[metadata.ConfigResult]{
		name: opAlterConfigs, args: a, elects: metadata.AffectsElections(a.Alterations),
		fault: func(r *metadata.ConfigResult) *error { return &r.Err },
		decide: func(img *metadata.Image, _ bool) (results []metadata.ConfigResult, plans []metadata.Plan) {
			for _, d := range metadata.AlterConfigs(img, &c.env, a.Alterations) {
				results = append(results, d.Result)
				if !a.ValidateOnly {
					plans = append(plans, d.Plan)
				}
			}
			return results, plans
		},
	}
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
		result, err := c.opts.Store.Txn(ctx, metadata.TxnOf(nil, []metadata.Change{change}))
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

type electLeadersArgs struct {
	Kind   metadata.ElectionType
	Topics []metadata.TopicPartitions
}

// ElectLeaders carries out elections that an operator asks for; nil topics
// stand for all partitions. See metadata.ElectLeaders.
func (c *Controller) ElectLeaders(ctx context.Context, kind metadata.ElectionType, topics []metadata.TopicPartitions) ([]metadata.PartitionResult, error) {
	return do(ctx, c, c.electLeaders(electLeadersArgs{kind, topics}))
}

func (c *Controller) electLeaders(a electLeadersArgs) operation[metadata.PartitionResult] {
	return partitionOperation(opElectLeaders, a, func(img *metadata.Image) ([]metadata.PartitionResult, []metadata.Plan) {
		if a.Kind == metadata.UncleanElection {
			c.askLogEnds(metadata.UncleanElections(img, &c.env, true))
		}
		return metadata.ElectLeaders(img, &c.env, a.Kind, a.Topics)
	})
}

type reassignArgs struct {
	Asked         []metadata.Reassignment
	AllowRFChange bool
}

// Reassign begins, changes and undoes reassignments. See metadata.Reassign.
func (c *Controller) Reassign(ctx context.Context, asked []metadata.Reassignment, allowRFChange bool) ([]metadata.PartitionResult, error) {
	return do(ctx, c, c.reassign(reassignArgs{asked, allowRFChange}))
}

func (c *Controller) reassign(a reassignArgs) operation[metadata.PartitionResult] {
	return partitionOperation(opReassign, a, func(img *metadata.Image) ([]metadata.PartitionResult, []metadata.Plan) {
		return metadata.Reassign(img, &c.env, a.Asked, a.AllowRFChange)
	})
}

func partitionOperation(name string, args any, decide func(*metadata.Image) ([]metadata.PartitionResult, []metadata.Plan)) operation[metadata.PartitionResult] {
	return operation[metadata.PartitionResult]{
		name: name, args: args, fault: func(r *metadata.PartitionResult) *error { return &r.Err },
		decide: func(img *metadata.Image, _ bool) ([]metadata.PartitionResult, []metadata.Plan) { return decide(img) },
	}
}

// AlterPartition asks for other in-sync sets of partitions that this broker
// leads; see metadata.AlterISR for the checks and errors. A change that is
// answered without error is in the published image.
//
// Of REQUEST_TIMED_OUT and every other error that concerns the whole request the
// outcome is open (rule 12): the leader stays with the stricter of the two sets
// until the metadata shows which it is, or asks again. The first of them comes
// after AlterPartitionTimeout at the latest: producers wait for what is asked, and
// an answer that was lost does not come later. While it waits, a controller that is
// replaced is not waited for; its successor is asked at once.
func (c *Controller) AlterPartition(ctx context.Context, changes []metadata.ISRChange) []metadata.ISRResult {
	ctx, cancel := context.WithTimeout(ctx, c.opts.AlterPartitionTimeout)
	defer cancel()
	results, err := do(ctx, c, c.alterPartition(metadata.ISRRequest{
		BrokerID: c.opts.NodeID, BrokerEpoch: c.BrokerEpoch(), Changes: changes,
	}))
	if err != nil {
		results = make([]metadata.ISRResult, len(changes))
		for i, ch := range changes {
			results[i] = metadata.ISRResult{Topic: ch.Topic, Partition: ch.Partition, Err: err}
		}
	}
	return results
}

func (c *Controller) alterPartition(req metadata.ISRRequest) operation[metadata.ISRResult] {
	return operation[metadata.ISRResult]{
		name: opAlterPartition, args: req, fault: func(r *metadata.ISRResult) *error { return &r.Err },
		decide: func(img *metadata.Image, retried bool) ([]metadata.ISRResult, []metadata.Plan) {
			return metadata.AlterISR(img, &c.env, req, retried)
		},
	}
}

type alterQuotasArgs struct {
	Alterations []metadata.QuotaAlteration
	// Resolved are the host names among them that the asking node could look
	// up.
	Resolved     []string
	ValidateOnly bool
}

// AlterQuotas changes the quotas of users, client ids and addresses, or with
// validateOnly says what would come of it. See metadata.AlterQuotas.
func (c *Controller) AlterQuotas(ctx context.Context, alterations []metadata.QuotaAlteration, resolves func(host string) bool, validateOnly bool) ([]metadata.QuotaResult, error) {
	var resolved []string
	for _, a := range alterations {
		for _, p := range a.Entity {
			if p.Name != nil && p.Type == metadata.QuotaIP && resolves(*p.Name) {
				resolved = append(resolved, *p.Name)
			}
		}
	}
	return do(ctx, c, c.alterQuotas(alterQuotasArgs{alterations, resolved, validateOnly}))
}

func (c *Controller) alterQuotas(a alterQuotasArgs) operation[metadata.QuotaResult] {
	return operation[metadata.QuotaResult]{
		name: opAlterQuotas, args: a, fault: func(r *metadata.QuotaResult) *error { return &r.Err },
		decide: func(img *metadata.Image, _ bool) ([]metadata.QuotaResult, []metadata.Plan) {
			results, plans := metadata.AlterQuotas(img, a.Alterations, func(host string) bool { return slices.Contains(a.Resolved, host) })
			if a.ValidateOnly {
				plans = nil
			}
			return results, plans
		},
	}
}

type alterScramArgs struct {
	Deletions  []metadata.ScramID
	Upsertions []metadata.ScramUpsertion
}

// AlterScram stores and deletes SCRAM credentials. See metadata.AlterScram.
func (c *Controller) AlterScram(ctx context.Context, deletions []metadata.ScramID, upsertions []metadata.ScramUpsertion) ([]metadata.ScramResult, error) {
	return do(ctx, c, c.alterScram(alterScramArgs{deletions, upsertions}))
}

func (c *Controller) alterScram(a alterScramArgs) operation[metadata.ScramResult] {
	return operation[metadata.ScramResult]{
		name: opAlterScram, args: a, fault: func(r *metadata.ScramResult) *error { return &r.Err },
		decide: func(img *metadata.Image, _ bool) ([]metadata.ScramResult, []metadata.Plan) {
			return metadata.AlterScram(img, a.Deletions, a.Upsertions)
		},
	}
}

type updateFeaturesArgs struct {
	Updates      []metadata.FeatureUpdate
	ValidateOnly bool
}

// UpdateFeatures finalizes levels of features, all that are asked for or none, or
// with validateOnly says what would come of it. See metadata.UpdateFeatures.
func (c *Controller) UpdateFeatures(ctx context.Context, updates []metadata.FeatureUpdate, validateOnly bool) (metadata.Outcome, error) {
	return one(do(ctx, c, c.updateFeatures(updateFeaturesArgs{updates, validateOnly})))
}

func (c *Controller) updateFeatures(a updateFeaturesArgs) operation[metadata.Outcome] {
	return operation[metadata.Outcome]{
		name: opUpdateFeatures, args: a, fault: func(r *metadata.Outcome) *error { return &r.Err },
		decide: func(img *metadata.Image, _ bool) ([]metadata.Outcome, []metadata.Plan) {
			result, plan := metadata.UpdateFeatures(img, &c.env, a.Updates)
			if a.ValidateOnly {
				return []metadata.Outcome{result}, nil
			}
			return []metadata.Outcome{result}, []metadata.Plan{plan}
		},
	}
}

type unregisterArgs struct{ ID int32 }

// UnregisterBroker forgets a broker. See metadata.Unregister.
func (c *Controller) UnregisterBroker(ctx context.Context, id int32) (metadata.Outcome, error) {
	return one(do(ctx, c, c.unregisterBroker(unregisterArgs{id})))
}

func (c *Controller) unregisterBroker(a unregisterArgs) operation[metadata.Outcome] {
	return operation[metadata.Outcome]{
		name: opUnregisterBroker, args: a, fault: func(r *metadata.Outcome) *error { return &r.Err },
		decide: func(img *metadata.Image, retried bool) ([]metadata.Outcome, []metadata.Plan) {
			result, plan := metadata.Unregister(img, a.ID, retried)
			return []metadata.Outcome{result}, []metadata.Plan{plan}
		},
	}
}

// one is the outcome of an operation that has a single one.
func one(results []metadata.Outcome, err error) (metadata.Outcome, error) {
	if err != nil {
		return metadata.Outcome{}, err
	}
	return results[0], nil
}
