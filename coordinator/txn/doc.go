// Package txn is the transaction coordinator as a state machine without I/O,
// clock or goroutines: what Kafka's TransactionCoordinator decides, for the
// transactional ids of one partition of __transaction_state.
//
// # The states of a transaction
//
//	       InitProducerId            AddPartitions           EndTxn
//	(none) ─────────────> Empty ───────────────────> Ongoing ──────> PrepareCommit ──> CompleteCommit
//	                        ^                        ^   │           PrepareAbort  ──> CompleteAbort
//	                        └── InitProducerId ──────┼───┼──────────────────────────────────┤
//	                                                 └───┼──────── AddPartitions ───────────┘
//	                                                     └─ timeout, InitProducerId: PrepareAbort
//	                                                        with a higher epoch, which fences
//
// Dead and PrepareEpochFence, which Kafka knows besides, never reach the log:
// there a transactional id that expires is a tombstone, and a fence is a
// PrepareAbort. So it is here, where they need no name.
//
// # Who decides what
//
// Prepare is the decision: with that record committed the transaction will end
// so, whatever fails. Only then may a marker be written, so the shard asks for
// markers with an effect ([SendMarkers]), which the runtime lets go when the
// record is committed, and again in Loaded for every transaction that a former
// coordinator left in Prepare. Whoever writes them reports with [Shard.Complete],
// which is the one place where a transaction is completed: it does so once, and
// only for the producer epoch that was asked for.
//
// # Transaction versions (KIP-890)
//
// Version 2 is how a client speaks that sends Produce v12, TxnOffsetCommit v5
// and EndTxn v5. Its epoch is bumped with every transaction: the answer to
// EndTxn carries the new one, markers bear it, and what is left under way of
// the old transaction is refused everywhere, so a delayed EndTxn can end no
// transaction but its own. Clients of before keep their epoch, and with it the
// flaw that a late EndTxn may end a later transaction (KAFKA-17754): nothing in
// their requests could tell the two apart.
//
// # Records
//
// TxnMetadataKey v0 and TxnMetadataValue v0, or v1 where transaction.version is
// finalized: they are Kafka's own, and Kafka's tools read them.
package txn
