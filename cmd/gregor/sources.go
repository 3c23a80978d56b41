package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/gregor-broker/gregor/config"
)

// readConfig resolves what a start would use: the file, if one is named, then
// the environment, then the overrides, each stronger than the one before.
func readConfig(file string, overrides, environ []string) (*config.Values, []config.Warning, error) {
	var sources []config.Source
	if file != "" {
		src, err := fileSource(file)
		if err != nil {
			return nil, nil, err
		}
		sources = append(sources, src)
	}
	for _, p := range envProperties(environ) {
		sources = append(sources, config.Source{
			Name: "environment variable " + p.variable, Lines: []config.Line{{Key: p.key, Value: p.value}}, Lenient: true,
		})
	}
	cli := config.Source{Name: "--override"}
	for _, o := range overrides {
		key, value, ok := strings.Cut(o, "=")
		if key = strings.TrimSpace(key); !ok || key == "" {
			return nil, nil, fmt.Errorf("--override %q is not of the form key=value", o)
		}
		cli.Lines = append(cli.Lines, config.Line{Key: key, Value: value})
	}
	values, warnings, err := config.Build(append(sources, cli)...)
	if err != nil {
		return nil, warnings, fmt.Errorf("configuration:\n  %s", strings.ReplaceAll(err.Error(), "\n", "\n  "))
	}
	return values, warnings, nil
}

func fileSource(path string) (config.Source, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return config.Source{}, fmt.Errorf("configuration file %s does not exist", path)
	} else if err != nil {
		return config.Source{}, fmt.Errorf("configuration file: %w", err)
	}
	props, err := parseProperties(data)
	if err != nil {
		return config.Source{}, fmt.Errorf("%s: %w", path, err)
	}
	src := config.Source{Name: path}
	for _, p := range props {
		src.Lines = append(src.Lines, config.Line{Key: p.key, Value: p.value, Line: p.line})
	}
	return src, nil
}

// configFlags are the arguments that every command with a configuration takes.
type configFlags struct {
	overrides []string
}

// file is the positional argument, or none.
func file(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}
