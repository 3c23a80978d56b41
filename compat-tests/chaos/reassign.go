package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

// reassigner moves partitions between brokers: it grows and shrinks replica
// sets, changes their order, moves them, and cancels what is under way.
type reassigner struct {
	addrs    []string
	replicas int // of every partition, when it is done
}

func (r *reassigner) admin() (*kadm.Client, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(r.addrs...), kgo.RetryTimeout(5*time.Second))
	if err != nil {
		return nil, err
	}
	return kadm.NewClient(cl), nil
}

// do is one step of an administrator.
func (r *reassigner) do(ctx context.Context, rng *rand.Rand) (string, error) {
	adm, err := r.admin()
	if err != nil {
		return "", err
	}
	defer adm.Close()
	if rng.IntN(4) == 0 {
		return r.cancel(ctx, adm)
	}
	keys, err := r.partitions(ctx, adm)
	if err != nil {
		return "list", err
	}
	var req kadm.AlterPartitionAssignmentsReq
	what := ""
	for range 1 + rng.IntN(4) {
		k := keys[rng.IntN(len(keys))]
		to := rng.Perm(len(r.addrs))[:2+rng.IntN(min(2, len(r.addrs)-1))]
		req.Assign(k.Topic, k.Partition, nodes(to))
		what += fmt.Sprintf("%s to %v ", k, nodes(to))
	}
	if err := answered(adm.AlterPartitionAssignments(ctx, req)); err != nil || rng.IntN(4) > 0 {
		return what, err
	}
	// Before it is done, for once: logs are short here, and most are moved when
	// the next step comes.
	cancelled, err := r.cancel(ctx, adm)
	return what + cancelled, err
}

func nodes(indexes []int) []int32 {
	var out []int32
	for _, i := range indexes {
		out = append(out, int32(i+1))
	}
	return out
}

// answered is what the partitions' answers say.
func answered(resp kadm.AlterPartitionAssignmentsResponses, err error) error {
	if err != nil {
		return err
	}
	return resp.Error()
}

// partitions are all partitions, those of the coordinators too.
func (r *reassigner) partitions(ctx context.Context, adm *kadm.Client) ([]history.Key, error) {
	found, err := adm.ListTopicsWithInternal(ctx)
	if err != nil {
		return nil, err
	}
	var out []history.Key
	for _, t := range found.Sorted() {
		for _, p := range t.Partitions.Sorted() {
			out = append(out, history.Key{Topic: t.Topic, Partition: p.Partition})
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no partitions")
	}
	return out, nil
}

func (r *reassigner) cancel(ctx context.Context, adm *kadm.Client) (string, error) {
	running, err := adm.ListPartitionReassignments(ctx, nil)
	if err != nil {
		return "cancel", err
	}
	var req kadm.AlterPartitionAssignmentsReq
	n := 0
	for _, t := range running.Sorted() {
		req.CancelAssign(t.Topic, t.Partition)
		n++
	}
	if n == 0 {
		return "nothing to cancel", nil
	}
	return fmt.Sprintf("cancel %d", n), answered(adm.AlterPartitionAssignments(ctx, req))
}

// undo gives every partition as many replicas as it had, and waits until they
// are in sync.
func (r *reassigner) undo(ctx context.Context) error {
	for {
		left, err := r.restore(ctx)
		if err == nil && left == 0 {
			return nil
		}
		t := time.NewTimer(500 * time.Millisecond)
		select {
		case <-ctx.Done():
			t.Stop()
			return errors.Join(err, fmt.Errorf("%d partitions have not got their replicas: %w", left, ctx.Err()))
		case <-t.C:
		}
	}
}

// restore asks for what is not there yet and counts what is not whole.
func (r *reassigner) restore(ctx context.Context) (int, error) {
	adm, err := r.admin()
	if err != nil {
		return 0, err
	}
	defer adm.Close()
	running, err := adm.ListPartitionReassignments(ctx, nil)
	if err != nil {
		return 0, err
	}
	found, err := adm.ListTopicsWithInternal(ctx)
	if err != nil {
		return 0, err
	}
	var req kadm.AlterPartitionAssignmentsReq
	left, ask := 0, false
	for _, t := range found.Sorted() {
		for _, p := range t.Partitions.Sorted() {
			moving := false
			if m := running[t.Topic]; m != nil {
				_, moving = m[p.Partition]
			}
			if !moving && len(p.Replicas) == r.replicas && len(p.ISR) == r.replicas {
				continue
			}
			left++
			if !moving && len(p.Replicas) != r.replicas {
				var to []int32
				for i := range r.replicas {
					to = append(to, int32((int(p.Partition)+i)%len(r.addrs))+1)
				}
				req.Assign(t.Topic, p.Partition, to)
				ask = true
			}
		}
	}
	if ask {
		return left, answered(adm.AlterPartitionAssignments(ctx, req))
	}
	return left, nil
}

// whole tells whether all replicas of all partitions are in sync, and still are
// a moment later: who answers may not have heard of the last failure yet.
func (r *reassigner) whole(ctx context.Context) bool {
	if !r.inSync(ctx) {
		return false
	}
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return r.inSync(ctx)
	}
}

func (r *reassigner) inSync(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	adm, err := r.admin()
	if err != nil {
		return false
	}
	defer adm.Close()
	found, err := adm.ListTopicsWithInternal(ctx)
	if err != nil {
		return false
	}
	for _, t := range found {
		for _, p := range t.Partitions {
			if len(p.ISR) < len(p.Replicas) || len(p.ISR) < min(2, r.replicas) {
				return false
			}
		}
	}
	return true
}
