package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/gregor-broker/gregor/node"
)

func newRandomUUIDCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "random-uuid",
		Short: "Print a new cluster id for format",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), node.NewClusterID())
			return err
		},
	}
}
