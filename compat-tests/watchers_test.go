package compat

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// watched is what there is to see of a broker by those who watch groups from
// outside. The script of watchGroups keeps it up to date.
type watched struct {
	starts, ends map[string][]int64 // the offsets of each topic's partitions
	groups       map[string]*watchedGroup
}

// watchedGroup is a group as it should be seen.
type watchedGroup struct {
	classic bool // it is or was led by the classic protocol's members
	simple  bool // it never had a member
	member  bool // it has a member now
	offsets map[string]map[int32]int64
	commits int // how many offsets were ever committed
}

func (w *watched) committed(group, topic string, offsets ...int64) {
	g := w.groups[group]
	if g.offsets[topic] == nil {
		g.offsets[topic] = map[int32]int64{}
	}
	for partition, at := range offsets {
		g.offsets[topic][int32(partition)] = at
	}
	g.commits += len(offsets)
}

// lag is how far a group is behind in a partition.
func (w *watched) lag(group, topic string, partition int32) int64 {
	return w.ends[topic][partition] - w.groups[group].offsets[topic][partition]
}

// Groups of every kind, and what happens to them, one after the other.
const (
	atRest     = "when watching begins"
	behind     = "after more records"
	caughtUp   = "after more commits"
	moved      = "after offsets in a transaction"
	topicGone  = "after a topic was deleted"
	membersOut = "after the members left"
	groupsGone = "after the groups were deleted"
)

// watchGroups leads groups of every kind through their lives. Between the steps
// it lets see look whether those whom start has started see what they must.
func watchGroups(t *testing.T, b *harness.Broker, start func(), see func(stage string, w *watched)) {
	t.Helper()
	f := franz(t, b)
	for topic, partitions := range map[string]int{"watched": 2, "gone": 1} {
		if _, err := f.Do("create", topic, fmt.Sprint(partitions), "1", "-"); err != nil {
			t.Fatal(err)
		}
		settle(t, b, topic, partitions)
	}
	produce := func(topic string, records ...int) {
		t.Helper()
		var recs []harness.Record
		for partition, n := range records {
			for range n {
				recs = append(recs, harness.Record{Topic: topic, Partition: int32(partition), Timestamp: -1, Value: []byte("v")})
			}
		}
		if _, err := harness.Produce(f, t.TempDir(), recs, "-"); err != nil {
			t.Fatal(err)
		}
	}
	commit := func(group, topic string, offsets ...int64) {
		t.Helper()
		var all kadm.Offsets
		for partition, at := range offsets {
			all.AddOffset(topic, int32(partition), at, -1)
		}
		if err := f.Admin().CommitAllOffsets(t.Context(), group, all); err != nil {
			t.Fatal(err)
		}
	}
	must := func(_ [][]string, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	w := &watched{
		starts: map[string][]int64{"watched": {0, 0}, "gone": {0}},
		ends:   map[string][]int64{"watched": {10, 10}, "gone": {3}},
		groups: map[string]*watchedGroup{
			"classic":  {classic: true, member: true, offsets: map[string]map[int32]int64{}},
			"consumer": {member: true, offsets: map[string]map[int32]int64{}},
			"idle":     {classic: true, simple: true, offsets: map[string]map[int32]int64{}},
		},
	}
	produce("watched", 10, 10)
	produce("gone", 3)
	classic := liveGroup(t, b, "watched", "classic", kgo.Balancers(kgo.RangeBalancer()))
	consumer := liveGroup(t, b, "watched", "consumer", kgo.ServerSideBalancer(), kgo.Balancers(kgo.RangeBalancer()))
	commit("idle", "watched", 4, 6)
	commit("idle", "gone", 1)
	w.committed("classic", "watched", 10, 10)
	w.committed("consumer", "watched", 10, 10)
	w.committed("idle", "watched", 4, 6)
	w.committed("idle", "gone", 1)
	start()
	see(atRest, w)

	produce("watched", 3, 5)
	must(f.Do("deleterecords", "watched", "0", "2"))
	w.starts["watched"], w.ends["watched"] = []int64{2, 0}, []int64{13, 15}
	see(behind, w)

	consumeAndCommit(t, classic, 8)
	consumeAndCommit(t, consumer, 8)
	commit("idle", "watched", 13, 14)
	w.committed("classic", "watched", 13, 15)
	w.committed("consumer", "watched", 13, 15)
	w.committed("idle", "watched", 13, 14)
	see(caughtUp, w)

	mover := moveOffsets(t, b, "watched", "mover", 11+15)
	w.groups["mover"] = &watchedGroup{classic: true, member: true, offsets: map[string]map[int32]int64{}}
	w.committed("mover", "watched", 13, 15)
	see(moved, w)

	must(f.Do("delete", "gone"))
	delete(w.ends, "gone")
	delete(w.groups["idle"].offsets, "gone")
	w.groups["idle"].commits--
	see(topicGone, w)

	classic.Close()
	consumer.Close()
	mover.Close()
	for _, g := range w.groups {
		g.member = false
	}
	see(membersOut, w)

	deleted, err := f.Admin().DeleteGroups(t.Context(), slices.Collect(maps.Keys(w.groups))...)
	if err == nil {
		err = deleted.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	clear(w.groups)
	see(groupsGone, w)
}

// moveOffsets commits what a new group has consumed of a topic in a transaction.
func moveOffsets(t *testing.T, b *harness.Broker, topic, group string, records int) *kgo.GroupTransactSession {
	t.Helper()
	s, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(b.Addr), kgo.TransactionalID(group), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.Balancers(kgo.RangeBalancer()), kgo.ClientID("live"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	for n := 0; n < records; {
		fs := s.PollFetches(t.Context())
		if err := fs.Err(); err != nil {
			t.Fatal(err)
		}
		n += fs.NumRecords()
	}
	if err := s.Begin(); err != nil {
		t.Fatal(err)
	}
	if committed, err := s.End(t.Context(), kgo.TryCommit); err != nil || !committed {
		t.Fatalf("committed %v: %v", committed, err)
	}
	return s
}

// watcher is a program that watches a broker and tells over HTTP what it sees.
type watcher struct {
	name, addr string
	log        string // the file it prints to
	exited     chan struct{}
}

// startWatcher starts a program that is going to listen on addr. It is gone when
// the test ends.
func startWatcher(t *testing.T, name, addr string, cmd *exec.Cmd) *watcher {
	t.Helper()
	if cmd.Dir == "" {
		cmd.Dir = t.TempDir()
	}
	w := &watcher{name: name, addr: addr, log: filepath.Join(cmd.Dir, "printed.log"), exited: make(chan struct{})}
	out, err := os.Create(w.log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(w.exited)
		_ = cmd.Wait() // it is killed in the end
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be gone
		<-w.exited
	})
	return w
}

// watcherAddr is an address for a watcher to listen on.
func watcherAddr(t *testing.T) string {
	t.Helper()
	port, err := harness.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// get asks a watcher.
func (w *watcher) get(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.addr+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// await asks until a watcher sees what it must, line by line in any order.
func (w *watcher) await(t *testing.T, stage string, want []string, look func(ctx context.Context) ([]string, error)) {
	t.Helper()
	slices.Sort(want)
	var got []string
	w.until(t, func(ctx context.Context) error {
		var err error
		if got, err = look(ctx); err != nil {
			return err
		}
		slices.Sort(got)
		if slices.Equal(got, want) {
			return nil
		}
		return fmt.Errorf("%s\n%s", stage, difference(got, want))
	})
}

// until asks until there is nothing wrong any more, for as long as what is wrong
// changes.
func (w *watcher) until(t *testing.T, wrong func(ctx context.Context) error) {
	t.Helper()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for waiting := newPatience(); ; {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		err := wrong(ctx)
		cancel()
		if err == nil {
			return
		}
		if !waiting.over(err.Error()) {
			select {
			case <-again.C:
				continue
			case <-w.exited:
			}
		}
		printed, _ := os.ReadFile(w.log)
		t.Fatalf("%s: after %.0f s: %v\nit printed\n%s", w.name, waiting.took(), err, printed[max(0, len(printed)-4000):])
	}
}

// difference shows what is only in one of two lists.
func difference(got, want []string) string {
	var out strings.Builder
	for _, line := range want {
		if !slices.Contains(got, line) {
			fmt.Fprintln(&out, "missing:", line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			fmt.Fprintln(&out, "instead:", line)
		}
	}
	return out.String()
}
