package storage

import "math"

// Validation chooses how far a produced batch is looked into.
type Validation int8

const (
	// Relaxed checks header and CRC, and the records of a batch that is not compressed. A compressed batch is
	// decompressed only if the topic needs it: compaction, another compression.type, an unknown maximum timestamp,
	// a lower bound for timestamps.
	Relaxed Validation = iota
	// Strict looks at every record as Kafka does.
	Strict
)

// LogConfig holds the topic configuration of one log. Names and units are those of Kafka's topic configuration.
type LogConfig struct {
	SegmentBytes         int64
	SegmentMs            int64
	SegmentJitterMs      int64
	IndexIntervalBytes   int32
	SegmentIndexBytes    int32
	RetentionBytes       int64 // -1: no limit
	RetentionMs          int64 // -1: no limit
	FileDeleteDelayMs    int64
	FlushMessages        int64
	FlushMs              int64
	MaxMessageBytes      int32
	LogAppendTime        bool // message.timestamp.type
	TimestampBeforeMaxMs int64
	TimestampAfterMaxMs  int64
	Compact, Delete      bool   // cleanup.policy
	Compression          string // compression.type; "" means producer
	GzipLevel            int
	LZ4Level             int
	ZstdLevel            int
	Preallocate          bool
	Validation           Validation
	DeleteRetentionMs    int64
	MinCompactionLagMs   int64
	MaxCompactionLagMs   int64
	MinCleanableRatio    float64
}

// DefaultLogConfig returns Kafka's defaults.
func DefaultLogConfig() LogConfig {
	return LogConfig{
		SegmentBytes:         1 << 30,
		SegmentMs:            7 * 24 * 3600 * 1000,
		IndexIntervalBytes:   4096,
		SegmentIndexBytes:    10 << 20,
		RetentionBytes:       -1,
		RetentionMs:          7 * 24 * 3600 * 1000,
		FileDeleteDelayMs:    60_000,
		FlushMessages:        math.MaxInt64,
		FlushMs:              math.MaxInt64,
		MaxMessageBytes:      1048588,
		TimestampBeforeMaxMs: math.MaxInt64,
		TimestampAfterMaxMs:  3_600_000,
		Delete:               true,
		Compression:          "producer",
		GzipLevel:            -1,
		LZ4Level:             9,
		ZstdLevel:            3,
		DeleteRetentionMs:    24 * 3600 * 1000,
		MaxCompactionLagMs:   math.MaxInt64,
		MinCleanableRatio:    0.5,
	}
}

// maxSegmentMs is how long a segment takes batches. In a compacted log max.compaction.lag.ms bounds it: the active segment
// is not cleaned.
func (c *LogConfig) maxSegmentMs() int64 {
	if c.Compact && c.MaxCompactionLagMs > 0 {
		return min(c.MaxCompactionLagMs, c.SegmentMs)
	}
	return c.SegmentMs
}
