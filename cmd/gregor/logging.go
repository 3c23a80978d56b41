package main

import (
	"io"
	"os"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/gregor-broker/gregor/config"
)

// newLogger writes to w: lines for people on a terminal, JSON otherwise, unless
// log.format decides. The gate holds the level, to be changed later.
func newLogger(w io.Writer, v *config.Values) (zerolog.Logger, *logGate, error) {
	level, err := zerolog.ParseLevel(v.String("log.level"))
	if err != nil {
		return zerolog.Nop(), nil, &config.LineError{Origin: v.Origin("log.level"), Key: "log.level", Err: err}
	}
	console := v.String("log.format") == "console" || v.String("log.format") == "auto" && isTerminal(w)
	if console {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: "15:04:05.000", NoColor: !isTerminal(w) || os.Getenv("NO_COLOR") != ""}
	}
	gate := newLogGate(w, level)
	return zerolog.New(gate).With().Timestamp().Logger(), gate, nil
}

// useMilliseconds sets the one thing that zerolog keeps for a whole process:
// how times are written. It belongs to the command, before anything logs.
func useMilliseconds() { zerolog.TimeFieldFormat = "2006-01-02T15:04:05.000Z07:00" }

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// logWarnings tells what in the configuration has no effect: keys that Kafka
// knows and gregor does not need in one line, everything else one by one.
func logWarnings(log zerolog.Logger, warnings []config.Warning) {
	var unused []string
	for _, w := range warnings {
		if w.Unused {
			unused = append(unused, w.Key)
			continue
		}
		log.Warn().Str("key", w.Key).Str("from", w.Origin.String()).Msg(w.Text)
	}
	if len(unused) > 0 {
		log.Info().Str("keys", strings.Join(unused, ", ")).Msg("these keys of Kafka are accepted and have no effect here")
	}
}

// sinceStart is the age of the process for the line that says it is ready.
func sinceStart(start, now time.Time) time.Duration { return now.Sub(start).Round(time.Millisecond) }
