package metadata_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sort"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/memstore"
	"github.com/twmb/franz-go/pkg/kerr"
)

// script runs the steps of a testdata file against one cluster.
type script struct {
	t     *testing.T
	d     *datadriven.TestData
	store *memstore.Store
	img   *metadata.Image
	env   *metadata.Env
	ids   int
	out   strings.Builder
}

// TestDecisions runs the scripts in testdata. What topics and errors look like
// there was compared with Apache Kafka 4.3.1 (see TestKafkasWords).
func TestDecisions(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := newScript(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.t, s.d = t, d
			s.out.Reset()
			s.run()
			return s.out.String()
		})
	})
}

func newScript(t *testing.T) *script {
	store := memstore.New()
	t.Cleanup(func() { _ = store.Close() })
	return &script{t: t, store: store, img: metadata.Empty(), env: &metadata.Env{
		DefaultPartitions: 1, DefaultReplicationFactor: 1, MinInsyncReplicas: 1,
		Rand: rand.New(rand.NewPCG(1, 2)), Rules: testRules(),
	}}
}

// testRules knows a few keys, with Kafka's words for the errors.
func testRules() metadata.ConfigRules {
	return metadata.ConfigRules{
		Validate: func(r metadata.ConfigResource, configs map[string]string, changed []string) error {
			for _, k := range changed {
				switch v := configs[k]; k {
				case "cleanup.policy", "unclean.leader.election.enable":
				case "retention.ms", "min.insync.replicas":
					if _, err := strconv.ParseInt(v, 10, 64); err != nil {
						return fmt.Errorf("Invalid value %s for configuration %s: Not a number of type LONG", v, k)
					}
				default:
					if r.Type == metadata.ConfigTopic {
						return errors.New("Unknown topic config name: " + k)
					}
				}
			}
			return nil
		},
		IsList: func(_ metadata.ConfigType, key string) bool { return key == "cleanup.policy" },
		Default: func(_ metadata.ConfigType, key string) string {
			return map[string]string{"cleanup.policy": "delete"}[key]
		},
	}
}

func (s *script) printf(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }

func (s *script) arg(name, otherwise string) string {
	if !s.d.HasArg(name) {
		return otherwise
	}
	var v string
	s.d.ScanArgs(s.t, name, &v)
	return v
}

func (s *script) intArg(name string, otherwise int) int {
	n, err := strconv.Atoi(s.arg(name, strconv.Itoa(otherwise)))
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *script) run() {
	name := s.arg("name", "")
	switch s.d.Cmd {
	case "brokers":
		for i := range s.intArg("n", 1) {
			rack := strings.Split(s.arg("racks", ""), "/")
			s.start(int32(i+1), rack[i%len(rack)], 0)
		}
		s.settle()
	case "start":
		s.start(int32(s.intArg("id", 0)), "", int64(s.intArg("epoch", 0)))
		s.settle()
	case "epoch":
		s.printf("%d", s.img.Broker(int32(s.intArg("id", 0))).Epoch)
	case "die":
		s.commit(metadata.Bury(s.img, int32(s.intArg("id", 0))))
		s.settle()
	case "stop":
		id := int32(s.intArg("id", 0))
		b := s.img.Broker(id)
		s.commit([]metadata.Change{metadata.Live(s.img, id, metadata.Liveness{Incarnation: b.Incarnation, Ready: true, Stopping: true}, 0)})
		s.settle()
	case "disk": // the replicas offline=(topic:partition;...) of a broker are in directories that failed
		id := int32(s.intArg("id", 0))
		lost := metadata.Replicas{}
		for _, r := range strings.Split(s.arg("offline", ""), ";") {
			if topic, number, ok := strings.Cut(r, ":"); ok {
				n, err := strconv.Atoi(number)
				if err != nil {
					s.t.Fatal(err)
				}
				lost[s.img.Topic(topic).ID] = append(lost[s.img.Topic(topic).ID], int32(n))
			}
		}
		b := s.img.Broker(id)
		s.commit([]metadata.Change{metadata.Live(s.img, id, metadata.Liveness{Incarnation: b.Incarnation, Ready: true, Offline: lost}, 0)})
		s.settle()
	case "create":
		s.ids++
		s.topics(metadata.CreateTopics(s.img, s.env, []metadata.NewTopic{{
			Name: name, Partitions: int32(s.intArg("partitions", -1)), ReplicationFactor: int16(s.intArg("rf", -1)),
			ID: newTestID(s.ids), Configs: s.configs(), Assignment: s.assignment(),
		}}))
	case "delete":
		s.topics(metadata.DeleteTopics(s.img, []metadata.TopicRef{{Name: name}}, false))
	case "grow":
		req := metadata.NewPartitions{Topic: name, Count: int32(s.intArg("to", 0))}
		for _, a := range s.assignment() {
			req.Assignment = append(req.Assignment, a.Replicas)
		}
		s.topics(metadata.CreatePartitions(s.img, s.env, []metadata.NewPartitions{req}, false))
	case "alter":
		s.alter()
		s.settle()
	case "elect":
		var topics []metadata.TopicPartitions
		if name != "" {
			topics = []metadata.TopicPartitions{{Topic: name, Partitions: []int32{int32(s.intArg("partition", 0))}}}
		}
		s.partitions(metadata.ElectLeaders(s.img, s.env, metadata.ElectionType(s.intArg("type", 0)), topics))
	case "reassign":
		var asked []metadata.Reassignment
		for _, a := range s.assignment() {
			asked = append(asked, metadata.Reassignment{Topic: name, Partition: a.Partition, Replicas: a.Replicas})
		}
		s.partitions(metadata.Reassign(s.img, s.env, asked, !s.d.HasArg("same-rf")))
	case "unregister":
		id := int32(s.intArg("id", 0))
		result, plan := metadata.Unregister(s.img, id, s.d.HasArg("retried"))
		s.printf("%v %q", result.Err, result.Message)
		s.commit(plan.Commit)
		s.settle()
	case "isr": // puts the sets in the store as they are asked for
		for _, a := range s.assignment() {
			s.commit([]metadata.Change{metadata.SetISR(s.img.Topic(name), a.Partition, a.Replicas)})
		}
		s.show()
	case "show":
		s.show()
	default:
		s.t.Fatalf("unknown command %s", s.d.Cmd)
	}
}

func (s *script) start(id int32, rack string, epoch int64) {
	s.ids++
	inc := newTestID(1000 + s.ids)
	s.commit(metadata.Bury(s.img, id))
	s.commit(metadata.Register(s.img, metadata.Registration{ID: id, Incarnation: inc, Rack: rack, PreviousEpoch: epoch}))
	s.commit([]metadata.Change{metadata.Live(s.img, id, metadata.Liveness{Incarnation: inc, Ready: true}, 0)})
}

// settle does what a controller does until nothing is left to do.
func (s *script) settle() {
	for {
		s.commit(metadata.Sweep(s.img, s.env))
		next := metadata.NextBrokerChange(s.img)
		if next.Empty() {
			break
		}
		s.carryOut(next)
	}
	s.show()
}

func (s *script) commit(changes []metadata.Change) {
	s.carryOut(metadata.Plan{Commit: changes})
}

func (s *script) carryOut(plan metadata.Plan) {
	txn := metadata.TxnOf(plan.Guard, plan.Commit)
	if r, err := s.store.Txn(context.Background(), txn); err != nil || !r.Succeeded {
		s.t.Fatalf("%+v: %+v, %v", txn, r, err)
	}
	kvs, revision, err := s.store.Get(context.Background(), "")
	if err != nil {
		s.t.Fatal(err)
	}
	if s.img, err = metadata.FromKVs(kvs, revision); err != nil {
		s.t.Fatal(err)
	}
}

func (s *script) topics(decisions []metadata.TopicDecision) {
	for _, d := range decisions {
		if d.Result.Err != nil {
			s.printf("%s %s", codeOf(d.Result.Err), d.Result.Message)
			continue
		}
		s.commit(append(d.Plan.Stage, d.Plan.Commit...))
		s.show()
	}
}

func (s *script) partitions(results []metadata.PartitionResult, plans []metadata.Plan) {
	for _, r := range results {
		if r.Err != nil {
			s.printf("%s-%d %s %s", r.Topic, r.Partition, codeOf(r.Err), r.Message)
		}
	}
	for _, p := range plans {
		s.commit(p.Commit)
	}
	s.show()
}

func codeOf(err error) string {
	var k *kerr.Error
	if errors.As(err, &k) {
		return k.Message
	}
	return err.Error()
}

// configs reads key=value lines of the input.
func (s *script) configs() map[string]*string {
	configs := map[string]*string{}
	for _, line := range strings.Fields(s.d.Input) {
		k, v, ok := strings.Cut(line, "=")
		configs[k] = nil
		if ok {
			configs[k] = &v
		}
	}
	return configs
}

// assignment reads assign=0:1/2,1:2/3.
func (s *script) assignment() (as []metadata.PartitionAssignment) {
	for _, part := range strings.Split(s.arg("assign", ""), ";") {
		if part == "" {
			continue
		}
		number, ids, _ := strings.Cut(part, ":")
		n, err := strconv.Atoi(number)
		if err != nil {
			s.t.Fatal(err)
		}
		a := metadata.PartitionAssignment{Partition: int32(n)}
		for _, id := range strings.Split(ids, "/") {
			if id == "" {
				continue
			}
			n, err := strconv.Atoi(id)
			if err != nil {
				s.t.Fatal(err)
			}
			a.Replicas = append(a.Replicas, int32(n))
		}
		as = append(as, a)
	}
	return as
}

// alter reads lines "set key value", "append key value", "delete key".
func (s *script) alter() {
	a := metadata.ConfigAlteration{
		Resource: metadata.ConfigResource{Type: metadata.ConfigType(s.intArg("type", 2)), Name: s.arg("name", "")},
		Replace:  s.d.HasArg("replace"),
	}
	kinds := map[string]metadata.ConfigOpKind{"set": metadata.ConfigSet, "delete": metadata.ConfigDelete, "append": metadata.ConfigAppend, "subtract": metadata.ConfigSubtract}
	for _, line := range strings.Split(strings.TrimSpace(s.d.Input), "\n") {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		op := metadata.ConfigOp{Kind: kinds[words[0]], Key: words[1]}
		if len(words) > 2 {
			op.Value = &words[2]
		}
		a.Ops = append(a.Ops, op)
	}
	for _, d := range metadata.AlterConfigs(s.img, s.env, []metadata.ConfigAlteration{a}) {
		if d.Result.Err != nil {
			s.printf("%s %s", codeOf(d.Result.Err), d.Result.Message)
			continue
		}
		s.commit(d.Plan.Commit)
	}
}

// TestKafkasWords holds what Apache Kafka 4.3.1 answered to these requests,
// sent to a cluster of one broker with id 1.
func TestKafkasWords(t *testing.T) {
	s := newScript(t)
	s.start(1, "", 0)
	s.settle()
	null := (*string)(nil)
	value := func(v string) *string { return &v }
	manual := func(as ...metadata.PartitionAssignment) metadata.NewTopic {
		return metadata.NewTopic{Name: "t", Partitions: -1, ReplicationFactor: -1, Assignment: as}
	}
	on := func(n int32, ids ...int32) metadata.PartitionAssignment {
		return metadata.PartitionAssignment{Partition: n, Replicas: ids}
	}
	long := strings.Repeat("x", 250)
	for _, tc := range []struct {
		t          metadata.NewTopic
		code, says string
	}{
		{metadata.NewTopic{Name: "", Partitions: 1, ReplicationFactor: 1}, "INVALID_TOPIC_EXCEPTION", "Topic name is invalid: the empty string is not allowed"},
		{metadata.NewTopic{Name: ".", Partitions: 1, ReplicationFactor: 1}, "INVALID_TOPIC_EXCEPTION", "Topic name is invalid: '.' is not allowed"},
		{metadata.NewTopic{Name: "..", Partitions: 1, ReplicationFactor: 1}, "INVALID_TOPIC_EXCEPTION", "Topic name is invalid: '..' is not allowed"},
		{metadata.NewTopic{Name: "a$b", Partitions: 0, ReplicationFactor: 1}, "INVALID_TOPIC_EXCEPTION", "Topic name is invalid: 'a$b' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"},
		{metadata.NewTopic{Name: long, Partitions: 1, ReplicationFactor: 1}, "INVALID_TOPIC_EXCEPTION", "Topic name is invalid: the length of '" + long + "' is longer than the max allowed length 249"},
		{metadata.NewTopic{Name: "__cluster_metadata", Partitions: 1, ReplicationFactor: 1}, "INVALID_REQUEST", "Creation of internal topic __cluster_metadata is prohibited."},
		{metadata.NewTopic{Name: "t", Partitions: -2, ReplicationFactor: 1}, "INVALID_PARTITIONS", "Number of partitions was set to an invalid non-positive value."},
		{metadata.NewTopic{Name: "t", Partitions: 1, ReplicationFactor: -2}, "INVALID_REPLICATION_FACTOR", "Replication factor must be larger than 0, or -1 to use the default value."},
		{metadata.NewTopic{Name: "t", Partitions: 10001, ReplicationFactor: 1}, "POLICY_VIOLATION", "Excessively large number of partitions per request."},
		{metadata.NewTopic{Name: "t", Partitions: 0, ReplicationFactor: 1, Configs: map[string]*string{"foo": value("bar")}}, "INVALID_CONFIG", "Unknown topic config name: foo"},
		{metadata.NewTopic{Name: "t", Partitions: 1, ReplicationFactor: 1, Configs: map[string]*string{"retention.ms": null}}, "INVALID_CONFIG", "Null value not supported for topic configs: retention.ms"},
		{metadata.NewTopic{Name: "t", Partitions: -1, ReplicationFactor: 1, Assignment: []metadata.PartitionAssignment{on(0, 1)}}, "INVALID_REQUEST", "A manual partition assignment was specified, but replication factor was not set to -1."},
		{metadata.NewTopic{Name: "t", Partitions: 1, ReplicationFactor: -1, Assignment: []metadata.PartitionAssignment{on(0, 1)}}, "INVALID_REQUEST", "A manual partition assignment was specified, but numPartitions was not set to -1."},
		{manual(on(0, 1), on(0, 1)), "INVALID_REPLICA_ASSIGNMENT", "Found multiple manual partition assignments for partition 0"},
		{manual(on(0, 1), on(2, 1)), "INVALID_REPLICA_ASSIGNMENT", "partitions should be a consecutive 0-based integer sequence"},
		{manual(on(-1, 1)), "INVALID_REPLICA_ASSIGNMENT", "partitions should be a consecutive 0-based integer sequence"},
		{manual(on(0)), "INVALID_REPLICA_ASSIGNMENT", "The manual partition assignment includes an empty replica list."},
		{manual(on(0, 1, 1)), "INVALID_REPLICA_ASSIGNMENT", "The manual partition assignment includes the broker 1 more than once."},
		{manual(on(0, 1, 9)), "INVALID_REPLICA_ASSIGNMENT", "The manual partition assignment includes broker 9, but no such broker is registered."},
		{manual(on(0, -1)), "INVALID_REPLICA_ASSIGNMENT", "The manual partition assignment includes broker -1, but no such broker is registered."},
	} {
		d := metadata.CreateTopics(s.img, s.env, []metadata.NewTopic{tc.t})
		if len(d) != 1 || d[0].Result.Err == nil || codeOf(d[0].Result.Err) != tc.code || d[0].Result.Message != tc.says || !d[0].Plan.Empty() {
			t.Errorf("%+v:\n%+v\nwant %s %s", tc.t, d, tc.code, tc.says)
		}
	}
	// Colliding names in one request do not see each other; equal ones do.
	two := metadata.CreateTopics(s.img, s.env, []metadata.NewTopic{
		{Name: "a.b", Partitions: 1, ReplicationFactor: 1, ID: newTestID(7)},
		{Name: "a_b", Partitions: 1, ReplicationFactor: 1, ID: newTestID(8)},
		{Name: "c", Partitions: 1, ReplicationFactor: 1},
		{Name: "c", Partitions: 2, ReplicationFactor: 1},
	})
	if len(two) != 3 || two[0].Result.Err != nil || two[1].Result.Err != nil || two[2].Result.Message != "Duplicate topic name." {
		t.Errorf("%+v", two)
	}
	// Each of 6,000 partitions would do; both are too many for one request.
	for _, d := range metadata.CreateTopics(s.img, s.env, []metadata.NewTopic{{Name: "a", Partitions: 6000, ReplicationFactor: 1}, {Name: "b", Partitions: 6000, ReplicationFactor: 1}}) {
		if codeOf(d.Result.Err) != "POLICY_VIOLATION" {
			t.Errorf("%+v", d.Result)
		}
	}
	s.commit(append(two[0].Plan.Stage, two[0].Plan.Commit...))
	for _, tc := range []struct {
		refs       []metadata.TopicRef
		code, says string
	}{
		{[]metadata.TopicRef{{Name: "none"}}, "UNKNOWN_TOPIC_OR_PARTITION", "This server does not host this topic-partition."},
		{[]metadata.TopicRef{{ID: newTestID(9)}}, "UNKNOWN_TOPIC_ID", "This server does not host this topic ID."},
		{[]metadata.TopicRef{{}}, "INVALID_REQUEST", "Neither topic name nor id were specified."},
		{[]metadata.TopicRef{{Name: "a.b", ID: newTestID(7)}}, "INVALID_REQUEST", "You may not specify both topic name and topic id."},
		{[]metadata.TopicRef{{Name: "a.b"}, {Name: "a.b"}}, "INVALID_REQUEST", "Duplicate topic name."},
		{[]metadata.TopicRef{{ID: newTestID(7)}, {ID: newTestID(7)}}, "INVALID_REQUEST", "Duplicate topic id."},
	} {
		d := metadata.DeleteTopics(s.img, tc.refs, false)
		if len(d) != 1 || d[0].Result.Err == nil || codeOf(d[0].Result.Err) != tc.code || d[0].Result.Message != tc.says || !d[0].Plan.Empty() {
			t.Errorf("%+v:\n%+v\nwant %s %s", tc.refs, d, tc.code, tc.says)
		}
	}
}

// TestTriedBefore: a decision that was carried out without its maker learning
// of it is recognised, and asks for nothing.
func TestTriedBefore(t *testing.T) {
	s := newScript(t)
	s.start(1, "", 0)
	s.settle()
	create := []metadata.NewTopic{{Name: "t", Partitions: 2, ReplicationFactor: 1, ID: newTestID(1)}}
	d := metadata.CreateTopics(s.img, s.env, create)
	// Half of the partitions were staged: the second try overwrites them.
	s.commit(d[0].Plan.Stage[:1])
	d = metadata.CreateTopics(s.img, s.env, create)
	s.commit(append(d[0].Plan.Stage, d[0].Plan.Commit...))
	again := metadata.CreateTopics(s.img, s.env, create)[0]
	if again.Result.Err != nil || again.Result.ID != newTestID(1) || again.Result.Partitions != 2 || !again.Plan.Empty() {
		t.Errorf("created: %+v", again)
	}
	grow := []metadata.NewPartitions{{Topic: "t", Count: 3}}
	d = metadata.CreatePartitions(s.img, s.env, grow, false)
	s.commit(append(d[0].Plan.Stage, d[0].Plan.Commit...))
	if d := metadata.CreatePartitions(s.img, s.env, grow, true)[0]; d.Result.Err != nil || !d.Plan.Empty() {
		t.Errorf("grown: %+v", d)
	}
	ref := []metadata.TopicRef{{Name: "t"}}
	s.commit(metadata.DeleteTopics(s.img, ref, false)[0].Plan.Commit)
	if d := metadata.DeleteTopics(s.img, ref, true)[0]; d.Result.Err != nil || !d.Plan.Empty() {
		t.Errorf("deleted: %+v", d)
	}
	if len(metadata.Orphans(s.img)) != 0 {
		t.Error("the deletion left partitions")
	}
}

func (s *script) show() {
	for _, b := range s.img.Brokers() {
		state := "up"
		switch {
		case b.Fenced:
			state = "fenced"
		case b.ShuttingDown:
			state = "shutting down"
		}
		s.printf("broker %d %s", b.ID, state)
	}
	for _, t := range s.img.Topics() {
		s.printf("topic %s %v", t.Name, pairs(t.Configs))
		for n, p := range t.Partitions {
			s.printf("  %d leader %d@%d epoch %d replicas %v isr %v%s", n, p.Leader, p.LeaderEpoch, p.PartitionEpoch, p.Replicas, p.ISR, rest(p))
		}
	}
	for _, ct := range []metadata.ConfigType{metadata.ConfigBroker, metadata.ConfigClientMetrics, metadata.ConfigGroup} {
		for _, r := range s.img.ConfigResources(ct) {
			s.printf("config %d %q %v", r.Type, r.Name, pairs(s.img.Config(r)))
		}
	}
}

func rest(p *metadata.Partition) (s string) {
	for _, set := range []struct {
		name string
		ids  []int32
	}{{"elr", p.ELR}, {"last", p.LastKnownELR}, {"offline", p.OfflineReplicas}, {"adding", p.Adding}, {"removing", p.Removing}} {
		if len(set.ids) > 0 {
			s += fmt.Sprintf(" %s %v", set.name, set.ids)
		}
	}
	if p.Recovering {
		s += " recovering"
	}
	return s
}

func pairs(m map[string]string) []string {
	list := []string{}
	for k, v := range m {
		list = append(list, k+"="+v)
	}
	sort.Strings(list)
	return list
}

// TestBrokerSteps: what the controller does about one broker, and that it waits
// for the broker to say so.
func TestBrokerSteps(t *testing.T) {
	s := newScript(t)
	inc := newTestID(1)
	stands := func(want metadata.Standing) {
		t.Helper()
		if got := s.img.Standing(1, inc); got != want {
			t.Fatalf("stands at %d, want %d", got, want)
		}
	}
	idle := func(why string) {
		t.Helper()
		if c := metadata.NextBrokerChange(s.img); !c.Empty() {
			t.Fatalf("%s: %+v", why, c)
		}
	}
	live := func(l metadata.Liveness) {
		l.Incarnation = inc
		s.commit([]metadata.Change{metadata.Live(s.img, 1, l, 0)})
	}
	step := func() { s.carryOut(metadata.NextBrokerChange(s.img)) }

	stands(metadata.Unregistered)
	s.commit(metadata.Register(s.img, metadata.Registration{ID: 1, Incarnation: inc}))
	stands(metadata.Pending)
	idle("nobody lives to be granted an epoch")
	live(metadata.Liveness{})
	step()
	stands(metadata.Fenced)
	idle("the broker is not ready")
	live(metadata.Liveness{Ready: true})
	step()
	stands(metadata.Serving)
	idle("all is well")
	epoch := s.img.Broker(1).Epoch
	// A lost session fences, and coming back needs no new registration.
	s.commit(metadata.Bury(s.img, 1))
	step()
	stands(metadata.Fenced)
	idle("no sign of life")
	live(metadata.Liveness{Ready: true})
	step()
	stands(metadata.Serving)
	if now := s.img.Broker(1).Epoch; now != epoch {
		t.Errorf("epoch %d, was %d", now, epoch)
	}
	live(metadata.Liveness{Ready: true, Stopping: true})
	step()
	stands(metadata.ShuttingDown)
	idle("it leaves when it is done")
	// A sign of life of another incarnation is none of this one.
	inc = newTestID(2)
	live(metadata.Liveness{Ready: true})
	step()
	if b := s.img.Broker(1); !b.Fenced {
		t.Errorf("%+v", b)
	}
	idle("the other has not registered")
}
