package broker

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/gregor-broker/gregor/config"
)

// OptionsFrom reads the limits from the configuration. Handler, Log and Metrics
// are left to the caller.
//
// The sizes of the socket buffers count only where they were configured:
// Kafka's default of 100 KiB would turn off the operating system's own tuning.
func OptionsFrom(v *config.Values) (Options, error) {
	none := func(n int) int { // Kafka's 0 allows none, ours anything
		if n == 0 {
			return -1
		}
		return n
	}
	o := Options{
		MaxRequestBytes:     v.Int("socket.request.max.bytes"),
		RequestMemory:       v.Int64("queued.max.request.bytes"),
		MaxIdle:             v.Duration("connections.max.idle.ms"),
		MaxConnections:      none(v.Int("max.connections")),
		MaxConnectionsPerIP: none(v.Int("max.connections.per.ip")),
	}
	if v.IsSet("socket.send.buffer.bytes") {
		o.SendBuffer = max(0, v.Int("socket.send.buffer.bytes"))
	}
	if v.IsSet("socket.receive.buffer.bytes") {
		o.ReceiveBuffer = max(0, v.Int("socket.receive.buffer.bytes"))
	}
	var err error
	o.MaxConnectionsByAddr, err = parseOverrides(v.String("max.connections.per.ip.overrides"))
	return o, err
}

// parseOverrides reads "host:count,host:count". Names are looked up once.
func parseOverrides(list string) (map[netip.Addr]int, error) {
	limits := map[netip.Addr]int{}
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		i := strings.LastIndexByte(item, ':')
		if i < 0 {
			return nil, fmt.Errorf("max.connections.per.ip.overrides: %q has no count", item)
		}
		host := strings.Trim(item[:i], "[]")
		n, err := strconv.Atoi(strings.TrimSpace(item[i+1:]))
		if err != nil || n < 0 {
			return nil, fmt.Errorf("max.connections.per.ip.overrides: %q has no valid count", item)
		}
		addrs, err := net.LookupHost(host)
		if err != nil {
			return nil, fmt.Errorf("max.connections.per.ip.overrides: %w", err)
		}
		for _, a := range addrs {
			if addr, err := netip.ParseAddr(a); err == nil {
				limits[addr.Unmap()] = n
			}
		}
	}
	return limits, nil
}
