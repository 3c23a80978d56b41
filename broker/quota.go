package broker

import (
	"sync"
	"time"

	"github.com/gregor-broker/gregor/metadata"
)

// rate measures what happened per second, over a sliding row of windows as
// Kafka does: of a client that was quiet before, what it does now counts as if
// spread over all windows but one, so that bursts within a quota are free.
// The zero value needs a row and a size.
type rate struct {
	windows []rateWindow
	size    time.Duration
	cur     int
}

// rateWindow begins with the first value in it; the zero time: never.
type rateWindow struct {
	start time.Time
	sum   float64
}

func newRate(windows int, size time.Duration) rate {
	return rate{windows: make([]rateWindow, max(windows, 1)), size: size}
}

// record adds a value.
func (r *rate) record(now time.Time, value float64) {
	w := &r.windows[r.cur]
	if w.start.IsZero() || now.Sub(w.start) >= r.size {
		r.cur = (r.cur + 1) % len(r.windows)
		w = &r.windows[r.cur]
		*w = rateWindow{start: now}
	}
	w.sum += value
}

// measure returns the sum per second and the time that it is taken over.
func (r *rate) measure(now time.Time) (perSecond float64, span time.Duration) {
	var sum float64
	full := time.Duration(len(r.windows)) * r.size
	for _, w := range r.windows {
		if age := now.Sub(w.start); !w.start.IsZero() && age < full {
			sum += w.sum
			span = max(span, age)
		}
	}
	if missing := len(r.windows) - 1 - int(span/r.size); missing > 0 {
		span += time.Duration(missing) * r.size
	}
	if span <= 0 {
		span = r.size
	}
	return sum / span.Seconds(), span
}

// throttle returns how long nothing may happen for the rate to come down to the
// quota.
func (r *rate) throttle(now time.Time, quota float64) time.Duration {
	perSecond, span := r.measure(now)
	if perSecond <= quota {
		return 0
	}
	return seconds((perSecond - quota) / quota * span.Seconds())
}

// seconds is a duration, bounded so that none overflows.
func seconds(s float64) time.Duration {
	const most = 24 * 60 * 60
	return time.Duration(min(s, most) * float64(time.Second))
}

// bucket is a token bucket: full, it holds burst tokens; it may go below zero,
// and then nothing more is to be taken until it has filled up again (KIP-599).
type bucket struct {
	burst  time.Duration // what the quota allows in this time
	tokens float64
	last   time.Time
}

// refill adds what the time since the last call brought.
func (b *bucket) refill(now time.Time, quota float64) {
	full := quota * b.burst.Seconds()
	if b.last.IsZero() {
		b.tokens = full
	} else if d := now.Sub(b.last); d > 0 {
		b.tokens += quota * d.Seconds()
	}
	b.tokens = min(b.tokens, full)
	b.last = now
}

// take takes n tokens, whether there are as many or not; strict takes none from
// a bucket that is below zero and says so with false. A negative n puts back.
func (b *bucket) take(now time.Time, quota float64, n float64, strict bool) bool {
	b.refill(now, quota)
	if strict && b.tokens < 0 {
		return false
	}
	b.tokens -= n
	return true
}

// throttle returns how long it takes until the bucket is not below zero.
func (b *bucket) throttle(now time.Time, quota float64) time.Duration {
	b.refill(now, quota)
	if b.tokens >= 0 {
		return 0
	}
	return seconds(-b.tokens / quota)
}

// meter counts for all connections that share a quota.
type meter struct {
	mu     sync.Mutex
	rate   rate
	bucket bucket
	used   time.Time
	// dropped meters are in nobody's table any more.
	dropped bool
}

// meterKey names a meter: the key of the quota, and who shares it.
type meterKey struct {
	key    string
	sharer metadata.QuotaEntity
}

// quotas holds the meters of a server. Nothing is metered, and no meter kept,
// for whom no quota is set.
type quotas struct {
	windows, mutationWindows int
	size, mutationSize       time.Duration

	mu     sync.Mutex
	meters map[meterKey]*meter
	// sweepAt is the number of meters at which unused ones are dropped.
	sweepAt int
	// addresses are the connection quotas of the addresses that set names.
	set       *metadata.QuotaSet
	addresses map[string]float64
}

const minSweep = 1024

func newQuotas(o *Options) *quotas {
	return &quotas{
		windows: o.QuotaWindows, size: o.QuotaWindow, mutationWindows: o.MutationQuotaWindows, mutationSize: o.MutationQuotaWindow,
		meters: map[meterKey]*meter{}, sweepAt: minSweep,
	}
}

// meter returns the meter of a quota, locked.
func (q *quotas) meter(key string, sharer metadata.QuotaEntity, now time.Time) *meter {
	q.mu.Lock()
	defer q.mu.Unlock()
	k := meterKey{key, sharer}
	m := q.meters[k]
	if m == nil {
		q.sweep(now)
		m = &meter{
			rate:   newRate(q.windows, q.size),
			bucket: bucket{burst: time.Duration(q.mutationWindows) * q.mutationSize},
		}
		q.meters[k] = m
	}
	m.mu.Lock()
	m.used = now
	return m
}

// sweep drops the meters that remember nothing any more, so that clients that
// invent client ids do not fill the memory.
func (q *quotas) sweep(now time.Time) {
	if len(q.meters) < q.sweepAt {
		return
	}
	forgotten := max(time.Duration(q.windows)*q.size, time.Duration(q.mutationWindows)*q.mutationSize)
	for k, m := range q.meters {
		m.mu.Lock()
		if now.Sub(m.used) > forgotten && m.bucket.tokens >= 0 {
			m.dropped = true
			delete(q.meters, k)
		}
		m.mu.Unlock()
	}
	q.sweepAt = max(minSweep, 2*len(q.meters))
}

// bound is one quota of one client; quota 0: it has none.
type bound struct {
	key    string
	quota  float64
	sharer metadata.QuotaEntity
	m      *meter
}

// lock returns the meter, locked.
func (b *bound) lock(q *quotas, now time.Time) *meter {
	if b.m != nil {
		b.m.mu.Lock()
		if !b.m.dropped {
			b.m.used = now
			return b.m
		}
		b.m.mu.Unlock()
	}
	b.m = q.meter(b.key, b.sharer, now)
	return b.m
}

// charge records a value and returns for how long the client is to be held up.
func (b *bound) charge(q *quotas, now time.Time, value float64) time.Duration {
	if b.quota == 0 {
		return 0
	}
	m := b.lock(q, now)
	defer m.mu.Unlock()
	m.rate.record(now, value)
	return m.rate.throttle(now, b.quota)
}

// take takes n tokens; see bucket.
func (b *bound) take(q *quotas, now time.Time, n int, strict bool) bool {
	m := b.lock(q, now)
	defer m.mu.Unlock()
	return m.bucket.take(now, b.quota, float64(n), strict)
}

// owed is how long it takes until tokens may be taken again.
func (b *bound) owed(q *quotas, now time.Time) time.Duration {
	if b.quota == 0 {
		return 0
	}
	m := b.lock(q, now)
	defer m.mu.Unlock()
	return m.bucket.throttle(now, b.quota)
}
