package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/gregor-broker/gregor/compat-tests/harness"
)

// TestLogDirFailure: brokers have two log directories, and one of a broker's is
// full, or gone when it starts again. That broker goes on with the other one: it
// leads nothing and is in sync with nothing that lay in the failed one, and stays
// in sync with, and in the end leads alone, what lies in the other. With a new
// disk in its place it gets everything again.
func TestLogDirFailure(t *testing.T) {
	long(t)
	if os.Geteuid() != 0 {
		missing(t, &harness.MissingError{What: "disks that fail", Reason: "only root may mount them"})
	}
	onEach(t, func(t *testing.T, name string) {
		withEach(t, func(t *testing.T, client string) {
			for _, role := range []string{"leader", "follower"} {
				for _, bounce := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s_bounce=%t", role, bounce), func(t *testing.T) { failDir(t, name, client, role, bounce) })
				}
			}
		})
	})
}

func failDir(t *testing.T, name, client, role string, bounce bool) {
	layout := apart(3)
	disks := make([][2]string, 3)
	for i := range layout.Brokers {
		for d := range disks[i] {
			disks[i][d] = filepath.Join(home(t), "disk")
			if err := os.Mkdir(disks[i][d], 0o755); err != nil {
				t.Fatal(err)
			}
		}
		mount(t, disks[i][1])
		layout.Brokers[i].More = []string{"log.dirs=" + disks[i][0] + "," + disks[i][1], "min.insync.replicas=1"}
	}
	c := start(t, name, layout)
	topic := c.create(c.spread(6), "min.insync.replicas=1")
	const victim = 1
	bad := c.lyingIn(victim, disks[victim-1][1], topic)
	// One partition of each kind, of which the victim has the role.
	l := c.load(client, topic, loadConfig{})
	leads := func(p int32) bool { return p%3 == victim-1 }
	if !slices.ContainsFunc(bad, func(p int32) bool { return leads(p) == (role == "leader") }) {
		t.Fatalf("broker %d is %s of none of %v, which lie in what fails", victim, role, bad)
	}
	disk := disks[victim-1][1]
	if bounce {
		c.stop(victim)
		unmount(t, disk)
		// A file in the place of a directory is what no broker can use.
		if err := os.Remove(disk); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(disk, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		c.restart(victim)
	} else {
		fill(t, disk)
	}
	isBad := func(p partition) bool { return slices.Contains(bad, p.Partition) }
	c.awaitTopic(topic, fmt.Sprintf("without %d where it lost its log (%v)", victim, bad), func(p partition) bool {
		if isBad(p) {
			return p.Leader > 0 && p.Leader != victim && !slices.Contains(p.ISR, victim) && len(p.ISR) == 2 && slices.Contains(p.OfflineReplicas, victim)
		}
		return len(p.ISR) == 3 && p.Leader > 0
	})
	l.more(20)
	c.await("the directory described as failed", func(ctx context.Context) (bool, error) {
		dirs, err := c.dirs(ctx, victim)
		if err != nil {
			return false, err
		}
		// Kafka leaves out a directory that it did not have when it started.
		failed, there := dirs[disk]
		return !there || failed.Err != nil, nil
	})
	select {
	case <-c.node(victim).Exited():
		t.Fatal("the broker ended")
	default:
	}
	l.end()

	// Alone it leads what it has.
	c.kill(2)
	c.kill(3)
	c.awaitTopic(topic, "led by who is left", func(p partition) bool {
		return isBad(p) || p.Leader == victim
	})
	l.writeBehind(20, func(p int32) bool { return !slices.Contains(bad, p) })

	c.restart(2)
	c.restart(3)
	c.kill(victim) // gregor's status would say that not everything could be flushed
	if bounce {
		if err := os.Remove(disk); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(disk, 0o755); err != nil {
			t.Fatal(err)
		}
	} else {
		unmount(t, disk)
	}
	mount(t, disk)
	if err := c.node(victim).Format(); err != nil {
		t.Fatal(err)
	}
	c.restart(victim)
	c.awaitWhole(topic)
	l.judge(l.stored())
}

// lyingIn are the partitions of a topic that a broker keeps in a directory.
func (c *cluster) lyingIn(id int32, dir, topic string) []int32 {
	c.t.Helper()
	var out []int32
	c.await("where the logs lie", func(ctx context.Context) (bool, error) {
		dirs, err := c.dirs(ctx, id)
		if err != nil {
			return false, err
		}
		n := 0
		out = nil
		dirs.Each(func(d kadm.DescribedLogDir) {
			for p := range d.Topics[topic] {
				n++
				if d.Dir == dir {
					out = append(out, p)
				}
			}
		})
		return n == 6, dirs.Error()
	})
	slices.Sort(out)
	return out
}

const diskMegabytes = 24

// mount puts a small disk in memory at dir, until the test ends.
func mount(t *testing.T, dir string) {
	t.Helper()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%dm", diskMegabytes), "tmpfs", dir).CombinedOutput(); err != nil {
		missing(t, &harness.MissingError{What: "disks that fail", Reason: fmt.Sprintf("%v: %s", err, out)})
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() }) // it may be gone already
}

func unmount(t *testing.T, dir string) {
	t.Helper()
	if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// fill leaves no room on a disk.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk := make([]byte, 64<<10)
	for err == nil {
		_, err = f.Write(chunk)
	}
	for chunk = chunk[:1]; ; { // to the last byte
		if _, err := f.Write(chunk); err != nil {
			return
		}
	}
}
