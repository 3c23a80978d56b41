package metadata_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
)

// threeBrokers is a cluster of brokers 1 to 3 with one topic on all of them,
// led by broker 1.
func threeBrokers(t *testing.T, minISR string) *script {
	s := newScript(t)
	for id := int32(1); id <= 3; id++ {
		s.start(id, "", 0)
	}
	s.settle()
	for _, d := range metadata.CreateTopics(s.img, s.env, []metadata.NewTopic{{
		Name: "t", Partitions: -1, ReplicationFactor: -1, ID: newTestID(99),
		Configs:    map[string]*string{"min.insync.replicas": &minISR},
		Assignment: []metadata.PartitionAssignment{{Partition: 0, Replicas: []int32{1, 2, 3}}},
	}}) {
		if d.Result.Err != nil {
			t.Fatal(d.Result)
		}
		s.commit(append(d.Plan.Stage, d.Plan.Commit...))
	}
	return s
}

func (s *script) part() *metadata.Partition { return s.img.Topic("t").Partitions[0] }

// change asks for a set, with the epochs as they are.
func (s *script) change(ids ...int32) metadata.ISRChange {
	ch := metadata.ISRChange{Topic: s.img.Topic("t").ID, LeaderEpoch: s.part().LeaderEpoch, PartitionEpoch: s.part().PartitionEpoch}
	for _, id := range ids {
		m := metadata.ISRMember{BrokerID: id, BrokerEpoch: -1}
		if b := s.img.Broker(id); b != nil {
			m.BrokerEpoch = b.Epoch
		}
		ch.NewISR = append(ch.NewISR, m)
	}
	return ch
}

func (s *script) alterISR(leader int32, ch metadata.ISRChange) (metadata.ISRResult, []metadata.Plan) {
	req := metadata.ISRRequest{BrokerID: leader, BrokerEpoch: s.img.Broker(leader).Epoch, Changes: []metadata.ISRChange{ch}}
	results, plans := metadata.AlterISR(s.img, s.env, req, false)
	return results[0], plans
}

// mustAlter carries an ISR change out.
func (s *script) mustAlter(leader int32, ids ...int32) {
	s.t.Helper()
	r, plans := s.alterISR(leader, s.change(ids...))
	if r.Err != nil {
		s.t.Fatal(r.Err)
	}
	for _, p := range plans {
		s.commit(p.Commit)
	}
	if got := s.part(); !slices.Equal(got.ISR, ids) || got.PartitionEpoch != r.PartitionEpoch || got.LeaderEpoch != r.LeaderEpoch {
		s.t.Fatalf("%+v after %+v", got, r)
	}
}

// TestAlterISRErrors: what is refused, and the order of the checks where a
// request is wrong in two ways (rules 2 and 7).
func TestAlterISRErrors(t *testing.T) {
	s := threeBrokers(t, "2")
	s.mustAlter(1, 1, 2)
	epoch := s.img.Broker(1).Epoch
	for _, tc := range []struct {
		name string
		edit func(*metadata.ISRRequest, *metadata.ISRChange)
		want error
	}{
		{"the broker started anew", func(r *metadata.ISRRequest, _ *metadata.ISRChange) { r.BrokerEpoch-- }, kerr.StaleBrokerEpoch},
		{"no such broker", func(r *metadata.ISRRequest, _ *metadata.ISRChange) { r.BrokerID = 9 }, kerr.StaleBrokerEpoch},
		{"no such topic", func(_ *metadata.ISRRequest, c *metadata.ISRChange) { c.Topic = newTestID(7) }, kerr.UnknownTopicID},
		{"no such partition", func(_ *metadata.ISRRequest, c *metadata.ISRChange) { c.Partition = 5 }, kerr.UnknownTopicOrPartition},
		{"newer leader epoch", func(_ *metadata.ISRRequest, c *metadata.ISRChange) { c.LeaderEpoch++; c.PartitionEpoch-- }, kerr.NotController},
		{"newer partition epoch", func(_ *metadata.ISRRequest, c *metadata.ISRChange) { c.PartitionEpoch++ }, kerr.NotController},
		{"older leader epoch", func(_ *metadata.ISRRequest, c *metadata.ISRChange) { c.LeaderEpoch--; c.PartitionEpoch-- }, kerr.FencedLeaderEpoch},
		{"not the leader", func(r *metadata.ISRRequest, c *metadata.ISRChange) {
			r.BrokerID, r.BrokerEpoch = 2, s.img.Broker(2).Epoch
			c.PartitionEpoch--
		}, kerr.InvalidRequest},
		{"older partition epoch", func(_ *metadata.ISRRequest, c *metadata.ISRChange) { c.PartitionEpoch--; c.NewISR = nil }, kerr.InvalidUpdateVersion},
		{"empty set", func(_ *metadata.ISRRequest, c *metadata.ISRChange) { c.NewISR = nil }, kerr.InvalidRequest},
		{"without the leader", func(_ *metadata.ISRRequest, c *metadata.ISRChange) { c.NewISR = c.NewISR[1:] }, kerr.InvalidRequest},
		{"twice the same", func(_ *metadata.ISRRequest, c *metadata.ISRChange) { c.NewISR = append(c.NewISR, c.NewISR[0]) }, kerr.InvalidRequest},
		{"no replica", func(_ *metadata.ISRRequest, c *metadata.ISRChange) {
			c.NewISR = append(c.NewISR, metadata.ISRMember{BrokerID: 4, BrokerEpoch: -1})
		}, kerr.InvalidRequest},
		{"recovering, but it was not", func(_ *metadata.ISRRequest, c *metadata.ISRChange) { c.Recovering, c.NewISR = true, c.NewISR[:1] }, kerr.InvalidRequest},
		{"fetched by a former process", func(_ *metadata.ISRRequest, c *metadata.ISRChange) { c.NewISR[2].BrokerEpoch-- }, kerr.IneligibleReplica},
	} {
		req := metadata.ISRRequest{BrokerID: 1, BrokerEpoch: epoch}
		ch := s.change(1, 2, 3)
		tc.edit(&req, &ch)
		req.Changes = []metadata.ISRChange{ch}
		results, plans := metadata.AlterISR(s.img, s.env, req, false)
		if !errors.Is(results[0].Err, tc.want) || len(plans) != 0 {
			t.Errorf("%s: %v with %d plans, want %v", tc.name, results[0].Err, len(plans), tc.want)
		}
	}
	s.commit(metadata.Bury(s.img, 3))
	s.settle()
	if r, _ := s.alterISR(1, s.change(1, 2, 3)); !errors.Is(r.Err, kerr.IneligibleReplica) {
		t.Errorf("a fenced broker: %v", r.Err)
	}
}

// TestAlterISRGuards: a broker that starts anew between the decision and the
// write does not join.
func TestAlterISRGuards(t *testing.T) {
	s := threeBrokers(t, "2")
	s.mustAlter(1, 1, 2)
	_, plans := s.alterISR(1, s.change(1, 2, 3))
	if len(plans) != 1 || len(plans[0].Guard) != 2 {
		t.Fatalf("%+v", plans)
	}
	before := s.img.Revision
	holds := func() bool {
		for _, g := range plans[0].Guard {
			kvs, _, err := s.store.Get(t.Context(), g.Key)
			if err != nil || len(kvs) != 1 {
				t.Fatal(kvs, err)
			}
			if kvs[0].ModRevision != g.Revision {
				return false
			}
		}
		return true
	}
	if !holds() {
		t.Fatal("the guards do not hold of the image that was decided on")
	}
	s.start(3, "", 0)
	if s.img.Revision == before || holds() {
		t.Error("the guards hold although the broker registered anew")
	}
}

// TestAlterISRArrivesLate: a copy of a request that was answered with
// INELIGIBLE_REPLICA, so that its leader went on without the broker, does not put the
// broker in sync when it has been unfenced since.
func TestAlterISRArrivesLate(t *testing.T) {
	s := threeBrokers(t, "2")
	s.mustAlter(1, 1, 2)
	ch := s.change(1, 2, 3)
	ch.NewISR[2].Registration = s.img.Broker(3).Revision
	live := metadata.Live(s.img, 3, metadata.Liveness{Incarnation: s.img.Broker(3).Incarnation, Ready: true}, 0)
	s.commit(metadata.Bury(s.img, 3))
	s.settle()
	if r, _ := s.alterISR(1, ch); !errors.Is(r.Err, kerr.IneligibleReplica) {
		t.Fatalf("of a fenced broker: %v", r.Err)
	}
	live.Expect = metadata.Unchecked
	s.commit([]metadata.Change{live})
	s.settle()
	if !s.img.Broker(3).Active() {
		t.Fatal("not unfenced")
	}
	if r, _ := s.alterISR(1, ch); !errors.Is(r.Err, kerr.IneligibleReplica) {
		t.Errorf("a copy that is late: %v", r.Err)
	}
	ch.NewISR[2].Registration = s.img.Broker(3).Revision
	if r, _ := s.alterISR(1, ch); r.Err != nil {
		t.Errorf("asked anew: %v", r.Err)
	}
}

// TestAlterISRKeepsEligibleLeaders: whoever leaves a set below min ISR may still
// lead, and is forgotten once the set suffices (KIP-966).
func TestAlterISRKeepsEligibleLeaders(t *testing.T) {
	s := threeBrokers(t, "2")
	for _, step := range []struct{ isr, elr []int32 }{
		{[]int32{1, 2}, nil},
		{[]int32{1}, []int32{2}},
		{[]int32{1, 3}, nil},
		{[]int32{1}, []int32{3}},
		{[]int32{1, 2, 3}, nil},
	} {
		s.mustAlter(1, step.isr...)
		if got := s.part().ELR; !slices.Equal(got, step.elr) {
			t.Errorf("ISR %v: ELR %v, want %v", step.isr, got, step.elr)
		}
	}
	r, plans := s.alterISR(1, s.change(1, 2, 3))
	if r.Err != nil || len(plans) != 0 || r.PartitionEpoch != s.part().PartitionEpoch {
		t.Errorf("asking for what is: %+v, %d plans", r, len(plans))
	}
}

// TestSmallerMinISRForgetsEligibleLeaders: with the config, and not after it. The
// leader that hears of the smaller minimum commits without those who left the set.
func TestSmallerMinISRForgetsEligibleLeaders(t *testing.T) {
	one := "1"
	for _, resource := range []metadata.ConfigResource{{Type: metadata.ConfigTopic, Name: "t"}, {Type: metadata.ConfigBroker}} {
		s := threeBrokers(t, "2")
		alter := func(r metadata.ConfigResource, op metadata.ConfigOp) metadata.Plan {
			t.Helper()
			d := metadata.AlterConfigs(s.img, s.env, []metadata.ConfigAlteration{{Resource: r, Ops: []metadata.ConfigOp{op}}})[0]
			if d.Result.Err != nil {
				t.Fatal(d.Result)
			}
			return d.Plan
		}
		if resource.Type == metadata.ConfigBroker { // what the topic has is from there
			two := "2"
			for _, c := range []metadata.Plan{
				alter(resource, metadata.ConfigOp{Key: "min.insync.replicas", Value: &two}),
				alter(metadata.ConfigResource{Type: metadata.ConfigTopic, Name: "t"}, metadata.ConfigOp{Key: "min.insync.replicas", Kind: metadata.ConfigDelete}),
			} {
				s.commit(append(c.Stage, c.Commit...))
			}
		}
		s.mustAlter(1, 1)
		was := *s.part()
		if len(was.ELR) != 2 {
			t.Fatalf("%+v", was)
		}
		plan := alter(resource, metadata.ConfigOp{Key: "retention.ms", Value: &one})
		if len(plan.Stage) != 0 {
			t.Errorf("another config changes partitions: %+v", plan.Stage)
		}
		plan = alter(resource, metadata.ConfigOp{Key: "min.insync.replicas", Value: &one})
		s.commit(append(plan.Stage, plan.Commit...))
		if p := s.part(); len(p.ELR) != 0 || p.Leader != 1 || p.LeaderEpoch != was.LeaderEpoch || p.PartitionEpoch != was.PartitionEpoch+1 {
			t.Errorf("%v: %+v", resource, p)
		}
		if left := metadata.Sweep(s.img, s.env); len(left) > 0 {
			t.Errorf("left to the sweep: %+v", left)
		}
	}
}

// TestSmallerMinISRTwice: of a topic and of all brokers in one request, it changes no
// partition twice, which no transaction takes.
func TestSmallerMinISRTwice(t *testing.T) {
	one, two := "1", "2"
	topic, brokers := metadata.ConfigResource{Type: metadata.ConfigTopic, Name: "t"}, metadata.ConfigResource{Type: metadata.ConfigBroker}
	set := func(r metadata.ConfigResource, kind metadata.ConfigOpKind, v *string) metadata.ConfigAlteration {
		return metadata.ConfigAlteration{Resource: r, Ops: []metadata.ConfigOp{{Key: "min.insync.replicas", Kind: kind, Value: v}}}
	}
	s := threeBrokers(t, "3")
	alter := func(all ...metadata.ConfigAlteration) (changes []metadata.Change) {
		for _, d := range metadata.AlterConfigs(s.img, s.env, all) {
			if d.Result.Err != nil {
				t.Fatal(d.Result)
			}
			changes = append(append(changes, d.Plan.Stage...), d.Plan.Commit...)
		}
		return changes
	}
	s.commit(alter(set(brokers, metadata.ConfigSet, &two)))
	s.commit(alter(set(topic, metadata.ConfigDelete, nil)))
	s.mustAlter(1, 1)
	changes := alter(set(topic, metadata.ConfigSet, &one), set(brokers, metadata.ConfigSet, &one))
	seen := map[string]bool{}
	for _, ch := range changes {
		if seen[ch.Key] {
			t.Errorf("%s is changed twice", ch.Key)
		}
		seen[ch.Key] = true
	}
	s.commit(changes)
	if p := s.part(); len(seen) != 3 || len(p.ELR) != 0 {
		t.Errorf("%d changes, %+v", len(changes), p)
	}
}

// TestAlterISRCompletesReassignment: the last replica that gets in sync ends a
// reassignment, and the leader learns that it leads no more (rule 20).
func TestAlterISRCompletesReassignment(t *testing.T) {
	s := threeBrokers(t, "1")
	s.start(4, "", 0)
	s.settle()
	_, plans := metadata.Reassign(s.img, s.env, []metadata.Reassignment{{Topic: "t", Replicas: []int32{2, 3, 4}}}, false)
	for _, p := range plans {
		s.commit(p.Commit)
	}
	if p := s.part(); !slices.Equal(p.Adding, []int32{4}) || !slices.Equal(p.Removing, []int32{1}) {
		t.Fatalf("%+v", p)
	}
	s.mustAlter(1, 1, 2)
	epoch := s.part().LeaderEpoch
	r, plans := s.alterISR(1, s.change(1, 2, 4))
	if !errors.Is(r.Err, kerr.NewLeaderElected) || len(plans) != 1 {
		t.Fatalf("%+v, %d plans", r, len(plans))
	}
	s.commit(plans[0].Commit)
	if p := s.part(); p.Reassigning() || p.Leader != 2 || p.LeaderEpoch != epoch+1 ||
		!slices.Equal(p.Replicas, []int32{2, 3, 4}) || !slices.Equal(p.ISR, []int32{2, 4}) {
		t.Errorf("%+v", p)
	}
}

// TestReassignmentKeepsMinISR: replicas are not dropped while those that stay
// in sync would be too few.
func TestReassignmentKeepsMinISR(t *testing.T) {
	s := threeBrokers(t, "2")
	s.mustAlter(1, 1, 3)
	_, plans := metadata.Reassign(s.img, s.env, []metadata.Reassignment{{Topic: "t", Replicas: []int32{1, 2}}}, true)
	for _, p := range plans {
		s.commit(p.Commit)
	}
	if p := s.part(); !slices.Equal(p.Removing, []int32{3}) || !slices.Equal(p.ISR, []int32{1, 3}) {
		t.Fatalf("%+v", p)
	}
	r, plans := s.alterISR(1, s.change(1, 2, 3))
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	s.commit(plans[0].Commit)
	if p := s.part(); p.Reassigning() || !slices.Equal(p.ISR, []int32{1, 2}) || !slices.Equal(p.Replicas, []int32{1, 2}) {
		t.Errorf("%+v", p)
	}
}

// TestReassignmentKeepsTheEligible: while too few are in sync, whoever is eligible to
// lead has what may be nowhere else but on the leader, and is not dropped; be it eligible
// before, or by the change that might complete the reassignment.
func TestReassignmentKeepsTheEligible(t *testing.T) {
	for name, steps := range map[string]func(s *script, reassign func()){
		"before": func(s *script, reassign func()) { s.mustAlter(1, 1); reassign() },
		"by it":  func(s *script, reassign func()) { reassign(); s.mustAlter(1, 1) },
	} {
		s := threeBrokers(t, "2")
		s.mustAlter(1, 1, 3)
		steps(s, func() {
			_, plans := metadata.Reassign(s.img, s.env, []metadata.Reassignment{{Topic: "t", Replicas: []int32{1, 2}}}, true)
			s.commit(plans[0].Commit)
		})
		if p := s.part(); !slices.Equal(p.Removing, []int32{3}) || !slices.Equal(p.ELR, []int32{3}) {
			t.Errorf("%s: %+v", name, p)
		}
		s.mustAlter(1, 1, 2)
		if p := s.part(); p.Reassigning() || !slices.Equal(p.Replicas, []int32{1, 2}) {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// TestRevertedReassignment: with only added replicas in sync, a reassignment is undone
// where unclean elections are permitted, in favour of an eligible leader, and not while
// nobody could lead.
func TestRevertedReassignment(t *testing.T) {
	reassign := func(s *script, replicas []int32) metadata.PartitionResult {
		results, plans := metadata.Reassign(s.img, s.env, []metadata.Reassignment{{Topic: "t", Replicas: replicas}}, true)
		for _, p := range plans {
			s.commit(p.Commit)
		}
		return results[0]
	}
	stop := func(s *script, ids ...int32) {
		for _, id := range ids {
			s.commit(metadata.Bury(s.img, id))
			s.settle()
		}
	}
	begin := func() *script {
		s := threeBrokers(t, "2")
		s.env.UncleanLeaderElection = true
		s.start(4, "", 0)
		s.start(5, "", 0)
		s.settle()
		reassign(s, []int32{4, 5, 1, 2, 3})
		s.mustAlter(1, 1, 3, 4)
		stop(s, 1)
		s.mustAlter(4, 4)
		return s
	}
	s := begin()
	if r := reassign(s, nil); r.Err != nil {
		t.Fatal(r.Err)
	}
	if p := s.part(); p.Leader != 3 || p.Recovering || !slices.Equal(p.ISR, []int32{3}) || len(p.ELR) > 0 || !slices.Equal(p.Replicas, []int32{1, 2, 3}) {
		t.Errorf("%+v", p)
	}
	s = begin()
	stop(s, 5, 3, 2, 4)
	if p := s.part(); p.Leader != metadata.NoLeader || !p.Reassigning() {
		t.Fatalf("%+v", p)
	}
	if r := reassign(s, nil); !errors.Is(r.Err, kerr.InvalidReplicaAssignment) || !s.part().Reassigning() {
		t.Errorf("%+v, %+v", r, s.part())
	}
}

// TestAlterISRTriedBefore: the answer to a transaction was lost; what shows in
// the image is the caller's own change (rule 12).
func TestAlterISRTriedBefore(t *testing.T) {
	s := threeBrokers(t, "2")
	ch := s.change(1, 2)
	s.mustAlter(1, 1, 2)
	req := metadata.ISRRequest{BrokerID: 1, BrokerEpoch: s.img.Broker(1).Epoch, Changes: []metadata.ISRChange{ch}}
	if results, _ := metadata.AlterISR(s.img, s.env, req, false); !errors.Is(results[0].Err, kerr.InvalidUpdateVersion) {
		t.Errorf("asked twice: %v", results[0].Err)
	}
	results, plans := metadata.AlterISR(s.img, s.env, req, true)
	if r := results[0]; r.Err != nil || len(plans) != 0 || !slices.Equal(r.ISR, []int32{1, 2}) || r.PartitionEpoch != s.part().PartitionEpoch {
		t.Errorf("%+v, %d plans", r, len(plans))
	}
}
