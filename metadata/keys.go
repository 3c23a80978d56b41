package metadata

import (
	"bytes"
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// The keys for who wants to read nothing else: FromKVs makes an image of them
// alone.
const (
	// ClusterKey is the key of the cluster's id.
	ClusterKey = "cluster"
	// ProducerIDsKey is the key of the next producer id.
	ProducerIDsKey = "producer_ids"
)

// The keys of the store; see the package comment.
const (
	keyCluster         = ClusterKey
	keyController      = "controller"
	keyControllerEpoch = "controller_epoch"
	keyProducerIDs     = ProducerIDsKey

	prefixTopics  = "topics/"
	prefixParts   = "parts/"
	prefixReg     = "brokers/reg/"
	prefixEpoch   = "brokers/epoch/"
	prefixLive    = "brokers/live/"
	prefixConfigs = "configs/"
	prefixQuotas  = "quotas/"
	prefixScram   = "scram/"
)

func topicKey(name string) string { return prefixTopics + name }

func partsPrefix(id ID) string { return prefixParts + FormatID(id) + "/" }

func partKey(id ID, n int32) string { return partsPrefix(id) + strconv.Itoa(int(n)) }

func regKey(id int32) string   { return prefixReg + strconv.Itoa(int(id)) }
func epochKey(id int32) string { return prefixEpoch + strconv.Itoa(int(id)) }
func liveKey(id int32) string  { return prefixLive + strconv.Itoa(int(id)) }

// configTypes are the types of resource that have keys of their own, by the
// name that the key uses. Topics keep theirs in the topic's key.
var configTypes = []struct {
	t    ConfigType
	name string
}{
	{ConfigBroker, "brokers"},
	{ConfigClientMetrics, "client-metrics"},
	{ConfigGroup, "groups"},
}

func configKey(r ConfigResource) string {
	for _, c := range configTypes {
		if c.t == r.Type {
			return prefixConfigs + c.name + "/" + r.Name
		}
	}
	return ""
}

func parseConfigKey(rest string) (ConfigResource, bool) {
	kind, name, ok := strings.Cut(rest, "/")
	if !ok {
		return ConfigResource{}, false
	}
	for _, c := range configTypes {
		if c.name == kind {
			return ConfigResource{Type: c.t, Name: name}, true
		}
	}
	return ConfigResource{}, false
}

// maxPartitions bounds the partition numbers that an image believes.
const maxPartitions = 1 << 20

func parsePartKey(rest string) (ID, int32, error) {
	idPart, number, ok := strings.Cut(rest, "/")
	if !ok {
		return ID{}, 0, fmt.Errorf("no partition number in %q", rest)
	}
	id, err := ParseID(idPart)
	if err != nil {
		return ID{}, 0, err
	}
	n, err := strconv.ParseInt(number, 10, 32)
	if err != nil || n < 0 || n >= maxPartitions {
		return ID{}, 0, fmt.Errorf("bad partition number %q", number)
	}
	return id, int32(n), nil
}

func parseBrokerID(s string) (int32, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("bad broker id %q", s)
	}
	return int32(n), nil
}

func compareID(a, b ID) int { return bytes.Compare(a[:], b[:]) }

func compareResource(a, b ConfigResource) int {
	if c := cmp.Compare(a.Type, b.Type); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}
