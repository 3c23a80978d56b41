package handler

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/gregor-broker/gregor/metadata"

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
		"scram": {
			{"two mechanisms", alterScram(nil, scramOf("adm-u", 1, 4096), scramOf("adm-u", 2, 8192), scramOf("adm-v", 1, 5000))},
			{"describe one", describeScramOf("adm-u")},
			{"describe none", describeScramOf("adm-none")},
			{"describe twice", describeScramOf("adm-u", "adm-u", "adm-v")},
			{"too few iterations", alterScram(nil, scramOf("adm-u", 1, 4095))},
			{"too many iterations", alterScram(nil, scramOf("adm-u", 1, 16385))},
			{"unknown mechanism", alterScram(nil, scramOf("adm-u", 3, 4096))},
			{"no user", alterScram(nil, scramOf("", 1, 4096))},
			{"one of two is bad", alterScram(nil, scramOf("adm-w", 1, 4096), scramOf("adm-w", 2, 1))},
			{"nothing came of it", describeScramOf("adm-w")},
			{"twice", alterScram(nil, scramOf("adm-w", 1, 4096), scramOf("adm-w", 1, 4097))},
			{"set and delete", alterScram([]metadata.ScramID{{User: "adm-u", Mechanism: 1}}, scramOf("adm-u", 1, 4097))},
			{"replace", alterScram(nil, scramOf("adm-u", 1, 6000))},
			{"describe replaced", describeScramOf("adm-u")},
			{"delete what is not there", alterScram([]metadata.ScramID{{User: "adm-none", Mechanism: 1}})},
			{"delete an unknown mechanism", alterScram([]metadata.ScramID{{User: "adm-u", Mechanism: 9}})},
			{"delete one", alterScram([]metadata.ScramID{{User: "adm-u", Mechanism: 1}, {User: "adm-v", Mechanism: 1}})},
			{"describe what is left", describeScramOf("adm-u", "adm-v")},
			{"delete the other", alterScram([]metadata.ScramID{{User: "adm-u", Mechanism: 2}})},
		},
		"unregister_broker": {
			{"unknown", unregister(999)},
			{"negative", unregister(-1)},
		},
		// Nothing is changed: those who record share their Kafka.
		"features": {
			{"v2 unknown", updateFeatures57(2, featureOf("adm.unknown", 1, 1))},
			{"v1 unknown", updateFeatures57(1, featureOf("adm.unknown", 1, 1))},
			{"v0 unknown", updateFeatures57(0, featureOf("adm.unknown", 1, 1))},
			{"v0 same", updateFeatures57(0, featureOf("transaction.version", 2, 1), featureOf("group.version", 1, 1))},
			{"v1 same", updateFeatures57(1, featureOf("transaction.version", 2, 1), featureOf("group.version", 1, 1))},
			{"v2 same", updateFeatures57(2, featureOf("transaction.version", 2, 1), featureOf("group.version", 1, 1))},
			{"v1 none", updateFeatures57(1)},
			{"v1 one of two", updateFeatures57(1, featureOf("group.version", 1, 1), featureOf("adm.unknown", 1, 1))},
			{"v1 too high", updateFeatures57(1, featureOf("transaction.version", 3, 1))},
			{"v1 negative", updateFeatures57(1, featureOf("group.version", -1, 2))},
			{"v1 down as an upgrade", updateFeatures57(1, featureOf("transaction.version", 1, 1))},
			{"v0 down as an upgrade", updateFeatures57(0, featureOf("transaction.version", 1, 1))},
			{"v1 down", updateFeatures57(1, featureOf("transaction.version", 1, 2))},
			{"v1 unknown kind", updateFeatures57(1, featureOf("transaction.version", 1, 9))},
			{"v1 metadata down", updateFeatures57(1, featureOf("metadata.version", 29, 2))},
			{"v1 metadata down, unsafe", updateFeatures57(1, featureOf("metadata.version", 29, 3))},
		},
		"client_quotas": {
			{"user", alterQuotas(1, false, quotaOf([]string{"user=adm-u"}, "producer_byte_rate=1000", "consumer_byte_rate=2000"))},
			{"client", alterQuotas(0, false, quotaOf([]string{"client-id=adm-c"}, "request_percentage=12.5"))},
			{"both", alterQuotas(1, false, quotaOf([]string{"user=adm-u", "client-id=adm-c"}, "controller_mutation_rate=3"))},
			{"both, the other way round", alterQuotas(1, false, quotaOf([]string{"client-id=adm-d", "user=adm-u"}, "controller_mutation_rate=3"))},
			{"user and any client", alterQuotas(1, false, quotaOf([]string{"user=adm-u", "client-id"}, "producer_byte_rate=5"))},
			{"any user and client", alterQuotas(1, false, quotaOf([]string{"user", "client-id=adm-c"}, "producer_byte_rate=6"))},
			{"ip", alterQuotas(1, false, quotaOf([]string{"ip=192.0.2.1"}, "connection_creation_rate=10"))},
			{"fraction set", alterQuotas(1, false, quotaOf([]string{"user=adm-u"}, "consumer_byte_rate=2000.5"))},
			{"describe user", describeQuotas(1, true, "user=adm-u")},
			{"describe user, not strict", describeQuotas(1, false, "user=adm-u")},
			{"describe both", describeQuotas(0, true, "user=adm-u", "client-id=adm-c")},
			{"describe any client of user", describeQuotas(1, true, "user=adm-u", "client-id=?")},
			{"describe default client of user", describeQuotas(1, true, "user=adm-u", "client-id")},
			{"describe client", describeQuotas(1, false, "client-id=adm-c")},
			{"describe ip", describeQuotas(1, true, "ip=192.0.2.1")},
			{"describe none", describeQuotas(1, true, "user=adm-none")},
			{"describe ip and user", describeQuotas(1, true, "ip=192.0.2.1", "user=adm-u")},
			{"describe twice", describeQuotas(1, true, "user=adm-u", "user=adm-v")},
			{"describe unknown type", describeQuotas(1, true, "colour=red")},
			{"describe empty type", describeQuotas(1, true, "=red")},
			{"describe empty name", describeQuotas(1, true, "user=")},
			{"describe unknown match", func() kmsg.Request {
				r := describeQuotas(1, true, "user=adm-u").(*kmsg.DescribeClientQuotasRequest)
				r.Components[0].MatchType = 7
				return r
			}()},
			{"exact without a name", func() kmsg.Request {
				r := describeQuotas(1, true, "user").(*kmsg.DescribeClientQuotasRequest)
				r.Components[0].MatchType = 0
				return r
			}()},
			{"default with a name", func() kmsg.Request {
				r := describeQuotas(1, true, "user=adm-u").(*kmsg.DescribeClientQuotasRequest)
				r.Components[0].MatchType = 1
				return r
			}()},
			{"validate only", alterQuotas(1, true, quotaOf([]string{"user=adm-w"}, "producer_byte_rate=1000"))},
			{"after validate only", describeQuotas(1, true, "user=adm-w")},
			{"unknown key", alterQuotas(1, false, quotaOf([]string{"user=adm-u"}, "no_such_rate=1"))},
			{"key of another entity", alterQuotas(1, false, quotaOf([]string{"user=adm-u"}, "connection_creation_rate=1"))},
			{"key of another entity, ip", alterQuotas(1, false, quotaOf([]string{"ip=192.0.2.1"}, "producer_byte_rate=1"))},
			{"negative", alterQuotas(1, false, quotaOf([]string{"user=adm-u"}, "producer_byte_rate=-1"))},
			{"zero", alterQuotas(1, false, quotaOf([]string{"user=adm-u"}, "producer_byte_rate=0"))},
			{"fraction of a byte", alterQuotas(1, false, quotaOf([]string{"user=adm-u"}, "producer_byte_rate=1.5"))},
			{"fraction of a connection", alterQuotas(1, false, quotaOf([]string{"ip=192.0.2.1"}, "connection_creation_rate=1.5"))},
			{"large connection rate", alterQuotas(1, true, quotaOf([]string{"ip=192.0.2.1"}, "connection_creation_rate=3000000000"))},
			{"large byte rate", alterQuotas(1, true, quotaOf([]string{"user=adm-u"}, "producer_byte_rate=1e19"))},
			{"fraction of a percentage", alterQuotas(1, true, quotaOf([]string{"user=adm-u"}, "request_percentage=0.01"))},
			{"fraction of a mutation", alterQuotas(1, true, quotaOf([]string{"user=adm-u"}, "controller_mutation_rate=0.5"))},
			{"unknown entity type", alterQuotas(1, false, quotaOf([]string{"colour=red"}, "producer_byte_rate=1"))},
			{"ip and user", alterQuotas(1, false, quotaOf([]string{"ip=192.0.2.1", "user=adm-u"}, "producer_byte_rate=1"))},
			{"no entity", alterQuotas(1, false, quotaOf(nil, "producer_byte_rate=1"))},
			{"entity type twice", alterQuotas(1, false, quotaOf([]string{"user=adm-u", "user=adm-v"}, "producer_byte_rate=1"))},
			{"empty name", alterQuotas(1, false, quotaOf([]string{"user="}, "producer_byte_rate=1"))},
			{"bad ip", alterQuotas(1, true, quotaOf([]string{"ip=no such host!"}, "connection_creation_rate=1"))},
			{"host name", alterQuotas(1, true, quotaOf([]string{"ip=localhost"}, "connection_creation_rate=1"))},
			{"no ops", alterQuotas(1, false, quotaOf([]string{"user=adm-u"}))},
			{"key twice", alterQuotas(1, false, quotaOf([]string{"user=adm-k"}, "producer_byte_rate=1", "producer_byte_rate=2"))},
			{"after key twice", describeQuotas(1, true, "user=adm-k")},
			{"entity twice", alterQuotas(1, false, quotaOf([]string{"user=adm-k"}, "producer_byte_rate=3"), quotaOf([]string{"user=adm-k"}, "consumer_byte_rate=4"))},
			{"after entity twice", describeQuotas(1, true, "user=adm-k")},
			{"one right one wrong", alterQuotas(1, false, quotaOf([]string{"user=adm-k"}, "producer_byte_rate=3"), quotaOf([]string{"user=adm-k"}, "x=4"))},
			{"remove what is not there", alterQuotas(1, false, quotaOf([]string{"user=adm-none"}, "producer_byte_rate"))},
			{"remove an unknown key", alterQuotas(1, false, quotaOf([]string{"user=adm-u"}, "no_such_rate"))},
			{"nothing", alterQuotas(1, false)},
			{"remove", alterQuotas(1, false,
				quotaOf([]string{"user=adm-u"}, "producer_byte_rate", "consumer_byte_rate"),
				quotaOf([]string{"user=adm-k"}, "producer_byte_rate", "consumer_byte_rate"),
				quotaOf([]string{"user=adm-v"}, "producer_byte_rate"),
				quotaOf([]string{"user=adm-u", "client-id"}, "producer_byte_rate"),
				quotaOf([]string{"user", "client-id=adm-c"}, "producer_byte_rate"),
				quotaOf([]string{"client-id=adm-c"}, "request_percentage"),
				quotaOf([]string{"user=adm-u", "client-id=adm-c"}, "controller_mutation_rate"),
				quotaOf([]string{"user=adm-u", "client-id=adm-d"}, "controller_mutation_rate"),
				quotaOf([]string{"ip=192.0.2.1"}, "connection_creation_rate"))},
			{"after remove", describeQuotas(1, false, "user=adm-u")},
		},
	}
}

// quotaOf changes an entity's quotas. The entity's parts are type=name, or the
// type alone for the default; the changes are key=value, or the key alone to
// remove.
func quotaOf(entity []string, changes ...string) kmsg.AlterClientQuotasRequestEntry {
	e := kmsg.NewAlterClientQuotasRequestEntry()
	for _, part := range entity {
		c := kmsg.NewAlterClientQuotasRequestEntryEntity()
		kind, name, named := strings.Cut(part, "=")
		if c.Type = kind; named {
			c.Name = &name
		}
		e.Entity = append(e.Entity, c)
	}
	for _, change := range changes {
		op := kmsg.NewAlterClientQuotasRequestEntryOp()
		key, value, set := strings.Cut(change, "=")
		op.Key, op.Remove = key, !set
		if set {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				panic(err)
			}
			op.Value = v
		}
		e.Ops = append(e.Ops, op)
	}
	return e
}

func alterQuotas(version int16, validateOnly bool, entries ...kmsg.AlterClientQuotasRequestEntry) kmsg.Request {
	r := kmsg.NewPtrAlterClientQuotasRequest()
	r.Version, r.ValidateOnly, r.Entries = version, validateOnly, entries
	return r
}

// describeQuotas asks for the quotas of entities: type=name, type alone for
// the default, type=? for any.
func describeQuotas(version int16, strict bool, components ...string) kmsg.Request {
	r := kmsg.NewPtrDescribeClientQuotasRequest()
	r.Version, r.Strict = version, strict
	for _, part := range components {
		c := kmsg.NewDescribeClientQuotasRequestComponent()
		kind, name, named := strings.Cut(part, "=")
		c.EntityType = kind
		switch {
		case name == "?":
			c.MatchType = 2
		case named:
			c.Match = &name
		default:
			c.MatchType = 1
		}
		r.Components = append(r.Components, c)
	}
	return r
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

func scramOf(user string, mechanism int8, iterations int32) kmsg.AlterUserSCRAMCredentialsRequestUpsertion {
	u := kmsg.NewAlterUserSCRAMCredentialsRequestUpsertion()
	u.Name, u.Mechanism, u.Iterations, u.Salt, u.SaltedPassword = user, mechanism, iterations, []byte("salt"), []byte("salted password")
	return u
}

func alterScram(deletions []metadata.ScramID, upsertions ...kmsg.AlterUserSCRAMCredentialsRequestUpsertion) kmsg.Request {
	r := kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
	for _, d := range deletions {
		e := kmsg.NewAlterUserSCRAMCredentialsRequestDeletion()
		e.Name, e.Mechanism = d.User, int8(d.Mechanism)
		r.Deletions = append(r.Deletions, e)
	}
	r.Upsertions = upsertions
	return r
}

func describeScramOf(users ...string) kmsg.Request {
	r := kmsg.NewPtrDescribeUserSCRAMCredentialsRequest()
	for _, name := range users {
		u := kmsg.NewDescribeUserSCRAMCredentialsRequestUser()
		u.Name = name
		r.Users = append(r.Users, u)
	}
	return r
}

func unregister(id int32) kmsg.Request {
	r := kmsg.NewPtrUnregisterBrokerRequest()
	r.BrokerID = id
	return r
}

func featureOf(name string, level int16, kind int8) kmsg.UpdateFeaturesRequestFeatureUpdate {
	u := kmsg.NewUpdateFeaturesRequestFeatureUpdate()
	u.Feature, u.MaxVersionLevel, u.UpgradeType = name, level, kind
	return u
}

// updateFeatures57 asks what would happen, where the version can.
func updateFeatures57(version int16, updates ...kmsg.UpdateFeaturesRequestFeatureUpdate) kmsg.Request {
	r := kmsg.NewPtrUpdateFeaturesRequest()
	r.Version, r.FeatureUpdates, r.ValidateOnly = version, updates, true
	return r
}
