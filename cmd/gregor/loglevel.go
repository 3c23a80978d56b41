package main

import (
	"io"
	"sync/atomic"

	"github.com/rs/zerolog"
)

// logGate lets through what is at or above a level that can be changed while
// the broker runs (KIP-412). It is safe for concurrent use as far as the writer
// behind it is.
type logGate struct {
	io.Writer
	level atomic.Int32
}

func newLogGate(w io.Writer, level zerolog.Level) *logGate {
	g := &logGate{Writer: w}
	g.SetLevel(level)
	return g
}

// WriteLevel is what zerolog calls with an event and its level.
func (g *logGate) WriteLevel(level zerolog.Level, p []byte) (int, error) {
	if level < g.Level() {
		return len(p), nil
	}
	return g.Write(p)
}

// Level is the lowest level that is let through.
func (g *logGate) Level() zerolog.Level { return zerolog.Level(g.level.Load()) }

// SetLevel changes it.
func (g *logGate) SetLevel(level zerolog.Level) { g.level.Store(int32(level)) }
