package work

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
	"github.com/gregor-broker/gregor/compat-tests/harness"
)

// A commit of franz-go's that became an abort is heard of, in franz-go's own
// words, which a later version may change.
func TestCommitThatFranzGoAborts(t *testing.T) {
	dir := t.TempDir()
	bin, err := harness.BuildGregor(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := harness.Gregor(bin, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Kill()
	r := New(Config{Recorder: history.NewRecorder(), Addrs: []string{b.Addr}, TxnTimeout: 10 * time.Second})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l := r.life(1, rand.New(rand.NewPCG(1, 1)))
	p, err := l.transactional(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	small := map[string]*string{"max.message.bytes": kadm.StringPtr("1000")}
	if _, err := kadm.NewClient(p.Client).CreateTopic(ctx, 1, 1, small, MixTopic); err != nil {
		t.Fatal(err)
	}
	large := make([]byte, 2000) // compressed too
	for i := range large {
		large[i] = byte(l.rng.Uint32())
	}
	send := l.sendStep(p, r.sent(history.Key{Topic: MixTopic}))
	refused := func(*history.Op) error {
		err := p.ProduceSync(ctx, &kgo.Record{Topic: MixTopic, Value: large}).FirstErr()
		if !errors.Is(err, kerr.MessageTooLarge) {
			t.Errorf("a large record: %v", err)
		}
		return nil // and the client asks to commit what there is
	}
	for _, c := range []struct {
		name   string
		commit bool
		step   step
		want   history.Type
		err    error
	}{
		{"a record", true, send, history.OK, nil},
		{"nothing", true, refused, history.Fail, history.ErrAborted},
		{"nothing, aborted", false, refused, history.Fail, nil},
		{"another record", true, l.sendStep(p, r.sent(history.Key{Topic: MixTopic})), history.OK, nil},
	} {
		if got, err := l.txn(ctx, p, c.commit, c.step); got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %s %v, not %s %v", c.name, got, err, c.want, c.err)
		}
	}
}

func TestAbortLogHearsNothingElse(t *testing.T) {
	l := &abortLog{}
	l.Log(kgo.LogLevelInfo, "ending transaction")
	if l.took() {
		t.Error("the end of a transaction")
	}
	l.Log(kgo.LogLevelInfo, abortMessage+" to clear any server-side partition registrations", "transactional_id", "a")
	if !l.took() || l.took() {
		t.Error("it is said once")
	}
}
