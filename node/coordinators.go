package node

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gregor-broker/gregor/broker/handler"
	"github.com/gregor-broker/gregor/coordinator/group"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/coordinator/txn"
	"github.com/gregor-broker/gregor/replication"
)

// lateTransactionMargin is what a transaction may last beyond
// transaction.max.timeout.ms before it counts as late, as in Kafka (KIP-664).
const lateTransactionMargin = 5 * time.Minute

// countTimeout is how long a scrape waits for shards to count.
const countTimeout = time.Second

// coordinatorCollector reads what the coordinators know, and what is known of
// producers, when it is asked.
type coordinatorCollector struct {
	groups        *runtime.Runtime[*group.Shard]
	groupEvents   *[group.Events]atomic.Int64
	txns          *runtime.Runtime[*txn.Shard]
	txnEvents     *[txn.Events]atomic.Int64
	markers       func() int
	verifications *handler.Verifications
	handedOn      *handler.HandedOn
	producers     func(now time.Time, limit time.Duration) replication.ProducerStats
	// maxTimeout is transaction.max.timeout.ms.
	maxTimeout time.Duration
	now        func() time.Time
}

// Describe sends nothing: which series there are depends on the groups.
func (c *coordinatorCollector) Describe(chan<- *prometheus.Desc) {}

// sink sends metrics whose labels are "key", "value" pairs.
type sink chan<- prometheus.Metric

func (s sink) send(kind prometheus.ValueType, name, help string, value float64, labels ...string) {
	var keys, values []string
	for i := 0; i+1 < len(labels); i += 2 {
		keys, values = append(keys, labels[i]), append(values, labels[i+1])
	}
	s <- prometheus.MustNewConstMetric(gaugeDesc(name, help, keys...), kind, value, values...)
}

func (s sink) gauge(name, help string, value int, labels ...string) {
	s.send(prometheus.GaugeValue, name, help, float64(value), labels...)
}

func (s sink) counter(name, help string, value int64, labels ...string) {
	s.send(prometheus.CounterValue, name, help, float64(value), labels...)
}

// Collect implements prometheus.Collector.
func (c *coordinatorCollector) Collect(ch chan<- prometheus.Metric) {
	c.collectGroups(sink(ch))
	c.collectTransactions(sink(ch))
}

func (s sink) shards(coordinator string, n runtime.Counts) {
	const help = "Partitions of the coordinator's topic that this broker leads, by the state of their coordinator."
	s.gauge(coordinator+"_coordinator_partitions", help, n.Loading, "state", "loading")
	s.gauge(coordinator+"_coordinator_partitions", help, n.Active, "state", "active")
	s.gauge(coordinator+"_coordinator_partitions", help, n.Failed, "state", "failed")
}

func (c *coordinatorCollector) collectGroups(s sink) {
	s.shards("group", c.groups.Counts())
	kinds, offsets := map[group.Kind]int{}, 0
	ask(c.groups, (*group.Shard).Count, func(p *group.Population) {
		for k, n := range p.Groups {
			kinds[k] += n
		}
		offsets += p.Offsets
	})
	for k, n := range kinds {
		s.gauge("groups", "Groups that this broker coordinates, by protocol and state.", n, "protocol", k.Protocol, "state", k.State)
	}
	s.gauge("group_offsets", "Committed offsets that this broker keeps for groups.", offsets)
	n := c.groupEvents
	s.counter("group_offset_commits_total", "Offsets committed.", n[group.OffsetCommitted].Load())
	s.counter("group_offset_expirations_total", "Offsets dropped because nobody used them for long.", n[group.OffsetExpired].Load())
	s.counter("group_offset_deletions_total", "Offsets deleted on request.", n[group.OffsetDeleted].Load())
	const help = "Rebalances: with the classic protocol those that were completed, with the consumer protocol new group epochs."
	s.counter("group_rebalances_total", help, n[group.ClassicRebalance].Load(), "protocol", "classic")
	s.counter("group_rebalances_total", help, n[group.ConsumerRebalance].Load(), "protocol", "consumer")
}

func (c *coordinatorCollector) collectTransactions(s sink) {
	s.shards("transaction", c.txns.Counts())
	states := map[txn.State]int{}
	ask(c.txns, (*txn.Shard).Count, func(m map[txn.State]int) {
		for state, n := range m {
			states[state] += n
		}
	})
	for state, n := range states {
		s.gauge("transactional_ids", "Transactional ids that this broker coordinates, by the state of their transaction.", n, "state", state.String())
	}
	s.gauge("transaction_markers_pending", "Decided transactions whose markers are not all written yet.", c.markers())
	n := c.txnEvents
	s.counter("transactions_decided_total", "Transactions whose end was decided.", n[txn.Committed].Load(), "result", "commit")
	s.counter("transactions_decided_total", "Transactions whose end was decided.", n[txn.Aborted].Load(), "result", "abort")
	s.counter("transaction_timeouts_total", "Transactions aborted because they took too long.", n[txn.TimedOut].Load())
	s.counter("transaction_fences_total", "Transactions aborted because another producer took their transactional id over.", n[txn.Fenced].Load())
	s.counter("transactional_id_expirations_total", "Transactional ids dropped because nobody used them for long.", n[txn.Expired].Load())
	s.counter("transaction_verifications_total", "Times that the transaction coordinator was asked before the first write of a transaction to a partition.", c.verifications.Asked.Load())
	s.counter("transaction_verification_failures_total", "Partitions for which it did not agree.", c.verifications.Failed.Load())
	s.send(prometheus.CounterValue, "transaction_verification_seconds_total", "Time spent waiting for it.", time.Duration(c.verifications.Nanos.Load()).Seconds())

	s.counter("produce_handed_on_total", "Partitions of which a broker that had just resigned had the new leader write what clients sent.", c.handedOn.Partitions.Load())
	s.counter("produce_handed_on_failures_total", "Those of them for which the new leader did not answer.", c.handedOn.Failed.Load())

	p := c.producers(c.now(), c.maxTimeout+lateTransactionMargin)
	s.gauge("producer_ids", "Producer ids that the replicas on this broker remember.", p.Producers)
	s.gauge("partitions_with_late_transactions", "Partitions led here with a transaction open for longer than transaction.max.timeout.ms and five minutes: it hangs, and readers of committed records with it.", p.Late)
}

// ask has all shards of a coordinator count, and adds their answers up. One that
// is loading has none.
func ask[S runtime.Shard, T any](r *runtime.Runtime[S], count runtime.Handler[S], add func(T)) {
	ctx, cancel := context.WithTimeout(context.Background(), countTimeout)
	defer cancel()
	var mu sync.Mutex
	var calls sync.WaitGroup
	for p := range r.Partitions() {
		calls.Go(func() {
			answer, err := r.Call(ctx, p, count)
			if t, ok := answer.(T); ok && err == nil {
				mu.Lock()
				defer mu.Unlock()
				add(t)
			}
		})
	}
	calls.Wait()
}
