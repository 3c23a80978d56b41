package broker

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const keyFetch = 1

// limits are the quotas of the client on one connection, as of one set of
// quotas and one client id. They belong to the connection's goroutine.
type limits struct {
	q      *quotas
	now    func() time.Time
	set    *metadata.QuotaSet
	client string

	produce, fetch, request, mutation bound
}

// limits returns the quotas of this connection's client, nil if there are none:
// then the request costs nothing more.
func (c *conn) limits() *limits {
	set := c.s.o.Handler.Cluster.Image().Quotas()
	if set == nil {
		c.quota = nil
		return nil
	}
	if c.quota == nil || c.quota.set != set || c.quota.client != c.clientID {
		c.quota = newLimits(c.s, set, c.info.Principal, c.clientID)
	}
	if c.quota.none() {
		return nil
	}
	return c.quota
}

func newLimits(s *Server, set *metadata.QuotaSet, principal, client string) *limits {
	l := &limits{q: s.quotas, now: s.o.Handler.Now, set: set, client: client}
	user := principalName(principal)
	for key, b := range map[string]*bound{
		metadata.QuotaProducerBytes: &l.produce, metadata.QuotaConsumerBytes: &l.fetch,
		metadata.QuotaRequestPercent: &l.request, metadata.QuotaMutations: &l.mutation,
	} {
		if quota, sharer, ok := set.Client(key, user, client); ok {
			*b = bound{key: key, quota: quota, sharer: sharer}
		}
	}
	return l
}

// principalName is a principal without its type.
func principalName(principal string) string {
	const user = "User:"
	if len(principal) > len(user) && principal[:len(user)] == user {
		return principal[len(user):]
	}
	return principal
}

func (l *limits) none() bool {
	return l.produce.quota == 0 && l.fetch.quota == 0 && l.request.quota == 0 && l.mutation.quota == 0
}

// Take implements handler.Mutations.
func (l *limits) Take(n int, strict bool) bool { return l.mutation.take(l.q, l.now(), n, strict) }

// narrow bounds a fetch by what the quota allows in all windows, so that one
// answer does not take the client's whole minute.
func (l *limits) narrow(req kmsg.Request) {
	f, ok := req.(*kmsg.FetchRequest)
	if !ok || l.fetch.quota == 0 || f.ReplicaID >= 0 || f.ReplicaState.ID >= 0 {
		return
	}
	window := l.fetch.quota * float64(max(l.q.windows-1, 1)) * l.q.size.Seconds()
	f.MaxBytes = int32(min(float64(f.MaxBytes), window))
}

// charge counts a request with its answer, tells the client for how long it
// will be held up, and returns that.
//
// What goes to a follower is not charged: replication has throttles of its own,
// and brokers are not clients.
func (l *limits) charge(key int16, received int, resp kmsg.Response, cpu time.Duration) time.Duration {
	if r, ok := resp.(interface{ Unmetered() bool }); ok && r.Unmetered() {
		return 0
	}
	now := l.now()
	var throttle time.Duration
	switch key {
	case keyProduce:
		throttle = l.produce.charge(l.q, now, float64(received))
	case keyFetch:
		if sized, ok := resp.(interface{ Bytes() int }); ok {
			throttle = l.fetch.charge(l.q, now, float64(sized.Bytes()))
		}
	case keyCreateTopics, keyDeleteTopics, keyCreatePartitions:
		throttle = l.mutation.owed(l.q, now)
	}
	// A request quota holds nobody up for longer than a window, as in Kafka.
	percent := cpu.Seconds() * 100
	throttle = max(throttle, min(l.request.charge(l.q, now, percent), l.q.size))
	if throttle < time.Millisecond {
		return 0
	}
	if t, ok := resp.(kmsg.SetThrottleResponse); ok {
		t.SetThrottle(int32(throttle.Milliseconds()))
	}
	return throttle
}

// mute holds the client up: nothing more is read from it (KIP-219). It gets
// its answer before.
func (c *conn) mute(d time.Duration) {
	c.reader.detach()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.s.draining.Done():
	}
	c.reader.lastRequest = time.Now()
}

// connectionDelay counts a new connection of an address and returns for how
// long it is to be held up before it is closed; 0: it may stay (KIP-612).
func (s *Server) connectionDelay(addr netip.Addr) time.Duration {
	set := s.o.Handler.Cluster.Image().Quotas()
	if set == nil {
		return 0
	}
	quota := s.quotas.connections(s.ctx, set, addr)
	if quota == 0 {
		return 0
	}
	now := s.o.Handler.Now()
	m := s.quotas.meter(metadata.QuotaConnections, metadata.QuotaEntity{IP: metadata.QuotaName{Given: true, Name: addr.String()}}, now)
	defer m.mu.Unlock()
	m.rate.record(now, 1)
	delay := m.rate.throttle(now, quota)
	if delay > 0 {
		m.rate.record(now, -1)
	}
	return min(delay, s.quotas.size)
}

// connections returns the quota of an address, 0 if it has none.
func (q *quotas) connections(ctx context.Context, set *metadata.QuotaSet, addr netip.Addr) float64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.set != set {
		// Names are looked up once for each change of the quotas.
		q.set, q.addresses = set, map[string]float64{}
		for _, e := range set.All() {
			if !e.Entity.IP.Given || e.Entity.IP.Default || e.Values[metadata.QuotaConnections] == 0 {
				continue
			}
			for _, a := range lookup(ctx, e.Entity.IP.Name) {
				q.addresses[a.Unmap().String()] = e.Values[metadata.QuotaConnections]
			}
		}
	}
	if quota, ok := q.addresses[addr.String()]; ok {
		return quota
	}
	return set.DefaultIP()
}

func lookup(ctx context.Context, host string) []netip.Addr {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	// A name that cannot be looked up has no address to limit.
	addrs, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	return addrs
}
