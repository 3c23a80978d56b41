package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gregor-broker/gregor/config"
)

func newConfigCommand() *cobra.Command {
	var flags configFlags
	var asJSON, onlySet, docs bool
	cmd := &cobra.Command{
		Use:   "config [server.properties]",
		Short: "Print every known key, its value and where it came from",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			values, warnings, err := readConfig(file(args), flags.overrides, os.Environ())
			if err != nil {
				return err
			}
			rows := settings(values, onlySet)
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(rows)
			}
			if err := printSettings(cmd.OutOrStdout(), rows, docs); err != nil {
				return err
			}
			for _, w := range warnings {
				fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s: %s: %s\n", w.Origin, w.Key, w.Text)
			}
			return nil
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	cmd.Flags().BoolVar(&onlySet, "set", false, "only keys that were set")
	cmd.Flags().BoolVar(&docs, "doc", false, "with the description of each key")
	return cmd
}

func (f *configFlags) register(cmd *cobra.Command) {
	// StringArray, not StringSlice: values contain commas.
	cmd.Flags().StringArrayVar(&f.overrides, "override", nil, "a key=value that wins over the file and the environment; may be repeated")
}

type settingRow struct {
	Key     string  `json:"key"`
	Value   *string `json:"value"`
	Origin  string  `json:"origin"`
	Default bool    `json:"default"`
	Effect  bool    `json:"effect"`
	Doc     string  `json:"doc"`
}

func settings(v *config.Values, onlySet bool) []settingRow {
	var rows []settingRow
	for _, s := range v.All() {
		isDefault := s.Origin.Level == config.DefaultConfig
		if s.Key.Internal || onlySet && isDefault {
			continue
		}
		row := settingRow{Key: s.Name, Origin: s.Origin.String(), Default: isDefault, Effect: s.Key.Tier == 1, Doc: s.Key.Doc}
		if !s.Value.Null {
			raw := s.Value.Raw
			if s.Key.Sensitive() {
				raw = "[hidden]"
			}
			row.Value = &raw
		}
		rows = append(rows, row)
	}
	return rows
}

// printSettings writes one line per key: the key with its value in the form of
// a properties file, and in a second column where the value comes from.
func printSettings(out io.Writer, rows []settingRow, docs bool) error {
	w := bufio.NewWriter(out)
	for _, r := range rows {
		if docs {
			fmt.Fprintf(w, "\n# %s\n", r.Doc)
		}
		line := "# " + r.Key + " is not set"
		if r.Value != nil {
			line = r.Key + "=" + strings.ReplaceAll(*r.Value, "\n", "\\n")
		}
		note := r.Origin
		if !r.Effect {
			note += ", without effect here"
		}
		fmt.Fprintf(w, "%-64s  # %s\n", line, note)
	}
	return w.Flush()
}
