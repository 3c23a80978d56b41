package replication

import (
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
)

// TestIsolatedLeader (rule 11): a leader that may have been replaced without
// knowing takes only what its followers confirm, and does not say where the log
// ends.
func TestIsolatedLeader(t *testing.T) {
	p := ledBy1(t, 1)
	isolated := false
	p.env.isolated = func() bool { return isolated }
	produce(t, p, 3)
	latest := ListOptions{CurrentLeaderEpoch: -1, ReplicaID: -1}
	for _, isolated = range []bool{true, false} {
		var wantAppend, wantList error
		if isolated {
			wantAppend, wantList = kerr.NotLeaderForPartition, kerr.OffsetNotAvailable
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
		if _, err := p.ListOffset(TimestampEarliest, latest); err != nil {
			t.Errorf("isolated %v, list the earliest: %v", isolated, err)
		}
	}
}
