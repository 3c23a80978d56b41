package replication

import (
	"errors"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/storage"
	"pgregory.net/rapid"
)

func TestMaximalISRCountsBothSets(t *testing.T) {
	for _, c := range []struct {
		name string
		isr  ISR
		want []int32
	}{
		{"no change in flight", ISR{Committed: []int32{1, 2}}, []int32{1, 2}},
		{"an expansion already counts", ISR{Committed: []int32{1, 2}, Proposed: []int32{1, 2, 3}}, []int32{1, 2, 3}},
		{"a shrink still counts the one removed", ISR{Committed: []int32{1, 2, 3}, Proposed: []int32{1, 3}}, []int32{1, 2, 3}},
		{"both at once", ISR{Committed: []int32{1, 2}, Proposed: []int32{1, 3}}, []int32{1, 2, 3}},
	} {
		if got := c.isr.Maximal(); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		for id := int32(1); id <= 4; id++ {
			if got := c.isr.InMaximal(id); got != slices.Contains(c.want, id) {
				t.Errorf("%s: InMaximal(%d) = %v", c.name, id, got)
			}
		}
	}
}

func TestUnderMinCountsOnlyCommittedMembers(t *testing.T) {
	isr := ISR{Committed: []int32{1}, Proposed: []int32{1, 2}}
	if !isr.UnderMin(2, 3) {
		t.Error("a proposed member must not satisfy min.insync.replicas")
	}
	if isr.UnderMin(2, 1) {
		t.Error("min.insync.replicas is bounded by the number of replicas")
	}
}

// in is a follower that is in sync as of now 1000 with the given log end.
func in(id int32, logEnd int64) Replica {
	return Replica{ID: id, LogEnd: logEnd, LogStart: 0, LeaderEpoch: 5, BrokerEpoch: 7, CaughtUpMs: 1000, LastFetchMs: 1000}
}

// behind is a follower that last caught up long ago.
func behind(id int32, logEnd int64) Replica {
	r := in(id, logEnd)
	r.CaughtUpMs = -1_000_000
	return r
}

func TestWatermark(t *testing.T) {
	base := Progress{Leader: 1, LogEnd: 100, Current: 50, ISR: ISR{Committed: []int32{1, 2, 3}}, MinISR: 2, NowMs: 1000, MaxLagMs: 10}
	for _, c := range []struct {
		name string
		edit func(*Progress)
		want int64
	}{
		{"the slowest member decides", func(p *Progress) { p.Followers = []Replica{in(2, 90), in(3, 80)} }, 80},
		{"a member never heard of holds it", func(p *Progress) { p.Followers = []Replica{in(2, 90), NewReplica(3, true, 1000)} }, 50},
		{"it never falls", func(p *Progress) { p.Followers = []Replica{in(2, 90), in(3, 40)} }, 50},
		{"a follower outside that is far behind is not waited for", func(p *Progress) {
			p.ISR.Committed = []int32{1, 2}
			p.Followers = []Replica{in(2, 90), behind(3, 60)}
		}, 90},
		{"one that caught up and may join is waited for", func(p *Progress) {
			p.ISR.Committed = []int32{1, 2}
			p.Followers = []Replica{in(2, 90), in(3, 85)}
		}, 85},
		{"KAFKA-15021: one that caught up but is fenced is not", func(p *Progress) {
			p.ISR.Committed = []int32{1, 2}
			p.Followers = []Replica{in(2, 90), in(3, 85)}
			p.Eligible = func(id int32) bool { return id != 3 }
		}, 90},
		{"a fenced member still counts until the set is changed", func(p *Progress) {
			p.Followers = []Replica{in(2, 90), behind(3, 60)}
			p.Eligible = func(id int32) bool { return id != 3 }
		}, 60},
		{"KIP-966: frozen while the committed set is too small", func(p *Progress) {
			p.ISR.Committed = []int32{1}
			p.Followers = []Replica{behind(2, 100), behind(3, 60)}
		}, 50},
		{"a proposed member does not thaw it", func(p *Progress) {
			p.ISR = ISR{Committed: []int32{1}, Proposed: []int32{1, 2}}
			p.Followers = []Replica{in(2, 100), behind(3, 60)}
		}, 50},
		{"KIP-497: a member on its way in holds it", func(p *Progress) {
			p.ISR = ISR{Committed: []int32{1, 2}, Proposed: []int32{1, 2, 3}}
			p.Followers = []Replica{in(2, 100), behind(3, 60)}
		}, 60},
		{"KIP-497: a member on its way out still does", func(p *Progress) {
			p.ISR = ISR{Committed: []int32{1, 2, 3}, Proposed: []int32{1, 2}}
			p.Followers = []Replica{in(2, 100), behind(3, 60)}
		}, 60},
		{"alone it is the log end", func(p *Progress) {
			p.ISR.Committed = []int32{1}
		}, 100},
	} {
		p := base
		c.edit(&p)
		if got := Watermark(p); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// No committed record is missing on a member of the maximal set, and the
// watermark is monotone, whatever the state.
func TestWatermarkIsSafe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		offset := rapid.Int64Range(-1, 20)
		subset := func(name string) []int32 {
			s := []int32{1}
			for id := int32(2); id <= 4; id++ {
				if rapid.Bool().Draw(t, name) {
					s = append(s, id)
				}
			}
			return s
		}
		p := Progress{
			Leader: 1, LogEnd: 20, Current: rapid.Int64Range(0, 20).Draw(t, "current"),
			ISR: ISR{Committed: subset("isr")}, MinISR: rapid.Int32Range(1, 4).Draw(t, "min"), NowMs: 1000, MaxLagMs: 10,
		}
		if rapid.Bool().Draw(t, "in flight") {
			p.ISR.Proposed = subset("proposed")
		}
		for id := int32(2); id <= 4; id++ {
			r := in(id, offset.Draw(t, "end"))
			r.CaughtUpMs = rapid.SampledFrom([]int64{0, 1000}).Draw(t, "caught up")
			p.Followers = append(p.Followers, r)
		}
		mark := Watermark(p)
		if mark < p.Current || mark > p.LogEnd {
			t.Fatalf("%d is outside [%d, %d]", mark, p.Current, p.LogEnd)
		}
		if mark == p.Current {
			return
		}
		if len(p.ISR.Committed) < int(p.MinISR) {
			t.Fatalf("moved to %d with %v in sync, %d required", mark, p.ISR.Committed, p.MinISR)
		}
		for _, r := range p.Followers {
			if p.ISR.InMaximal(r.ID) && r.LogEnd < mark {
				t.Fatalf("moved to %d, member %d has %d", mark, r.ID, r.LogEnd)
			}
		}
	})
}

func TestMayJoin(t *testing.T) {
	l := Leadership{Epoch: 5, EpochStart: 80, HighWatermark: 60}
	good := in(2, 80)
	if !good.MayJoin(l, 7, true) {
		t.Fatal("a complete follower may join")
	}
	for name, c := range map[string]struct {
		edit     func(*Replica, *Leadership)
		epoch    int64
		eligible bool
	}{
		"fenced or shutting down (KIP-841)":        {func(*Replica, *Leadership) {}, 7, false},
		"fetched in an older epoch":                {func(r *Replica, _ *Leadership) { r.LeaderEpoch = 4 }, 7, true},
		"below the watermark":                      {func(_ *Replica, l *Leadership) { l.HighWatermark = 81 }, 7, true},
		"at the watermark, below the epoch start":  {func(r *Replica, _ *Leadership) { r.LogEnd = 79 }, 7, true},
		"never fetched":                            {func(r *Replica, _ *Leadership) { *r = NewReplica(2, false, 1000) }, 7, true},
		"another incarnation registered (KIP-903)": {func(*Replica, *Leadership) {}, 8, true},
	} {
		r, l := good, l
		c.edit(&r, &l)
		if r.MayJoin(l, c.epoch, c.eligible) {
			t.Error(name + ": joined")
		}
	}
}

func TestFetchedCatchesUp(t *testing.T) {
	r := NewReplica(2, false, 0)
	r = r.Fetched(50, 0, 100, 5, 7, 1000)
	if r.CaughtUp(100, 1000, 500) {
		t.Fatal("half of the log is not caught up")
	}
	// It fetches what was the end at its last fetch: caught up as of then.
	r = r.Fetched(100, 0, 130, 5, 7, 1200)
	if r.CaughtUpMs != 1000 || !r.CaughtUp(130, 1500, 500) || r.CaughtUp(130, 1501, 500) {
		t.Fatalf("caught up at %d, want 1000", r.CaughtUpMs)
	}
	r = r.Fetched(130, 0, 130, 5, 7, 1300)
	if r.CaughtUpMs != 1300 {
		t.Fatalf("caught up at %d, want 1300", r.CaughtUpMs)
	}
	if !r.CaughtUp(130, 1_000_000, 500) {
		t.Fatal("who has the whole log is caught up however long ago it fetched")
	}
	// What the leader's log was in another epoch proves nothing in this one.
	r = r.Fetched(130, 0, 140, 5, 7, 1400)
	r = r.Fetched(140, 0, 200, 6, 7, 9000)
	if r.CaughtUpMs != 1300 {
		t.Fatalf("caught up at %d by an end of another epoch", r.CaughtUpMs)
	}
}

func TestOutOfSync(t *testing.T) {
	isr := ISR{Committed: []int32{1, 2, 3, 4}}
	got := isr.OutOfSync(1, []Replica{in(2, 90), behind(3, 90)}, 100, 1000, 10)
	if !slices.Equal(got, []int32{3, 4}) {
		t.Fatalf("%v, want 3 (lagging) and 4 (unknown)", got)
	}
	if got := isr.OutOfSync(1, []Replica{in(2, 90), behind(3, 100), in(4, 0)}, 100, 1000, 10); got != nil {
		t.Fatalf("%v, want none: 3 has the whole log", got)
	}
}

func TestCheckEpoch(t *testing.T) {
	for _, c := range []struct {
		theirs, ours int32
		want         error
	}{
		{NoEpoch, 5, nil}, {5, 5, nil}, {4, 5, kerr.FencedLeaderEpoch}, {6, 5, kerr.UnknownLeaderEpoch}, {-2, 0, kerr.FencedLeaderEpoch},
	} {
		if got := CheckEpoch(c.theirs, c.ours); !errors.Is(got, c.want) {
			t.Errorf("%d against %d: %v, want %v", c.theirs, c.ours, got, c.want)
		}
	}
}

func TestDiverges(t *testing.T) {
	for _, c := range []struct {
		name   string
		ends   EpochEnd
		last   int32
		offset int64
		want   bool
	}{
		{"a prefix", EpochEnd{3, 100}, 3, 90, false},
		{"exactly to the end of the epoch", EpochEnd{3, 100}, 3, 100, false},
		{"longer than the epoch was", EpochEnd{3, 100}, 3, 101, true},
		{"an epoch the leader never had", EpochEnd{2, 100}, 3, 90, true},
	} {
		if got := Diverges(c.ends, c.last, c.offset); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// epochLog is a log as epochs see it: entry i has the leader epoch log[i].
type epochLog []int32

func (l epochLog) end(epoch int32) EpochEnd {
	found := noEpochEnd
	for i, e := range l {
		if e <= epoch {
			found = EpochEnd{e, int64(i) + 1}
		}
	}
	if found == noEpochEnd && len(l) > 0 && epoch >= 0 {
		return EpochEnd{epoch, 0} // before all that is left
	}
	return found
}

// A follower that truncates as the answers say ends up with a prefix of the
// leader's log, and cuts nothing that both have. Logs are made as elections
// make them: each epoch is written by one leader on top of a prefix of what
// was there, so that two logs agree wherever they have the same epoch at the
// same offset.
func TestTruncationConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		logs := []epochLog{nil, nil, nil}
		for epoch := int32(0); epoch < 6; epoch++ {
			// One of them leads and writes; who follows it first truncates.
			leader := rapid.IntRange(0, 2).Draw(t, "leader")
			for range rapid.IntRange(0, 3).Draw(t, "writes") {
				logs[leader] = append(slices.Clone(logs[leader]), epoch)
			}
			for f := range logs {
				if f == leader || !rapid.Bool().Draw(t, "follows") {
					continue
				}
				before := logs[f]
				logs[f] = reconcile(t, logs[f], logs[leader])
				common := 0
				for common < min(len(before), len(logs[leader])) && before[common] == logs[leader][common] {
					common++
				}
				if len(logs[f]) != common {
					t.Fatalf("follower %v, leader %v: cut to %d, they agree on %d", before, logs[leader], len(logs[f]), common)
				}
				n := rapid.IntRange(len(logs[f]), len(logs[leader])).Draw(t, "fetches up to")
				logs[f] = append(slices.Clone(logs[f]), logs[leader][len(logs[f]):n]...)
			}
		}
	})
}

// reconcile runs the fetch protocol of KIP-595 until the leader finds no
// divergence.
func reconcile(t *rapid.T, mine, leaders epochLog) epochLog {
	for range 20 {
		if len(mine) == 0 {
			return mine
		}
		last := mine[len(mine)-1]
		ends := leaders.end(last)
		if ends == noEpochEnd {
			return nil // the leader's log is empty
		}
		if !Diverges(ends, last, int64(len(mine))) {
			return mine
		}
		cut, _ := TruncationPoint(mine.end(ends.Epoch), ends)
		if cut >= int64(len(mine)) {
			t.Fatalf("%v against %v: no progress", mine, leaders)
		}
		mine = mine[:cut]
	}
	t.Fatal("does not converge")
	return nil
}

// TestOfflineReplicaDoesNotJoin: a follower that had everything when its log
// directory failed is not asked back into the in-sync set, and holds no watermark.
func TestOfflineReplicaDoesNotJoin(t *testing.T) {
	p := ledBy1(t, 1, 2)
	invited := 0
	p.env.mayGrow = func(*Partition) { invited++ }
	offline := false
	p.env.offline = func(id int32, _ storage.TopicID, _ int32) bool { return offline && id == 2 }
	produce(t, p, 3)
	if err := follow(p, 2, 3); err != nil {
		t.Fatal(err)
	}
	offline = true
	if _, err := p.assign(assignment{leader: 1, leaderEpoch: 1, partitionEpoch: 2, replicas: []int32{1, 2}, isr: []int32{1}}); err != nil {
		t.Fatal(err)
	}
	produce(t, p, 1)
	p.reconsider()
	if s := p.Snapshot(); invited > 0 || s.HighWatermark != 4 {
		t.Errorf("invited %d times, %+v", invited, s)
	}
	offline = false
	if p.reconsider(); invited > 0 {
		t.Error("invited without having what is committed")
	}
	if err := follow(p, 2, 4); err != nil || invited == 0 {
		t.Errorf("not invited when it is back: %v", err)
	}
}
