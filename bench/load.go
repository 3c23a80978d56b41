package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/wire"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	offsetsTopic = "__consumer_offsets"
	// offsetsShards is offsets.topic.num.partitions; loadShard is the one that
	// gets all offsets.
	offsetsShards = 50
	loadShard     = 7
	// loadPartitions is how many offsets each group has.
	loadPartitions = 100
	// loadRounds is how often each is committed: most of what is in the log is
	// out of date before it is compacted.
	loadRounds = 4
	loadTopic  = "loaded"
)

// shardOf is the partition of __consumer_offsets that a group belongs to: the
// hash of a Java string.
func shardOf(group string) int32 {
	var h int32
	for _, c := range []byte(group) {
		h = 31*h + int32(c)
	}
	return (h & 0x7fffffff) % offsetsShards
}

// shardGroups are the names of n groups of one shard.
func shardGroups(shard int32, n int) []string {
	var out []string
	for i := 0; len(out) < n; i++ {
		if g := fmt.Sprintf("load-%d", i); shardOf(g) == shard {
			out = append(out, g)
		}
	}
	return out
}

// loads is what one state of the log costs a starting broker.
type loads struct {
	ready, cpu []float64 // s from exec until the coordinator answers; CPU-s until then
	resident   []float64 // MB then
	logMB      float64   // on disk
}

// The states in which a broker is started.
const (
	loadBare     = "no offset committed"
	loadDirty    = "as committed"
	loadCompacts = "compacted"
)

// loadCoordinator measures how long a broker takes, from its start, until the
// coordinator of a shard with very many committed offsets answers.
func (b *bench) loadCoordinator() error {
	groups := shardGroups(loadShard, max(b.offsets/loadPartitions, 1))
	b.logf("scenario 10.3: load of %d offsets of %d groups, each committed %d times", len(groups)*loadPartitions, len(groups), loadRounds)
	defer b.alone(nil)()
	var pair []*subject
	for _, s := range b.brokers() {
		own, err := b.tools.prepare(s.name, b.dir, b.loadSettings()...)
		if err != nil {
			return err
		}
		defer own.stop()
		if err := own.start(); err != nil {
			return err
		}
		if err := own.createTopic(loadTopic, loadPartitions); err != nil {
			return err
		}
		if err := own.awaitCoordinator(groupCoordinator, groups[0]); err != nil {
			return err
		}
		if err := own.broker.Stop(); err != nil {
			return err
		}
		pair = append(pair, own)
	}
	states := []string{loadBare, loadDirty, loadCompacts}
	rows := map[string]map[string]*loads{}
	for _, state := range states {
		rows[state] = map[string]*loads{}
		for _, s := range pair {
			if err := b.bringTo(s, state, groups); err != nil {
				return fmt.Errorf("%s, %s: %w", s.name, state, err)
			}
			rows[state][s.name] = &loads{logMB: float64(s.offsetsLogSize()) / 1e6}
		}
		for range b.fewReps() {
			for _, s := range pair {
				if err := s.loadOnce(groups[len(groups)-1], state != loadBare, rows[state][s.name]); err != nil {
					return fmt.Errorf("%s, %s: %w", s.name, state, err)
				}
				l := rows[state][s.name]
				n := len(l.ready) - 1
				b.logf("  %-8s %-20s %.0f MB of log: ready after %.2f s and %.2f CPU-s, %.0f MB resident", s.name, state, l.logMB, l.ready[n], l.cpu[n], l.resident[n])
			}
		}
	}
	b.report.loads(fmt.Sprintf("10.3 Start with %d committed offsets in one shard (%d groups of %d partitions, each committed %d times)",
		len(groups)*loadPartitions, len(groups), loadPartitions, loadRounds), states, names(pair), rows)
	return nil
}

// loadSettings keep the cleaner away until it is asked for. Small runs need
// small segments, as the active one is never cleaned.
func (b *bench) loadSettings() []string {
	settings := []string{"log.cleaner.backoff.ms=500", "log.cleaner.min.compaction.lag.ms=86400000"}
	if b.offsets < 1_000_000 {
		settings = append(settings, "offsets.topic.segment.bytes=1048576")
	}
	return settings
}

// bringTo starts the broker, brings its log of offsets to a state, and stops it.
func (b *bench) bringTo(s *subject, state string, groups []string) error {
	if state == loadBare {
		return nil // as it is
	}
	if err := s.start(); err != nil {
		return err
	}
	if err := s.awaitCoordinator(groupCoordinator, groups[0]); err != nil {
		return err
	}
	do := func() error { return s.commitAll(groups) }
	if state == loadCompacts {
		do = s.compactOffsets
	}
	if err := do(); err != nil {
		return err
	}
	return s.broker.Stop()
}

// commitAll commits all offsets of all groups again and again.
func (s *subject) commitAll(groups []string) error {
	if err := s.awaitGroup(groups[0]); err != nil {
		return err
	}
	c := &committers{s: s}
	for i, g := range groups {
		m := &member{group: g, topic: loadTopic, partitions: loadPartitions, epoch: -1}
		c.frames = append(c.frames, encode(m.commitRequest(), int32(i)))
	}
	if err := c.dial(dialRaw); err != nil {
		return err
	}
	defer c.close()
	return c.flood(loadRounds * len(groups))
}

// compactOffsets lets the cleaner work and waits until it has.
func (s *subject) compactOffsets() error {
	before := s.offsetsLogSize()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Version = 1
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, offsetsTopic
	for _, kv := range [][2]string{{"min.compaction.lag.ms", "0"}, {"min.cleanable.dirty.ratio", "0.01"}} {
		c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		c.Name, c.Value = kv[0], kmsg.StringPtr(kv[1])
		r.Configs = append(r.Configs, c)
	}
	req.Resources = append(req.Resources, r)
	resp, err := s.do(req)
	if err != nil {
		return err
	}
	if err := failed("IncrementalAlterConfigs", resp.(*kmsg.IncrementalAlterConfigsResponse).Resources[0].ErrorCode); err != nil {
		return err
	}
	const still = 4 * time.Second // beyond the delay with which segments are deleted
	last, since := before, time.Now()
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if now := s.offsetsLogSize(); now != last {
			last, since = now, time.Now()
		}
		if last < before*3/4 && time.Since(since) > still {
			return nil
		}
	}
	return fmt.Errorf("the log of %d bytes is not compacted, but %d", before, last)
}

func (s *subject) offsetsLogSize() int64 {
	files, _ := filepath.Glob(filepath.Join(s.broker.DataDir, fmt.Sprintf("%s-%d", offsetsTopic, loadShard), "*.log*"))
	var n int64
	for _, f := range files {
		n += diskSize(f)
	}
	return n
}

// loadOnce starts the broker, waits for its answer, and stops it.
func (s *subject) loadOnce(group string, committed bool, out *loads) error {
	want := int64(-1)
	if committed {
		want = commitOffset
	}
	start := time.Now()
	if err := s.launch(); err != nil {
		return err
	}
	c, err := s.connect()
	if err != nil {
		return err
	}
	_ = c.Close()
	got, err := s.fetchOffset(group)
	took := time.Since(start)
	if err != nil || got != want {
		return fmt.Errorf("offset %d is committed, not %d; %w", got, want, err)
	}
	cpu, err := processCPU(s.pid)
	if err != nil {
		return err
	}
	resident, _, err := memory(s.pid)
	if err != nil {
		return err
	}
	out.ready, out.cpu = append(out.ready, took.Seconds()), append(out.cpu, cpu.Seconds())
	out.resident = append(out.resident, float64(resident)/1e6)
	if err := s.broker.AwaitReady(); err != nil {
		return err
	}
	return s.broker.Stop()
}

// awaitGroup returns once the group's coordinator answers.
func (s *subject) awaitGroup(group string) error {
	_, err := s.fetchOffset(group)
	return err
}

// fetchOffset returns the offset that a group has committed for the last of its
// partitions, as soon as its coordinator answers.
func (s *subject) fetchOffset(group string) (offset int64, err error) {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version = 9
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = group
	t := kmsg.NewOffsetFetchRequestGroupTopic()
	t.Topic, t.Partitions = loadTopic, []int32{loadPartitions - 1}
	g.Topics = append(g.Topics, t)
	req.Groups = append(req.Groups, g)
	err = s.patiently(func(c *wire.Conn) (int16, error) {
		r, err := c.Do(req)
		if err != nil {
			return 0, err
		}
		resp := r.(*kmsg.OffsetFetchResponse).Groups[0]
		if resp.ErrorCode != 0 {
			return resp.ErrorCode, nil
		}
		offset = resp.Topics[0].Partitions[0].Offset
		return 0, nil
	})
	return offset, err
}
