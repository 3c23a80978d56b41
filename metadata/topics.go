package metadata

import (
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
)

// maxPartitionsPerRequest is Kafka's bound on what one request may create.
const maxPartitionsPerRequest = 10000

// CreateTopics decides on topics to be created. The order of the checks, the
// errors and their messages are Kafka's.
func CreateTopics(img *Image, env *Env, topics []NewTopic) []TopicDecision {
	decisions := make([]TopicDecision, 0, len(topics))
	names := map[string]int{}
	total := 0
	for _, t := range topics {
		names[t.Name]++
		total += newPartitionCount(env, t)
	}
	done := map[string]bool{}
	for _, t := range topics {
		if done[t.Name] {
			continue // one answer for all of the same name
		}
		done[t.Name] = true
		d := TopicDecision{Result: TopicResult{Name: t.Name, Partitions: -1, ReplicationFactor: -1}}
		switch {
		case names[t.Name] > 1:
			d.Result.fail(kerr.InvalidRequest, "Duplicate topic name.")
		case t.Name == ClusterMetadataTopic:
			d.Result.fail(kerr.InvalidRequest, "Creation of internal topic "+ClusterMetadataTopic+" is prohibited.")
		case total > maxPartitionsPerRequest:
			d.Result.fail(kerr.PolicyViolation, "Excessively large number of partitions per request.")
		default:
			createTopic(img, env, t, &d)
		}
		decisions = append(decisions, d)
	}
	return decisions
}

func newPartitionCount(env *Env, t NewTopic) int {
	switch {
	case len(t.Assignment) > 0:
		return len(t.Assignment)
	case t.Partitions == -1:
		return int(env.DefaultPartitions)
	}
	return max(int(t.Partitions), 0)
}

func createTopic(img *Image, env *Env, t NewTopic, d *TopicDecision) {
	r := &d.Result
	if problem := NameProblem(t.Name); problem != "" {
		r.fail(kerr.InvalidTopicException, problem)
		return
	}
	if old := img.Topic(t.Name); old != nil {
		if old.ID == t.ID && t.ID != (ID{}) {
			// Our own creation, whose outcome we did not learn.
			describe(r, old)
			return
		}
		r.fail(kerr.TopicAlreadyExists, fmt.Sprintf("Topic '%s' already exists.", t.Name))
		return
	}
	if other := img.collision(t.Name); other != "" {
		r.fail(kerr.InvalidTopicException, fmt.Sprintf("Topic '%s' collides with existing topic: %s", t.Name, other))
		return
	}
	configs, keys, ok := newTopicConfigs(t, r)
	if !ok {
		return
	}
	if err, message := env.Rules.check(ConfigResource{Type: ConfigTopic, Name: t.Name}, configs, keys); err != nil {
		r.fail(err, message)
		return
	}
	replicas, ok := placeNewTopic(img, env, t, r)
	if !ok {
		return
	}
	topic := &Topic{Name: t.Name, ID: t.ID, Configs: configs}
	for n, ids := range replicas {
		p := newPartition(img, ids)
		topic.Partitions = append(topic.Partitions, p)
		d.Plan.Stage = append(d.Plan.Stage, putPart(t.ID, int32(n), p, img.partRevision(t.ID, int32(n))))
	}
	d.Plan.Commit = []Change{putTopic(topic, int32(len(replicas)), configs, 0)}
	describe(r, topic)
}

func describe(r *TopicResult, t *Topic) {
	r.ID = t.ID
	r.Partitions = int32(len(t.Partitions))
	r.ReplicationFactor = int16(len(t.Partitions[0].Replicas))
	r.Configs = t.Configs
}

// newTopicConfigs returns the configs of a new topic and their keys, sorted.
func newTopicConfigs(t NewTopic, r *TopicResult) (configs map[string]string, keys []string, ok bool) {
	for k := range t.Configs {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		if t.Configs[k] == nil {
			r.fail(kerr.InvalidConfig, "Null value not supported for topic configs: "+k)
			return nil, nil, false
		}
		if configs == nil {
			configs = make(map[string]string, len(keys))
		}
		configs[k] = *t.Configs[k]
	}
	return configs, keys, true
}

// placeNewTopic returns the replicas of each partition of a new topic.
func placeNewTopic(img *Image, env *Env, t NewTopic, r *TopicResult) ([][]int32, bool) {
	if len(t.Assignment) > 0 {
		return manualAssignment(img, t, r)
	}
	switch {
	case t.ReplicationFactor < -1 || t.ReplicationFactor == 0:
		r.fail(kerr.InvalidReplicationFactor, "Replication factor must be larger than 0, or -1 to use the default value.")
		return nil, false
	case t.Partitions < -1 || t.Partitions == 0:
		r.fail(kerr.InvalidPartitions, "Number of partitions was set to an invalid non-positive value.")
		return nil, false
	}
	partitions, rf := t.Partitions, t.ReplicationFactor
	if partitions == -1 {
		partitions = env.DefaultPartitions
	}
	if rf == -1 {
		rf = env.DefaultReplicationFactor
	}
	replicas, problem := Place(img.Brokers(), int(partitions), int(rf), env.Rand)
	if problem != "" {
		r.fail(kerr.InvalidReplicationFactor, fmt.Sprintf("Unable to replicate the partition %d time(s): %s", rf, problem))
		return nil, false
	}
	return replicas, true
}

func manualAssignment(img *Image, t NewTopic, r *TopicResult) ([][]int32, bool) {
	switch {
	case t.ReplicationFactor != -1:
		r.fail(kerr.InvalidRequest, "A manual partition assignment was specified, but replication factor was not set to -1.")
		return nil, false
	case t.Partitions != -1:
		r.fail(kerr.InvalidRequest, "A manual partition assignment was specified, but numPartitions was not set to -1.")
		return nil, false
	}
	byNumber := make(map[int32][]int32, len(t.Assignment))
	rf := -1
	for _, a := range t.Assignment {
		if _, twice := byNumber[a.Partition]; twice {
			r.fail(kerr.InvalidReplicaAssignment, fmt.Sprintf("Found multiple manual partition assignments for partition %d", a.Partition))
			return nil, false
		}
		if problem := assignmentProblem(img, a.Replicas, rf); problem != "" {
			r.fail(kerr.InvalidReplicaAssignment, problem)
			return nil, false
		}
		if !anyActive(img, a.Replicas) {
			r.fail(kerr.InvalidReplicaAssignment, allFenced(a.Partition))
			return nil, false
		}
		rf = len(a.Replicas)
		byNumber[a.Partition] = a.Replicas
	}
	replicas := make([][]int32, len(byNumber))
	for n := range replicas {
		ids, ok := byNumber[int32(n)]
		if !ok {
			r.fail(kerr.InvalidReplicaAssignment, "partitions should be a consecutive 0-based integer sequence")
			return nil, false
		}
		replicas[n] = ids
	}
	return replicas, true
}

func allFenced(partition int32) string {
	return fmt.Sprintf("All brokers specified in the manual partition assignment for partition %d are fenced or in controlled shutdown.", partition)
}

func anyActive(img *Image, ids []int32) bool {
	return slices.ContainsFunc(ids, img.active)
}

// active says whether a broker is registered, up and not shutting down.
func (i *Image) active(id int32) bool {
	b := i.Broker(id)
	return b != nil && b.Active()
}

// activeAt says which brokers may lead a partition and be in sync there: the
// active ones but those whose replica of it is offline.
func (i *Image) activeAt(topic ID, n int32) func(id int32) bool {
	return func(id int32) bool {
		b := i.Broker(id)
		return b != nil && b.Active() && !b.Offline.Has(topic, n)
	}
}

// assignmentProblem returns what is wrong with the replicas of one partition;
// rf is the number that the partitions before have, -1 for the first.
func assignmentProblem(img *Image, ids []int32, rf int) string {
	if len(ids) == 0 {
		return "The manual partition assignment includes an empty replica list."
	}
	sorted := slices.Sorted(slices.Values(ids))
	for n, id := range sorted {
		if img.Broker(id) == nil {
			return fmt.Sprintf("The manual partition assignment includes broker %d, but no such broker is registered.", id)
		}
		if n > 0 && sorted[n-1] == id {
			return fmt.Sprintf("The manual partition assignment includes the broker %d more than once.", id)
		}
	}
	if rf >= 0 && rf != len(ids) {
		return fmt.Sprintf("The manual partition assignment includes a partition with %d replica(s), but this is not consistent with previous partitions, which have %d replica(s).", len(ids), rf)
	}
	return ""
}

// newPartition is the first state of a partition: every active replica is in
// sync, since there is nothing to be behind of.
func newPartition(img *Image, replicas []int32) *Partition {
	p := &Partition{Leader: NoLeader, Replicas: slices.Clone(replicas)}
	for _, id := range replicas {
		if img.active(id) {
			p.ISR = append(p.ISR, id)
		}
	}
	if len(p.ISR) > 0 {
		p.Leader = p.ISR[0]
	}
	return p
}

// DeleteTopics decides on topics to be deleted, by name or by id. maybeDone
// says that an earlier try may have succeeded, so that a topic which is gone
// counts as deleted.
func DeleteTopics(img *Image, refs []TopicRef, maybeDone bool) []TopicDecision {
	decisions := make([]TopicDecision, 0, len(refs))
	names, ids := map[string]int{}, map[ID]int{}
	for _, ref := range refs {
		if ref.Name != "" {
			names[ref.Name]++
		} else {
			ids[ref.ID]++
		}
	}
	answered := map[TopicRef]bool{}
	for _, ref := range refs {
		if answered[ref] {
			continue
		}
		answered[ref] = true
		d := TopicDecision{Result: TopicResult{Name: ref.Name, ID: ref.ID}}
		r := &d.Result
		noID := ref.ID == (ID{})
		switch {
		case ref.Name == "" && noID:
			r.fail(kerr.InvalidRequest, "Neither topic name nor id were specified.")
		case ref.Name != "" && !noID:
			r.fail(kerr.InvalidRequest, "You may not specify both topic name and topic id.")
		case ref.Name != "" && names[ref.Name] > 1:
			r.fail(kerr.InvalidRequest, "Duplicate topic name.")
		case ref.Name == "" && ids[ref.ID] > 1:
			r.fail(kerr.InvalidRequest, "Duplicate topic id.")
		default:
			deleteTopic(img, ref, maybeDone, &d)
		}
		decisions = append(decisions, d)
	}
	return sameTopicOnce(decisions)
}

// sameTopicOnce makes errors of topics that were named both by name and by id.
func sameTopicOnce(decisions []TopicDecision) []TopicDecision {
	seen := map[ID]bool{}
	for i := range decisions {
		d := &decisions[i]
		if d.Result.Err != nil || d.Plan.Empty() {
			continue
		}
		if seen[d.Result.ID] {
			d.Plan = Plan{}
			d.Result.fail(kerr.InvalidRequest, "The provided topic name maps to an ID that was already supplied.")
		}
		seen[d.Result.ID] = true
	}
	return decisions
}

func deleteTopic(img *Image, ref TopicRef, maybeDone bool, d *TopicDecision) {
	t := img.TopicByID(ref.ID)
	if ref.Name != "" {
		t = img.Topic(ref.Name)
	}
	switch {
	case t != nil:
		d.Result.Name, d.Result.ID = t.Name, t.ID
		d.Plan.Commit = []Change{
			// First the topic: from here on its partitions are orphans.
			{Op: Op{Kind: OpDelete, Key: topicKey(t.Name)}, Expect: t.Revision},
			{Op: Op{Kind: OpDeletePrefix, Key: partsPrefix(t.ID)}, Expect: Unchecked},
		}
	case maybeDone:
	case ref.Name != "":
		d.Result.fail(kerr.UnknownTopicOrPartition, "This server does not host this topic-partition.")
	default:
		d.Result.fail(kerr.UnknownTopicID, "This server does not host this topic ID.")
	}
}

// CreatePartitions decides on topics that are to have more partitions.
// maybeDone says that an earlier try may have succeeded.
func CreatePartitions(img *Image, env *Env, topics []NewPartitions, maybeDone bool) []TopicDecision {
	decisions := make([]TopicDecision, 0, len(topics))
	names := map[string]int{}
	total := 0
	for _, t := range topics {
		names[t.Topic]++
		if old := img.Topic(t.Topic); old != nil {
			total += max(0, int(t.Count)-len(old.Partitions))
		}
	}
	done := map[string]bool{}
	for _, t := range topics {
		if done[t.Topic] {
			continue
		}
		done[t.Topic] = true
		d := TopicDecision{Result: TopicResult{Name: t.Topic}}
		switch {
		case names[t.Topic] > 1:
			d.Result.fail(kerr.InvalidRequest, "Duplicate topic name.")
		case total > maxPartitionsPerRequest:
			d.Result.fail(kerr.PolicyViolation, "Excessively large number of partitions per request.")
		default:
			createPartitions(img, env, t, maybeDone, &d)
		}
		decisions = append(decisions, d)
	}
	return decisions
}

func createPartitions(img *Image, env *Env, req NewPartitions, maybeDone bool, d *TopicDecision) {
	r := &d.Result
	t := img.Topic(req.Topic)
	if t == nil {
		r.fail(kerr.UnknownTopicOrPartition, "")
		return
	}
	r.ID = t.ID
	have := int32(len(t.Partitions))
	switch {
	case req.Count == have && maybeDone:
		return
	case req.Count == have:
		r.fail(kerr.InvalidPartitions, fmt.Sprintf("Topic already has %d partition(s).", have))
		return
	case req.Count < have:
		r.fail(kerr.InvalidPartitions, fmt.Sprintf("The topic %s currently has %d partition(s); %d would not be an increase.", t.Name, have, req.Count))
		return
	}
	added, ok := placeNewPartitions(img, env, req, t, r)
	if !ok {
		return
	}
	for i, ids := range added {
		n := have + int32(i)
		d.Plan.Stage = append(d.Plan.Stage, putPart(t.ID, n, newPartition(img, ids), img.partRevision(t.ID, n)))
	}
	d.Plan.Commit = []Change{putTopic(t, req.Count, t.Configs, t.Revision)}
	r.Partitions = req.Count
}

func placeNewPartitions(img *Image, env *Env, req NewPartitions, t *Topic, r *TopicResult) ([][]int32, bool) {
	have := len(t.Partitions)
	add := int(req.Count) - have
	rf := len(t.Partitions[0].Replicas)
	if req.Assignment == nil {
		replicas, problem := Place(img.Brokers(), add, rf, env.Rand)
		if problem != "" {
			r.fail(kerr.InvalidReplicationFactor, fmt.Sprintf("Unable to replicate the partition %d time(s): %s", rf, problem))
			return nil, false
		}
		return replicas, true
	}
	if len(req.Assignment) != add {
		r.fail(kerr.InvalidReplicaAssignment, fmt.Sprintf("Attempted to add %d additional partition(s), but only %d assignment(s) were specified.", add, len(req.Assignment)))
		return nil, false
	}
	for i, ids := range req.Assignment {
		if problem := assignmentProblem(img, ids, rf); problem != "" {
			r.fail(kerr.InvalidReplicaAssignment, problem)
			return nil, false
		}
		if !anyActive(img, ids) {
			r.fail(kerr.InvalidReplicaAssignment, allFenced(int32(have+i)))
			return nil, false
		}
	}
	return req.Assignment, true
}
