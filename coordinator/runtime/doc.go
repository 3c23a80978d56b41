// Package runtime runs coordinators: it turns requests into records of an
// internal topic and answers them once those records are committed.
//
// A coordinator (group, transaction, share) is a pure state machine, a [Shard],
// of which there is one for each partition of its internal topic that this
// broker leads. The runtime gives every shard one goroutine, which is the only
// one that ever touches it:
//
//	requests ─┐                     ┌─> Replay(record) ── state
//	timeouts ─┼─> queue ─> Handle ──┤
//	high wm  ─┘             │       └─> batch ── Append ── log
//	                        └─ replies ── parked ── high watermark ──> callers
//
// # The law
//
// A handler reads the state as it is, committed or not, and returns records, a
// reply and timers; it changes nothing that records describe. The records are
// replayed into the state at once and appended together with those of the
// requests queued behind (one append for all that waited, so a busy shard
// batches and an idle one does not linger). A reply leaves only when the high
// watermark has passed every record that was appended before it: a reply
// without records waits too if what it saw is not committed yet. So nobody is
// ever told what a failing broker could take back.
//
// # After a failed append
//
// Replayed records cannot be taken out of the state again, so the shard is
// thrown away and loaded from the log anew; all parked replies fail. This is
// rare (the log directory failed) and keeps the state machines free of undo. An
// in-sync set that is too small is neither rare nor short: handlers know of it
// before they change anything, or can take it back, and refuse their caller alone
// ([Result.Refusable], [Result.Refused]).
//
// # Timers
//
// A timeout is an input like a request: [Shard.Timeout] returns records and
// replies. Timers are soft state: they are not in the log, and the shard sets
// them again in [Shard.Loaded].
//
// # Concurrency
//
// Runtime.mu guards the table of shards; loop.mu guards a shard's queue. Both
// are leaves: no lock is taken and nothing blocks while one is held, since the
// high watermark's listener is called under the lock of a partition.
package runtime
