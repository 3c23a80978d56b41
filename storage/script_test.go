package storage

import (
	"bytes"
	"fmt"
	"math"
	"path"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// TestScripts runs the texts in testdata. Commands:
//
//	config key=value ...      sets the log's configuration; before or after open
//	open                      opens (or, after close or kill, opens again) the log t-0; the time is 0 at first
//	append [n=] [count=] [size=] [ts=] [pid= seq= epoch= txn] [leader=]
//	                          appends n batches of count records; ts is relative to now. Sets the high watermark
//	                          to the end, unless nohw
//	marker pid= commit|abort  ends a transaction
//	replicate at=             appends a batch of three records at an offset, as a follower
//	hw N, delete-records N, truncate N, reset N, flush, close, kill
//	advance D                 lets D go by and does what is due
//	segments, files [all], read from= [max=] [upto=], offset-for T, epochs, aborted from= upto=
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, file string) {
		s := &script{t: t, fs: vfs.NewMem(), cfg: DefaultLogConfig(), now: time.UnixMilli(0)}
		datadriven.RunTest(t, file, s.run)
	})
}

type script struct {
	t   *testing.T
	fs  *vfs.Mem
	m   *Manager
	l   *Log
	cfg LogConfig
	now time.Time
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	out, err := s.command(d)
	if err != nil {
		return out + "error: " + err.Error() + "\n"
	}
	if out == "" {
		return s.state()
	}
	return out
}

func (s *script) state() string {
	if s.l == nil {
		return "closed\n"
	}
	state := fmt.Sprintf("[%d, %d) hw=%d lso=%d segments=%d\n", s.l.LogStartOffset(), s.l.LogEndOffset(), s.l.HighWatermark(), s.l.LastStableOffset(), s.l.Segments())
	return state
}

func (s *script) command(d *datadriven.TestData) (string, error) {
	switch d.Cmd {
	case "config":
		return "ok\n", s.config(d)
	case "open":
		return "", s.open()
	case "append":
		return "", s.append(d)
	case "marker":
		return "", s.marker(d)
	case "replicate":
		at := arg(d, "at", 0)
		b := protocol.AppendBatch(nil, protocol.BatchParams{BaseOffset: at, BaseTimestamp: s.now.UnixMilli()}, three())
		return "", second(s.l.AppendAsFollower(b, math.MaxInt32))
	case "hw":
		s.l.SetHighWatermark(number(d))
	case "delete-records":
		return "", s.l.SetLogStartOffset(number(d))
	case "truncate":
		return "", s.l.TruncateTo(number(d))
	case "reset":
		return "", s.l.TruncateFullyAndStartAt(number(d))
	case "flush":
		err := s.l.Flush()
		return fmt.Sprintf("recovery point %d\n", s.l.RecoveryPoint()), err
	case "close":
		err := s.m.Close(s.t.Context())
		s.l = nil
		return "", err
	case "kill":
		s.fs, s.l = s.fs.KillClone(), nil
	case "delete-topic":
		return "ok\n", s.m.DeleteLog(TopicPartition{"t", 0})
	case "advance":
		by, err := time.ParseDuration(d.CmdArgs[0].Key)
		s.now = s.now.Add(by)
		s.m.Tick(s.now)
		return "", err
	default:
		return s.query(d)
	}
	return "", nil
}

// arg is the value of key=value, or def.
func arg(d *datadriven.TestData, key string, def int64) int64 {
	for _, a := range d.CmdArgs {
		if a.Key == key && len(a.Vals) == 1 {
			n, err := strconv.ParseInt(a.Vals[0], 10, 64)
			if err != nil {
				panic(err)
			}
			return n
		}
	}
	return def
}

func number(d *datadriven.TestData) int64 {
	n, err := strconv.ParseInt(d.CmdArgs[0].Key, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

func (s *script) config(d *datadriven.TestData) error {
	for _, a := range d.CmdArgs {
		n, _ := strconv.ParseInt(a.Vals[0], 10, 64)
		switch a.Key {
		case "segment.bytes":
			s.cfg.SegmentBytes = n
		case "segment.ms":
			s.cfg.SegmentMs = n
		case "segment.index.bytes":
			s.cfg.SegmentIndexBytes = int32(n)
		case "index.interval.bytes":
			s.cfg.IndexIntervalBytes = int32(n)
		case "retention.ms":
			s.cfg.RetentionMs = n
		case "retention.bytes":
			s.cfg.RetentionBytes = n
		case "file.delete.delay.ms":
			s.cfg.FileDeleteDelayMs = n
		case "flush.messages":
			s.cfg.FlushMessages = n
		case "flush.ms":
			s.cfg.FlushMs = n
		case "cleanup.policy":
			s.cfg.Compact, s.cfg.Delete = strings.Contains(a.Vals[0], "compact"), strings.Contains(a.Vals[0], "delete")
		default:
			return fmt.Errorf("no key %s", a.Key)
		}
	}
	if s.l != nil {
		s.l.SetConfig(s.cfg)
	}
	return nil
}

func (s *script) open() (err error) {
	s.m, err = Open(Options{FS: s.fs, Dirs: []string{"d"}, Defaults: s.cfg, Now: func() time.Time { return s.now }})
	if err != nil {
		return err
	}
	s.l, err = s.m.CreateLog(TopicPartition{"t", 0}, TopicID{1}, s.cfg)
	return err
}

func (s *script) append(d *datadriven.TestData) error {
	n, count, size, ts, leader := arg(d, "n", 1), arg(d, "count", 1), arg(d, "size", 10), arg(d, "ts", 0), arg(d, "leader", 0)
	pid, seq, epoch := arg(d, "pid", -1), int32(arg(d, "seq", 0)), int16(arg(d, "epoch", 0))
	for range n {
		records := make([]protocol.Record, count)
		for i := range records {
			records[i] = protocol.Record{OffsetDelta: int32(i), Value: bytes.Repeat([]byte("x"), int(size))}
		}
		p := protocol.BatchParams{BaseTimestamp: s.now.UnixMilli() + ts, Transactional: d.HasArg("txn")}
		if pid >= 0 {
			p.Producer = &protocol.Producer{ID: pid, Epoch: epoch, BaseSequence: seq}
			seq += int32(count)
		}
		if _, err := s.l.AppendAsLeader(protocol.AppendBatch(nil, p, records), AppendOptions{LeaderEpoch: int32(leader), Version: 9, Now: s.now}); err != nil {
			return err
		}
	}
	if !d.HasArg("nohw") {
		s.l.SetHighWatermark(s.l.LogEndOffset())
	}
	return nil
}

func (s *script) marker(d *datadriven.TestData) error {
	pid, coordinator := arg(d, "pid", -1), arg(d, "coordinator", 0)
	kind := protocol.ControlCommit
	if d.HasArg("abort") {
		kind = protocol.ControlAbort
	}
	b := protocol.AppendControlBatch(nil, protocol.ControlParams{TimestampMs: s.now.UnixMilli(), ProducerID: pid, CoordinatorEpoch: int32(coordinator), Type: kind})
	return second(s.l.AppendAsLeader(b, AppendOptions{Origin: Coordinator, Now: s.now}))
}

func (s *script) query(d *datadriven.TestData) (string, error) {
	var out strings.Builder
	switch d.Cmd {
	case "segments":
		for _, seg := range *s.l.segs.Load() {
			fmt.Fprintf(&out, "%d: %d bytes\n", seg.base, seg.size.Load())
		}
	case "files":
		s.m.AwaitIdle()
		s.list(&out, "d", d.HasArg("all"))
	case "read":
		from, upTo, limit := arg(d, "from", 0), arg(d, "upto", s.l.HighWatermark()), arg(d, "max", 1<<20)
		return s.read(from, upTo, int(limit), !d.HasArg("partial"))
	case "offset-for":
		got, ok, err := s.l.OffsetForTimestamp(number(d), s.l.HighWatermark())
		return fmt.Sprintf("%v offset %d at %d\n", ok, got.Offset, got.Timestamp), err
	case "max-timestamp":
		got, ok, err := s.l.MaxTimestampOffset()
		return fmt.Sprintf("%v offset %d at %d\n", ok, got.Offset, got.Timestamp), err
	case "epochs":
		fmt.Fprintln(&out, s.l.EpochEntries())
	case "epoch-end":
		epoch, end := s.l.EndOffsetForEpoch(int32(number(d)))
		fmt.Fprintf(&out, "epoch %d ends at %d\n", epoch, end)
	case "producers":
		for _, p := range s.l.ActiveProducers() {
			fmt.Fprintf(&out, "%d: epoch %d, last sequence %d at offset %d, transaction since %d\n", p.ProducerID, p.ProducerEpoch, p.LastSequence, p.LastOffset, p.TxnStartOffset)
		}
		fmt.Fprintln(&out, "-")
	case "aborted":
		got, err := s.l.AbortedTxns(arg(d, "from", 0), arg(d, "upto", 0))
		return fmt.Sprintln(got), err
	default:
		return "", fmt.Errorf("no command %s", d.Cmd)
	}
	return out.String(), nil
}

func (s *script) list(out *strings.Builder, dir string, all bool) {
	infos, err := s.fs.List(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, in := range infos {
		name := path.Join(dir, in.Name)
		if in.Dir {
			if i := strings.Index(in.Name, "."); i > 0 { // of a deleted topic: the rest differs
				fmt.Fprintf(out, "d/%s.*%s\n", in.Name[:i], deleteDirSuffix)
				continue
			}
			s.list(out, name, all)
			continue
		}
		if all || dir != "d" && !strings.HasSuffix(in.Name, "metadata") && !strings.HasSuffix(in.Name, "checkpoint") {
			fmt.Fprintf(out, "%s %d\n", name, in.Size)
		}
	}
	if out.Len() == 0 {
		out.WriteString("none\n")
	}
}

func (s *script) read(from, upTo int64, limit int, whole bool) (string, error) {
	slice, err := s.l.Read(from, limit, upTo, whole)
	if err != nil {
		return "", err
	}
	defer slice.Release()
	data, err := slice.AppendTo(nil)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for len(data) > 0 {
		b, rest, err := protocol.NextBatch(data)
		if err != nil {
			fmt.Fprintf(&out, "%d bytes of a batch\n", len(data))
			break
		}
		fmt.Fprintf(&out, "%d-%d\n", b.BaseOffset(), b.LastOffset())
		data = rest
	}
	fmt.Fprintf(&out, "up to %d\n", slice.UpTo)
	return out.String(), nil
}
