package check

import (
	"cmp"
	"slices"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

// deletions tell of which acknowledged records nobody can be blamed for not
// having read them (P4), since their topic was deleted. Keys of topics that are
// deleted carry the topic's id, so a later topic of the name is another key. A
// deletion explains that a record was not read where
//
//   - it took effect: it was answered so, or the final polls read another topic
//     of the name; and they did not read this one;
//   - the record's send began before the deletion was answered, or the broker
//     that acknowledged it could not know yet: it still named the topic in its
//     newest Metadata answer of before;
//   - no reader, all of which begin where the topic does, had got beyond it.
type deletions struct {
	ops    map[history.Key][]*history.Op
	final  map[history.Key]bool
	passed map[history.Key][]passed
	named  map[nameSeat][]naming
}

// passed is a poll that found nothing at the end of what could be read.
type passed struct{ called, end int64 }

// nameSeat is a broker, and a name that topics may have.
type nameSeat struct {
	broker int32
	name   string
}

// naming is which topic of a name a broker said to know, "" for none.
type naming struct {
	topic string
	op    *history.Op
}

func (a *analysis) deletions() *deletions {
	d := &deletions{
		ops: map[history.Key][]*history.Op{}, final: map[history.Key]bool{}, passed: map[history.Key][]passed{}, named: map[nameSeat][]naming{},
	}
	for i := range a.ops {
		op := &a.ops[i]
		switch {
		case op.F == history.Deleted && op.Type != history.Fail:
			for _, k := range op.Keys {
				d.ops[k] = append(d.ops[k], op)
			}
		case op.F == history.Poll && op.Type == history.OK:
			d.polled(op)
		case op.F == history.Metadata && op.Type == history.OK:
			d.heard(op)
		}
	}
	for _, list := range d.named {
		slices.SortStableFunc(list, func(x, y naming) int { return cmp.Compare(x.op.Returned, y.op.Returned) })
	}
	return d
}

func (d *deletions) polled(op *history.Op) {
	found := map[history.Key]bool{}
	op.Reads(func(k history.Key, reads []history.Read) { found[k] = found[k] || len(reads) > 0 })
	for k := range found {
		d.final[k] = d.final[k] || op.Final
	}
	for _, m := range op.Marks {
		d.final[m.Key] = d.final[m.Key] || op.Final
		_, refused := op.Ended[m.Key]
		_, back := op.EpochEnded[m.Key]
		if !refused && !back && !found[m.Key] && m.LastStable >= 0 {
			d.passed[m.Key] = append(d.passed[m.Key], passed{op.Invoked, m.LastStable})
		}
	}
}

func (d *deletions) heard(op *history.Op) {
	for _, name := range op.Absent {
		s := nameSeat{op.Broker, name}
		d.named[s] = append(d.named[s], naming{"", op})
	}
	for _, l := range op.Leaders {
		s := nameSeat{l.Broker, l.Key.Name()}
		if list := d.named[s]; len(list) == 0 || list[len(list)-1].op != op {
			d.named[s] = append(d.named[s], naming{l.Key.Topic, op})
		}
	}
}

// explain tells whether a record that was not read could not be.
func (d *deletions) explain(op *history.Op, sent *history.Sent) bool {
	if d.final[sent.Key] {
		return false
	}
	answered, tookEffect := int64(history.Never), d.succeeded(sent.Key)
	for _, del := range d.ops[sent.Key] {
		if del.Type == history.OK {
			answered, tookEffect = min(answered, del.Returned), true
		}
	}
	switch {
	case len(d.ops[sent.Key]) == 0 || !tookEffect:
		return false
	case answered < op.Invoked && d.newest(nameSeat{op.Broker, sent.Key.Name()}, op.Invoked) != sent.Key.Topic:
		return false
	}
	return !slices.ContainsFunc(d.passed[sent.Key], func(p passed) bool { return p.called > op.Returned && p.end > sent.Offset })
}

// succeeded tells whether the final polls read another topic of a key's name.
func (d *deletions) succeeded(k history.Key) bool {
	for other := range d.final {
		if d.final[other] && other.Name() == k.Name() && other.Topic != k.Topic {
			return true
		}
	}
	return false
}

// newest is the topic that a broker knew in its newest answer before a time.
func (d *deletions) newest(s nameSeat, before int64) string {
	topic := ""
	for _, n := range d.named[s] {
		if n.op.Returned >= before {
			break
		}
		topic = n.topic
	}
	return topic
}
