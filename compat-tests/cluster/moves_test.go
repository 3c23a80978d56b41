package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestMoveBetweenLogDirs: kafka-reassign-partitions.sh moves replicas from one log
// directory of their brokers to another (log_dirs in its JSON) while they are written
// and read: leaders and followers, together with a reassignment, and throttled.
func TestMoveBetweenLogDirs(t *testing.T) {
	onEach(t, func(t *testing.T, name string) {
		layout := apart(3)
		disks := make([][2]string, 3)
		for i := range layout.Brokers {
			for d := range disks[i] {
				disks[i][d] = filepath.Join(home(t), "disk")
				if err := os.Mkdir(disks[i][d], 0o755); err != nil {
					t.Fatal(err)
				}
			}
			layout.Brokers[i].More = []string{"log.dirs=" + disks[i][0] + "," + disks[i][1], "min.insync.replicas=1"}
		}
		c := start(t, name, layout)
		topic := c.create([][]int32{{1, 2}, {2, 1}}, "min.insync.replicas=1", "segment.bytes=1048576")
		l := c.load("franz-go", topic, loadConfig{})
		l.more(20)
		// lies says where a replica is, and where to if it moves.
		lies := func(id, partition int32) (dir, future string) {
			c.await("where the logs lie", func(ctx context.Context) (bool, error) {
				dirs, err := c.dirs(ctx, id)
				if err != nil {
					return false, err
				}
				dir, future = "", ""
				dirs.Each(func(d kadm.DescribedLogDir) {
					if p, ok := d.Topics[topic][partition]; ok && p.IsFuture {
						future = d.Dir
					} else if ok {
						dir = d.Dir
					}
				})
				return true, dirs.Error()
			})
			return dir, future
		}
		other := func(id int32, dir string) string {
			if dir == disks[id-1][0] {
				return disks[id-1][1]
			}
			return disks[id-1][0]
		}
		verified := func(plan, want string) {
			t.Helper()
			c.await("--verify to say "+want, func(context.Context) (bool, error) {
				out := c.reassignTool(plan, "--verify", "--preserve-throttles")
				if !strings.Contains(out, want) {
					return false, fmt.Errorf("it says:\n%s", out)
				}
				return true, nil
			})
		}

		// One replica moves, the other stays.
		from, _ := lies(1, 0)
		to := other(1, from)
		plan := fmt.Sprintf(`{"version":1,"partitions":[{"topic":%q,"partition":0,"replicas":[1,2],"log_dirs":[%q,"any"]}]}`, topic, to)
		out := c.reassignTool(plan, "--execute")
		if want := fmt.Sprintf("Successfully started moving log directory to %s for replica %s-0 with broker 1", to, topic); !strings.Contains(out, want) {
			t.Errorf("--execute says\n%s\nand not: %s", out, want)
		}
		verified(plan, fmt.Sprintf("Reassignment of replica %s-0-1 completed successfully.", topic))
		if dir, future := lies(1, 0); dir != to || future != "" {
			t.Errorf("lies in %s, moves to %q, should be in %s", dir, future, to)
		}
		l.more(20)

		// A replica that is made because of the same plan is made where it shall be.
		plan = fmt.Sprintf(`{"version":1,"partitions":[{"topic":%q,"partition":1,"replicas":[2,3],"log_dirs":["any",%q]}]}`, topic, disks[2][1])
		c.reassignTool(plan, "--execute")
		verified(plan, fmt.Sprintf("Reassignment of replica %s-1-3 completed successfully.", topic))
		if dir, _ := lies(3, 1); dir != disks[2][1] {
			t.Errorf("was made in %s", dir)
		}

		l.more(20)
		l.end()
		l.judge(l.stored())

		// Throttled it takes its time, and can be cancelled.
		topic = c.create([][]int32{{1, 2}})
		cl := c.client(kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.DefaultProduceTopic(topic))
		for range 80 {
			if err := cl.ProduceSync(t.Context(), kgo.SliceRecord(make([]byte, 64<<10))).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		from, _ = lies(1, 0)
		to = other(1, from)
		plan = fmt.Sprintf(`{"version":1,"partitions":[{"topic":%q,"partition":0,"replicas":[1,2],"log_dirs":[%q,"any"]}]}`, topic, to)
		c.reassignTool(plan, "--execute", "--replica-alter-log-dirs-throttle", "1")
		if dir, future := lies(1, 0); dir != from || future != to {
			t.Errorf("lies in %s, moves to %q, should move from %s to %s", dir, future, from, to)
		}
		verified(plan, fmt.Sprintf("Reassignment of replica %s-0-1 is still in progress.", topic))
		t.Log(c.reassignTool(plan, "--cancel"))
		if dir, future := lies(1, 0); dir != from || future != "" {
			t.Errorf("after --cancel: lies in %s, moves to %q, should stay in %s", dir, future, from)
		}
		c.reassignTool(plan, "--execute", "--replica-alter-log-dirs-throttle", "100000000")
		verified(plan, fmt.Sprintf("Reassignment of replica %s-0-1 completed successfully.", topic))
		out = c.reassignTool(plan, "--verify")
		if !strings.Contains(out, "Clearing broker-level throttles") {
			t.Errorf("--verify says\n%s", out)
		}
	})
}
