package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestScale: many topics are created, written to, read, and deleted, while the
// brokers are bounced one after the other in between.
func TestScale(t *testing.T) {
	topics, partitions := 60, 3
	if *clientsFlag == "all" {
		topics = 500
	}
	onEach(t, func(t *testing.T, name string) {
		c := start(t, name, here(3))
		s := &scale{cluster: c, prefix: fmt.Sprintf("s-%08x-", rand.Uint32()), partitions: partitions}
		for i := range topics {
			s.topics = append(s.topics, fmt.Sprintf("%s%d", s.prefix, i))
		}
		s.timed("create", s.create)
		s.timed("write", s.write)
		s.timed("read", s.read)
		for _, id := range c.ids {
			s.timed(fmt.Sprintf("bounce %d", id), func() {
				c.stop(id)
				c.restart(id)
				s.awaitInSync()
			})
		}
		s.timed("write again", s.write)
		s.timed("read again", s.read)
		s.timed("delete", s.delete)
	})
}

type scale struct {
	*cluster
	prefix     string
	topics     []string
	partitions int
	writes     int // of a record to each partition
}

func (s *scale) timed(what string, f func()) {
	s.t.Helper()
	began := time.Now()
	f()
	s.t.Logf("%s, %d topics of %d partitions with 3 replicas: %v", what, len(s.topics), s.partitions, time.Since(began).Round(time.Millisecond))
}

func (s *scale) create() {
	for i := 0; i < len(s.topics); i += 50 {
		r, err := s.adm.CreateTopics(s.t.Context(), int32(s.partitions), 3, nil, s.topics[i:min(i+50, len(s.topics))]...)
		if err == nil {
			err = r.Error()
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	s.awaitInSync()
}

// awaitInSync returns once all replicas of all topics are in sync.
func (s *scale) awaitInSync() {
	s.t.Helper()
	s.await("all in sync", func(ctx context.Context) (bool, error) {
		m, err := s.metadata(ctx, s.topics...)
		if err != nil {
			return false, err
		}
		behind := 0
		for _, t := range m.Topics {
			if t.ErrorCode != 0 || len(t.Partitions) != s.partitions {
				return false, fmt.Errorf("%s: error %d, %d partitions", *t.Topic, t.ErrorCode, len(t.Partitions))
			}
			for _, p := range t.Partitions {
				if len(p.ISR) != 3 || p.Leader < 1 {
					behind++
				}
			}
		}
		if behind > 0 {
			return false, fmt.Errorf("%d partitions are not in sync", behind)
		}
		return len(m.Topics) == len(s.topics), nil
	})
}

func (s *scale) write() {
	cl := s.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(len(s.topics)*s.partitions))
	defer cl.Close()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	var records []*kgo.Record
	for _, t := range s.topics {
		for p := range s.partitions {
			records = append(records, &kgo.Record{Topic: t, Partition: int32(p), Value: fmt.Appendf(nil, "%s %d %d", t, p, s.writes)})
		}
	}
	if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		s.t.Fatal(err)
	}
	s.writes++
}

// read reads all partitions from their starts: what was written, once and in
// order.
func (s *scale) read() {
	cl := s.client(kgo.ConsumeTopics(s.topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	type key struct {
		topic     string
		partition int32
	}
	got := map[key]int{}
	for n := 0; n < len(s.topics)*s.partitions*s.writes; {
		fs := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			s.t.Fatalf("%d of %d records read: %v", n, len(s.topics)*s.partitions*s.writes, fs.Err())
		}
		fs.EachRecord(func(r *kgo.Record) {
			k := key{r.Topic, r.Partition}
			if want := fmt.Sprintf("%s %d %d", r.Topic, r.Partition, got[k]); string(r.Value) != want {
				s.t.Errorf("%s-%d@%d holds %q, want %q", r.Topic, r.Partition, r.Offset, r.Value, want)
			}
			got[k]++
			n++
		})
	}
}

// delete deletes all topics and returns once nobody knows them and no broker has
// logs of them.
func (s *scale) delete() {
	r, err := s.adm.DeleteTopics(s.t.Context(), s.topics...)
	if err == nil {
		err = r.Error()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	for _, id := range s.ids {
		s.await(fmt.Sprintf("broker %d without them", id), func(ctx context.Context) (bool, error) {
			dirs, err := s.dirs(ctx, id)
			left := 0
			dirs.Each(func(d kadm.DescribedLogDir) {
				for _, t := range s.topics {
					left += len(d.Topics[t])
				}
			})
			if left > 0 {
				err = fmt.Errorf("%d logs are left", left)
			}
			return err == nil, err
		})
	}
	s.await("no topic", func(ctx context.Context) (bool, error) {
		m, err := s.metadata(ctx, s.topics...)
		if err != nil {
			return false, err
		}
		for _, t := range m.Topics {
			if t.ErrorCode == 0 {
				return false, fmt.Errorf("%s is there", *t.Topic)
			}
		}
		return true, nil
	})
}
