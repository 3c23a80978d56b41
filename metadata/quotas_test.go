package metadata_test

import (
	"context"
	"testing"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/memstore"
)

// quotaCluster carries out alterations of quotas.
type quotaCluster struct {
	t     *testing.T
	store *memstore.Store
	img   *metadata.Image
}

func (c *quotaCluster) set(key string, value float64, parts ...metadata.QuotaPart) {
	c.t.Helper()
	results, plans := metadata.AlterQuotas(c.img, []metadata.QuotaAlteration{{
		Entity: parts, Ops: []metadata.QuotaOp{{Key: key, Value: value, Remove: value == 0}},
	}}, func(string) bool { return true })
	if results[0].Err != nil {
		c.t.Fatal(results[0].Message)
	}
	for _, p := range plans {
		for _, ch := range p.Commit {
			if r, err := c.store.Txn(context.Background(), metadata.Txn{
				If: []metadata.Compare{{Key: ch.Key, Revision: ch.Expect}}, Then: []metadata.Op{ch.Op},
			}); err != nil || !r.Succeeded {
				c.t.Fatal(r, err)
			}
		}
		// What the decision says will be and what the store then says agree.
		next, err := c.img.With(p.Commit)
		if err != nil {
			c.t.Fatal(err)
		}
		defer func() {
			if len(next.Quotas().All()) != len(c.img.Quotas().All()) {
				c.t.Errorf("decided on %d entries, there are %d", len(next.Quotas().All()), len(c.img.Quotas().All()))
			}
		}()
	}
	kvs, revision, err := c.store.Get(context.Background(), "")
	if err != nil {
		c.t.Fatal(err)
	}
	if c.img, err = metadata.FromKVs(kvs, revision); err != nil {
		c.t.Fatal(err)
	}
}

// The order of precedence is KIP-546's: each quota set here goes before those
// set before it, and is shared by whom it should be.
func TestQuotaPrecedence(t *testing.T) {
	c := &quotaCluster{t: t, store: memstore.New(), img: metadata.Empty()}
	defer c.store.Close()
	const key = metadata.QuotaProducerBytes
	user, client := "a/b=c %", "ü\x00/"
	named := func(kind, name string) metadata.QuotaPart { return metadata.QuotaPart{Type: kind, Name: &name} }
	u, anyUser := named(metadata.QuotaUser, user), metadata.QuotaPart{Type: metadata.QuotaUser}
	cl, anyClient := named(metadata.QuotaClient, client), metadata.QuotaPart{Type: metadata.QuotaClient}
	if _, _, ok := c.img.Quotas().Client(key, user, client); ok || c.img.Quotas() != nil {
		t.Fatal("a quota without any")
	}
	order := []struct {
		parts        []metadata.QuotaPart
		user, client bool // which of them share it
	}{
		{[]metadata.QuotaPart{anyClient}, false, true},
		{[]metadata.QuotaPart{cl}, false, true},
		{[]metadata.QuotaPart{anyUser}, true, false},
		{[]metadata.QuotaPart{anyUser, anyClient}, true, true},
		{[]metadata.QuotaPart{anyUser, cl}, true, true},
		{[]metadata.QuotaPart{u}, true, false},
		{[]metadata.QuotaPart{u, anyClient}, true, true},
		{[]metadata.QuotaPart{cl, u}, true, true},
	}
	for i, o := range order {
		c.set(key, float64(i+1), o.parts...)
		quota, sharer, ok := c.img.Quotas().Client(key, user, client)
		if !ok || quota != float64(i+1) || sharer.User.Given != o.user || sharer.Client.Given != o.client || sharer.User.Default || sharer.Client.Default {
			t.Errorf("%d: %v %+v %t", i, quota, sharer, ok)
		}
		if _, _, ok := c.img.Quotas().Client(metadata.QuotaConsumerBytes, user, client); ok {
			t.Errorf("%d: a quota of another key", i)
		}
	}
	if n := len(c.img.Quotas().All()); n != len(order) {
		t.Errorf("%d entries", n)
	}
	was := c.img.Quotas()
	c.set(key, 8, order[7].parts...)
	if again, err := c.img.Apply(nil); err != nil || again.Quotas() != c.img.Quotas() || len(was.All()) != len(c.img.Quotas().All()) {
		t.Error("nothing changed, but the quotas did")
	}
	for i := len(order) - 1; i >= 0; i-- {
		c.set(key, 0, order[i].parts...)
		if quota, _, ok := c.img.Quotas().Client(key, user, client); ok != (i > 0) || quota != float64(i) {
			t.Errorf("without %d: %v %t", i, quota, ok)
		}
	}
	if c.img.Quotas() != nil {
		t.Errorf("left: %v", c.img.Quotas().All())
	}
}
