package handler

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// clusterScripts are the scripts of what administers the cluster as a whole:
// access, the quorum, reassignments, elections, features, quotas and users.
func clusterScripts() map[string][]step {
	return map[string][]step{
		"acls": {
			{"describe v1", askACLs(1)},
			{"describe v2", askACLs(2)},
			{"describe v3", askACLs(3)},
			{"create v1", addACLs(1, 1)},
			{"create v3", addACLs(3, 2)},
			{"create none", addACLs(3, 0)},
			{"delete v1", dropACLs(1, 1)},
			{"delete v3", dropACLs(3, 2)},
			{"delete none", dropACLs(3, 0)},
		},
		"quorum": {
			{"v0", askQuorum(0, "__cluster_metadata", 0)},
			{"v1", askQuorum(1, "__cluster_metadata", 0)},
			{"v2", askQuorum(2, "__cluster_metadata", 0)},
			{"other topic", askQuorum(2, "adm-none", 0)},
			{"other topic v0", askQuorum(0, "adm-none", 0)},
			{"other partition", askQuorum(2, "__cluster_metadata", 1)},
			{"two partitions", askQuorum(2, "__cluster_metadata", 0, 1)},
			{"no partitions", askQuorum(2, "__cluster_metadata")},
			{"nothing", func() kmsg.Request {
				r := kmsg.NewPtrDescribeQuorumRequest()
				r.Version = 2
				return r
			}()},
		},
		"reassignments": {
			{"set up", create(7, false, newTopic("adm-ra", 2, 1), newTopic("adm-rb", 1, 1))},
			{"same replicas", reassign(1, "adm-ra", []int32{1}, []int32{1})},
			{"same replicas v0", reassign(0, "adm-ra", []int32{1})},
			{"cancel nothing", reassign(1, "adm-ra", nil)},
			{"unknown broker", reassign(1, "adm-ra", []int32{9})},
			{"grows to unknown broker", reassign(1, "adm-ra", []int32{1, 9})},
			{"broker twice", reassign(1, "adm-ra", []int32{1, 1})},
			{"negative broker", reassign(1, "adm-ra", []int32{-1})},
			{"no brokers", reassign(1, "adm-ra", []int32{})},
			{"unknown topic", reassign(1, "adm-none", []int32{1})},
			{"unknown topic cancelled", reassign(1, "adm-none", nil)},
			{"unknown partition", reassign(1, "adm-rb", []int32{1}, []int32{1})},
			{"one right one wrong", reassign(1, "adm-ra", []int32{1}, []int32{9})},
			{"no change of replication", func() kmsg.Request {
				r := reassign(1, "adm-ra", []int32{1, 9}).(*kmsg.AlterPartitionAssignmentsRequest)
				r.AllowReplicationFactorChange = false
				return r
			}()},
			{"nothing", func() kmsg.Request {
				r := kmsg.NewPtrAlterPartitionAssignmentsRequest()
				r.Version, r.TimeoutMillis = 1, 10000
				return r
			}()},
			{"partition twice", func() kmsg.Request {
				r := reassign(1, "adm-ra", []int32{1}, nil).(*kmsg.AlterPartitionAssignmentsRequest)
				r.Topics[0].Partitions[1].Partition = 0
				return r
			}()},
			{"topic twice", func() kmsg.Request {
				r := reassign(1, "adm-ra", []int32{1}).(*kmsg.AlterPartitionAssignmentsRequest)
				r.Topics = append(r.Topics, r.Topics[0])
				return r
			}()},
			{"list all", listReassignments()},
			{"list a topic", listReassignments("adm-ra")},
			{"list an unknown topic", listReassignments("adm-none", "adm-rb")},
		},
		"elect_leaders": {
			{"set up", create(7, false, newTopic("adm-ea", 2, 1))},
			{"preferred v0", askElection(0, 0, "adm-ea", 0, 1)},
			{"preferred v1", askElection(1, 0, "adm-ea", 0, 1)},
			{"preferred v2", askElection(2, 0, "adm-ea", 1, 0)},
			{"unclean", askElection(2, 1, "adm-ea", 0)},
			{"unknown type", askElection(2, 2, "adm-ea", 0)},
			{"unknown type for all", askElection(2, 7, "")},
			{"unknown topic", askElection(2, 0, "adm-none", 0, 1)},
			{"unknown partition", askElection(2, 0, "adm-ea", 0, 7)},
			{"no partitions", askElection(2, 0, "adm-ea")},
			{"partition twice", askElection(2, 0, "adm-ea", 0, 0)},
			{"all", askElection(2, 0, "")},
			{"all v0", askElection(0, 0, "")},
			{"all unclean", askElection(2, 1, "")},
			{"nothing", func() kmsg.Request {
				r := kmsg.NewPtrElectLeadersRequest()
				r.Version, r.TimeoutMillis, r.Topics = 2, 10000, []kmsg.ElectLeadersRequestTopic{}
				return r
			}()},
		},
	}
}

func askACLs(version int16) kmsg.Request {
	r := kmsg.NewPtrDescribeACLsRequest()
	r.Version = version
	r.ResourceType, r.ResourcePatternType, r.Operation, r.PermissionType = 1, 1, 1, 1
	return r
}

func addACLs(version int16, n int) kmsg.Request {
	r := kmsg.NewPtrCreateACLsRequest()
	r.Version = version
	for i := range n {
		c := kmsg.NewCreateACLsRequestCreation()
		c.ResourceType, c.ResourceName, c.ResourcePatternType = 2, fmt.Sprintf("adm-%d", i), 3
		c.Principal, c.Host, c.Operation, c.PermissionType = "User:adm", "*", 3, 3
		r.Creations = append(r.Creations, c)
	}
	return r
}

func dropACLs(version int16, n int) kmsg.Request {
	r := kmsg.NewPtrDeleteACLsRequest()
	r.Version = version
	for i := range n {
		f := kmsg.NewDeleteACLsRequestFilter()
		name := fmt.Sprintf("adm-%d", i)
		f.ResourceType, f.ResourceName, f.ResourcePatternType, f.Operation, f.PermissionType = 2, &name, 3, 3, 3
		r.Filters = append(r.Filters, f)
	}
	return r
}

func askQuorum(version int16, topic string, partitions ...int32) kmsg.Request {
	r := kmsg.NewPtrDescribeQuorumRequest()
	r.Version = version
	t := kmsg.NewDescribeQuorumRequestTopic()
	t.Topic = topic
	for _, n := range partitions {
		p := kmsg.NewDescribeQuorumRequestTopicPartition()
		p.Partition = n
		t.Partitions = append(t.Partitions, p)
	}
	r.Topics = append(r.Topics, t)
	return r
}

// reassign gives the partitions of a topic, from 0 on, new replicas; nil
// cancels.
func reassign(version int16, topic string, replicas ...[]int32) kmsg.Request {
	r := kmsg.NewPtrAlterPartitionAssignmentsRequest()
	r.Version, r.TimeoutMillis, r.AllowReplicationFactorChange = version, 10000, true
	t := kmsg.NewAlterPartitionAssignmentsRequestTopic()
	t.Topic = topic
	for i, ids := range replicas {
		p := kmsg.NewAlterPartitionAssignmentsRequestTopicPartition()
		p.Partition, p.Replicas = int32(i), ids
		t.Partitions = append(t.Partitions, p)
	}
	r.Topics = append(r.Topics, t)
	return r
}

func listReassignments(topics ...string) kmsg.Request {
	r := kmsg.NewPtrListPartitionReassignmentsRequest()
	r.TimeoutMillis = 10000
	for _, name := range topics {
		t := kmsg.NewListPartitionReassignmentsRequestTopic()
		t.Topic, t.Partitions = name, []int32{0, 1, 7}
		r.Topics = append(r.Topics, t)
	}
	return r
}

// electLeaders asks for elections of partitions of a topic, or without a topic
// of all there are.
func askElection(version int16, kind int8, topic string, partitions ...int32) kmsg.Request {
	r := kmsg.NewPtrElectLeadersRequest()
	r.Version, r.ElectionType, r.TimeoutMillis = version, kind, 10000
	if topic != "" {
		t := kmsg.NewElectLeadersRequestTopic()
		t.Topic, t.Partitions = topic, partitions
		r.Topics = append(r.Topics, t)
	}
	return r
}
