// Package storage keeps partitions on disk, in Apache Kafka's own file form: Kafka's DumpLogSegments reads our files, and
// habits formed on Kafka's directories hold.
//
// A Manager owns the log directories (log.dirs) and one Log per partition replica in them. Upper layers append batches to
// a Log and read byte ranges from it; which offsets are committed, the high watermark, they tell it.
//
// # On disk
//
//	data/                                       one of log.dirs
//	  .lock                                     flock'ed while a broker uses the directory
//	  meta.properties                           version=1, cluster.id, node.id, directory.id
//	  .kafka_cleanshutdown                      {"version":0,"brokerEpoch":7,"directories":[ids of all]}; only between a clean shut-down and the next start
//	  recovery-point-offset-checkpoint          per log: everything below is durable and need not be read by recovery
//	  log-start-offset-checkpoint               per log, where it is not the first segment's base
//	  replication-offset-checkpoint             per log: the high watermark
//	  cleaner-offset-checkpoint                 per compacted log: everything below was cleaned
//	  orders-0/                                 <topic>-<partition>
//	    partition.metadata                      version: 0, topic_id
//	    leader-epoch-checkpoint                 where each leader epoch began
//	    00000000000000000000.log                batches, one behind the other, with offsets from 0 on
//	    00000000000000000000.index              offset -> position in the .log
//	    00000000000000000000.timeindex          timestamp -> offset
//	    00000000000000000000.txnindex           transactions whose abort marker is in the .log; only if there are any
//	    00000000000000368769.log                the next segment, named after its first offset
//	    00000000000000368769.snapshot           the producers as of offset 368769
//	    00000000000000000002.next               an empty file that will be a segment; see below
//	    00000000000000000000.log.deleted        out of service, removed after file.delete.delay.ms
//	    moved-to, moved-from                    which other directory the log moves to, or came from; only for the end of a move (move.go)
//	  orders-1.18f0...-delete/                  a deleted partition, removed after file.delete.delay.ms
//	  orders-2.5c1d...-future/                  a copy of a log that moves here from another directory
//
// A .log is a sequence of record batches v2 as protocol describes them, the bytes that the producer sent but for base
// offset and leader epoch:
//
//	position 0             4242                    8000           size
//	| batch 0..9          | batch 10..24          | batch 25..25  |
//	  ^                     ^
//	  |                     '- .index entry (24, 4242): the batch at 4242 ends with offset 24
//	  '- first batch: no entry, a search begins here
//
// The .index has entries of 8 bytes: last offset of a batch, relative to the segment's base, int32; position of that batch,
// int32. There is one for the first batch after each index.interval.bytes. The .timeindex has entries of 12 bytes: the
// greatest timestamp of the segment so far, int64; the relative last offset of the batch that has it, int32. An entry is
// added together with one in the .index, if it is greater than the last, and a last one when the segment is sealed. The
// .txnindex has entries of 34 bytes (txnindex.go), the .snapshot has a checksum and entries of 50 bytes (snapshot.go). The
// checkpoints are text: a version (0), the number of entries, an entry per line.
//
// Everything but the .log files can be rebuilt from these, except what is known only of records that are gone: the
// producers of deleted segments, which the oldest segment's .snapshot keeps.
//
// # A segment's life
//
// The active segment is the last one. Appends go to its end with one positional write each; its indexes are in memory.
// When it is full, its successor takes over: the file for that was made beforehand, under a provisional name
// (<n>.next), so that the roll itself touches no directory. Housekeeping then gives the file its name, writes the old
// segment's indexes, syncs the old segment, writes and syncs the producer snapshot at the new base, and moves the recovery
// point. From then on the old segment may be closed and opened again as the cache of open files has room.
//
// With preallocate the file is as long as a segment may become from the start, its blocks reserved, so that a full disk shows
// when the segment begins. What was not used is cut off when the segment is sealed, or the log closed.
//
// Retention, truncation and compaction take segments out of service by renaming (.deleted) or replacing them (.cleaned while
// it is written, .swap when it is complete; compact.go says what stays, compactswap.go in which steps). Slices in flight
// keep their file: it is closed when the last is released, and cut or overwritten never (truncate.go copies instead).
//
// # Crash cases
//
// After a clean shut-down (marker present; it is removed, durably, before anything else is written) the logs are taken as
// they are: only the epoch file, the latest snapshot and the end of the active segment, from its last index entry on, are
// read. Otherwise every log is recovered: all batches from the segment of the recovery point on are read and checked. What
// can have happened, and what becomes of it:
//
//   - A write was torn, or reached the disk in part or out of order: the log is cut at the first batch whose length,
//     offsets or CRC are wrong. All batches before stay, also if nobody synced them.
//   - A segment was preallocated and not filled: what follows its last batch is zeros, and no loss.
//   - A segment lost its end, but its successor is there: the successor does not begin where the log ends, so it goes, with
//     all that follow. Below the recovery point gaps are left by compaction and are fine; therefore whatever replaces
//     segments must first make the recovery point durable. Should that be lost, the cleaner's checkpoint vouches for them.
//   - A roll was not finished: .next holds batches. It is named after its first one. Replicated batches may have gaps in
//     their offsets, so that this would be the wrong name; a follower's append hence waits for the name. The name .next is
//     durable before the file is used, so that no segment survives its predecessor.
//   - A segment was flushed and rolled at just that offset, but the roll not flushed: its indexes may be torn although it
//     lies below the recovery point. It is the one case where the snapshot at the recovery point is missing, because that is
//     written last; then the segment is scanned as well.
//   - A truncation was cut short: segments go from the newest to the oldest, each durably, so that a prefix is left. The
//     recovery point is lowered durably before, else what is appended after a truncation would count as flushed.
//   - Retention was cut short: segments go from the oldest on. The snapshot of the first one that stays is durable before.
//     The log start may be older after a crash than it was (its checkpoint is written once a minute); then records that
//     were deleted are there again.
//   - All was thrown away to start at another offset: snapshots go durably before the new segment comes, or the new log
//     would have the old one's producers.
//   - A replacement was cut short: .cleaned is removed; .swap is put in the place of the segments that it covers. One that
//     it does not reach, because all that stays of that segment lies before, is there again as it was, and cleaned again.
//   - A log was being moved to another directory: its copy is begun anew or removed. If the copy had taken its place, both may
//     be there, and the files moved-to and moved-from say which one counts (move.go, settle.go).
//   - An index, snapshot or checkpoint is missing or corrupt: it is rebuilt, at load if it is needed there, else when it is
//     first used. A missing .txnindex cannot be told from an empty one; therefore a .log goes before its .txnindex does.
//   - A write, fsync or rename fails, or writes less than it should: the write is undone if the disk lets us, the directory
//     goes offline for the life of the process, every request to a log in it gets KAFKA_STORAGE_ERROR, and it gets no clean
//     marker. Nothing is tried again: after a failed fsync the kernel drops the dirty pages, and a second one succeeds.
//
// After an acknowledged flush (Log.Flush, flush.messages, flush.ms) everything below the recovery point survives a power cut.
// Without, as in Kafka, everything acknowledged survives the end of the process, and replication guards against the rest.
//
// # Goroutines and locks
//
// Between Start and Close the Manager has a goroutine for background work (background.go) and log.cleaner.threads that
// clean compacted logs (cleaner.go). Everything else runs on the caller's. Appends to one log are serialised by Log.mu,
// which is held over one positional write and never over an fsync, create or rename (truncation, which is rare and excludes
// appends anyway, is the exception). Checking a produced batch, with CRC and decompression, happens before. Reads take no
// lock over file access.
//
// Lock order; a lock may be taken while those left of it are held:
//
//	cleaner.resizing > cleaner.mu > segment.mu; background.tickMu > logDir.changeMu > Log.hk > Log.spareMu > Log.mu > segment.mu
//	segment.mu > index.mu, txnIndex.mu, metaTimestamp.mu
//	Log.hk > logDir.ckptMu > Manager.mu
//	innermost, holding nothing else: Manager.mu, throttle.mu, movePace.mu, Log.tailMu, Log.epochMu, background.mu, segmentCache.mu
//
// Readers work on immutable lists: Log.segs is replaced as a whole, and the end of the log (tail) changes in one step. A
// reader opens the segment first and looks at the end of the log then, a truncation publishes the new end first and looks
// for open readers then; so one of them sees the other.
package storage
