package storage

import (
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
	FlushCheckInterval         time.Duration // how often flush.ms is looked at; default 1s
	RecoveryCheckpointInterval time.Duration // log.flush.offset.checkpoint.interval.ms; default 1m
	StartCheckpointInterval    time.Duration // log.flush.start.offset.checkpoint.interval.ms; default 1m
	HighWatermarkInterval      time.Duration // replica.high.watermark.checkpoint.interval.ms; default 5s
	ProducerIDExpirationMs     int64         // producer.id.expiration.ms; default one day
	ProducerIDExpirationCheck  time.Duration // producer.id.expiration.check.interval.ms; default 10m

	Cleaner CleanerConfig // log.cleaner.*

	// OnDirFailure is told once for each directory that goes offline, on a goroutine of its own.
	OnDirFailure func(dir string, err error)
}

func (o *Options) setDefaults() {
	if o.FS == nil {
		o.FS = vfs.OS{}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Defaults == (LogConfig{}) {
		o.Defaults = DefaultLogConfig()
	}
	o.RecoveryThreads = cmpOr(o.RecoveryThreads, 2)
	o.RetentionCheckInterval = cmpOr(o.RetentionCheckInterval, 5*time.Minute)
	o.FlushCheckInterval = cmpOr(o.FlushCheckInterval, time.Second)
	o.RecoveryCheckpointInterval = cmpOr(o.RecoveryCheckpointInterval, time.Minute)
	o.StartCheckpointInterval = cmpOr(o.StartCheckpointInterval, time.Minute)
	o.HighWatermarkInterval = cmpOr(o.HighWatermarkInterval, 5*time.Second)
	o.ProducerIDExpirationMs = cmpOr(o.ProducerIDExpirationMs, 24*3600*1000)
	o.ProducerIDExpirationCheck = cmpOr(o.ProducerIDExpirationCheck, 10*time.Minute)
}

// cmpOr returns v, or def if v is not positive.
func cmpOr[T int | int64 | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}
