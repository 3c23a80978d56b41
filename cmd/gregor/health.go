package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newHealthCommand() *cobra.Command {
	var flags configFlags
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "health [server.properties]",
		Short: "Ask the broker of this configuration whether it is ready",
		Long:  "Asks /readyz at http.address and fails unless the broker is ready: a health check for containers.",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			values, _, err := readConfig(file(args), flags.overrides, os.Environ())
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			report, err := askReady(ctx, values.String("http.address"))
			fmt.Fprint(cmd.OutOrStdout(), report)
			return err
		},
	}
	flags.register(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Second, "how long to wait for an answer")
	return cmd
}

func askReady(ctx context.Context, address string) (string, error) {
	if address == "" {
		return "", errors.New("http.address is empty: the broker answers no health checks")
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("http.address: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz?verbose", nil)
	if err != nil {
		return "", err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("not reachable: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return string(body), errors.New("not ready: " + strings.TrimSpace(resp.Status))
	}
	return string(body), nil
}
