package etcdstore

import (
	"strings"

	"github.com/rs/zerolog"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// ZapLogger returns a logger for etcd's code that writes to log. What etcd
// finds worth telling, we find worth debugging; only warnings and errors keep
// their level.
func ZapLogger(log zerolog.Logger) *zap.Logger {
	return zap.New(&zapCore{log: log.With().Str("component", "etcd").Logger()})
}

// zapCore is a zapcore.Core over zerolog.
type zapCore struct {
	log    zerolog.Logger
	fields []zapcore.Field
}

// harmless are the messages that etcd warns of at every start of a server that
// has just been made or that listens nowhere, and that nobody can act on.
func harmless(message string) bool {
	switch message {
	case "simple token is not cryptographically signed",
		"Running http and grpc server on single port. This is not recommended for production.",
		"Failed to detect schema version",
		"failed to update storage version":
		return true
	}
	// A server that has not yet applied its own log waits for the next tick.
	return strings.HasSuffix(message, "since there are still pending configuration changes to apply")
}

func level(l zapcore.Level) zerolog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return zerolog.ErrorLevel
	case l == zapcore.WarnLevel:
		return zerolog.WarnLevel
	}
	return zerolog.DebugLevel
}

// Enabled implements zapcore.Core.
func (c *zapCore) Enabled(l zapcore.Level) bool {
	// What etcd itself calls debug is for its own developers.
	return l > zapcore.DebugLevel && c.log.GetLevel() <= level(l)
}

// With implements zapcore.Core.
func (c *zapCore) With(fields []zapcore.Field) zapcore.Core {
	return &zapCore{log: c.log, fields: append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

// Check implements zapcore.Core.
func (c *zapCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements zapcore.Core.
func (c *zapCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	l := level(e.Level)
	if harmless(e.Message) {
		l = zerolog.DebugLevel
	}
	if c.log.GetLevel() > l {
		return nil
	}
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range c.fields {
		f.AddTo(enc)
	}
	for _, f := range fields {
		f.AddTo(enc)
	}
	c.log.WithLevel(l).Fields(enc.Fields).Msg(e.Message)
	return nil
}

// Sync implements zapcore.Core.
func (c *zapCore) Sync() error { return nil }
