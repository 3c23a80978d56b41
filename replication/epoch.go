package replication

import "github.com/twmb/franz-go/pkg/kerr"

// NoEpoch is the leader epoch of a client that does not know or care.
const NoEpoch int32 = -1

// EpochEnd is where a leader epoch ended: the first offset that does not belong
// to it or to an epoch before it.
type EpochEnd struct {
	Epoch     int32
	EndOffset int64
}

// noEpochEnd answers a question about an epoch that cannot be answered.
var noEpochEnd = EpochEnd{Epoch: NoEpoch, EndOffset: Unknown}

// CheckEpoch compares the leader epoch a client or follower believes in with
// the partition's (KIP-320): an older one must refresh its metadata, for a
// newer one this broker has yet to hear what the client heard.
func CheckEpoch(theirs, ours int32) error {
	switch {
	case theirs == NoEpoch || theirs == ours:
		return nil
	case theirs < ours:
		return kerr.FencedLeaderEpoch
	default:
		return kerr.UnknownLeaderEpoch
	}
}

// Diverges reports whether a log whose last record has epoch lastFetched and
// which ends at fetchOffset is a prefix of the leader's. ends is the leader's
// answer to lastFetched: the largest of its epochs that is not larger, and
// where it ended (KIP-279). When the logs diverge, ends is what the follower
// must truncate towards, and its fetch is no progress.
func Diverges(ends EpochEnd, lastFetched int32, fetchOffset int64) bool {
	return ends.Epoch < lastFetched || ends.EndOffset < fetchOffset
}

// TruncationPoint is the offset to which a follower cuts its log after its
// leader answered leader, where own is what the follower's log has for the
// leader's epoch: the largest of its epochs not larger than leader.Epoch, and
// its end. done tells whether the logs agree up to there; if not, the follower
// asks once more with own.Epoch.
//
// The cut comes before the follower takes over the high watermark of the same
// answer: the other order showed records that were never committed
// (KAFKA-14704).
func TruncationPoint(own, leader EpochEnd) (offset int64, done bool) {
	if own.Epoch != leader.Epoch {
		return own.EndOffset, false
	}
	return min(own.EndOffset, leader.EndOffset), true
}
