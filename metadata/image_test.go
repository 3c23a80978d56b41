package metadata_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/metadata/memstore"
	"pgregory.net/rapid"
)

// mirror is what a subscriber knows that only ever looks at deltas.
type mirror struct {
	topics  map[metadata.ID]map[int32]int64 // partition -> revision
	names   map[string]metadata.ID
	configs map[metadata.ID]string
	brokers map[int32]string
	others  map[metadata.ConfigResource]string
}

func newMirror() *mirror {
	return &mirror{
		topics: map[metadata.ID]map[int32]int64{}, names: map[string]metadata.ID{}, configs: map[metadata.ID]string{},
		brokers: map[int32]string{}, others: map[metadata.ConfigResource]string{},
	}
}

func (m *mirror) apply(d *metadata.Delta, img *metadata.Image) {
	for _, t := range d.Topics {
		if t.New == nil {
			delete(m.topics, t.Old.ID)
			delete(m.configs, t.Old.ID)
			delete(m.names, t.Old.Name)
			continue
		}
		if t.Old == nil {
			m.topics[t.New.ID] = map[int32]int64{}
			m.names[t.New.Name] = t.New.ID
		}
		for _, n := range t.Partitions {
			m.topics[t.New.ID][n] = t.New.Partitions[n].Revision
		}
		if t.ConfigsChanged {
			m.configs[t.New.ID] = fmt.Sprint(t.New.Configs)
		}
	}
	for _, id := range d.Brokers {
		delete(m.brokers, id)
		if b := img.Broker(id); b != nil {
			m.brokers[id] = fmt.Sprintf("%+v", *b)
		}
	}
	for _, r := range d.Configs {
		delete(m.others, r)
		if c := img.Config(r); c != nil {
			m.others[r] = fmt.Sprint(c)
		}
	}
}

// of returns the mirror of an image as it is.
func mirrorOf(img *metadata.Image) *mirror {
	m := newMirror()
	for _, t := range img.Topics() {
		m.topics[t.ID] = map[int32]int64{}
		m.names[t.Name] = t.ID
		m.configs[t.ID] = fmt.Sprint(t.Configs)
		for n, p := range t.Partitions {
			m.topics[t.ID][int32(n)] = p.Revision
		}
	}
	for _, b := range img.Brokers() {
		m.brokers[b.ID] = fmt.Sprintf("%+v", *b)
	}
	for _, ct := range []metadata.ConfigType{metadata.ConfigBroker, metadata.ConfigGroup, metadata.ConfigClientMetrics} {
		for _, r := range img.ConfigResources(ct) {
			m.others[r] = fmt.Sprint(img.Config(r))
		}
	}
	return m
}

// writer commits plans to a store in transactions of random size, and now and
// then stops in the middle, as a controller that dies.
type writer struct {
	t     *rapid.T
	store *memstore.Store
	img   *metadata.Image
	ids   int
}

func (w *writer) commit(changes []metadata.Change) bool {
	for len(changes) > 0 {
		n := rapid.IntRange(1, len(changes)).Draw(w.t, "batch")
		if !w.txn(changes[:n]) {
			return false
		}
		changes = changes[n:]
		if len(changes) > 0 && rapid.IntRange(0, 9).Draw(w.t, "die") == 0 {
			return false
		}
	}
	return true
}

func (w *writer) txn(changes []metadata.Change, guards ...metadata.Compare) bool {
	txn := metadata.TxnOf(guards, changes)
	r, err := w.store.Txn(context.Background(), txn)
	if err != nil || !r.Succeeded {
		w.t.Fatalf("%+v: %+v, %v", txn, r, err)
	}
	w.reload()
	return true
}

func (w *writer) reload() {
	kvs, revision, err := w.store.Get(context.Background(), "")
	if err != nil {
		w.t.Fatal(err)
	}
	if w.img, err = metadata.FromKVs(kvs, revision); err != nil {
		w.t.Fatal(err)
	}
}

func (w *writer) carryOut(p metadata.Plan) {
	if p.Empty() {
		return
	}
	if w.commit(p.Stage) {
		w.txn(p.Commit, p.Guard...)
	}
}

func (w *writer) step(env *metadata.Env) {
	name := rapid.SampledFrom([]string{"a", "b", "b.c", "d"}).Draw(w.t, "topic")
	id := rapid.Int32Range(1, 4).Draw(w.t, "broker")
	switch rapid.SampledFrom([]string{"create", "create", "delete", "grow", "config", "other config", "register", "live", "die", "brokers", "sweep", "orphans"}).Draw(w.t, "step") {
	case "create":
		w.ids++
		t := metadata.NewTopic{Name: name, Partitions: rapid.Int32Range(1, 5).Draw(w.t, "partitions"), ReplicationFactor: -1, ID: newTestID(w.ids)}
		w.carryOut(metadata.CreateTopics(w.img, env, []metadata.NewTopic{t})[0].Plan)
	case "delete":
		w.carryOut(metadata.DeleteTopics(w.img, []metadata.TopicRef{{Name: name}}, false)[0].Plan)
	case "grow":
		if t := w.img.Topic(name); t != nil {
			n := int32(len(t.Partitions)) + rapid.Int32Range(1, 3).Draw(w.t, "more")
			w.carryOut(metadata.CreatePartitions(w.img, env, []metadata.NewPartitions{{Topic: name, Count: n}}, false)[0].Plan)
		}
	case "config":
		w.config(env, metadata.ConfigResource{Type: metadata.ConfigTopic, Name: name})
	case "other config":
		w.config(env, rapid.SampledFrom([]metadata.ConfigResource{
			{Type: metadata.ConfigBroker}, {Type: metadata.ConfigBroker, Name: "1"}, {Type: metadata.ConfigGroup, Name: "g"},
		}).Draw(w.t, "resource"))
	case "register":
		if _, alive := w.img.Alive(id); !alive {
			w.commit(metadata.Register(w.img, metadata.Registration{ID: id, Incarnation: newTestID(w.ids + 1000)}))
		}
	case "live":
		if inc := metadata.IncarnationOf(w.img, id); inc != (metadata.ID{}) {
			l := metadata.Liveness{Incarnation: inc, Ready: true, Stopping: rapid.Bool().Draw(w.t, "stopping")}
			if t := w.img.Topic(name); t != nil && rapid.Bool().Draw(w.t, "disk failed") {
				l.Offline = metadata.Replicas{t.ID: {0}}
			}
			w.txn([]metadata.Change{metadata.Live(w.img, id, l, 0)})
		}
	case "die":
		w.commit(metadata.Bury(w.img, id))
	case "brokers":
		w.carryOut(metadata.NextBrokerChange(w.img))
	case "sweep":
		w.commit(metadata.Sweep(w.img, env))
	case "orphans":
		w.commit(metadata.Orphans(w.img))
	}
}

func (w *writer) config(env *metadata.Env, r metadata.ConfigResource) {
	value := rapid.StringMatching(`[1-3]`).Draw(w.t, "value")
	op := metadata.ConfigOp{Key: "min.insync.replicas", Value: &value, Kind: rapid.SampledFrom([]metadata.ConfigOpKind{metadata.ConfigSet, metadata.ConfigDelete}).Draw(w.t, "op")}
	d := metadata.AlterConfigs(w.img, env, []metadata.ConfigAlteration{{Resource: r, Ops: []metadata.ConfigOp{op}}})[0]
	w.carryOut(d.Plan)
}

// TestImageByDeltas: following a watch leads to the same image as listing the
// store, whatever happened in between and in whatever pieces it is told; and
// deltas tell all that changed.
func TestImageByDeltas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store := memstore.New()
		defer store.Close()
		w := &writer{t: t, store: store}
		w.reload()
		seed := rapid.Uint64().Draw(t, "seed")
		env := &metadata.Env{
			DefaultPartitions: 1, DefaultReplicationFactor: 1, MinInsyncReplicas: 1,
			Rand: rand.New(rand.NewPCG(seed, 1)),
		}
		for id := int32(1); id <= 3; id++ {
			w.txn(metadata.Register(w.img, metadata.Registration{ID: id, Incarnation: newTestID(int(id)), Rack: fmt.Sprint(id)}))
			w.txn([]metadata.Change{metadata.Live(w.img, id, metadata.Liveness{Incarnation: newTestID(int(id)), Ready: true}, 0)})
		}
		for p := metadata.NextBrokerChange(w.img); !p.Empty(); p = metadata.NextBrokerChange(w.img) {
			w.carryOut(p)
		}
		watch := store.Watch(context.Background(), "", 1)
		defer watch.Close()
		img, seen := metadata.Empty(), newMirror()
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			w.step(env)
			if rapid.IntRange(0, 2).Draw(t, "follow") == 0 {
				img = follow(t, watch, img, seen)
			}
		}
		before := metadata.Dump(img)
		kept := img
		img = follow(t, watch, img, seen)
		if after := metadata.Dump(kept); after != before {
			t.Fatalf("an image changed:\n%s\n%s", before, after)
		}
		if got, want := metadata.Dump(img), metadata.Dump(w.img); got != want {
			t.Fatalf("by events:\n%s\nby listing:\n%s", got, want)
		}
		if got, want := fmt.Sprintf("%+v", seen), fmt.Sprintf("%+v", mirrorOf(w.img)); got != want {
			t.Fatalf("by deltas:\n%s\nas it is:\n%s", got, want)
		}
		// A listing is no change, though nothing in it is shared.
		if d := metadata.Diff(img, w.img); !d.Empty() {
			t.Fatalf("%+v", d)
		}
	})
}

func follow(t *rapid.T, watch metadata.Watcher, img *metadata.Image, seen *mirror) *metadata.Image {
	for {
		events, err := watch.Take()
		if err != nil {
			t.Fatal(err)
		}
		if len(events) == 0 {
			return img
		}
		// Any number of whole revisions may come at once.
		for len(events) > 0 {
			n := rapid.IntRange(1, len(events)).Draw(t, "events")
			for n < len(events) && events[n].ModRevision == events[n-1].ModRevision {
				n++
			}
			next, err := img.Apply(events[:n])
			if err != nil {
				t.Fatal(err)
			}
			seen.apply(metadata.Diff(img, next), next)
			img, events = next, events[n:]
		}
	}
}

func TestEventsMustFollow(t *testing.T) {
	img := imageOf(t, 10)
	for name, events := range map[string][]metadata.Event{
		"again":  {{KV: topicKV("topic-000001", newTestID(1), 1, img.Revision)}},
		"behind": {{KV: metadata.KV{Key: "x", ModRevision: 20}}, {KV: metadata.KV{Key: "x", ModRevision: 19}}},
	} {
		if _, err := img.Apply(events); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestPlacement: replicas are distinct, leaders and replicas even, racks mixed.
func TestPlacement(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		racks := rapid.IntRange(1, 3).Draw(t, "racks")
		perRack := rapid.IntRange(1, 3).Draw(t, "brokers per rack")
		var brokers []*metadata.Broker
		for i := range racks * perRack {
			brokers = append(brokers, &metadata.Broker{ID: int32(i), Rack: fmt.Sprint(i % racks)})
		}
		rf := rapid.IntRange(1, len(brokers)).Draw(t, "rf")
		rounds := rapid.IntRange(1, 5).Draw(t, "rounds")
		partitions := rounds * len(brokers)
		seed := rapid.Uint64().Draw(t, "seed")
		got, problem := metadata.Place(brokers, partitions, rf, rand.New(rand.NewPCG(seed, 1)))
		if problem != "" || len(got) != partitions {
			t.Fatalf("%d partitions, %s", len(got), problem)
		}
		again, _ := metadata.Place(brokers, partitions, rf, rand.New(rand.NewPCG(seed, 1)))
		leads, holds := make([]int, len(brokers)), make([]int, len(brokers))
		for n, ids := range got {
			if !slices.Equal(ids, again[n]) {
				t.Fatal("the same seed places differently")
			}
			used := map[int32]bool{}
			rackOf := map[string]bool{}
			for _, id := range ids {
				used[id] = true
				rackOf[brokers[id].Rack] = true
				holds[id]++
			}
			leads[ids[0]]++
			if len(ids) != rf || len(used) != rf || len(rackOf) != min(rf, racks) {
				t.Fatalf("partition %d on %v: %d racks of %d", n, ids, len(rackOf), racks)
			}
		}
		if slices.Max(holds)-slices.Min(holds) > rf || slices.Max(leads)-slices.Min(leads) > rf {
			t.Fatalf("uneven: leads %v, holds %v", leads, holds)
		}
	})
}
