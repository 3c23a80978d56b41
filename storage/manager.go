package storage

import (
	"context"
	"time"

	"github.com/rs/zerolog"

	"github.com/gregor-broker/gregor/storage/vfs"
)

// Options is what a Manager needs. The zero value of an interval means Kafka's default.
type Options struct {
	FS   vfs.FS   // default: vfs.OS{}
	Dirs []string // log.dirs; at least one
	Log  zerolog.Logger
	Now  func() time.Time // default: time.Now

	ClusterID   string
	NodeID      int32
	BrokerEpoch int64 // goes into the clean-shutdown marker; see Manager.SetBrokerEpoch

	// Defaults configures logs found on disk until SetConfig or CreateLog names theirs. Zero: DefaultLogConfig.
	Defaults LogConfig

	RecoveryThreads            int           // per directory (num.recovery.threads.per.data.dir); default 2
	RetentionCheckInterval     time.Duration // log.retention.check.interval.ms; default 5m
	FlushCheckInterval         time.Duration // log.flush.scheduler.interval.ms; default 1s (flush.ms is looked at so often)
	RecoveryCheckpointInterval time.Duration // log.flush.offset.checkpoint.interval.ms; default 1m
	StartCheckpointInterval    time.Duration // log.flush.start.offset.checkpoint.interval.ms; default 1m
	HighWatermarkInterval      time.Duration // replica.high.watermark.checkpoint.interval.ms; default 5s
	ProducerIDExpirationMs     int64         // producer.id.expiration.ms; default one day
	ProducerIDExpirationCheck  time.Duration // producer.id.expiration.check.interval.ms; default 10m

	// OnDirFailure is told once for each directory that goes offline. It is called without any lock held, on the
	// goroutine that met the error, and must not block.
	OnDirFailure func(dir string, err error)
}

// Manager owns the log directories of a broker and every log in them.
type Manager struct {
	opts Options
}

// Open locks the directories, reads or writes meta.properties, loads every log, and recovers those of a directory that
// was not shut down cleanly. It starts no goroutine: see Start.
func Open(opts Options) (*Manager, error) { return &Manager{opts: opts}, nil }

// Start starts the background loop, which calls Tick. Close ends it.
func (m *Manager) Start() {}

// Tick does all background work that is due at now: retention, flush by time, checkpoints, removal of deleted files,
// expiry of producer ids. The background loop calls it; tests call it with the time they want it to be.
func (m *Manager) Tick(now time.Time) {}

// AwaitIdle returns when all background work handed over by appends so far (sealing of rolled segments) is done.
func (m *Manager) AwaitIdle() {}

// SetBrokerEpoch says which epoch the clean-shutdown marker shall carry.
func (m *Manager) SetBrokerEpoch(epoch int64) {}

// PreviousBrokerEpoch is the epoch in the clean-shutdown marker found by Open, or -1 if any directory was not shut down
// cleanly.
func (m *Manager) PreviousBrokerEpoch() int64 { return -1 }

// Logs returns all logs, sorted by topic and partition.
func (m *Manager) Logs() []*Log { return nil }

// Log returns the log of a partition, or nil.
func (m *Manager) Log(tp TopicPartition) *Log { return nil }

// CreateLog makes the log of a partition in the directory with the fewest logs, or returns the one that is there and
// gives it cfg. An existing log with another topic id is an error.
func (m *Manager) CreateLog(tp TopicPartition, id TopicID, cfg LogConfig) (*Log, error) {
	return &Log{}, nil
}

// DeleteLog takes a log out of service at once and frees its disk space after file.delete.delay.ms. Slices that were
// read before stay good.
func (m *Manager) DeleteLog(tp TopicPartition) error { return nil }

// StrayLog takes a log out of service and renames its directory to
// <topic>-<partition>.<unique>-stray, where it stays: metadata does not know the log, and what to do with the data is an
// operator's decision. Later starts do not load it.
func (m *Manager) StrayLog(tp TopicPartition) error { return nil }

// Dirs describes the log directories.
func (m *Manager) Dirs() []DirInfo { return nil }

// Close ends the background loop, flushes every log, and writes checkpoints and the clean-shutdown marker. When ctx ends
// first, what is left is not flushed and the marker is not written: the next start recovers.
func (m *Manager) Close(ctx context.Context) error { return nil }
