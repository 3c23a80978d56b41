package metadata_test

import (
	"testing"

	"github.com/gregor-broker/gregor/metadata"
)

// TestUncleanLeader: of replicas of which none is known to have everything, the
// one leads whose log has the latest epoch, and within it the most; without word
// of any the first.
func TestUncleanLeader(t *testing.T) {
	for name, c := range map[string]struct {
		ends map[int32]metadata.LogEnd
		down int32
		want int32
	}{
		"nothing known":             {nil, 0, 1},
		"the longest":               {map[int32]metadata.LogEnd{1: {Epoch: 4, Offset: 10}, 2: {Epoch: 4, Offset: 12}, 3: {Epoch: 4, Offset: 11}}, 0, 2},
		"a later epoch":             {map[int32]metadata.LogEnd{1: {Epoch: 4, Offset: 90}, 2: {Epoch: 3, Offset: 99}, 3: {Epoch: 5, Offset: 7}}, 0, 3},
		"equals":                    {map[int32]metadata.LogEnd{2: {Epoch: 4, Offset: 7}, 3: {Epoch: 4, Offset: 7}, 1: {Epoch: 4, Offset: 7}}, 0, 1},
		"one that said nothing":     {map[int32]metadata.LogEnd{2: {Epoch: -1, Offset: 0}, 3: {Epoch: 0, Offset: 1}}, 0, 3},
		"an empty log before none":  {map[int32]metadata.LogEnd{2: {Epoch: -1, Offset: 0}}, 0, 2},
		"the longest, but not up":   {map[int32]metadata.LogEnd{1: {Epoch: 4, Offset: 10}, 2: {Epoch: 4, Offset: 12}, 3: {Epoch: 4, Offset: 11}}, 2, 3},
		"only who is down answered": {map[int32]metadata.LogEnd{1: {Epoch: 4, Offset: 10}}, 1, 2},
	} {
		p := &metadata.Partition{Leader: metadata.NoLeader, Replicas: []int32{1, 2, 3}, LastKnownELR: []int32{4}}
		next := metadata.Reassess(p, metadata.Rules{
			Active: func(id int32) bool { return id != 4 && id != c.down }, Lossy: func(int32) bool { return false },
			MinISR: 1, Unclean: true, Ends: c.ends,
		})
		if next.Leader != c.want || !next.Recovering {
			t.Errorf("%s: leader %d, not %d; %+v", name, next.Leader, c.want, next)
		}
	}
}
