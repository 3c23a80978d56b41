package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/gregor-broker/gregor/node"
)

// shutdownTimeout bounds an orderly end. It is what Kafka's brokers get from
// their own scripts before they are killed.
const shutdownTimeout = 30 * time.Second

func newStartCommand() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:   "start [server.properties]",
		Short: "Start the broker",
		Long: `Starts the broker with the keys of the file, if one is named, of KAFKA_...
environment variables (KAFKA_ADVERTISED_LISTENERS is advertised.listeners) and
of --override, each stronger than the one before. With none of them it listens
on port 9092 and keeps its data in ./data.

SIGTERM or SIGINT ends it in order; a second one at once.`,
		Example: "  gregor start\n  gregor start config/server.properties --override num.partitions=3",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runStart(cmd.Context(), cmd.ErrOrStderr(), file(args), flags.overrides)
		},
	}
	flags.register(cmd)
	return cmd
}

func runStart(ctx context.Context, logTo io.Writer, file string, overrides []string) error {
	began := time.Now()
	values, warnings, err := readConfig(file, overrides, os.Environ())
	if err != nil {
		return err
	}
	useMilliseconds()
	log, gate, err := newLogger(logTo, values)
	if err != nil {
		return err
	}
	logWarnings(log, warnings)
	if limit := limitMemory("/sys"); limit > 0 {
		log.Debug().Int64("bytes", limit).Msg("memory limit taken from the control group")
	}

	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	n, err := node.Start(ctx, node.Options{Config: values, Log: log, LogLevel: gate, ClusterID: os.Getenv("CLUSTER_ID"), Version: buildVersion()})
	if err != nil {
		return err
	}
	log.Info().Str("version", buildVersion()).Str("cluster", n.ClusterID()).Int32("node", n.ID()).
		Strs("listeners", n.Listening()).Str("http", n.HTTPAddr()).Dur("took", sinceStart(began, time.Now())).Msg("ready")
	return runUntilDone(ctx, stop, log, n)
}

// runUntilDone waits for a signal or for the node to fail, and closes it. After
// the first signal the default behaviour is restored, so that a second one ends
// the process at once.
func runUntilDone(ctx context.Context, stop func(), log zerolog.Logger, n *node.Node) error {
	var cause error
	select {
	case <-ctx.Done():
		stop() // before saying so: from here on a signal ends the process
		log.Info().Msg("shutting down; a second signal ends the process at once")
	case <-n.Failed():
		cause = n.Err()
		stop()
		log.Error().Err(cause).Msg("the broker cannot go on; shutting down")
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := n.Close(ctx); err != nil {
		return errors.Join(cause, fmt.Errorf("shutdown: %w", err))
	}
	log.Info().Dur("took", sinceStart(began, time.Now())).Msg("stopped")
	return cause
}
