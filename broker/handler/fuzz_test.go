package handler

import (
	"context"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// FuzzAdministration has whatever decodes answered by the handlers of topics,
// configs and metadata. Each must answer, in a form that encodes.
func FuzzAdministration(f *testing.F) {
	keys := map[int16]bool{3: true, 19: true, 20: true, 32: true, 33: true, 35: true, 37: true, 44: true, 60: true, 74: true, 75: true}
	for _, steps := range scripts() {
		for _, st := range steps {
			f.Add(st.req.Key(), st.req.GetVersion(), st.req.AppendTo(nil))
		}
	}
	b := newTestBroker(f)
	f.Fuzz(func(t *testing.T, key, version int16, body []byte) {
		a := b.API(key)
		if !keys[key] || !a.Serves(version) {
			return
		}
		r := NewRequest()
		r.Header.Key, r.Header.Version = key, version
		r.Conn = &ConnInfo{Listener: "PLAINTEXT"}
		r.Ctx, r.Draining = context.Background(), context.Background()
		if err := a.Decode(r, body); err != nil || !small(r.Body) {
			return
		}
		resp, err := a.Handle(b.Broker, r)
		if err != nil {
			t.Fatal(err)
		}
		read := r.Body.ResponseKind() // in the request's version
		if err := read.ReadFrom(resp.AppendTo(nil)); err != nil {
			t.Fatal(err)
		}
	})
}

// small tells the requests that make no more work than a test can do: every
// partition is a directory.
func small(req kmsg.Request) bool {
	switch r := req.(type) {
	case *kmsg.MetadataRequest:
		return len(r.Topics) < 4
	case *kmsg.CreateTopicsRequest:
		for i := range r.Topics {
			if r.Topics[i].NumPartitions > 2 || len(r.Topics[i].ReplicaAssignment) > 2 {
				return false
			}
		}
		return len(r.Topics) < 4
	case *kmsg.CreatePartitionsRequest:
		for i := range r.Topics {
			if r.Topics[i].Count > 8 {
				return false
			}
		}
	}
	return true
}
