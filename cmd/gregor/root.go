package main

import (
	"github.com/spf13/cobra"
)

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "gregor",
		Short:         "A Kafka broker in one binary",
		Long:          "gregor speaks the Kafka protocol: point existing clients at it.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newStartCommand(), newFormatCommand(), newConfigCommand(), newHealthCommand(), newRandomUUIDCommand(), newVersionCommand())
	return root
}
