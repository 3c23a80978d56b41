package group

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/gregor-broker/gregor/coordinator/group/assignor"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestScripts runs testdata/scripts: requests to a group called g, and what
// comes of each: the records written, the answers (also to requests that were
// parked before), and the timers that were set and cleared.
//
//	topics t=4 ...                          what topics there are, with their partitions
//	config assignment-interval=1s ...       also: delay, retention, policy
//	join|sync|heartbeat|leave member=...    of the classic protocol
//	beat member= epoch= ...                 ConsumerGroupHeartbeat
//	commit member= generation= offset= [topic=]; fetch; drop [topic=]
//	describe                                the group as the coordinator sees it
//	advance 10s                             time passes, timers fire
//	reload                                  another broker takes over, with nothing but the log
//
// Members of the classic protocol that subscribe=t offer what a consumer does,
// others a word that means nothing; claims=1 is a subscription that calls
// itself version 1 and ends where version 0 does; assigns are lines of member and assignment.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		w := newWorld(t)
		ids := 0
		w.newID = func() string { ids++; return fmt.Sprint(ids) }
		w.load()
		s := &script{world: w, what: make(map[runtime.Ticket]string), said: make(map[runtime.Ticket]bool)}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			w.t = t
			return s.run(d)
		})
	})
}

type script struct {
	*world
	out strings.Builder
	// what each ticket is about, and those whose answer was printed.
	what   map[runtime.Ticket]string
	said   map[runtime.Ticket]bool
	topics map[string]int
}

func (s *script) run(d *datadriven.TestData) string {
	s.out.Reset()
	a := args{s.t, d}
	switch d.Cmd {
	case "topics":
		s.topics = make(map[string]int)
		for _, arg := range d.CmdArgs {
			n, err := strconv.Atoi(arg.Vals[0])
			if err != nil {
				d.Fatalf(s.t, "%v", err)
			}
			s.topics[arg.Key] = n
		}
		s.img = testTopics(s.t, s.img.Revision+1, s.topics)
	case "config":
		s.config(a)
	case "join":
		s.show(s.joinGroup(a))
	case "sync":
		s.show(s.syncGroup(a))
	case "heartbeat":
		r := kmsg.NewPtrHeartbeatRequest()
		r.Version, r.Group, r.MemberID, r.Generation, r.InstanceID = 4, "g", a.str("member"), a.num("generation"), a.ptr("instance")
		t := s.open("heartbeat of " + r.MemberID)
		s.show(s.s.Heartbeat(s.now, t, r))
	case "leave":
		r := kmsg.NewPtrLeaveGroupRequest()
		r.Version, r.Group = 5, "g"
		r.Members = []kmsg.LeaveGroupRequestMember{{MemberID: a.str("member"), InstanceID: a.ptr("instance")}}
		t := s.open("leave of " + a.str("member"))
		s.show(s.s.LeaveGroup(s.now, t, r))
	case "beat":
		s.show(s.consumerBeat(a))
	case "commit":
		r := kmsg.NewPtrOffsetCommitRequest()
		r.Version, r.Group, r.MemberID, r.Generation, r.InstanceID = 9, "g", a.str("member"), a.num("generation"), a.ptr("instance")
		if !d.HasArg("generation") {
			r.Generation = -1
		}
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Offset = int64(a.num("offset"))
		r.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: a.topic(), Partitions: []kmsg.OffsetCommitRequestTopicPartition{p}}}
		t := s.open("commit")
		s.show(s.s.OffsetCommit(s.now, t, r))
	case "fetch":
		r := kmsg.NewOffsetFetchRequestGroup()
		r.Group, r.Topics = "g", []kmsg.OffsetFetchRequestGroupTopic{{Topic: a.topic(), Partitions: []int32{0}}}
		t := s.open("fetch")
		s.show(s.s.OffsetFetch(s.now, t, &r, true))
	case "drop":
		r := kmsg.NewPtrOffsetDeleteRequest()
		r.Group = "g"
		r.Topics = []kmsg.OffsetDeleteRequestTopic{{Topic: a.topic(), Partitions: make([]kmsg.OffsetDeleteRequestTopicPartition, 1)}}
		t := s.open("drop")
		s.show(s.s.OffsetDelete(s.now, t, r))
	case "describe":
		s.describe()
	case "advance":
		s.advanceBy(d)
	case "reload":
		s.load()
		s.answers()
	default:
		d.Fatalf(s.t, "no command %s", d.Cmd)
	}
	if s.out.Len() == 0 {
		return "ok\n"
	}
	return s.out.String()
}

func (s *script) config(a args) {
	if v, ok := a.duration("assignment-interval"); ok {
		s.cfg.ConsumerAssignmentInterval = func() time.Duration { return v }
	}
	if v, ok := a.duration("delay"); ok {
		s.cfg.InitialRebalanceDelay = v
	}
	if v, ok := a.duration("retention"); ok {
		s.cfg.OffsetsRetention = v
	}
	if v := a.str("policy"); v != "" {
		s.cfg.MigrationPolicy = v
	}
}

func (s *script) open(what string) runtime.Ticket {
	t := s.ticket()
	s.what[t] = what
	return t
}

func (s *script) joinGroup(a args) runtime.Result {
	r := kmsg.NewPtrJoinGroupRequest()
	r.Version, r.Group, r.MemberID, r.ProtocolType, r.InstanceID = 9, "g", a.str("member"), "consumer", a.ptr("instance")
	r.SessionTimeoutMillis, r.RebalanceTimeoutMillis = 10_000, 60_000
	metadata := []byte("?")
	if subscribed := a.list("subscribe"); len(subscribed) > 0 {
		m := kmsg.NewConsumerMemberMetadata()
		m.Version, m.Topics, m.Generation = 3, subscribed, -1
		if a.d.HasArg("generation") {
			m.Generation = a.num("generation")
		}
		for id, ps := range a.assignment("owns") {
			m.OwnedPartitions = append(m.OwnedPartitions, kmsg.ConsumerMemberMetadataOwnedPartition{Topic: topicOf(id), Partitions: ps})
		}
		if a.d.HasArg("claims") {
			m.Version = 0
			metadata = binary.BigEndian.AppendUint16(nil, uint16(a.num("claims")))
			metadata = append(metadata, m.AppendTo(nil)[2:]...)
		} else {
			metadata = m.AppendTo(nil)
		}
	}
	offered := a.list("offers")
	if len(offered) == 0 {
		offered = []string{"range"}
	}
	for _, name := range offered {
		r.Protocols = append(r.Protocols, kmsg.JoinGroupRequestProtocol{Name: name, Metadata: metadata})
	}
	who := r.MemberID
	if who == "" {
		who = "somebody"
	}
	if r.InstanceID != nil {
		who += " (" + *r.InstanceID + ")"
	}
	return s.s.JoinGroup(s.now, s.open("join of "+who), r, Client{"client", "/host"})
}

func (s *script) syncGroup(a args) runtime.Result {
	r := kmsg.NewPtrSyncGroupRequest()
	r.Version, r.Group, r.MemberID, r.Generation, r.InstanceID = 5, "g", a.str("member"), a.num("generation"), a.ptr("instance")
	for line := range strings.Lines(a.d.Input) {
		member, assignment, _ := strings.Cut(strings.TrimSpace(line), " ")
		b := []byte(assignment)
		if strings.Contains(assignment, ":") {
			m := kmsg.NewConsumerMemberAssignment()
			for id, ps := range parseAssignment(s.t, assignment) {
				m.Topics = append(m.Topics, kmsg.ConsumerMemberAssignmentTopic{Topic: topicOf(id), Partitions: ps})
			}
			b = m.AppendTo(nil)
		}
		r.GroupAssignment = append(r.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: member, MemberAssignment: b})
	}
	return s.s.SyncGroup(s.now, s.open("sync of "+r.MemberID), r)
}

func (s *script) consumerBeat(a args) runtime.Result {
	r := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	r.Version, r.Group, r.MemberID, r.MemberEpoch, r.RebalanceTimeoutMillis = 1, "g", a.str("member"), a.num("epoch"), -1
	r.InstanceID, r.SubscribedTopicRegex, r.ServerAssignor = a.ptr("instance"), a.ptr("regex"), a.ptr("assignor")
	r.SubscribedTopicNames = a.list("topics")
	if r.MemberEpoch == 0 {
		r.RebalanceTimeoutMillis = 60_000
		r.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	}
	if a.d.HasArg("owns") {
		r.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		owned := a.assignment("owns")
		for _, id := range sortedIDs(owned) {
			r.Topics = append(r.Topics, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: id, Partitions: owned[id]})
		}
	}
	return s.s.ConsumerGroupHeartbeat(s.now, s.open("beat of "+r.MemberID), r, Client{"client", "/host"})
}

// show applies a result and prints it.
func (s *script) show(r runtime.Result) {
	before := maps.Clone(s.timers)
	s.apply(r)
	for _, rec := range r.Records {
		s.printf("record %s", s.record(rec))
	}
	s.answers()
	for _, tm := range r.Timers {
		what := timerName(s.t, tm.Key)
		switch {
		case what == "":
		case tm.At.IsZero():
			if _, ok := before[tm.Key]; ok {
				s.printf("timer  %s cleared", what)
			}
		default:
			s.printf("timer  %s in %s", what, tm.At.Sub(s.now))
		}
	}
}

// answers prints the answers that came since, and the requests that wait.
func (s *script) answers() {
	for _, t := range sortedKeys(s.what) {
		if s.said[t] {
			continue
		}
		r, ok := s.replies[t]
		if !ok {
			s.printf("parked %s", s.what[t])
			continue
		}
		s.said[t] = true
		s.printf("answer to %s: %s", s.what[t], s.answer(r))
	}
}

func (s *script) printf(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }

// advanceBy is advance with each timer that fires in the output.
func (s *script) advanceBy(d *datadriven.TestData) {
	by, err := time.ParseDuration(d.CmdArgs[0].Key)
	if err != nil {
		d.Fatalf(s.t, "%v", err)
	}
	end := s.now.Add(by)
	for {
		first := ""
		for k, at := range s.timers {
			if !at.After(end) && (first == "" || at.Before(s.timers[first]) || (at.Equal(s.timers[first]) && k < first)) {
				first = k
			}
		}
		if first == "" {
			s.now = end
			return
		}
		after := s.timers[first].Sub(end.Add(-by))
		s.now = s.timers[first]
		delete(s.timers, first)
		r := s.s.Timeout(s.now, first)
		if what := timerName(s.t, first); what != "" {
			s.printf("after %s: timer %s", after, what)
		} else if len(r.Records) > 0 {
			s.printf("after %s: offsets expire", after)
		}
		if len(r.Records)+len(r.Replies) > 0 || timerName(s.t, first) != "" {
			s.show(r)
		} else {
			s.apply(r)
		}
	}
}

func timerName(t *testing.T, key string) string {
	what, group, member, err := parseTimerKey(key)
	if err != nil {
		t.Fatal(err)
	}
	name := map[byte]string{
		timerSession: "session", timerJoin: "rebalance", timerSync: "sync", timerConsumerSession: "session",
		timerRevoke: "revocation", timerConsumerJoin: "join", timerConsumerSync: "sync", timerOffsets: "",
	}[what]
	if name == "" {
		return ""
	}
	if member == "" {
		member = group
	}
	return name + " of " + member
}

func (s *script) record(r runtime.Record) string {
	s.t.Helper()
	kind, err := recordType(r.Key)
	if err != nil {
		s.t.Fatal(err)
	}
	must := func(err error) {
		s.t.Helper()
		if err != nil {
			s.t.Fatal(err)
		}
	}
	switch kind {
	case typeOffsetCommit:
		k := kmsg.NewOffsetCommitKey()
		must(k.ReadFrom(r.Key))
		if r.Value == nil {
			return fmt.Sprintf("offset of %s/%d: tombstone", k.Topic, k.Partition)
		}
		o, err := parseOffset(r.Value)
		must(err)
		return fmt.Sprintf("offset of %s/%d: %d", k.Topic, k.Partition, o.offset)
	case typeGroupMetadata:
		if r.Value == nil {
			return "classic group: tombstone"
		}
		v := kmsg.NewGroupMetadataValue()
		must(v.ReadFrom(r.Value))
		out := fmt.Sprintf("classic group: generation %d, protocol %s, leader %s", v.Generation, orNone(v.Protocol), orNone(v.Leader))
		for _, m := range v.Members {
			out += fmt.Sprintf(", %s has %s", m.MemberID, s.assigned(m.Assignment))
		}
		return out
	}
	parts := 2
	if kind == typeConsumerGroup || kind == typeTargetEpoch {
		parts = 1
	}
	key, err := parseConsumerKey(r.Key, parts)
	must(err)
	name := map[int16]string{
		typeConsumerGroup: "consumer group", typeConsumerMember: "member", typeTargetEpoch: "target epoch",
		typeTargetMember: "target", typeCurrentMember: "current", typeRegex: "regex",
	}[kind] + strings.Join(append([]string{""}, key[1:]...), " ") + ": "
	if r.Value == nil {
		return name + "tombstone"
	}
	switch kind {
	case typeConsumerGroup:
		epoch, _, err := parseConsumerGroup(r.Value)
		must(err)
		return fmt.Sprintf("%sepoch %d", name, epoch)
	case typeConsumerMember:
		m := &consumerMember{}
		must(parseConsumerMember(r.Value, m))
		out := fmt.Sprintf("%stopics %v", name, m.topics)
		if m.regex != "" {
			out += " regex " + m.regex
		}
		if m.instanceID != nil {
			out += " instance " + *m.instanceID
		}
		if m.classic != nil {
			out += " speaks the classic protocol"
		}
		return out
	case typeTargetEpoch:
		epoch, _, err := parseTargetEpoch(r.Value)
		must(err)
		return fmt.Sprint(name, epoch)
	case typeTargetMember:
		a, err := parseTargetMember(r.Value)
		must(err)
		return name + formatAssignment(a)
	case typeCurrentMember:
		m := &consumerMember{}
		must(parseCurrentMember(r.Value, m))
		out := fmt.Sprintf("%sepoch %d after %d, %s, has %s", name, m.epoch, m.previousEpoch, nameOf(m.state), formatAssignment(m.assigned))
		if len(m.revoking) > 0 {
			out += " revokes " + formatAssignment(m.revoking)
		}
		return out
	case typeRegex:
		re, err := parseRegex(r.Value)
		must(err)
		return fmt.Sprintf("%smatches %v", name, re.topics)
	}
	s.t.Fatalf("a record of type %d", kind)
	return ""
}

func nameOf(m memberState) string { return [...]string{"stable", "unrevoked", "unreleased"}[m] }

func (s *script) answer(r any) string {
	result := func(code int16, message *string) string {
		err := kerr.TypedErrorForCode(code)
		switch {
		case err == nil:
			return "ok"
		case message != nil:
			return err.Message + ": " + *message
		}
		return err.Message
	}
	switch r := r.(type) {
	case *kmsg.JoinGroupResponse:
		out := fmt.Sprintf("%s, member %q", result(r.ErrorCode, nil), r.MemberID)
		if r.ErrorCode != 0 {
			return out
		}
		out += fmt.Sprintf(", generation %d, protocol %s, leader %s", r.Generation, orNone(r.Protocol), r.LeaderID)
		for _, m := range r.Members {
			out += ", knows " + m.MemberID
		}
		if r.SkipAssignment {
			out += ", skips the assignment"
		}
		return out
	case *kmsg.SyncGroupResponse:
		return result(r.ErrorCode, nil) + ", " + s.assigned(r.MemberAssignment)
	case *kmsg.HeartbeatResponse:
		return result(r.ErrorCode, nil)
	case *kmsg.LeaveGroupResponse:
		return result(max(r.ErrorCode, r.Members[0].ErrorCode), nil)
	case *kmsg.OffsetCommitResponse:
		return result(r.Topics[0].Partitions[0].ErrorCode, nil)
	case *kmsg.OffsetFetchResponseGroup:
		if r.ErrorCode != 0 {
			return result(r.ErrorCode, nil)
		}
		p := r.Topics[0].Partitions[0]
		return fmt.Sprintf("%s, offset %d", result(p.ErrorCode, nil), p.Offset)
	case *kmsg.OffsetDeleteResponse:
		if r.ErrorCode != 0 {
			return result(r.ErrorCode, nil)
		}
		return result(r.Topics[0].Partitions[0].ErrorCode, nil)
	case *kmsg.ConsumerGroupHeartbeatResponse:
		if r.ErrorCode != 0 {
			return result(r.ErrorCode, r.ErrorMessage)
		}
		out := fmt.Sprintf("epoch %d", r.MemberEpoch)
		if r.Assignment != nil {
			a := make(assignor.Assignment)
			for _, t := range r.Assignment.Topics {
				a[t.TopicID] = t.Partitions
			}
			out += ", assigned " + formatAssignment(a)
		}
		return out
	}
	s.t.Fatalf("an answer of type %T", r)
	return ""
}

// assigned reads an assignment of the classic protocol: one of a consumer's, or
// a word.
func (s *script) assigned(b []byte) string {
	if len(b) == 0 {
		return "nothing"
	}
	m := kmsg.NewConsumerMemberAssignment()
	if b[0] != 0 || m.ReadFrom(b) != nil {
		return string(b)
	}
	a := make(assignor.Assignment)
	for _, t := range m.Topics {
		a[testID(t.Topic)] = t.Partitions
	}
	return formatAssignment(a)
}

func (s *script) describe() {
	if g := s.s.classic["g"]; g != nil {
		s.printf("classic, %s, generation %d", g.state, g.generation)
		for _, m := range g.inOrder() {
			s.printf("  %s %s", m.id, s.assigned(m.assignment))
		}
		return
	}
	g := s.s.consumer["g"]
	if g == nil {
		s.printf("no group")
		return
	}
	s.printf("consumer, %s, epoch %d, target of %d", g.stateName(), g.epoch, g.targetEpoch)
	for _, m := range g.sortedMembers() {
		s.printf("  %s at %d, %s, has %s", m.id, m.epoch, nameOf(m.state), formatAssignment(m.assigned))
	}
}

func orNone(s *string) string {
	if s == nil {
		return "none"
	}
	return *s
}

// formatAssignment is "t:0,1 u:2", "nothing" for none.
func formatAssignment(a assignor.Assignment) string {
	var out []string
	for _, id := range sortedIDs(a) {
		if len(a[id]) == 0 {
			continue
		}
		ps := make([]string, len(a[id]))
		for i, p := range slices.Sorted(slices.Values(a[id])) {
			ps[i] = strconv.Itoa(int(p))
		}
		out = append(out, topicOf(id)+":"+strings.Join(ps, ","))
	}
	if len(out) == 0 {
		return "nothing"
	}
	return strings.Join(out, " ")
}

// parseAssignment reads what formatAssignment writes.
func parseAssignment(t *testing.T, text string) assignor.Assignment {
	a := make(assignor.Assignment)
	for f := range strings.FieldsSeq(text) {
		topic, ps, ok := strings.Cut(f, ":")
		if !ok {
			continue // "nothing"
		}
		for p := range strings.SplitSeq(ps, ",") {
			n, err := strconv.ParseInt(p, 10, 32)
			if err != nil {
				t.Fatal(err)
			}
			a[testID(topic)] = append(a[testID(topic)], int32(n))
		}
	}
	return a
}

// args are a command's arguments.
type args struct {
	t *testing.T
	d *datadriven.TestData
}

func (a args) list(key string) []string {
	for _, arg := range a.d.CmdArgs {
		if arg.Key == key {
			return arg.Vals
		}
	}
	return nil
}

func (a args) str(key string) string {
	if v := a.list(key); len(v) > 0 {
		return v[0]
	}
	return ""
}

func (a args) ptr(key string) *string {
	if !a.d.HasArg(key) {
		return nil
	}
	v := a.str(key)
	return &v
}

func (a args) topic() string {
	if v := a.str("topic"); v != "" {
		return v
	}
	return "t"
}

func (a args) num(key string) int32 {
	v := a.str(key)
	if v == "" {
		return 0
	}
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil {
		a.d.Fatalf(a.t, "%s: %v", key, err)
	}
	return int32(n)
}

func (a args) duration(key string) (time.Duration, bool) {
	v := a.str(key)
	if v == "" {
		return 0, false
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		a.d.Fatalf(a.t, "%s: %v", key, err)
	}
	return d, true
}

// assignment is a list like (t:0,u:1,u:2), or none.
func (a args) assignment(key string) assignor.Assignment {
	return parseAssignment(a.t, strings.Join(a.list(key), " "))
}
