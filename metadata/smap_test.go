package metadata_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/gregor-broker/gregor/metadata"
	"pgregory.net/rapid"
)

// TestSmap compares the immutable map with Go's, and old versions of it with
// what they were.
func TestSmap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]int{5, 50, 1000}).Draw(t, "keys")
		m, model := metadata.NewSmap(), map[string]*int{}
		type version struct {
			m     metadata.Smap
			model map[string]*int
		}
		var versions []version
		for range rapid.IntRange(1, 12).Draw(t, "edits") {
			versions = append(versions, version{m, maps.Clone(model)})
			changes := map[string]*int{}
			from := rapid.IntRange(0, size).Draw(t, "from")
			for i := range rapid.IntRange(1, size).Draw(t, "n") {
				v := i
				changes[fmt.Sprintf("%04d", (from+i)%size)] = &v
			}
			if rapid.IntRange(0, 2).Draw(t, "delete") == 0 {
				for k := range changes {
					changes[k] = nil
				}
			}
			m = m.Edit(changes)
			for k, v := range changes {
				if v == nil {
					delete(model, k)
				} else {
					model[k] = v
				}
			}
		}
		versions = append(versions, version{m, model})
		for _, v := range versions {
			keys, content := v.m.Content()
			if !maps.Equal(content, v.model) || !slices.IsSorted(keys) {
				t.Fatalf("holds %d, want %d", len(content), len(v.model))
			}
			n, chunks := v.m.Shape()
			if n != len(v.model) || chunks > 2+n/16 {
				t.Fatalf("%d entries in %d chunks, want %d", n, chunks, len(v.model))
			}
			at := fmt.Sprintf("%04d", rapid.IntRange(0, size).Draw(t, "at"))
			want := slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return k < at })
			if got := v.m.From(at); !slices.Equal(got, want) {
				t.Fatalf("from %s: %v, want %v", at, got, want)
			}
			if got, ok := v.m.Get(at); got != v.model[at] || ok != (v.model[at] != nil) {
				t.Fatalf("get %s: %v", at, got)
			}
		}
		a, b := rapid.SampledFrom(versions).Draw(t, "a"), rapid.SampledFrom(versions).Draw(t, "b")
		var want []string
		for k := range maps.Keys(a.model) {
			if b.model[k] != a.model[k] {
				want = append(want, k)
			}
		}
		for k := range maps.Keys(b.model) {
			if a.model[k] == nil {
				want = append(want, k)
			}
		}
		slices.Sort(want)
		if got := metadata.DiffSmap(a.m, b.m); !slices.Equal(got, want) {
			t.Fatalf("diff %v, want %v", got, want)
		}
	})
}

// TestOneChangeCostsLittle: a topic more among ten thousand must not copy them
// all. Bytes are counted, not time.
func TestOneChangeCostsLittle(t *testing.T) {
	cost := func(topics int) (bytes int64) {
		img := imageOf(t, topics)
		var kept *metadata.Image
		r := testing.Benchmark(func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				next, err := img.Apply([]metadata.Event{
					{KV: partKV(newTestID(1<<20), 0, img.Revision+1)},
					{KV: topicKV("topic-005000-x", newTestID(1<<20), 1, img.Revision+1)},
				})
				if err != nil {
					b.Fatal(err)
				}
				if d := metadata.Diff(img, next); len(d.Topics) != 1 {
					b.Fatalf("%+v", d)
				}
				kept = next
			}
		})
		if kept.TopicCount() != topics+1 {
			t.Fatalf("%d topics", kept.TopicCount())
		}
		return r.AllocedBytesPerOp()
	}
	small, large := cost(100), cost(10000)
	t.Logf("%d bytes among 100 topics, %d among 10,000", small, large)
	if large > 32<<10 {
		t.Errorf("a change among 10,000 topics takes %d bytes", large)
	}
}

func partKV(id metadata.ID, n int, revision int64) metadata.KV {
	return metadata.KV{
		Key:   fmt.Sprintf("parts/%s/%d", metadata.FormatID(id), n),
		Value: []byte(`{"v":1,"leader":1,"replicas":[1],"isr":[1]}`), CreateRevision: revision, ModRevision: revision,
	}
}

func topicKV(name string, id metadata.ID, partitions int, revision int64) metadata.KV {
	return metadata.KV{
		Key: "topics/" + name, Value: fmt.Appendf(nil, `{"v":1,"id":%q,"partitions":%d}`, metadata.FormatID(id), partitions),
		CreateRevision: revision, ModRevision: revision,
	}
}

// imageOf returns an image of a number of topics with one partition each.
func imageOf(t testing.TB, topics int) *metadata.Image {
	t.Helper()
	var kvs []metadata.KV
	for i := range topics {
		id := newTestID(i)
		kvs = append(kvs, partKV(id, 0, int64(i+1)), topicKV(fmt.Sprintf("topic-%06d", i), id, 1, int64(i+1)))
	}
	img, err := metadata.FromKVs(kvs, int64(topics))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func newTestID(n int) metadata.ID {
	var id metadata.ID
	id[0], id[13], id[14], id[15] = 'T', byte(n>>16), byte(n>>8), byte(n)
	return id
}

func TestValuesThatCannotBeRead(t *testing.T) {
	id := metadata.FormatID(newTestID(1))
	for key, value := range map[string]string{
		"topics/a":                    `{`,
		"topics/b":                    `{"v":2,"id":"` + id + `","partitions":0}`,
		"topics/c":                    `{"v":1,"id":"short","partitions":0}`,
		"topics/d":                    `{"v":1,"id":"` + id + `","partitions":1}`, // no such partition
		"topics/e":                    `{"v":1,"id":"` + id + `","partitions":-1}`,
		"topics/f":                    `{"v":1,"id":"` + id + `","partitions":100000000}`,
		"parts/" + id + "/-1":         `{"v":1}`,
		"parts/" + id + "/2000000000": `{"v":1}`,
		"parts/" + id:                 `{"v":1}`,
		"brokers/reg/x":               `{"v":1}`,
		"controller":                  `[]`,
	} {
		_, err := metadata.FromKVs([]metadata.KV{{Key: key, Value: []byte(value), ModRevision: 7}}, 7)
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s = %s: %v", key, value, err)
		}
	}
	// What a later version adds is ignored.
	img, err := metadata.FromKVs([]metadata.KV{
		{Key: "new/thing", Value: []byte("?")},
		{Key: "parts/" + id + "/0", Value: []byte(`{"v":1,"replicas":[1],"new":{"x":1}}`)},
		{Key: "topics/a", Value: []byte(`{"v":1,"id":"` + id + `","partitions":1,"new":7}`)},
	}, 1)
	if err != nil || img.Topic("a") == nil {
		t.Errorf("%v, %v", img, err)
	}
}

func TestID(t *testing.T) {
	n := byte(0)
	id := metadata.NewID(func(b []byte) {
		// A first byte of 0xf8 to 0xfb makes '-' the first character.
		for i := range b {
			b[i] = 0xf8
		}
		if n++; n > 1 {
			b[0] = 0
		}
	})
	if n != 2 {
		t.Errorf("drawn %d times", n)
	}
	s := metadata.FormatID(id)
	if back, err := metadata.ParseID(s); err != nil || back != id || len(s) != 22 {
		t.Errorf("%s, %v", s, err)
	}
}
