package replication

import (
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
)

// TestIsolatedLeader (rule 11): a leader that may have been replaced without
// knowing takes only what its followers confirm, and does not say where the log
// ends: neither if asked nor by refusing a position beyond it.
func TestIsolatedLeader(t *testing.T) {
	p := ledBy1(t, 1)
	isolated := false
	p.env.isolated = func() bool { return isolated }
	produce(t, p, 3)
	latest := ListOptions{CurrentLeaderEpoch: -1, ReplicaID: -1}
	for _, isolated = range []bool{true, false} {
		var wantAppend, wantList error
		wantBeyond := kerr.OffsetOutOfRange
		if isolated {
			wantAppend, wantList, wantBeyond = kerr.NotLeaderForPartition, kerr.OffsetNotAvailable, kerr.NotLeaderForPartition
		}
		if _, err := p.Read(from(100)); !errors.Is(err, wantBeyond) {
			t.Errorf("isolated %v, read beyond the end: %v", isolated, err)
		}
		if _, err := p.Read(from(-1)); !errors.Is(err, kerr.OffsetOutOfRange) {
			t.Errorf("isolated %v, read below the start: %v", isolated, err)
		}
		for _, acks := range []int16{0, 1} {
			if _, err := p.Append(batchOf(1, "v"), AppendOptions{Acks: acks, Version: 13}); !errors.Is(err, wantAppend) {
				t.Errorf("isolated %v, acks %d: %v", isolated, acks, err)
			}
		}
		produce(t, p, 1) // acks=all
		if _, err := p.ListOffset(TimestampLatest, latest); !errors.Is(err, wantList) {
			t.Errorf("isolated %v, list: %v", isolated, err)
		}
		if _, err := p.ListOffset(1<<50, latest); !errors.Is(err, wantList) {
			t.Errorf("isolated %v, list a time that nothing here has reached: %v", isolated, err)
		}
		if _, err := p.ListOffset(TimestampEarliest, latest); err != nil {
			t.Errorf("isolated %v, list the earliest: %v", isolated, err)
		}
	}
}
