package handler

import (
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// with makes a request of a version.
func with[R kmsg.Request](r R, version int16, change func(R)) kmsg.Request {
	r.SetVersion(version)
	change(r)
	return r
}

// subscription is what a consumer of the classic protocol offers: its topics,
// and what it owns of adm-grp.
func subscription(owned []int32, topics ...string) []byte {
	m := kmsg.NewConsumerMemberMetadata()
	m.Version, m.Topics = 1, topics
	if owned != nil {
		m.OwnedPartitions = []kmsg.ConsumerMemberMetadataOwnedPartition{{Topic: "adm-grp", Partitions: owned}}
	}
	return m.AppendTo(nil)
}

func assignment(partitions ...int32) []byte {
	a := kmsg.NewConsumerMemberAssignment()
	a.Topics = []kmsg.ConsumerMemberAssignmentTopic{{Topic: "adm-grp", Partitions: partitions}}
	return a.AppendTo(nil)
}

func join(version int16, group, member string, change func(*kmsg.JoinGroupRequest)) kmsg.Request {
	return with(kmsg.NewPtrJoinGroupRequest(), version, func(r *kmsg.JoinGroupRequest) {
		r.Group, r.MemberID, r.ProtocolType = group, member, "consumer"
		r.SessionTimeoutMillis, r.RebalanceTimeoutMillis = 45000, 60000
		r.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: subscription(nil, "adm-grp")}}
		if change != nil {
			change(r)
		}
	})
}

// owning lets a JoinGroup say what its sender owns.
func owning(partitions ...int32) func(*kmsg.JoinGroupRequest) {
	return func(r *kmsg.JoinGroupRequest) { r.Protocols[0].Metadata = subscription(partitions, "adm-grp") }
}

func instanceOf(id string) func(*kmsg.JoinGroupRequest) {
	return func(r *kmsg.JoinGroupRequest) { r.InstanceID = &id }
}

func syncWith(group, member string, generation int32, parts ...kmsg.SyncGroupRequestGroupAssignment) kmsg.Request {
	return with(kmsg.NewPtrSyncGroupRequest(), 5, func(r *kmsg.SyncGroupRequest) {
		r.Group, r.MemberID, r.Generation, r.GroupAssignment = group, member, generation, parts
		r.ProtocolType, r.Protocol = ptr("consumer"), ptr("range")
	})
}

func part(member string, partitions ...int32) kmsg.SyncGroupRequestGroupAssignment {
	return kmsg.SyncGroupRequestGroupAssignment{MemberID: member, MemberAssignment: assignment(partitions...)}
}

func beat(group, member string, generation int32) kmsg.Request {
	return with(kmsg.NewPtrHeartbeatRequest(), 4, func(r *kmsg.HeartbeatRequest) {
		r.Group, r.MemberID, r.Generation = group, member, generation
	})
}

func leave(version int16, group string, members ...kmsg.LeaveGroupRequestMember) kmsg.Request {
	return with(kmsg.NewPtrLeaveGroupRequest(), version, func(r *kmsg.LeaveGroupRequest) {
		r.Group, r.Members = group, members
		if version < 3 {
			r.MemberID = members[0].MemberID
		}
	})
}

func commit(version int16, group, member string, generation int32, partitions ...int32) kmsg.Request {
	return with(kmsg.NewPtrOffsetCommitRequest(), version, func(r *kmsg.OffsetCommitRequest) {
		r.Group, r.MemberID, r.Generation = group, member, generation
		t := kmsg.NewOffsetCommitRequestTopic()
		t.Topic = "adm-grp"
		if version >= 10 {
			t.TopicID = topicID("adm-grp")
		}
		for _, n := range partitions {
			p := kmsg.NewOffsetCommitRequestTopicPartition()
			p.Partition, p.Offset, p.LeaderEpoch, p.Metadata = n, 5, -1, ptr("m")
			t.Partitions = append(t.Partitions, p)
		}
		r.Topics = append(r.Topics, t)
	})
}

// offsetsOf asks for the offsets of partitions of adm-grp, all if there are none.
func offsetsOf(version int16, group string, change func(*kmsg.OffsetFetchRequestGroup), partitions ...int32) kmsg.Request {
	return with(kmsg.NewPtrOffsetFetchRequest(), version, func(r *kmsg.OffsetFetchRequest) {
		if version < 8 {
			r.Group = group
			if len(partitions) > 0 {
				r.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: "adm-grp", Partitions: partitions}}
			}
			return
		}
		g := kmsg.NewOffsetFetchRequestGroup()
		g.Group = group
		if len(partitions) > 0 {
			g.Topics = []kmsg.OffsetFetchRequestGroupTopic{{Topic: "adm-grp", TopicID: topicID("adm-grp"), Partitions: partitions}}
		}
		if change != nil {
			change(&g)
		}
		r.Groups = append(r.Groups, g)
	})
}

func describeGroup(version int16, groups ...string) kmsg.Request {
	return with(kmsg.NewPtrDescribeGroupsRequest(), version, func(r *kmsg.DescribeGroupsRequest) { r.Groups = groups })
}

func describeConsumers(version int16, groups ...string) kmsg.Request {
	return with(kmsg.NewPtrConsumerGroupDescribeRequest(), version, func(r *kmsg.ConsumerGroupDescribeRequest) { r.Groups = groups })
}

func list(version int16, states, types []string) kmsg.Request {
	return with(kmsg.NewPtrListGroupsRequest(), version, func(r *kmsg.ListGroupsRequest) { r.StatesFilter, r.TypesFilter = states, types })
}

func dropGroups(groups ...string) kmsg.Request {
	return with(kmsg.NewPtrDeleteGroupsRequest(), 2, func(r *kmsg.DeleteGroupsRequest) { r.Groups = groups })
}

func dropOffsets(group, topic string, partitions ...int32) kmsg.Request {
	return with(kmsg.NewPtrOffsetDeleteRequest(), 0, func(r *kmsg.OffsetDeleteRequest) {
		t := kmsg.NewOffsetDeleteRequestTopic()
		t.Topic = topic
		for _, n := range partitions {
			p := kmsg.NewOffsetDeleteRequestTopicPartition()
			p.Partition = n
			t.Partitions = append(t.Partitions, p)
		}
		r.Group, r.Topics = group, append(r.Topics, t)
	})
}

// consume is a ConsumerGroupHeartbeat.
func consume(group, member string, epoch int32, change func(*kmsg.ConsumerGroupHeartbeatRequest)) kmsg.Request {
	return with(kmsg.NewPtrConsumerGroupHeartbeatRequest(), 1, func(r *kmsg.ConsumerGroupHeartbeatRequest) {
		r.Group, r.MemberID, r.MemberEpoch, r.RebalanceTimeoutMillis = group, member, epoch, -1
		if change != nil {
			change(r)
		}
	})
}

// fully makes a heartbeat one that says everything.
func fully(r *kmsg.ConsumerGroupHeartbeatRequest) {
	r.RebalanceTimeoutMillis, r.SubscribedTopicNames = 60000, []string{"adm-grp"}
	r.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
}

func but(change func(*kmsg.ConsumerGroupHeartbeatRequest)) func(*kmsg.ConsumerGroupHeartbeatRequest) {
	return func(r *kmsg.ConsumerGroupHeartbeatRequest) { fully(r); change(r) }
}

// having lets a heartbeat say what its sender owns.
func having(partitions ...int32) func(*kmsg.ConsumerGroupHeartbeatRequest) {
	return func(r *kmsg.ConsumerGroupHeartbeatRequest) {
		r.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		if len(partitions) > 0 {
			r.Topics = append(r.Topics, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: topicID("adm-grp"), Partitions: partitions})
		}
	}
}

// atOnce has the coordinator compute each assignment when it is asked for:
// Kafka otherwise waits a second after the last (KIP-1263).
func atOnce(group string) kmsg.Request {
	return with(kmsg.NewPtrIncrementalAlterConfigsRequest(), 1, func(r *kmsg.IncrementalAlterConfigsRequest) {
		res := kmsg.NewIncrementalAlterConfigsRequestResource()
		res.ResourceType, res.ResourceName = kmsg.ConfigResourceTypeGroupConfig, group
		res.Configs = []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: "consumer.assignment.interval.ms", Value: ptr("0")}}
		r.Resources = append(r.Resources, res)
	})
}

// groupScripts are the scripts of consumer groups. Names of groups begin with
// "grp-".
func groupScripts() map[string][]step {
	const g = "grp-a"
	topic := create(7, false, newTopic("adm-grp", 4, 1))
	one := kmsg.LeaveGroupRequestMember{}
	member := func(id string) kmsg.LeaveGroupRequestMember { m := one; m.MemberID = id; return m }
	static := func(id, instance string) kmsg.LeaveGroupRequestMember {
		m := member(id)
		m.InstanceID = &instance
		return m
	}
	s1 := join(9, g, "", instanceOf("i1"))
	asMember := func(id string, epoch int32) func(*kmsg.OffsetFetchRequestGroup) {
		return func(r *kmsg.OffsetFetchRequestGroup) { r.MemberID, r.MemberEpoch = &id, epoch }
	}
	regex := func(e string) func(*kmsg.ConsumerGroupHeartbeatRequest) {
		return but(func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.SubscribedTopicNames, r.SubscribedTopicRegex = nil, &e })
	}
	inst := func(r *kmsg.ConsumerGroupHeartbeatRequest) { fully(r); r.InstanceID = ptr("i1") }
	return map[string][]step{
		"groups_classic": {
			{"set up", topic},
			{"a: its first join", join(9, g, "", nil)},
			{"a: joins", join(9, g, "<a>", nil)},
			{"a: joins again", join(9, g, "<a>", nil)},
			{"a: heartbeat before its sync", beat(g, "<a>", 1)},
			{"a: commit before its sync", commit(9, g, "<a>", 1, 0)},
			{"describe before the sync", describeGroup(6, g)},
			{"a: sync of another generation", syncWith(g, "<a>", 6)},
			{"a: sync of another protocol", with(syncWith(g, "<a>", 1).(*kmsg.SyncGroupRequest), 5, func(r *kmsg.SyncGroupRequest) { r.Protocol = ptr("sticky") })},
			{"a: sync", syncWith(g, "<a>", 1, part("<a>", 0, 1, 2, 3))},
			{"a: sync again", syncWith(g, "<a>", 1)},
			{"a: heartbeat", beat(g, "<a>", 1)},
			{"a: heartbeat of another generation", beat(g, "<a>", 0)},
			{"heartbeat of nobody", beat(g, "nobody", 1)},
			{"join of nobody", join(9, g, "nobody", nil)},
			{"join with another type", join(9, g, "", func(r *kmsg.JoinGroupRequest) { r.ProtocolType = "connect" })},
			{"join with another protocol", join(9, g, "", func(r *kmsg.JoinGroupRequest) { r.Protocols[0].Name = "sticky" })},
			{"join without protocols", join(9, g, "", func(r *kmsg.JoinGroupRequest) { r.Protocols = nil })},
			{"join with a short session", join(9, g, "", func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = 100 })},
			{"join with a long session", join(9, g, "", func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = 1 << 30 })},
			{"a: commit", commit(9, g, "<a>", 1, 0, 1)},
			{"a: commit by id", commit(10, g, "<a>", 1, 2)},
			{"a: commit of an old generation", commit(9, g, "<a>", 0, 0)},
			{"a: commit of partitions that are not there", commit(9, g, "<a>", 1, 0, 9)},
			{"commit of nobody", commit(9, g, "nobody", 1, 0)},
			{"commit from outside", commit(9, g, "", -1, 0)},
			{"commit from outside, v2", commit(2, g, "", -1, 0)},
			{"a: commit with long metadata", with(commit(9, g, "<a>", 1, 0).(*kmsg.OffsetCommitRequest), 9, func(r *kmsg.OffsetCommitRequest) {
				r.Topics[0].Partitions[0].Metadata = ptr(strings.Repeat("m", 5000))
			})},
			{"fetch", offsetsOf(9, g, nil, 0, 1, 3, 9)},
			{"fetch v5", offsetsOf(5, g, nil, 0, 3)},
			{"fetch all", offsetsOf(9, g, nil)},
			{"fetch all, v7", offsetsOf(7, g, nil)},
			{"fetch all by id", offsetsOf(10, g, nil)},
			{"fetch by id", offsetsOf(10, g, nil, 0, 3)},
			{"fetch of an unknown topic's id", offsetsOf(10, g, func(r *kmsg.OffsetFetchRequestGroup) {
				r.Topics = []kmsg.OffsetFetchRequestGroupTopic{{TopicID: [16]byte{9}, Partitions: []int32{0}}}
			})},
			{"fetch as a member", offsetsOf(9, g, asMember("nobody", 3), 0)},
			{"describe", describeGroup(6, g)},
			{"describe as a consumer group", describeConsumers(1, g)},
			{"list", list(5, nil, nil)},
			{"list stable", list(5, []string{"Stable"}, nil)},
			{"list empty ones", list(4, []string{"empty"}, nil)},
			{"list classic", list(5, nil, []string{"Classic"})},
			{"list consumer", list(5, nil, []string{"consumer"})},
			{"list of an unknown type", list(5, nil, []string{"queue"})},
			{"list of an unknown state", list(5, []string{"bored"}, nil)},
			{"delete while it has members", dropGroups(g)},
			{"delete offsets of a subscribed topic", dropOffsets(g, "adm-grp", 0)},
			{"delete offsets of another topic", dropOffsets(g, "adm-none", 0)},
			{"s1: a static member joins", parked{s1}},
			{"a: heartbeat while s1 joins", beat(g, "<a>", 1)},
			{"describe while s1 joins", describeGroup(6, g)},
			{"a: commit while s1 joins", commit(9, g, "<a>", 1, 0)},
			{"a: joins with s1", join(9, g, "<a>", nil)},
			{"s1: has joined", awaited{s1}},
			{"s1: syncs", parked{s1Sync}},
			{"a: syncs for both", syncWith(g, "<a>", 2, part("<a>", 0, 1), part("<s1>", 2, 3))},
			{"s1: has synced", awaited{s1Sync}},
			{"s2: s1 comes back", join(9, g, "", instanceOf("i1"))},
			{"s1: is fenced", with(beat(g, "<s1>", 2).(*kmsg.HeartbeatRequest), 4, func(r *kmsg.HeartbeatRequest) { r.InstanceID = ptr("i1") })},
			{"s1: join is fenced", join(9, g, "<s1>", instanceOf("i1"))},
			{"s2: heartbeat", with(beat(g, "<s2>", 2).(*kmsg.HeartbeatRequest), 4, func(r *kmsg.HeartbeatRequest) { r.InstanceID = ptr("i1") })},
			{"describe with a static member", describeGroup(6, g)},
			{"leave of strangers", leave(5, g, member("nobody"), static("", "i9"), static("<s1>", "i1"))},
			{"s2: is removed", leave(5, g, static("", "i1"))},
			{"a: heartbeat after s2 left", beat(g, "<a>", 2)},
			{"a: leaves", leave(2, g, member("<a>"))},
			{"a: leaves again", leave(2, g, member("<a>"))},
			{"describe empty", describeGroup(6, g)},
			{"commit from outside to an empty group", commit(9, g, "", -1, 0)},
			{"a: commit to an empty group", commit(9, g, "<a>", 2, 0)},
			{"delete offsets", dropOffsets(g, "adm-grp", 0, 3)},
			{"fetch after that", offsetsOf(9, g, nil, 0, 1)},
			{"list empty", list(5, []string{"Empty"}, nil)},
			{"delete", dropGroups(g)},
			{"delete again", dropGroups(g)},
			{"fetch of a group that is gone", offsetsOf(9, g, nil, 0)},
			{"fetch all of a group that is gone", offsetsOf(9, g, nil)},
		},
		"groups_unknown": {
			{"set up", topic},
			{"describe v5", describeGroup(5, "grp-none")},
			{"describe v6", describeGroup(6, "grp-none")},
			{"describe as a consumer group", describeConsumers(1, "grp-none")},
			{"heartbeat", beat("grp-none", "m", 1)},
			{"sync", syncWith("grp-none", "m", 1)},
			{"leave", leave(5, "grp-none", member("m"))},
			{"leave v0", leave(0, "grp-none", member("m"))},
			{"join with an id", join(9, "grp-none", "m", nil)},
			{"commit of a member", commit(8, "grp-none", "m", 1, 0)},
			{"commit of a member, v9", commit(9, "grp-none", "m", 1, 0)},
			{"fetch as a member", offsetsOf(9, "grp-none", asMember("m", 1), 0)},
			{"delete offsets", dropOffsets("grp-none", "adm-grp", 0)},
			{"delete", dropGroups("grp-none")},
			{"consumer heartbeat", consume("grp-none", "m", 1, nil)},
			{"consumer leave", consume("grp-none", "m", -1, nil)},
			{"join nameless", join(9, "", "", nil)},
			{"sync nameless", syncWith("", "m", 1)},
			{"heartbeat nameless", beat("", "m", 1)},
			{"leave nameless", leave(5, "", member("m"))},
			{"commit nameless", commit(9, "", "", -1, 0)},
			{"fetch nameless", offsetsOf(9, "", nil, 0)},
			{"delete offsets nameless", dropOffsets("", "adm-grp", 0)},
			{"describe nameless", describeGroup(6, "")},
			{"describe as a consumer group, nameless", describeConsumers(1, "")},
			{"delete nameless", dropGroups("")},
			{"delete nameless again", dropGroups("")},
			{"consumer heartbeat nameless", consume("", "m", 0, fully)},
		},
		"groups_consumer": {
			{"set up", topic},
			{"set up", atOnce(g)},
			{"a joins", consume(g, "a", 0, fully)},
			{"a joins again", consume(g, "a", 0, fully)},
			{"a is there", consume(g, "a", 2, nil)},
			{"a says everything", consume(g, "a", 2, but(having(0, 1, 2, 3)))},
			{"describe", describeConsumers(1, g)},
			{"describe as a classic group", describeGroup(6, g)},
			{"list", list(5, nil, nil)},
			{"b joins", consume(g, "b", 0, fully)},
			{"describe while a has not heard of b", describeConsumers(1, g)},
			{"a has to give back", consume(g, "a", 2, nil)},
			{"describe while a gives back", describeConsumers(1, g)},
			{"a commits what it gives back", commit(9, g, "a", 2, 3)},
			{"b waits", consume(g, "b", 3, nil)},
			{"b commits what it does not have", commit(9, g, "b", 2, 0)},
			{"a gave back", consume(g, "a", 2, having(0, 1))},
			{"b gets its part", consume(g, "b", 3, nil)},
			{"describe stable", describeConsumers(1, g)},
			{"a commits", commit(9, g, "a", 3, 0)},
			{"a commits by id", commit(10, g, "a", 3, 1)},
			{"a commits at an older epoch what it kept", commit(9, g, "a", 2, 0, 1)},
			{"a commits at an older epoch what it lost", commit(9, g, "a", 2, 0, 3)},
			{"b commits at an older epoch", commit(9, g, "b", 2, 2)},
			{"a commits at a newer epoch", commit(9, g, "a", 4, 0)},
			{"a commits by an old version", commit(8, g, "a", 3, 0)},
			{"nobody commits", commit(9, g, "c", 3, 0)},
			{"commit from outside", commit(9, g, "", -1, 0)},
			{"fetch", offsetsOf(9, g, nil, 0, 1, 2, 3)},
			{"a fetches", offsetsOf(9, g, asMember("a", 3), 0)},
			{"a fetches at an old epoch", offsetsOf(9, g, asMember("a", 2), 0)},
			{"nobody fetches", offsetsOf(9, g, asMember("c", 2), 0)},
			{"a at a newer epoch", consume(g, "a", 10, nil)},
			{"a at an older epoch", consume(g, "a", 2, nil)},
			{"a at an older epoch, with what it has", consume(g, "a", 2, having(0, 1))},
			{"nobody", consume(g, "c", 4, nil)},
			{"c without a rebalance timeout", consume(g, "c", 0, but(func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.RebalanceTimeoutMillis = -1 }))},
			{"c without partitions", consume(g, "c", 0, but(func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.Topics = nil }))},
			{"c with partitions", consume(g, "c", 0, but(having(1)))},
			{"c without topics", consume(g, "c", 0, but(func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.SubscribedTopicNames = nil }))},
			{"c with a bad pattern", consume(g, "c", 0, regex("adm-("))},
			{"c with another bad pattern", consume(g, "c", 0, regex("a{2,1}"))},
			{"c with an unknown assignor", consume(g, "c", 0, but(func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.ServerAssignor = ptr("none") }))},
			{"c with an empty instance", consume(g, "c", 0, but(func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.InstanceID = ptr("") }))},
			{"c with an empty rack", consume(g, "c", 0, but(func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.RackID = ptr("") }))},
			{"c with no id", consume(g, "", 0, fully)},
			{"c leaves for a while", consume(g, "c", -2, nil)},
			{"c at a strange epoch", consume(g, "c", -3, nil)},
			{"c leaves", consume(g, "c", -1, nil)},
			{"join with the classic protocol and an id", syncWith(g, "a", 3)},
			{"classic heartbeat of a", beat(g, "a", 3)},
			{"delete while it has members", dropGroups(g)},
			{"delete offsets of a subscribed topic", dropOffsets(g, "adm-grp", 0)},
			{"a changes its assignor", consume(g, "a", 3, func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.ServerAssignor = ptr("range") })},
			{"a changes its topics", consume(g, "a", 3, func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.SubscribedTopicNames = []string{"adm-none"} })},
			{"a gave back all", consume(g, "a", 3, having())},
			{"b takes over", consume(g, "b", 3, nil)},
			{"describe after that", describeConsumers(1, g)},
			{"b leaves", consume(g, "b", -1, nil)},
			{"a is removed by LeaveGroup", leave(5, g, member("a"), member("a"), member("z"))},
			{"describe empty", describeConsumers(1, g)},
			{"commit from outside to an empty group", commit(9, g, "", -1, 0)},
			{"list empty", list(5, []string{"empty"}, []string{"consumer"})},
			{"delete", dropGroups(g)},
		},
		"groups_consumer_static": {
			{"set up", topic},
			{"set up", atOnce(g)},
			{"a joins", consume(g, "a", 0, inst)},
			{"b takes its place too early", consume(g, "b", 0, inst)},
			{"a leaves for a while", consume(g, "a", -2, inst)},
			{"describe while it is away", describeConsumers(1, g)},
			{"a commits while it is away", commit(9, g, "a", 2, 0)},
			{"b takes its place", consume(g, "b", 0, inst)},
			{"describe with b", describeConsumers(1, g)},
			{"a is fenced", consume(g, "a", 2, func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.InstanceID = ptr("i1") })},
			{"a leaves for good", consume(g, "a", -1, func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.InstanceID = ptr("i1") })},
			{"an unknown instance", consume(g, "b", 2, func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.InstanceID = ptr("i2") })},
			{"b leaves for good", consume(g, "b", -1, func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.InstanceID = ptr("i1") })},
			{"describe empty", describeConsumers(1, g)},
		},
		"groups_migration": {
			{"set up", topic},
			{"set up", atOnce(g)},
			{"a: its first join", join(9, g, "", nil)},
			{"a: joins", join(9, g, "<a>", nil)},
			{"a: syncs", syncWith(g, "<a>", 1, part("<a>", 0, 1, 2, 3))},
			{"b joins", consume(g, "b", 0, fully)},
			{"describe upgraded", describeConsumers(1, g)},
			{"describe upgraded as a classic group", describeGroup(6, g)},
			{"list", list(5, nil, nil)},
			{"a: commits", commit(9, g, "<a>", 1, 0)},
			{"a: commits by an old version", commit(7, g, "<a>", 1, 0)},
			{"a: has to join", beat(g, "<a>", 1)},
			{"a: syncs too early", syncWith(g, "<a>", 1)},
			{"a: joins still owning all", join(9, g, "<a>", owning(0, 1, 2, 3))},
			{"a: learns what to keep", syncWith(g, "<a>", 1)},
			{"a: has to join again", beat(g, "<a>", 1)},
			{"a: joins having given back", join(9, g, "<a>", owning(0, 1))},
			{"a: gets its part", syncWith(g, "<a>", 2)},
			{"a: is there", beat(g, "<a>", 2)},
			{"a: at an old generation", beat(g, "<a>", 1)},
			{"a: commits at an old generation", commit(9, g, "<a>", 1, 0)},
			{"a: commits at an old generation what it lost", commit(9, g, "<a>", 1, 3)},
			{"a: commits at a new generation", commit(9, g, "<a>", 5, 0)},
			{"a: fetches at an old generation", offsetsOf(9, g, asMember("<a>", 1), 0)},
			{"b gets its part", consume(g, "b", 2, nil)},
			{"describe settled", describeConsumers(1, g)},
			{"b syncs by the classic protocol", syncWith(g, "b", 2)},
			{"c: its first join", join(9, g, "", nil)},
			{"c: joins with another type", join(9, g, "", func(r *kmsg.JoinGroupRequest) { r.ProtocolType = "connect" })},
			{"c: joins with another protocol", join(9, g, "", func(r *kmsg.JoinGroupRequest) { r.Protocols[0].Name = "sticky" })},
			{"c: joins", join(9, g, "<c>", nil)},
			{"c: syncs", syncWith(g, "<c>", 3)},
			{"c: syncs by another protocol", with(syncWith(g, "<c>", 3).(*kmsg.SyncGroupRequest), 5, func(r *kmsg.SyncGroupRequest) { r.Protocol = ptr("sticky") })},
			{"a: hears of c", beat(g, "<a>", 2)},
			{"c: leaves", leave(5, g, member("<c>"))},
			{"s1: joins static", join(9, g, "", instanceOf("i1"))},
			{"s1: joins static again", join(9, g, "<s1>", instanceOf("i1"))},
			{"s2: s1 comes back", join(9, g, "", instanceOf("i1"))},
			{"s1: is fenced", join(9, g, "<s1>", instanceOf("i1"))},
			{"s2: leaves", leave(5, g, static("", "i1"))},
			{"b leaves, which makes the group classic", consume(g, "b", -1, nil)},
			{"describe downgraded", describeGroup(6, g)},
			{"describe downgraded as a consumer group", describeConsumers(1, g)},
			{"a: leaves", leave(5, g, member("<a>"))},
			{"describe empty", describeGroup(6, g)},
			{"b joins an empty classic group", consume(g, "b", 0, fully)},
			{"b leaves", consume(g, "b", -1, nil)},
			{"d: joins an empty consumer group", join(3, g, "", nil)},
			{"describe classic", describeGroup(6, g)},
			{"d: leaves", leave(5, g, member("<d>"))},
			{"delete", dropGroups(g)},
			{"set up", join(3, "grp-c", "", func(r *kmsg.JoinGroupRequest) { r.ProtocolType = "connect" })},
			{"a consumer joins a group of another kind", consume("grp-c", "b", 0, fully)},
			{"set up", join(3, "grp-m", "", func(r *kmsg.JoinGroupRequest) { r.Protocols[0].Metadata = []byte{0} })},
			{"a consumer joins a group it cannot read", consume("grp-m", "b", 0, fully)},
		},
	}
}

var s1Sync = syncWith("grp-a", "<s1>", 2)
