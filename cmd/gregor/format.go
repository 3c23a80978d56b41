package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/gregor-broker/gregor/node"
	"github.com/gregor-broker/gregor/storage/vfs"
)

func newFormatCommand() *cobra.Command {
	var flags configFlags
	var clusterID, configFile string
	var ignoreFormatted bool
	cmd := &cobra.Command{
		Use:   "format [-c server.properties] [-t cluster-id]",
		Short: "Prepare the log directories, as kafka-storage format does",
		Long: `Writes meta.properties into every log directory, which binds it to a cluster.
A start does the same by itself with a new cluster id; formatting first is for
those who choose the id.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			values, _, err := readConfig(configFile, flags.overrides, os.Environ())
			if err != nil {
				return err
			}
			if clusterID == "" {
				clusterID = node.NewClusterID()
			}
			dirs, err := node.Format(vfs.OS{}, values, clusterID, ignoreFormatted)
			if err != nil {
				return err
			}
			for _, d := range dirs {
				what := "Formatted"
				if d.Already {
					what = "Already formatted:"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s log directory %s, cluster id %s, node %d\n", what, d.Dir, clusterID, values.NodeID())
			}
			return nil
		},
	}
	flags.register(cmd)
	f := cmd.Flags()
	f.StringVarP(&clusterID, "cluster-id", "t", "", "the cluster id, 16 bytes in base64 (random if not given)")
	f.StringVarP(&configFile, "config", "c", "", "the server.properties that names the log directories")
	f.BoolVarP(&ignoreFormatted, "ignore-formatted", "g", false, "leave directories that are formatted already as they are")
	// What scripts written for kafka-storage pass, and what a single node that
	// is its own controller has no choice about.
	f.BoolP("standalone", "s", false, "accepted without effect")
	f.BoolP("no-initial-controllers", "N", false, "accepted without effect")
	f.StringP("release-version", "r", "", "accepted without effect")
	return cmd
}
