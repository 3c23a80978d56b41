package check

import (
	"cmp"
	"slices"
	"sort"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

// heard is what brokers said of who leads. It tells who was deposed and could
// not know it: a leader that is cut off answers from the past, in Kafka too,
// until it hears of its successor. One that named another in a Metadata answer
// has heard; of one that said nothing there is no telling.
type heard struct {
	partitions int32 // of groups' offsets
	reigns     map[history.Key]map[int32]reign
	said       map[leaderSeat][]reign
}

// reign is a leader's epoch. In reigns, at is when the first question was asked
// that was answered with the epoch; in said, when an answer came.
type reign struct {
	leader, epoch int32
	at            int64
}

// leaderSeat is a broker and a partition that it may lead.
type leaderSeat struct {
	broker int32
	key    history.Key
}

func (a *analysis) heard() *heard {
	h := &heard{reigns: map[history.Key]map[int32]reign{}, said: map[leaderSeat][]reign{}}
	for i := range a.ops {
		if a.ops[i].Type != history.OK {
			continue
		}
		for _, l := range a.ops[i].Leaders {
			h.hear(&a.ops[i], l)
		}
	}
	// Left in said is what a broker knew by the time of each answer: one may
	// overtake another, but no broker goes back to an earlier epoch (P27).
	for _, list := range h.said {
		slices.SortStableFunc(list, func(x, y reign) int { return cmp.Compare(x.at, y.at) })
		for i := 1; i < len(list); i++ {
			if list[i].epoch < list[i-1].epoch {
				list[i].leader, list[i].epoch = list[i-1].leader, list[i-1].epoch
			}
		}
	}
	return h
}

func (h *heard) hear(op *history.Op, l history.Leader) {
	if l.Key.Topic == history.GroupTopic {
		h.partitions = max(h.partitions, l.Key.Partition+1)
	}
	if l.Broker >= 0 {
		s := leaderSeat{l.Broker, l.Key}
		h.said[s] = append(h.said[s], reign{l.Leader, l.Epoch, op.Returned})
	}
	if l.Leader < 0 {
		return
	}
	if h.reigns[l.Key] == nil {
		h.reigns[l.Key] = map[int32]reign{}
	}
	if _, is := h.reigns[l.Key][l.Epoch]; !is {
		h.reigns[l.Key][l.Epoch] = reign{l.Leader, l.Epoch, op.Invoked}
	}
}

// unaware tells whether a broker that answered had been succeeded, which others
// knew by a time, and could not know it.
func (h *heard) unaware(s leaderSeat, op *history.Op, by int64) bool {
	said := h.said[s]
	n := sort.Search(len(said), func(i int) bool { return said[i].at >= op.Invoked })
	if n == 0 || said[n-1].leader != s.broker {
		return false
	}
	for _, r := range h.reigns[s.key] {
		if r.epoch > said[n-1].epoch && r.leader != s.broker && r.at <= by {
			return true
		}
	}
	return false
}
