package node

import (
	"testing"

	"github.com/gregor-broker/gregor/internal/testutil"
)

// What a cluster rests on so that nothing acknowledged is lost, and the tests that hold gregor to each rule. The names
// are checked below: a test that is renamed or removed leaves its rule without one, and that fails.
//
//  1. Whatever changes the metadata compares the election of the controller that decided it, so that one which was
//     replaced writes nothing: [controller.TestOldControllerWritesNothing], [controller.TestLateWriteOfAnOldController],
//     [replication.TestSimulation].
//  2. A change of a partition compares the state it replaces and has the next partition epoch; with each leader begins a
//     leader epoch: [metadata.TestAlterISRErrors], [metadata.TestElectionSteps],
//     [controller.TestDeletionMeetsChangeOfPartition].
//  3. A lease detects failures, and nothing else rests on it: [controller.TestSessionLossKeepsTheRegistration],
//     [controller.TestOldControllerWritesNothing], [replication.TestSimulation] (sessions end under brokers that live).
//  4. A process is granted a broker epoch when its predecessor is fenced and in no set that matters:
//     [metadata.TestBrokerSteps], [metadata.TestDecisions], [controller.TestRestart],
//     [controller.TestPredecessorMustBeGone].
//  5. A record is committed when it is on the committed and the proposed in-sync set:
//     [replication.TestMaximalISRCountsBothSets], [replication.TestWatermark], [replication.TestWatermarkIsSafe].
//  6. The high watermark stands still while fewer than min.insync.replicas are in sync: [replication.TestWatermark],
//     [replication.TestUnderMinCountsOnlyCommittedMembers], [replication.TestProduceWaitUnderMinISR].
//  7. A follower joins with all that is committed, in this leader epoch, as the process that is registered, and not
//     fenced; when it is decided and when it is written: [replication.TestMayJoin], [metadata.TestAlterISRErrors],
//     [metadata.TestAlterISRGuards], [controller.TestAlterPartition], [replication.TestReplacedProcessFollowsNobody].
//  8. Followers say their epochs; leaders refuse others, and what diverges is cut before the watermark follows:
//     [peer.TestFetchIsEncodedAsAsked], [replication.TestCheckEpoch], [replication.TestEpochsOfReaders],
//     [replication.TestDivergingFetchIsNoProgress], [replication.TestTruncationBeforeWatermark],
//     [replication.TestTruncationConverges].
//  9. Leaders come from those in sync, then from the eligible, of who is up; else there is none, unless an unclean
//     election was asked for, which is logged, counted and told: [metadata.TestElections], [metadata.TestElectionSteps],
//     [metadata.TestUncleanLeader], [controller.TestUncleanLeaderIsTheLongest].
//  10. Metadata is applied in order, as images; what failed of a change does not count as done; a gap makes a broker list
//     it anew: [metadata.TestEventsMustFollow], [controller.TestSlowNodeListsAnew],
//     [replication.TestAssignIgnoresReplays], [replication.TestLogThatCannotBeMade].
//  11. A broker that cannot confirm its session takes what others confirm, and does not say where logs end:
//     [replication.TestIsolatedLeader], [controller.TestIsolated].
//  12. Of a change whose outcome is unknown the stricter state counts, and it is asked for again. It happens before the
//     next decision or never: [metadata.TestAlterISRTriedBefore], [metadata.TestTriedBefore],
//     [controller.TestCommitWhoseOutcomeIsOpen], [controller.TestTurnAfterAWrite], [controller.TestUnderFaults],
//     [replication.TestSimulationFinds].
//  13. Without the store the metadata stands still, and the data goes on: [controller.TestWithoutTheStore],
//     [replication.TestSimulation].
//  14. What is read to decide is read from a majority, and events only come later: [etcdstore.TestContract],
//     [etcdembed.TestContract], [memstore.TestContract], [metadata.TestEventsMustFollow].
//  15. The controller does one thing at a time, fences one broker at a time, and what another left undone is done again:
//     [metadata.TestBrokerSteps], [controller.TestHalfDoneCreationIsSwept], [controller.TestUnderFaults].
//  16. A broker is unfenced when it has recovered its logs and applied its own registration: [metadata.TestBrokerSteps],
//     [controller.TestLeadersWhenStarted].
//  17. A replica that is shorter than it was, or gone, is not taken for complete:
//     [storage.TestShortenedLogIsNoCleanShutdown], [storage.TestMissingLogIsNoCleanShutdown],
//     [storage.TestDirectoriesProveTogether], [replication.TestDiskFailedAtStart].
//  18. Coordinators serve when they have read their log to its end, write in its leader epoch, and answer what is
//     committed: [runtime.TestAnswerWaitsForHighWatermark], [runtime.TestReadOfUncommittedWaits],
//     [runtime.TestNewEpochTakesOver], [node.TestCoordinatorsMove].
//  19. A broker that stops hands over, waits until the others know, flushes, and leaves the proof, which its next start
//     removes first: [controller.TestShutdownWaitsForTheOthers], [controller.TestShutdownDoesNotWaitForTheDead],
//     [node.TestControlledShutdown], [storage.TestBrokerEpochAcrossRestarts].
//  20. A reassignment first grows, and shrinks when all that are new are in sync, and enough of those that stay:
//     [metadata.TestAlterISRCompletesReassignment], [metadata.TestReassignmentKeepsMinISR],
//     [metadata.TestReassignmentKeepsTheEligible], [metadata.TestRevertedReassignment], [node.TestReassignment].
//
// The invariants of replication (high watermark, log matching, completeness of leaders and of who may become one, the
// sets of the leader and the controller) are checked after each step of [replication.TestSimulation], and
// [replication.TestSimulationFinds] shows that they can be broken. What clients see (P1 to P27) is judged by the package
// compat-tests/chaos/check, and bounded resources (P28) are [broker.TestAbusesHaveTheirTests].
func TestRulesHaveTheirTests(t *testing.T) {
	dirs := map[string]string{
		"node": ".", "controller": "../controller", "metadata": "../metadata", "replication": "../replication", "peer": "../peer",
		"storage": "../storage", "runtime": "../coordinator/runtime", "broker": "../broker", "etcdstore": "../metadata/etcdstore",
		"etcdembed": "../metadata/etcdembed", "memstore": "../metadata/memstore",
	}
	testutil.NamedTestsExist(t, "rules_test.go", dirs, 60)
}
