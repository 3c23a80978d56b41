package group

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// world drives a shard as the runtime does, with a log in memory and time that
// moves when told.
type world struct {
	cfg     *Config
	t       *testing.T
	s       *Shard
	now     time.Time
	log     []logged
	timers  map[string]time.Time
	tickets runtime.Ticket
	replies map[runtime.Ticket]any
	img     *metadata.Image
	newID   func() string // nil: unique to the log as it is
	// refused is what writes are refused with, nil when enough replicas are in sync;
	// asked is what group g was when a handler last asked for it.
	refused error
	asked   string
}

type logged struct {
	runtime.Record
	producer *runtime.Producer
	marker   *runtime.Marker
}

func testConfig() *Config {
	return &Config{
		MinSessionTimeout: 6 * time.Second, MaxSessionTimeout: 30 * time.Minute,
		InitialRebalanceDelay: 3 * time.Second, MaxSize: 1 << 30, OffsetMetadataMax: 4096,
		OffsetsRetention: 7 * 24 * time.Hour, OffsetsCheckInterval: 10 * time.Minute,
		ConsumerMaxSize: 1 << 30, ConsumerAssignors: []string{"uniform", "range"},
		ConsumerSessionTimeout: 45 * time.Second, ConsumerHeartbeatInterval: 5 * time.Second,
		ConsumerAssignmentInterval: func() time.Duration { return 0 }, ConsumerMaxAssignmentInterval: 15 * time.Second,
		ConsumerMinSessionTimeout: 45 * time.Second, ConsumerMaxSessionTimeout: time.Minute,
		ConsumerMinHeartbeatInterval: 5 * time.Second, ConsumerMaxHeartbeatInterval: 15 * time.Second,
		MigrationPolicy: "bidirectional",
	}
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, cfg: testConfig(), now: time.UnixMilli(1_000_000_000_000), replies: make(map[runtime.Ticket]any), img: metadata.Empty()}
	w.load()
	return w
}

// load replaces the shard by one that replays the log, as a new leader would.
func (w *world) load() {
	n := 0
	newID := w.newID
	if newID == nil {
		newID = func() string { n++; return fmt.Sprint("id", n, "@", len(w.log)) }
	}
	w.s = NewShard(w.cfg, newID, func() *metadata.Image { return w.img }, w.writable)
	w.timers = make(map[string]time.Time)
	for i, r := range w.log {
		var err error
		if r.marker != nil {
			err = w.s.ReplayMarker(int64(i), *r.marker)
		} else {
			err = w.s.Replay(int64(i), r.producer, r.Record)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	w.apply(w.s.Loaded(w.now))
}

// apply does what the runtime does with a result. What is refused is the answer to
// the ticket given last.
func (w *world) apply(r runtime.Result) {
	w.t.Helper()
	if w.refused != nil && len(r.Records) > 0 {
		if !r.Refusable {
			w.t.Fatalf("%d records that cannot be written", len(r.Records))
		}
		w.asked = w.dump() // records are all that it would do
		r = runtime.Result{Refused: w.refused}
	}
	if r.Refused != nil {
		if now := w.dump(); now != w.asked {
			w.t.Fatalf("refused, and changed from\n%s\nto\n%s", w.asked, now)
		}
		w.replies[w.tickets] = r.Refused
	}
	if size := recordsSize(r.Records); w.cfg.MaxRecordBytes != nil && size > w.cfg.MaxRecordBytes() && !r.Divisible {
		w.t.Fatalf("%d bytes of records in one append", size)
	}
	for _, rec := range r.Records {
		if !r.SkipReplay {
			if err := w.s.Replay(int64(len(w.log)), r.Producer, rec); err != nil {
				w.t.Fatal(err)
			}
		}
		w.log = append(w.log, logged{Record: rec, producer: r.Producer})
	}
	if r.Marker != nil {
		if err := w.s.ReplayMarker(int64(len(w.log)), *r.Marker); err != nil {
			w.t.Fatal(err)
		}
		w.log = append(w.log, logged{marker: r.Marker})
	}
	for _, tm := range r.Timers {
		if tm.At.IsZero() {
			delete(w.timers, tm.Key)
		} else {
			w.timers[tm.Key] = tm.At
		}
	}
	for _, rep := range r.Replies {
		if _, ok := w.replies[rep.Ticket]; ok {
			w.t.Fatalf("ticket %d is answered twice", rep.Ticket)
		}
		w.replies[rep.Ticket] = rep.Response
	}
}

func (w *world) writable() error {
	if w.refused != nil {
		w.asked = w.dump()
	}
	return w.refused
}

// dump is all that is known of group g.
func (w *world) dump() string {
	var b strings.Builder
	if g := w.s.classic["g"]; g != nil {
		fmt.Fprintf(&b, "classic %+v\n", *g)
		for _, m := range g.inOrder() {
			fmt.Fprintf(&b, "  %+v\n", *m)
		}
	}
	if g := w.s.consumer["g"]; g != nil {
		c := *g
		c.members, c.regexes = nil, nil
		fmt.Fprintf(&b, "consumer %+v, regular expressions %v\n", c, sortedKeys(g.regexes))
		for _, m := range g.sortedMembers() {
			fmt.Fprintf(&b, "  %+v\n", *m)
		}
	}
	return pointers.ReplaceAllString(b.String(), "")
}

var pointers = regexp.MustCompile(`0x[0-9a-f]+`)

// fired is apply for what comes of a timer, for which nobody waits.
func (w *world) fired(r runtime.Result) {
	w.t.Helper()
	if w.refused != nil && r.Refusable && len(r.Records) > 0 {
		r = runtime.Result{Timers: r.Timers}
	}
	w.apply(r)
}

func recordsSize(records []runtime.Record) int {
	n := 0
	for _, r := range records {
		n += r.Size()
	}
	return n
}

// advance lets time pass, firing timers in order.
func (w *world) advance(d time.Duration) {
	w.t.Helper()
	end := w.now.Add(d)
	for {
		first := ""
		for k, at := range w.timers {
			if !at.After(end) && (first == "" || at.Before(w.timers[first]) || (at.Equal(w.timers[first]) && k < first)) {
				first = k
			}
		}
		if first == "" {
			w.now = end
			return
		}
		w.now = w.timers[first]
		delete(w.timers, first)
		w.fired(w.s.Timeout(w.now, first))
	}
}

func (w *world) ticket() runtime.Ticket { w.tickets++; return w.tickets }

type joinOpt func(*kmsg.JoinGroupRequest)

func instance(id string) joinOpt { return func(r *kmsg.JoinGroupRequest) { r.InstanceID = &id } }
func offers(name, metadata string) joinOpt {
	return func(r *kmsg.JoinGroupRequest) {
		r.Protocols = append(r.Protocols, kmsg.JoinGroupRequestProtocol{Name: name, Metadata: []byte(metadata)})
	}
}

func (w *world) join(memberID string, opts ...joinOpt) runtime.Ticket {
	w.t.Helper()
	r := kmsg.NewPtrJoinGroupRequest()
	r.Version, r.Group, r.MemberID, r.ProtocolType = 9, "g", memberID, "consumer"
	r.SessionTimeoutMillis, r.RebalanceTimeoutMillis = 10_000, 60_000
	for _, o := range opts {
		o(r)
	}
	if len(r.Protocols) == 0 {
		offers("range", "m")(r)
	}
	t := w.ticket()
	w.apply(w.s.JoinGroup(w.now, t, r, Client{"client", "/host"}))
	return t
}

func (w *world) joined(t runtime.Ticket) *kmsg.JoinGroupResponse {
	w.t.Helper()
	r, ok := w.replies[t].(*kmsg.JoinGroupResponse)
	if !ok {
		w.t.Fatalf("join %d is not answered", t)
	}
	return r
}

// member joins for the first time and returns its id and the parked join.
func (w *world) member(opts ...joinOpt) (string, runtime.Ticket) {
	w.t.Helper()
	first := w.joined(w.join("", opts...))
	if first.ErrorCode != kerr.MemberIDRequired.Code {
		w.t.Fatalf("first join answered %v", kerr.ErrorForCode(first.ErrorCode))
	}
	return first.MemberID, w.join(first.MemberID, opts...)
}

func (w *world) sync(memberID string, generation int32, assignment map[string]string) runtime.Ticket {
	w.t.Helper()
	r := kmsg.NewPtrSyncGroupRequest()
	r.Version, r.Group, r.MemberID, r.Generation = 5, "g", memberID, generation
	for _, id := range sortedKeys(assignment) {
		r.GroupAssignment = append(r.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: id, MemberAssignment: []byte(assignment[id])})
	}
	t := w.ticket()
	w.apply(w.s.SyncGroup(w.now, t, r))
	return t
}

func (w *world) wantSync(t runtime.Ticket, want string, wantErr error) {
	w.t.Helper()
	r, ok := w.replies[t].(*kmsg.SyncGroupResponse)
	if !ok {
		w.t.Fatalf("sync %d is not answered", t)
	}
	if r.ErrorCode != code(wantErr) || string(r.MemberAssignment) != want {
		w.t.Fatalf("sync answered %v %q, want %v %q", kerr.ErrorForCode(r.ErrorCode), r.MemberAssignment, wantErr, want)
	}
}

func (w *world) heartbeat(memberID string, generation int32) error {
	r := kmsg.NewPtrHeartbeatRequest()
	r.Group, r.MemberID, r.Generation = "g", memberID, generation
	t := w.ticket()
	w.apply(w.s.Heartbeat(w.now, t, r))
	return kerr.ErrorForCode(w.replies[t].(*kmsg.HeartbeatResponse).ErrorCode)
}

func (w *world) leave(memberID string) error {
	r := kmsg.NewPtrLeaveGroupRequest()
	r.Version, r.Group = 5, "g"
	r.Members = []kmsg.LeaveGroupRequestMember{{MemberID: memberID}}
	t := w.ticket()
	w.apply(w.s.LeaveGroup(w.now, t, r))
	return kerr.ErrorForCode(w.replies[t].(*kmsg.LeaveGroupResponse).Members[0].ErrorCode)
}

// commit commits one offset of topic t, partition 0.
func (w *world) commit(memberID string, generation int32, off int64) error {
	t := w.ticket()
	w.apply(w.s.OffsetCommit(w.now, t, commitRequest(memberID, generation, 0, off)))
	return kerr.ErrorForCode(w.replies[t].(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode)
}

func commitRequest(memberID string, generation, partition int32, off int64) *kmsg.OffsetCommitRequest {
	r := kmsg.NewPtrOffsetCommitRequest()
	r.Version, r.Group, r.MemberID, r.Generation = 9, "g", memberID, generation
	r.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Partition: partition, Offset: off, LeaderEpoch: -1}}}}
	return r
}

func (w *world) fetch(requireStable bool) (int64, error) {
	r := kmsg.NewOffsetFetchRequestGroup()
	r.Group = "g"
	r.Topics = []kmsg.OffsetFetchRequestGroupTopic{{Topic: "t", Partitions: []int32{0}}}
	t := w.ticket()
	w.apply(w.s.OffsetFetch(w.now, t, &r, requireStable))
	p := w.replies[t].(*kmsg.OffsetFetchResponseGroup).Topics[0].Partitions[0]
	return p.Offset, kerr.ErrorForCode(p.ErrorCode)
}

// stable forms a stable group of two and returns its members, leader first.
func stable(t *testing.T) (w *world, leader, follower string) {
	w = newWorld(t)
	a, ja := w.member()
	b, jb := w.member()
	w.advance(6 * time.Second)
	if r := w.joined(ja); r.Generation != 1 || r.LeaderID != a || len(r.Members) != 2 || *r.Protocol != "range" {
		t.Fatalf("leader's join: %+v", r)
	}
	if r := w.joined(jb); r.Generation != 1 || r.LeaderID != a || len(r.Members) != 0 {
		t.Fatalf("follower's join: %+v", r)
	}
	sb := w.sync(b, 1, nil)
	sa := w.sync(a, 1, map[string]string{a: "A", b: "B"})
	w.wantSync(sa, "A", nil)
	w.wantSync(sb, "B", nil)
	return w, a, b
}

func TestTwoMembersFormAGroup(t *testing.T) {
	w, a, b := stable(t)
	for _, m := range []string{a, b} {
		if err := w.heartbeat(m, 1); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSilentMemberIsRemoved(t *testing.T) {
	w, a, b := stable(t)
	w.advance(9 * time.Second)
	if err := w.heartbeat(a, 1); err != nil {
		t.Fatal(err)
	}
	w.advance(2 * time.Second) // b's session of 10 s is over
	if err := w.heartbeat(a, 1); err != kerr.RebalanceInProgress {
		t.Fatalf("heartbeat of the one left: %v", err)
	}
	j := w.join(a)
	if r := w.joined(j); r.Generation != 2 || len(r.Members) != 1 {
		t.Fatalf("join after the other is gone: %+v", r)
	}
	if err := w.heartbeat(b, 1); err != kerr.UnknownMemberID {
		t.Fatalf("heartbeat of the removed: %v", err)
	}
}

func TestGroupSurvivesNewLeader(t *testing.T) {
	w, a, b := stable(t)
	if err := w.commit(a, 1, 42); err != nil {
		t.Fatal(err)
	}
	w.load()
	if err := w.heartbeat(b, 1); err != nil {
		t.Fatalf("heartbeat at the new coordinator: %v", err)
	}
	if off, err := w.fetch(true); off != 42 || err != nil {
		t.Fatalf("offset %d, %v", off, err)
	}
	w.advance(11 * time.Second) // nobody is heard of again
	if err := w.heartbeat(a, 1); err != kerr.UnknownMemberID {
		t.Fatalf("after the session: %v", err)
	}
}

func TestOldGenerationIsFenced(t *testing.T) {
	w, a, b := stable(t)
	if err := w.leave(b); err != nil {
		t.Fatal(err)
	}
	w.joined(w.join(a))
	if err := w.commit(a, 1, 7); err != kerr.IllegalGeneration {
		t.Fatalf("commit of an old generation: %v", err)
	}
	if err := w.commit(a, 2, 7); err != kerr.RebalanceInProgress {
		t.Fatalf("commit before the assignment: %v", err)
	}
	if err := w.commit(b, 2, 7); err != kerr.UnknownMemberID {
		t.Fatalf("commit of one that left: %v", err)
	}
}

func TestStaticMemberComesBackWithoutRebalance(t *testing.T) {
	w := newWorld(t)
	ja := w.join("", instance("i1"))
	w.advance(4 * time.Second)
	a := w.joined(ja).MemberID
	w.wantSync(w.sync(a, 1, map[string]string{a: "A"}), "A", nil)
	back := w.joined(w.join("", instance("i1")))
	if back.ErrorCode != 0 || back.Generation != 1 || back.MemberID == a || !back.SkipAssignment {
		t.Fatalf("rejoin: %+v", back)
	}
	w.wantSync(w.sync(back.MemberID, 1, nil), "A", nil)
	old := w.join(a, instance("i1"))
	if r := w.joined(old); r.ErrorCode != kerr.FencedInstanceID.Code {
		t.Fatalf("join of the former self: %v", kerr.ErrorForCode(r.ErrorCode))
	}
}

func TestTransactionalOffsetsWaitForTheMarker(t *testing.T) {
	for _, commit := range []bool{true, false} {
		w := newWorld(t)
		if err := w.commit("", -1, 1); err != nil {
			t.Fatal(err)
		}
		r := kmsg.NewPtrTxnOffsetCommitRequest()
		r.Version, r.Group, r.ProducerID, r.ProducerEpoch = 3, "g", 9, 2
		r.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{{Offset: 5, LeaderEpoch: -1}}}}
		w.apply(w.s.TxnOffsetCommit(w.now, w.ticket(), r))
		if off, err := w.fetch(true); err != kerr.UnstableOffsetCommit {
			t.Fatalf("stable fetch in a transaction: %d, %v", off, err)
		}
		if off, err := w.fetch(false); off != 1 || err != nil {
			t.Fatalf("fetch in a transaction: %d, %v", off, err)
		}
		w.load() // the transaction is open at the new leader too
		w.apply(w.s.EndTransaction(w.now, w.ticket(), runtime.Marker{Producer: runtime.Producer{ID: 9, Epoch: 2}, Commit: commit}))
		want := int64(1)
		if commit {
			want = 5
		}
		if off, err := w.fetch(true); off != want || err != nil {
			t.Fatalf("after the marker (commit %v): %d, %v", commit, off, err)
		}
	}
}

// TestLateMarkerDoesNotUndoALaterCommit: a client that was told that its
// transaction is committed goes on at once, and may commit before the marker is
// here. What lies later in the log stays, now and at the next leader.
func TestLateMarkerDoesNotUndoALaterCommit(t *testing.T) {
	w := newWorld(t)
	r := kmsg.NewPtrTxnOffsetCommitRequest()
	r.Version, r.Group, r.ProducerID, r.ProducerEpoch = 3, "g", 9, 2
	r.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{{Offset: 5, LeaderEpoch: -1}}}}
	w.apply(w.s.TxnOffsetCommit(w.now, w.ticket(), r))
	if err := w.commit("", -1, 7); err != nil {
		t.Fatal(err)
	}
	w.apply(w.s.EndTransaction(w.now, w.ticket(), runtime.Marker{Producer: runtime.Producer{ID: 9, Epoch: 2}, Commit: true}))
	for range 2 {
		if off, err := w.fetch(true); off != 7 || err != nil {
			t.Fatalf("after the marker: %d, %v", off, err)
		}
		w.load()
	}
}

func TestOffsetsExpireWithTheirGroup(t *testing.T) {
	w, a, b := stable(t)
	if err := w.commit(a, 1, 42); err != nil {
		t.Fatal(err)
	}
	w.leave(a)
	w.leave(b)
	w.advance(6 * 24 * time.Hour)
	if off, _ := w.fetch(false); off != 42 {
		t.Fatalf("offset %d before its time", off)
	}
	w.advance(25 * time.Hour)
	if off, _ := w.fetch(false); off != -1 {
		t.Fatalf("offset %d after its time", off)
	}
	w.load()
	if len(w.s.classic) != 0 || len(w.s.offsets) != 0 {
		t.Fatalf("left: %v %v", w.s.classic, w.s.offsets)
	}
}

// TestManyOffsetsGoTogether: what expires, goes with a topic or with a group is as
// much as there is, and more than one append takes.
func TestManyOffsetsGoTogether(t *testing.T) {
	for what, forget := range map[string]func(w *world){
		"expiry": func(w *world) { w.advance(8 * 24 * time.Hour) },
		"topic":  func(w *world) { w.forget("t", metadata.ID{}) },
		"group":  func(w *world) { w.apply(w.s.DeleteGroup(w.now, w.ticket(), "g")) },
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			w.cfg.MaxRecordBytes = func() int { return 1000 }
			for p := range int32(100) {
				w.apply(w.s.OffsetCommit(w.now, w.ticket(), commitRequest("", -1, p, 7)))
			}
			forget(w)
			w.load()
			if len(w.s.offsets) != 0 {
				t.Fatalf("%d offsets left", len(w.s.offsets["g"].byPartition))
			}
		})
	}
}

func txnCommitOf(offset int64) *kmsg.TxnOffsetCommitRequest {
	r := kmsg.NewPtrTxnOffsetCommitRequest()
	r.Version, r.Group, r.ProducerID, r.ProducerEpoch = 3, "g", 9, 2
	r.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{{Offset: offset, LeaderEpoch: -1}}}}
	return r
}

// TestOffsetsOfAFormerTopic: a topic that was deleted and made anew is another one,
// though it has the same name. A consumer that went on where it was in the former
// would miss records.
func TestOffsetsOfAFormerTopic(t *testing.T) {
	former, latter := namedTopic(t, "t", 1), namedTopic(t, "t", 2)
	commits := map[string]func(w *world, offset int64){
		"plain": func(w *world, offset int64) {
			r := commitRequest("", -1, 0, offset)
			r.Topics[0].TopicID = w.img.Topic("t").ID
			w.apply(w.s.OffsetCommit(w.now, w.ticket(), r))
		},
		"transactional": func(w *world, offset int64) {
			w.apply(w.s.TxnOffsetCommit(w.now, w.ticket(), txnCommitOf(offset)))
			w.apply(w.s.EndTransaction(w.now, w.ticket(), runtime.Marker{Producer: runtime.Producer{ID: 9, Epoch: 2}, Commit: true}))
		},
	}
	for how, commit := range commits {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t)
			w.img = former
			commit(w, 7)
			if off, err := w.fetch(false); off != 7 || err != nil {
				t.Fatalf("%d, %v", off, err)
			}
			w.img = latter // nobody told this coordinator: it was not there yet
			w.load()
			if off, err := w.fetch(false); off != -1 || err != nil {
				t.Fatalf("offset %d of the former topic, %v", off, err)
			}
			if all := w.fetchAll(); len(all) != 0 {
				t.Fatalf("offsets of the former topic: %+v", all)
			}
			commit(w, 3)
			w.forget("t", former.Topic("t").ID) // it learns of the deletion late
			for range 2 {
				if off, err := w.fetch(false); off != 3 || err != nil {
					t.Fatalf("after the late deletion: %d, %v", off, err)
				}
				w.load()
			}
		})
	}
}

// TestDeletedInATransaction: what an open transaction holds goes with its topic or
// its group, and does not come back when the transaction is committed.
func TestDeletedInATransaction(t *testing.T) {
	for what, forget := range map[string]func(w *world){
		"topic": func(w *world) { w.forget("t", w.img.Topic("t").ID) },
		"group": func(w *world) { w.apply(w.s.DeleteGroup(w.now, w.ticket(), "g")) },
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			w.img = namedTopic(t, "t", 1)
			w.apply(w.s.TxnOffsetCommit(w.now, w.ticket(), txnCommitOf(5)))
			forget(w)
			w.load()
			if off, err := w.fetch(true); off != -1 || err != nil {
				t.Fatalf("held offset is still there: %d, %v", off, err)
			}
			w.apply(w.s.EndTransaction(w.now, w.ticket(), runtime.Marker{Producer: runtime.Producer{ID: 9, Epoch: 2}, Commit: true}))
			for range 2 {
				if off, err := w.fetch(true); off != -1 || err != nil {
					t.Fatalf("came back: %d, %v", off, err)
				}
				w.load()
			}
		})
	}
}

func (w *world) forget(topic string, id metadata.ID) {
	w.apply(w.s.ForgetTopics(w.now, w.ticket(), map[string]metadata.ID{topic: id}))
}

// TestNamesOfTopicsAreForgotten: a shard does not keep the names of topics of which
// it has no offsets any more; those in use, by a transaction too, it keeps once.
func TestNamesOfTopicsAreForgotten(t *testing.T) {
	w := newWorld(t)
	names := map[string]int{"t": 1, "kept": 1}
	for i := range 50 {
		names[fmt.Sprint("gone", i)] = 1
	}
	w.img = testTopics(t, 1, names)
	for name := range names {
		if name == "t" {
			continue
		}
		r := commitRequest("", -1, 0, 5)
		r.Topics[0].Topic = name
		w.apply(w.s.OffsetCommit(w.now, w.ticket(), r))
	}
	w.apply(w.s.TxnOffsetCommit(w.now, w.ticket(), txnCommitOf(5)))
	for name := range names {
		if strings.HasPrefix(name, "gone") {
			w.forget(name, w.img.Topic(name).ID)
		}
	}
	w.advance(w.cfg.OffsetsCheckInterval)
	if got := slices.Sorted(maps.Keys(w.s.topics)); !slices.Equal(got, []string{"kept", "t"}) {
		t.Errorf("%d names are kept, of kept and t: %v", len(got), got)
	}
	w.load() // the tombstones of what is gone bring no name back
	w.advance(w.cfg.OffsetsCheckInterval)
	if got := len(w.s.topics); got != 2 {
		t.Errorf("%d names after a load", got)
	}
}

func (w *world) fetchAll() []kmsg.OffsetFetchResponseGroupTopic {
	r := kmsg.NewOffsetFetchRequestGroup()
	r.Group = "g"
	t := w.ticket()
	w.apply(w.s.OffsetFetch(w.now, t, &r, false))
	return w.replies[t].(*kmsg.OffsetFetchResponseGroup).Topics
}

// Kafka counts the units of UTF-16 that a string has in Java, not bytes.
func TestOffsetMetadataIsCountedAsInJava(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		metadata string
		want     error
	}{
		{strings.Repeat("a", 4096), nil},
		{strings.Repeat("a", 4097), kerr.OffsetMetadataTooLarge},
		{strings.Repeat("字", 4096), nil},
		{strings.Repeat("字", 4097), kerr.OffsetMetadataTooLarge},
		{strings.Repeat("😀", 2048), nil},
		{strings.Repeat("😀", 2049), kerr.OffsetMetadataTooLarge},
	} {
		req := commitRequest("", -1, 0, 1)
		req.Topics[0].Partitions[0].Metadata = &c.metadata
		ticket := w.ticket()
		w.apply(w.s.OffsetCommit(w.now, ticket, req))
		resp := w.replies[ticket].(*kmsg.OffsetCommitResponse)
		if got := resp.Topics[0].Partitions[0].ErrorCode; got != code(c.want) {
			t.Errorf("%d bytes: %v", len(c.metadata), kerr.ErrorForCode(got))
		}
	}
}
