package metadata

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The parts of an image that are not handed out: each remembers the revision
// of its key, for decisions to compare.
type (
	clusterState struct {
		record   clusterRecord
		revision int64
	}
	controllerState struct {
		record        controllerRecord
		fence         int64 // create revision of the key, 0 = absent
		revision      int64
		epoch         controllerEpochRecord
		epochRevision int64
	}
	configState struct {
		values   map[string]string
		revision int64
	}
	producerState struct {
		next     int64
		revision int64
	}
	// brokerState is what the three keys of a broker say.
	brokerState struct {
		id          int32
		reg         regRecord
		regRevision int64 // 0 = not registered
		epoch       int64 // revision of the epoch key, 0 = none
		live        liveRecord
		liveRev     int64 // 0 = no sign of life
		liveLease   LeaseID
		offline     Replicas // as live says
	}
	// stagedTopic holds partitions that no topic names; nil where there is
	// none of that number.
	stagedTopic struct{ parts []*Partition }
)

// FromKVs builds the image of a whole listing of the store at one revision.
func FromKVs(kvs []KV, revision int64) (*Image, error) {
	e := newEditor(Empty())
	for _, kv := range kvs {
		if err := e.put(kv); err != nil {
			return nil, err
		}
	}
	return e.done(revision), nil
}

// Apply returns the image after events, which must follow each other and the
// image in revision, and be whole revisions. Keys that no version of gregor
// known to this one writes are ignored.
func (i *Image) Apply(events []Event) (*Image, error) {
	if len(events) == 0 {
		return i, nil
	}
	e := newEditor(i)
	revision := i.Revision
	for _, ev := range events {
		if ev.ModRevision < revision || ev.ModRevision <= i.Revision {
			return nil, fmt.Errorf("metadata: event of revision %d after revision %d", ev.ModRevision, revision)
		}
		revision = ev.ModRevision
		var err error
		if ev.Deleted {
			err = e.del(ev.Key)
		} else {
			err = e.put(ev.KV)
		}
		if err != nil {
			return nil, err
		}
	}
	return e.done(revision), nil
}

// editor makes the next image out of one.
type editor struct {
	img     Image
	token   *editToken
	topics  smapEdit[string, *Topic]
	ids     smapEdit[ID, *Topic]
	staged  smapEdit[ID, *stagedTopic]
	configs smapEdit[ConfigResource, *configState]
	// fresh topics and staged topics were made by this edit and may be
	// written by it.
	fresh       map[*Topic]bool
	freshStaged map[*stagedTopic]bool
	// brokersChanged says that the brokers, or which of them are up, differ.
	brokersChanged bool
	regsCopied     bool
}

func newEditor(base *Image) *editor {
	token := &editToken{}
	return &editor{
		img:         *base,
		token:       token,
		topics:      base.topics.edit(token),
		ids:         base.ids.edit(token),
		staged:      base.staged.edit(token),
		configs:     base.configs.edit(token),
		fresh:       map[*Topic]bool{},
		freshStaged: map[*stagedTopic]bool{},
	}
}

func (e *editor) done(revision int64) *Image {
	if e.brokersChanged {
		e.rebuildBrokers()
		e.markAllOffline()
	}
	e.img.topics = e.topics.done()
	e.img.ids = e.ids.done()
	e.img.staged = e.staged.done()
	e.img.configs = e.configs.done()
	e.img.Revision = revision
	img := e.img
	return &img
}

func (e *editor) put(kv KV) error {
	key := kv.Key
	switch {
	case strings.HasPrefix(key, prefixParts):
		return e.putPartition(kv)
	case strings.HasPrefix(key, prefixTopics):
		return e.putTopic(kv)
	case strings.HasPrefix(key, prefixLive):
		return e.putLive(kv)
	case strings.HasPrefix(key, prefixReg):
		return e.putReg(kv)
	case strings.HasPrefix(key, prefixEpoch):
		return e.putEpoch(kv)
	case strings.HasPrefix(key, prefixConfigs):
		return e.putConfig(kv)
	case strings.HasPrefix(key, prefixQuotas):
		return e.putQuota(kv)
	case strings.HasPrefix(key, prefixScram):
		return e.putScram(kv)
	case key == keyProducerIDs:
		r, err := decode[producerRecord](kv)
		e.img.producer = producerState{next: r.Next, revision: kv.ModRevision}
		return err
	case key == keyController:
		r, err := decode[controllerRecord](kv)
		e.img.controller.record, e.img.controller.fence = r, kv.CreateRevision
		e.img.controller.revision = kv.ModRevision
		return err
	case key == keyControllerEpoch:
		r, err := decode[controllerEpochRecord](kv)
		e.img.controller.epoch, e.img.controller.epochRevision = r, kv.ModRevision
		return err
	case key == keyCluster:
		r, err := decode[clusterRecord](kv)
		e.img.cluster = clusterState{record: r, revision: kv.ModRevision}
		e.img.ClusterID = r.ClusterID
		return err
	}
	return nil
}

func (e *editor) del(key string) error {
	switch {
	case strings.HasPrefix(key, prefixParts):
		return e.delPartition(key)
	case strings.HasPrefix(key, prefixTopics):
		e.delTopic(strings.TrimPrefix(key, prefixTopics))
	case strings.HasPrefix(key, prefixLive):
		return e.editBroker(key, prefixLive, func(b *brokerState) { b.live, b.liveRev, b.liveLease, b.offline = liveRecord{}, 0, 0, nil })
	case strings.HasPrefix(key, prefixReg):
		return e.editBroker(key, prefixReg, func(b *brokerState) { b.reg, b.regRevision = regRecord{}, 0 })
	case strings.HasPrefix(key, prefixEpoch):
		return e.editBroker(key, prefixEpoch, func(b *brokerState) { b.epoch = 0 })
	case strings.HasPrefix(key, prefixConfigs):
		if r, ok := parseConfigKey(strings.TrimPrefix(key, prefixConfigs)); ok {
			e.configs.del(r)
		}
	case strings.HasPrefix(key, prefixQuotas):
		e.delQuota(key)
	case strings.HasPrefix(key, prefixScram):
		e.delScram(key)
	case key == keyProducerIDs:
		e.img.producer = producerState{}
	case key == keyController:
		e.img.controller.record = controllerRecord{ID: -1}
		e.img.controller.fence, e.img.controller.revision = 0, 0
	case key == keyControllerEpoch:
		e.img.controller.epoch, e.img.controller.epochRevision = controllerEpochRecord{}, 0
	case key == keyCluster:
		e.img.cluster, e.img.ClusterID = clusterState{}, ""
	}
	return nil
}

func (e *editor) putConfig(kv KV) error {
	r, ok := parseConfigKey(strings.TrimPrefix(kv.Key, prefixConfigs))
	if !ok {
		return nil
	}
	record, err := decode[configRecord](kv)
	if err != nil {
		return err
	}
	e.configs.set(r, &configState{values: record.Configs, revision: kv.ModRevision})
	return nil
}

// own returns a topic that this edit may write.
func (e *editor) own(t *Topic) *Topic {
	if e.fresh[t] {
		return t
	}
	clone := *t
	clone.Partitions = slices.Clone(t.Partitions)
	e.setTopic(&clone)
	return &clone
}

func (e *editor) setTopic(t *Topic) {
	e.fresh[t] = true
	e.topics.set(t.Name, t)
	e.ids.set(t.ID, t)
}

func (e *editor) putPartition(kv KV) error {
	id, n, err := parsePartKey(strings.TrimPrefix(kv.Key, prefixParts))
	if err != nil {
		return &ValueError{Key: kv.Key, Revision: kv.ModRevision, Err: err}
	}
	r, err := decode[partitionRecord](kv)
	if err != nil {
		return err
	}
	p := r.partition(kv.ModRevision)
	if t, ok := e.ids.get(id); ok && int(n) < len(t.Partitions) {
		e.own(t).Partitions[n] = e.marked(id, n, p)
		return nil
	}
	s := e.ownStaged(id)
	for len(s.parts) <= int(n) {
		s.parts = append(s.parts, nil)
	}
	s.parts[n] = p
	return nil
}

// delPartition forgets a staged partition. Partitions of a topic go only after
// the topic, so that one that still has its topic is no change anyone makes.
func (e *editor) delPartition(key string) error {
	id, n, err := parsePartKey(strings.TrimPrefix(key, prefixParts))
	if err != nil {
		return &ValueError{Key: key, Err: err}
	}
	if t, ok := e.ids.get(id); ok && int(n) < len(t.Partitions) {
		return &ValueError{Key: key, Err: fmt.Errorf("deleted before its topic %q", t.Name)}
	}
	if s, ok := e.staged.get(id); !ok || int(n) >= len(s.parts) {
		return nil
	}
	s := e.ownStaged(id)
	s.parts[n] = nil
	e.dropIfEmpty(id, s)
	return nil
}

func (e *editor) dropIfEmpty(id ID, s *stagedTopic) {
	for len(s.parts) > 0 && s.parts[len(s.parts)-1] == nil {
		s.parts = s.parts[:len(s.parts)-1]
	}
	if len(s.parts) == 0 {
		e.staged.del(id)
	}
}

func (e *editor) ownStaged(id ID) *stagedTopic {
	s, ok := e.staged.get(id)
	if ok && e.freshStaged[s] {
		return s
	}
	clone := &stagedTopic{}
	if ok {
		clone.parts = slices.Clone(s.parts)
	}
	e.freshStaged[clone] = true
	e.staged.set(id, clone)
	return clone
}

func (e *editor) putTopic(kv KV) error {
	name := strings.TrimPrefix(kv.Key, prefixTopics)
	r, err := decode[topicRecord](kv)
	if err != nil {
		return err
	}
	id := ID(r.ID)
	if r.Partitions < 0 || r.Partitions > maxPartitions {
		return &ValueError{Key: kv.Key, Revision: kv.ModRevision, Err: fmt.Errorf("%d partitions", r.Partitions)}
	}
	old, _ := e.topics.get(name)
	if old != nil && old.ID != id {
		e.delTopic(name)
		old = nil
	}
	t := &Topic{Name: name, ID: id, Internal: IsInternal(name)}
	if old != nil {
		t.Partitions = old.Partitions
		if !e.fresh[old] {
			t.Partitions = slices.Clone(old.Partitions)
		}
	}
	if t.Partitions, err = e.takeStaged(id, t.Partitions, int(r.Partitions)); err != nil {
		return &ValueError{Key: kv.Key, Revision: kv.ModRevision, Err: err}
	}
	t.Configs = r.Configs
	t.Revision, t.Created = kv.ModRevision, kv.CreateRevision
	e.setTopic(t)
	return nil
}

// takeStaged grows a topic to n partitions by those staged under its id.
func (e *editor) takeStaged(id ID, parts []*Partition, n int) ([]*Partition, error) {
	if n < len(parts) {
		return nil, fmt.Errorf("shrinks from %d to %d partitions", len(parts), n)
	}
	if n == len(parts) {
		return parts, nil
	}
	s, ok := e.staged.get(id)
	for i := len(parts); i < n; i++ {
		if !ok || i >= len(s.parts) || s.parts[i] == nil {
			return nil, fmt.Errorf("names partition %d, which is not there", i)
		}
		parts = append(parts, e.marked(id, int32(i), s.parts[i]))
	}
	s = e.ownStaged(id)
	clear(s.parts[:n])
	e.dropIfEmpty(id, s)
	return parts, nil
}

func (e *editor) delTopic(name string) {
	t, ok := e.topics.get(name)
	if !ok {
		return
	}
	e.topics.del(name)
	e.ids.del(t.ID)
	s := e.ownStaged(t.ID)
	for n, p := range t.Partitions {
		p = unmarked(p)
		if n < len(s.parts) {
			s.parts[n] = p
		} else {
			s.parts = append(s.parts, p)
		}
	}
	e.dropIfEmpty(t.ID, s)
}

func (e *editor) putReg(kv KV) error {
	r, err := decode[regRecord](kv)
	if err != nil {
		return err
	}
	return e.editBroker(kv.Key, prefixReg, func(b *brokerState) { b.reg, b.regRevision = r, kv.ModRevision })
}

func (e *editor) putEpoch(kv KV) error {
	if _, err := decode[epochRecord](kv); err != nil {
		return err
	}
	return e.editBroker(kv.Key, prefixEpoch, func(b *brokerState) { b.epoch = kv.ModRevision })
}

func (e *editor) putLive(kv KV) error {
	r, err := decode[liveRecord](kv)
	if err != nil {
		return err
	}
	return e.editBroker(kv.Key, prefixLive, func(b *brokerState) {
		b.live, b.liveRev, b.liveLease, b.offline = r, kv.ModRevision, kv.Lease, r.offline()
	})
}

// editBroker changes the state of the broker that key names.
func (e *editor) editBroker(key, prefix string, change func(*brokerState)) error {
	id, err := parseBrokerID(strings.TrimPrefix(key, prefix))
	if err != nil {
		return &ValueError{Key: key, Err: err}
	}
	if !e.regsCopied {
		e.img.regs = slices.Clone(e.img.regs)
		e.regsCopied = true
	}
	n, found := slices.BinarySearchFunc(e.img.regs, id, func(b *brokerState, id int32) int { return int(b.id) - int(id) })
	was, next := &brokerState{}, &brokerState{id: id}
	if found {
		was = e.img.regs[n]
		*next = *was
	}
	change(next)
	switch {
	case next.regRevision == 0 && next.epoch == 0 && next.liveRev == 0:
		if found {
			e.img.regs = slices.Delete(e.img.regs, n, n+1)
		}
	case found:
		e.img.regs[n] = next
	default:
		e.img.regs = slices.Insert(e.img.regs, n, next)
	}
	if prefix != prefixLive || !next.offline.Equal(was.offline) {
		e.brokersChanged = true
	}
	return nil
}

// rebuildBrokers makes the public view of the brokers: those that registered.
// Broker values that did not change stay the same pointers.
func (e *editor) rebuildBrokers() {
	var brokers []*Broker
	for _, s := range e.img.regs {
		if s.regRevision == 0 {
			continue
		}
		b := s.broker()
		if old := e.img.Broker(s.id); old != nil && sameBroker(old, b) {
			b = old
		}
		brokers = append(brokers, b)
	}
	e.img.brokers = brokers
}

func (s *brokerState) broker() *Broker {
	b := &Broker{
		ID: s.id, Epoch: s.epoch, Revision: s.regRevision, Incarnation: ID(s.reg.Incarnation), Rack: s.reg.Rack,
		// Whatever the record says: no broker is up without an epoch.
		Fenced:       s.reg.Fenced || s.reg.Pending || s.epoch == 0,
		ShuttingDown: s.reg.ShuttingDown,
	}
	if s.live.Incarnation == s.reg.Incarnation {
		b.Offline = s.offline
	}
	for _, ep := range s.reg.Endpoints {
		b.Endpoints = append(b.Endpoints, Endpoint(ep))
	}
	return b
}

func sameBroker(a, b *Broker) bool {
	return a.ID == b.ID && a.Epoch == b.Epoch && a.Revision == b.Revision && a.Incarnation == b.Incarnation && a.Rack == b.Rack &&
		a.Fenced == b.Fenced && a.ShuttingDown == b.ShuttingDown && slices.Equal(a.Endpoints, b.Endpoints) && a.Offline.Equal(b.Offline)
}

// markAllOffline derives OfflineReplicas of every partition anew, after brokers
// came or went.
func (e *editor) markAllOffline() {
	var changed []*Topic
	for _, t := range e.topics.all() {
		for n, p := range t.Partitions {
			if !slices.Equal(p.OfflineReplicas, e.offline(t.ID, int32(n), p)) {
				changed = append(changed, t)
				break
			}
		}
	}
	for _, t := range changed {
		t = e.own(t)
		for n, p := range t.Partitions {
			t.Partitions[n] = e.marked(t.ID, int32(n), unmarked(p))
		}
	}
}

// marked returns p with its offline replicas. Staged partitions are not marked,
// because nobody would keep that up to date.
func (e *editor) marked(topic ID, n int32, p *Partition) *Partition {
	offline := e.offline(topic, n, p)
	if len(offline) == 0 {
		return p
	}
	clone := *p
	clone.OfflineReplicas = offline
	return &clone
}

func unmarked(p *Partition) *Partition {
	if len(p.OfflineReplicas) == 0 {
		return p
	}
	clone := *p
	clone.OfflineReplicas = nil
	return &clone
}

func (e *editor) offline(topic ID, n int32, p *Partition) []int32 {
	var offline []int32
	for _, id := range p.Replicas {
		if b := e.img.Broker(id); b == nil || b.Fenced || b.Offline.Has(topic, n) {
			offline = append(offline, id)
		}
	}
	return offline
}

// Delta names what differs between two images.
type Delta struct {
	// From and To are the revisions of the images.
	From, To int64
	// Topics is sorted by name. A topic that was deleted and created again
	// is two entries, first the deletion.
	Topics []TopicDelta
	// Configs holds the resources other than topics whose configs changed.
	Configs []ConfigResource
	// Brokers holds the ids of brokers that came, went or changed.
	Brokers []int32
	// Controller says that another controller was elected, or none is left.
	Controller bool
}

// TopicDelta says how one topic changed. Old is nil for a new topic, New for a
// deleted one; otherwise they have the same name and id.
type TopicDelta struct {
	Old, New *Topic
	// Partitions are the numbers of the new and changed partitions,
	// ascending. Empty for a deleted topic.
	Partitions []int32
	// ConfigsChanged is true for a new topic too.
	ConfigsChanged bool
}

// Diff returns what changed from old to new. What both share is skipped, so
// that it costs by what changed, not by what there is.
func Diff(old, new *Image) *Delta {
	d := &Delta{From: old.Revision, To: new.Revision}
	diff(old.topics, new.topics, func(_ string, a *Topic, _ bool, b *Topic, _ bool) {
		if a != nil && b != nil && a.ID != b.ID {
			d.Topics = append(d.Topics, TopicDelta{Old: a})
			a = nil
		}
		if t, changed := diffTopic(a, b); changed {
			d.Topics = append(d.Topics, t)
		}
	})
	diff(old.configs, new.configs, func(r ConfigResource, a *configState, _ bool, b *configState, _ bool) {
		if a == nil || b == nil || a.revision != b.revision {
			d.Configs = append(d.Configs, r)
		}
	})
	d.Brokers = diffBrokers(old.brokers, new.brokers)
	d.Controller = old.controller.fence != new.controller.fence
	return d
}

func diffTopic(a, b *Topic) (TopicDelta, bool) {
	d := TopicDelta{Old: a, New: b}
	if b == nil {
		return d, true
	}
	for n, p := range b.Partitions {
		if a != nil && n < len(a.Partitions) && (a.Partitions[n] == p || a.Partitions[n].Revision == p.Revision) {
			continue
		}
		d.Partitions = append(d.Partitions, int32(n))
	}
	d.ConfigsChanged = a == nil || a.Revision != b.Revision && !maps.Equal(a.Configs, b.Configs)
	return d, a == nil || d.ConfigsChanged || len(d.Partitions) > 0
}

func diffBrokers(a, b []*Broker) []int32 {
	var ids []int32
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].ID < b[0].ID:
			ids = append(ids, a[0].ID)
			a = a[1:]
		case len(a) == 0 || b[0].ID < a[0].ID:
			ids = append(ids, b[0].ID)
			b = b[1:]
		default:
			if a[0] != b[0] && !sameBroker(a[0], b[0]) {
				ids = append(ids, b[0].ID)
			}
			a, b = a[1:], b[1:]
		}
	}
	return ids
}

// Empty says that nothing differs that anyone outside the controller sees.
func (d *Delta) Empty() bool {
	return len(d.Topics) == 0 && len(d.Configs) == 0 && len(d.Brokers) == 0 && !d.Controller
}
