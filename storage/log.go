package storage

// Log is one partition on disk.
type Log struct{}

// TopicPartition names the log.
func (l *Log) TopicPartition() TopicPartition { return TopicPartition{} }

// ID is the topic id, zero if none was ever stored.
func (l *Log) ID() TopicID { return TopicID{} }

// Dir is the log directory (one of Options.Dirs) that holds the log.
func (l *Log) Dir() string { return "" }

// Config returns the configuration in force.
func (l *Log) Config() LogConfig { return LogConfig{} }

// SetConfig replaces the configuration; it holds for appends and background work from now on.
func (l *Log) SetConfig(cfg LogConfig) {}

// LogStartOffset is the first offset that may be read.
func (l *Log) LogStartOffset() int64 { return 0 }

// LogEndOffset is the offset of the next record to be appended.
func (l *Log) LogEndOffset() int64 { return 0 }

// HighWatermark is what SetHighWatermark said last, within [LogStartOffset, LogEndOffset]; after Open, what the
// checkpoint said.
func (l *Log) HighWatermark() int64 { return 0 }

// SetHighWatermark tells the log how far it is committed. It returns the high watermark in force, which differs from hw
// when that was out of range.
func (l *Log) SetHighWatermark(hw int64) int64 { return hw }

// FirstUnstableOffset is the first offset of the earliest transaction that is open or whose end is not below the high
// watermark.
func (l *Log) FirstUnstableOffset() (int64, bool) { return 0, false }

// LastStableOffset is the high watermark or the first unstable offset if that is lower.
func (l *Log) LastStableOffset() int64 { return 0 }

// Size is the number of bytes in all segments.
func (l *Log) Size() int64 { return 0 }

// AppendAsLeader checks records (one batch for a client), stamps base offset and leader epoch into them IN PLACE, and
// writes them. The caller may reuse records when it returns.
//
// Errors wrap a *kerr.Error: see the table at analyze. InvalidRecordError names single records.
func (l *Log) AppendAsLeader(records []byte, opts AppendOptions) (AppendResult, error) {
	return AppendResult{}, nil
}

// AppendAsFollower writes batches fetched from the leader as they are. The first must begin at LogEndOffset or later.
func (l *Log) AppendAsFollower(records []byte) (AppendResult, error) { return AppendResult{}, nil }

// Read returns the batches from the one that holds offset on: at most maxBytes of them, but the first whole whatever its
// size if minOneBatch, and none that reaches upTo (an exclusive offset bound: high watermark, last stable offset or log
// end). The slice may end within a batch when maxBytes does. An offset outside [LogStartOffset, LogEndOffset] is
// kerr.OffsetOutOfRange; one at or beyond upTo gives an empty slice.
//
// The caller must Release the slice.
func (l *Log) Read(offset int64, maxBytes int, upTo int64, minOneBatch bool) (Slice, error) {
	return Slice{}, nil
}

// AbortedTxns returns the aborted transactions that overlap [from, upTo), for a Slice with these bounds.
func (l *Log) AbortedTxns(from, upTo int64) ([]AbortedTxn, error) { return nil, nil }

// OffsetForTimestamp returns the first record below upTo whose timestamp is ts or later.
func (l *Log) OffsetForTimestamp(ts int64, upTo int64) (TimestampOffset, bool, error) {
	return TimestampOffset{}, false, nil
}

// MaxTimestampOffset returns the first record that has the greatest timestamp of the log.
func (l *Log) MaxTimestampOffset() (TimestampOffset, bool, error) {
	return TimestampOffset{}, false, nil
}

// LatestEpoch is the leader epoch of the last entry in the epoch file, or -1.
func (l *Log) LatestEpoch() int32 { return -1 }

// EpochEntries returns a copy of the leader-epoch entries.
func (l *Log) EpochEntries() []EpochStart { return nil }

// EndOffsetForEpoch answers OffsetForLeaderEpoch: the largest epoch that is not above the one asked for, and where it
// ended. (-1, -1) if unknown.
func (l *Log) EndOffsetForEpoch(epoch int32) (foundEpoch int32, endOffset int64) { return -1, -1 }

// AssignEpoch notes that epoch begins at startOffset. A follower or a new leader calls it; appends do it themselves.
func (l *Log) AssignEpoch(epoch int32, startOffset int64) error { return nil }

// SetLogStartOffset makes all records below off unreadable (DeleteRecords); segments that lie below it wholly are
// deleted. An offset above the high watermark is kerr.OffsetOutOfRange; one that is not above the log start does nothing.
func (l *Log) SetLogStartOffset(off int64) error { return nil }

// TruncateTo removes all records from off on.
func (l *Log) TruncateTo(off int64) error { return nil }

// TruncateFullyAndStartAt removes all records; the next one gets off.
func (l *Log) TruncateFullyAndStartAt(off int64) error { return nil }

// ActiveProducers returns the state of every known producer, sorted by id.
func (l *Log) ActiveProducers() []ProducerState { return nil }

// Flush makes everything appended so far durable (fsync).
func (l *Log) Flush() error { return nil }

// Err is not nil if the log's directory is offline: kerr.KafkaStorageError with the cause.
func (l *Log) Err() error { return nil }
