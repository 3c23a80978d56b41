package config

import (
	"fmt"
	"math"
	"slices"
	"strconv"
)

// TopicConfig holds every key of a topic, resolved: the topic's own settings
// over the broker's dynamic and static ones over the defaults.
type TopicConfig struct {
	Compact, Delete bool // cleanup.policy
	Compression     string
	GzipLevel       int
	LZ4Level        int
	ZstdLevel       int

	DeleteRetentionMs    int64
	FileDeleteDelayMs    int64
	FlushMessages        int64
	FlushMs              int64
	IndexIntervalBytes   int32
	MinCleanableRatio    float64
	MinCompactionLagMs   int64
	MaxCompactionLagMs   int64
	MaxMessageBytes      int32
	MinInsyncReplicas    int32
	Preallocate          bool
	RetentionBytes       int64 // -1: no limit
	RetentionMs          int64 // -1: no limit
	SegmentBytes         int32
	SegmentIndexBytes    int32
	SegmentJitterMs      int64
	SegmentMs            int64
	UncleanElection      bool
	LogAppendTime        bool // message.timestamp.type
	TimestampBeforeMaxMs int64
	TimestampAfterMaxMs  int64

	LeaderThrottledReplicas   []string
	FollowerThrottledReplicas []string

	RemoteStorage         bool
	RemoteCopyDisable     bool
	RemoteDeleteOnDisable bool  // remote.log.delete.on.disable
	LocalRetentionBytes   int64 // -2: RetentionBytes
	LocalRetentionMs      int64 // -2: RetentionMs

	// Strict is batch.validation=strict: check batches as deeply as Kafka.
	Strict bool
}

// Topic resolves a topic's settings. Settings that do not suit their key, which
// nothing that passed ValidateTopicConfig can be, count as not set.
func (v *Values) Topic(overrides map[string]string) TopicConfig {
	get := func(name string) Value {
		val, _ := v.topicValue(name, overrides)
		return val
	}
	num := func(name string) int64 { return get(name).num }
	c := TopicConfig{
		Compact:                   slices.Contains(get("cleanup.policy").list, "compact"),
		Delete:                    slices.Contains(get("cleanup.policy").list, "delete"),
		Compression:               get("compression.type").Raw,
		GzipLevel:                 int(num("compression.gzip.level")),
		LZ4Level:                  int(num("compression.lz4.level")),
		ZstdLevel:                 int(num("compression.zstd.level")),
		DeleteRetentionMs:         num("delete.retention.ms"),
		FileDeleteDelayMs:         num("file.delete.delay.ms"),
		FlushMessages:             num("flush.messages"),
		FlushMs:                   num("flush.ms"),
		IndexIntervalBytes:        int32(num("index.interval.bytes")),
		MinCleanableRatio:         get("min.cleanable.dirty.ratio").flt,
		MinCompactionLagMs:        num("min.compaction.lag.ms"),
		MaxCompactionLagMs:        num("max.compaction.lag.ms"),
		MaxMessageBytes:           int32(num("max.message.bytes")),
		MinInsyncReplicas:         int32(num("min.insync.replicas")),
		Preallocate:               get("preallocate").flag,
		RetentionBytes:            num("retention.bytes"),
		RetentionMs:               num("retention.ms"),
		SegmentBytes:              int32(num("segment.bytes")),
		SegmentIndexBytes:         int32(num("segment.index.bytes")),
		SegmentJitterMs:           num("segment.jitter.ms"),
		SegmentMs:                 num("segment.ms"),
		UncleanElection:           get("unclean.leader.election.enable").flag,
		LogAppendTime:             get("message.timestamp.type").Raw == "LogAppendTime",
		TimestampBeforeMaxMs:      num("message.timestamp.before.max.ms"),
		TimestampAfterMaxMs:       num("message.timestamp.after.max.ms"),
		LeaderThrottledReplicas:   get("leader.replication.throttled.replicas").list,
		FollowerThrottledReplicas: get("follower.replication.throttled.replicas").list,
		RemoteStorage:             get("remote.storage.enable").flag,
		RemoteCopyDisable:         get("remote.log.copy.disable").flag,
		RemoteDeleteOnDisable:     get("remote.log.delete.on.disable").flag,
		LocalRetentionBytes:       num("local.retention.bytes"),
		LocalRetentionMs:          num("local.retention.ms"),
		Strict:                    get("batch.validation").Raw == "strict",
	}
	if internal := get("internal.segment.bytes"); !internal.Null {
		c.SegmentBytes = int32(internal.num)
	}
	return c
}

// topicValue resolves one key and says whether the topic itself sets it.
func (v *Values) topicValue(name string, overrides map[string]string) (Value, bool) {
	k := TopicKey(name)
	if k == nil {
		panic("config: no such topic key: " + name)
	}
	if raw, ok := overrides[name]; ok {
		if val, err := k.Parse(raw); err == nil {
			return val, true
		}
	}
	return v.topicDefault(k), false
}

// TopicDefault is the text of the value that a topic key has for topics that do
// not set it; empty for a key that is not known.
func (v *Values) TopicDefault(name string) string {
	if k := TopicKey(name); k != nil {
		return v.topicDefault(k).Raw
	}
	return ""
}

// topicDefault is the value of a topic key for topics that do not set it.
func (v *Values) topicDefault(k *Key) Value {
	if len(k.Synonyms) == 0 {
		return k.DefaultValue()
	}
	l := v.cur.Load()
	for _, s := range k.Synonyms {
		val := l.effective[index(brokerKeys, s)]
		if val.Null {
			continue
		}
		switch s {
		case "log.retention.hours", "log.roll.hours", "log.roll.jitter.hours":
			return retention(s, milliseconds(val.num, 3_600_000))
		case "log.retention.minutes":
			return retention(s, milliseconds(val.num, 60_000))
		case "log.retention.ms":
			return retention(s, val.num)
		}
		return val
	}
	return k.DefaultValue()
}

// retention maps every negative retention to -1: no limit.
func retention(synonym string, n int64) Value {
	if n < 0 {
		n = -1
	}
	return Value{Raw: strconv.FormatInt(n, 10), num: n, flt: float64(n)}
}

func milliseconds(n, unit int64) int64 {
	if n > math.MaxInt64/unit {
		return math.MaxInt64
	}
	return n * unit
}

// TopicDefaults resolves the keys of a topic that sets none.
func TopicDefaults(v *Values) TopicConfig { return v.Topic(nil) }

// ValidateTopicConfig checks one setting of a topic, with Kafka's texts.
func ValidateTopicConfig(name, value string) error {
	k := TopicKey(name)
	if k == nil {
		return fmt.Errorf("Unknown topic config name: %s", name)
	}
	_, err := k.Parse(value)
	return err
}
