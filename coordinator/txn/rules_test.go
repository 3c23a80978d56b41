package txn

import (
	"testing"

	"github.com/gregor-broker/gregor/internal/testutil"
)

// What others learned the hard way about transactions, and the test that holds
// gregor to it. The names are checked below: a test that is renamed or removed
// leaves its rule without one, and that fails.
//
// # Found in Kafka and its relatives
//
//   - Loss of what was acknowledged, because the last replica in sync went on alone and another one, out of date, was
//     elected (Kafka 0.8): [replication.TestProduceWaitUnderMinISR], [replication.TestUnderMinCountsOnlyCommittedMembers],
//     [metadata.TestElections].
//   - A retry after its batch was forgotten (OUT_OF_ORDER_SEQUENCE_NUMBER, epoch bumped, written again: redpanda#3039): the
//     last five batches of a producer are known, and a duplicate gets its offset: [storage.TestSequencesLikeKafka],
//     [broker.TestIdempotence], [replication.TestDuplicateMovesNothing].
//   - A retry whose records retention has taken away (redpanda#5355): [storage.TestRetryAfterItsRecordsAreGone]. No
//     answer to a producer is UNKNOWN_SERVER_ERROR: [storage.TestProduceErrorsLikeKafka].
//   - An acknowledgement with an offset that is not the record's (Bufstream): [storage.TestSequencesLikeKafka],
//     [storage.TestLogIsItsModel].
//   - The first record of a transaction acknowledged before the transaction is durable (redpanda#6018):
//     [txn.TestAnswerToAddWaitsForTheTransactionToBeDurable], [txn.TestLostAddIsNoTransaction],
//     [storage.TestTransactionBeginsOnlyWithAGuard].
//   - An old offset for a group after its coordinator was cut off (redpanda#9571): it serves after it has replayed to the
//     end of its log, and answers below the high watermark: [runtime.TestReadOfUncommittedWaits],
//     [runtime.TestNewEpochTakesOver], [group.TestTransactionalOffsetsWaitForTheMarker].
//   - Readers beyond the high watermark with acks=1 (redpanda#14918): [replication.TestReadersSeeUpToTheirBound].
//   - State of records that are not committed (redpanda#11840): [runtime.TestAnswerWaitsForHighWatermark],
//     [runtime.TestEffectsWaitForTheirRecords].
//   - A delayed EndTxn that ends a later transaction (KAFKA-17754): [txn.TestDelayedEndTxnEndsNoLaterTransaction]; with the
//     older protocol nothing can tell the two apart.
//   - A late write after the abort, which hangs (KAFKA-9144): [storage.TestGuardIsWorthlessAfterTheEnd],
//     [storage.TestMarkerFences].
//   - Two writers of the completion (KAFKA-10080): [txn.TestOneCompletion], [handler.TestOneMarkerJobForATransactionalID],
//     [txn.TestCompletionOfTheTransactionBefore], [handler.TestNoMarkersOfWhatIsCompleted].
//   - The next transaction while the last one completes (KAFKA-18575): [txn.TestNextTransactionWhileTheLastCompletes],
//     [txn.TestAddWaitsForTheLastTransaction], [storage.TestGuardForTheNextTransaction],
//     [node.TestTransactionsBackToBack].
//   - Overflow of the epoch (KAFKA-18660): [txn.TestEpochOverflowAtEndTxn], [txn.TestEpochOverflowAtInit],
//     [txn.TestFenceAtTheLastEpoch], [txn.TestNobodyHasTheLastEpoch].
//   - A marker with an epoch that the log has seen (KIP-1228): [storage.TestMarkerWithEqualEpoch].
//   - A retried marker (KAFKA-19999): [storage.TestRetriedMarker].
//   - A late marker that comes together with the producer's next transaction: [handler.TestLateMarkerInARoundWithTheNextTransaction],
//     [handler.TestMarkerTwiceInOneRound], [runtime.TestCheckSeesWhatIsPending].
//   - A lease taken for permission (etcd): [controller.TestOldControllerWritesNothing].
//
// # Rules of transactions
//
//   - PrepareCommit and PrepareAbort are the decision: no answer and no marker before it is committed; markers are tried
//     until all are written, by a new coordinator too: [txn.TestMarkersWaitForTheDecision],
//     [txn.TestNewCoordinatorSendsMarkersAgain], [handler.TestMarkersAreTriedUntilAllAreWritten],
//     [node.TestMarkersAfterRestart], [txn.TestRandomSchedules].
//   - A marker of an older coordinator is refused: [storage.TestMarkerOfAnOldCoordinator],
//     [handler.TestFencedCoordinatorCompletesNothing], [handler.TestMarkersWaitForTheCoordinatorsImage],
//     and it does not try for longer than it is one: [handler.TestMarkersEndWithTheCoordinator].
//   - A topic that was deleted and created again while a transaction is open gets the marker of what is open there, and
//     no transaction waits for one that is deleted: [handler.TestTransactionEntersATopicThatItsCoordinatorKnows],
//     [handler.TestTransactionEntersATopicThatIsInTheImage], [handler.TestMarkerWaitsForTheTopicThatIsMeant],
//     [node.TestTransactionOnDeletedTopic].
//   - Version 2 bumps the epoch with each end and returns it; in Prepare only the epoch before is a retry, in Complete that
//     or the overflow's: [txn.TestCommitOfBothVersions], [txn.TestDelayedEndTxnEndsNoLaterTransaction],
//     [txn.TestEpochOverflowAtEndTxn], [txn.TestAbortWithoutTransaction].
//   - Who names its id and epoch goes on unless another came between (KIP-360): [txn.TestInitOfKnownProducer].
//   - Clients of before are verified before their first write, with a guard that no abort survives:
//     [storage.TestTransactionBeginsOnlyWithAGuard], [storage.TestGuardIsWorthlessAfterTheEnd].
//   - A new epoch begins with sequence 0, an unknown producer with any, but with none above the lowest that was verified;
//     after the largest sequence comes 0: [storage.TestSequencesLikeKafka], [storage.TestBatchesInOrderWhileVerified].
//   - The last stable offset is the high watermark or the first record of a transaction that is open, or whose marker is
//     above the high watermark; aborted transactions are listed: [replication.TestReadCommitted],
//     [storage.TestUnstableUntilTheMarkerIsCommitted], [storage.TestModel].
//   - All of that is known again after a restart, and stays through compaction: [storage.TestTransactionsSurviveARestart],
//     [node.TestTransactionOverRestart], [storage.TestCompactionLikeKafka], [storage.TestCompactionOfCommits].
//   - A coordinator that loads says so, and one that resigned answers and does nothing: [runtime.TestResignedFailsCallers],
//     [runtime.TestNewEpochTakesOver], [runtime.TestFailedAppendLoadsAgain].
//   - A transaction that takes too long is aborted and its producer fenced: [txn.TestTimeoutAbortsAndFences],
//     [txn.TestTimeoutCountsFromTheFirstPartition], [node.TestTransactionTimeout], [txn.TestFenceOfOngoing], however many
//     there are: [txn.TestMoreThanOneAppendTakes].
//   - Operators find transactions that hang, and end them (KIP-664): [node.TestTransactionsLikeKafka],
//     [node.TestLateTransactionsAreTold].
//   - Offsets in a transaction are committed by members of the present generation or epoch only (KIP-447), and none is
//     fetched as stable while a transaction holds another: [group.TestOldGenerationIsFenced],
//     [group.TestCommitOfAStaleEpoch], [group.TestTransactionalOffsetsWaitForTheMarker].
//   - Offsets expire with their group, when it is empty: [group.TestOffsetsExpireWithTheirGroup].
//   - Ids that nobody uses are forgotten: [txn.TestExpiryOfTransactionalIDs]; a transaction that could not be ended is not
//     begun: [txn.TestTooManyPartitions]; topics that are gone hold nothing up: [node.TestTransactionOnDeletedTopic].
//
// All of it together, with real clients that are killed, stands in compat-tests:
// TestPipelines, TestStreams, TestMessageCopier and the command eosloop.
func TestRulesHaveTheirTests(t *testing.T) {
	dirs := map[string]string{
		"txn": ".", "group": "../group", "runtime": "../runtime", "storage": "../../storage", "replication": "../../replication",
		"broker": "../../broker", "handler": "../../broker/handler", "node": "../../node", "metadata": "../../metadata",
		"controller": "../../controller",
	}
	testutil.NamedTestsExist(t, "rules_test.go", dirs, 60)
}
