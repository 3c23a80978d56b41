// Package netns gives each broker of a cluster a network of its own, Linux
// network namespaces joined by a bridge, so that brokers can be cut off from
// each other while clients still reach them. The bridge is in a namespace too,
// where no firewall of this machine sees what goes over it. It needs root, ip
// and iptables.
package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
)

// Net is a bridge with a namespace for each broker.
type Net struct {
	name   string // of the interface that leads there, and of all namespaces
	hub    string // the namespace of the bridge
	way    bool   // the interface that leads there exists
	prefix string // of all addresses, with its last dot
	spaces []string
}

// Supported says why this machine cannot do it, nil if it can.
func Supported() error {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return errors.New("network namespaces need Linux and root")
	}
	for _, program := range []string{"ip", "iptables", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			return err
		}
	}
	return nil
}

// New makes the networks of n brokers. Close takes them away.
func New(n int) (*Net, error) {
	pid := os.Getpid()
	x := &Net{name: fmt.Sprintf("gch%d", pid%1_000_000), prefix: fmt.Sprintf("10.%d.%d.", 64+pid/256%64, pid%256)}
	if err := x.make(n); err != nil {
		return nil, errors.Join(err, x.Close())
	}
	return x, nil
}

func (x *Net) make(n int) error {
	hub := x.name + "-hub"
	if err := run("ip", "netns", "add", hub); err != nil {
		return err
	}
	x.hub = hub
	for _, args := range [][]string{
		{"-n", hub, "link", "add", "bridge", "type", "bridge"},
		{"-n", hub, "link", "set", "bridge", "up"},
		{"link", "add", x.name, "type", "veth", "peer", "name", "here", "netns", hub},
		{"-n", hub, "link", "set", "here", "master", "bridge", "up"},
		{"addr", "add", x.prefix + "1/24", "dev", x.name},
		{"link", "set", x.name, "up"},
	} {
		if err := run("ip", args...); err != nil {
			return err
		}
		x.way = x.way || slices.Contains(args, x.name)
	}
	for i := range n {
		space, port := fmt.Sprintf("%s-%d", x.name, i+1), fmt.Sprintf("port%d", i+1)
		if err := run("ip", "netns", "add", space); err != nil {
			return err
		}
		x.spaces = append(x.spaces, space)
		for _, args := range [][]string{
			{"-n", hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space},
			{"-n", hub, "link", "set", port, "master", "bridge", "up"},
			{"-n", space, "addr", "add", x.Host(i) + "/24", "dev", "eth0"},
			{"-n", space, "link", "set", "eth0", "up"},
			{"-n", space, "link", "set", "lo", "up"},
		} {
			if err := run("ip", args...); err != nil {
				return err
			}
		}
	}
	return nil
}

// Host is the address of broker i.
func (x *Net) Host(i int) string { return fmt.Sprintf("%s%d", x.prefix, 11+i) }

// Command is what runs a program in the network of broker i, and in nothing
// else of its own: "ip netns exec" would give it a copy of all mounts, which
// could not be undone while it runs.
func (x *Net) Command(i int) []string {
	return []string{"nsenter", "--net=/var/run/netns/" + x.spaces[i]}
}

// Cut drops everything that broker i gets from the others (in), or sends to
// them (out), until Heal.
func (x *Net) Cut(i int, others []int, in, out bool) error {
	for _, o := range others {
		if in {
			if err := x.iptables(i, "-A", "INPUT", "-s", x.Host(o), "-j", "DROP"); err != nil {
				return err
			}
		}
		if out {
			if err := x.iptables(i, "-A", "OUTPUT", "-d", x.Host(o), "-j", "DROP"); err != nil {
				return err
			}
		}
	}
	return nil
}

// CutPorts drops what goes between node i and others to or from TCP ports,
// until Heal.
func (x *Net) CutPorts(i int, others []int, ports ...string) error {
	for _, o := range others {
		for _, port := range ports {
			for _, end := range []string{"--dport", "--sport"} {
				for _, way := range [][]string{{"INPUT", "-s"}, {"OUTPUT", "-d"}} {
					if err := x.iptables(i, "-A", way[0], way[1], x.Host(o), "-p", "tcp", end, port, "-j", "DROP"); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// Heal ends all cuts.
func (x *Net) Heal() error {
	var failed error
	for i := range x.spaces {
		failed = errors.Join(failed, x.iptables(i, "-F"))
	}
	return failed
}

func (x *Net) iptables(i int, args ...string) error {
	return run("ip", append([]string{"netns", "exec", x.spaces[i], "iptables", "-w"}, args...)...)
}

// Close takes the networks away, and with the bridge's its way from here. The
// brokers must have ended.
func (x *Net) Close() error {
	var failed error
	for _, s := range x.spaces {
		failed = errors.Join(failed, run("ip", "netns", "del", s))
	}
	if x.way {
		// The kernel empties a namespace some time after its name is gone. Who
		// makes a network next would find the way there still in place.
		failed = errors.Join(failed, run("ip", "link", "del", x.name))
	}
	if x.hub != "" {
		failed = errors.Join(failed, run("ip", "netns", "del", x.hub))
	}
	return failed
}

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
