package compat

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
	"github.com/gregor-broker/gregor/compat-tests/wire"
	"github.com/klauspost/compress/zstd"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestDifferences sends the same requests, at every version of every API that
// both brokers serve, to gregor and to Apache Kafka, and compares the answers
// field by field. What may differ is masked (package wire) or listed with its
// reason in testdata/accepted-differences.txt.
//
// With one broker alone it only proves that every request is answered.
func TestDifferences(t *testing.T) {
	prefix := topicPrefix()
	answers := map[string]*script{}
	versions := map[string]map[int16][2]int16{}
	onAll(t, func(t *testing.T, b *harness.Broker) { versions[b.Name] = advertised(t, b) })
	onAll(t, func(t *testing.T, b *harness.Broker) {
		s := newScript(t, b, prefix, common(versions))
		defer s.close()
		s.run()
		answers[b.Name] = s
	})
	k, g := answers["kafka"], answers["gregor"]
	if k == nil || g == nil {
		return
	}
	accepted := readAccepted(t)
	// The same difference in many versions of an API is told once.
	where := map[string][]string{}
	var order []string
	for _, label := range k.order {
		for _, d := range differ(k.answers[label], g.answers[label]) {
			if accepted.covers(label, d) {
				continue
			}
			what, version := splitVersion(label)
			key := fmt.Sprintf("%s\n  kafka:  %s\n  gregor: %s", what, d[0], d[1])
			if where[key] == nil {
				order = append(order, key)
			}
			where[key] = append(where[key], version)
		}
	}
	for i, key := range order {
		if i == 300 {
			t.Errorf("and %d more", len(order)-i)
			break
		}
		t.Errorf("%s: %s", strings.Join(where[key], " "), key)
	}
	t.Logf("%d answers compared, %d differences not accepted", len(k.order), len(order))
	for _, u := range accepted.unused() {
		t.Logf("an accepted difference that is no more: %s", u)
	}
	for _, label := range g.order {
		if _, ok := k.answers[label]; !ok {
			t.Errorf("%s was asked of gregor alone", label)
		}
	}
}

var versionInLabel = regexp.MustCompile(` v(\d+) `)

func splitVersion(label string) (what, version string) {
	if m := versionInLabel.FindStringSubmatch(label); m != nil {
		return versionInLabel.ReplaceAllString(label, " "), "v" + m[1]
	}
	return label, ""
}

func topicPrefix() string { return fmt.Sprintf("diff-%x-", time.Now().UnixNano()&0xffffffff) }

func advertised(t *testing.T, b *harness.Broker) map[int16][2]int16 {
	t.Helper()
	c, err := wire.Dial(b.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	req := kmsg.NewPtrApiVersionsRequest()
	req.Version = 3
	req.ClientSoftwareName, req.ClientSoftwareVersion = "gregor-compat", "1"
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	out := map[int16][2]int16{}
	for _, k := range resp.(*kmsg.ApiVersionsResponse).ApiKeys {
		out[k.ApiKey] = [2]int16{k.MinVersion, k.MaxVersion}
	}
	return out
}

// common is, for each API, the versions that all brokers of this run serve and
// kmsg knows. Produce 0 to 2 is advertised for librdkafka's sake and refused.
func common(brokers map[string]map[int16][2]int16) map[int16][2]int16 {
	out := map[int16][2]int16{}
	first := true
	for _, versions := range brokers {
		if first {
			for k, v := range versions {
				if r := kmsg.RequestForKey(k); r != nil {
					out[k] = [2]int16{v[0], min(v[1], r.MaxVersion())}
				}
			}
			first = false
			continue
		}
		for k, have := range out {
			v, ok := versions[k]
			if have = [2]int16{max(have[0], v[0]), min(have[1], v[1])}; !ok || have[0] > have[1] {
				delete(out, k)
				continue
			}
			out[k] = have
		}
	}
	return out
}

// differ pairs the lines of two answers by their path; each pair that differs is
// one difference.
func differ(kafka, gregor []string) [][2]string {
	byPath := func(lines []string) map[string]string {
		m := map[string]string{}
		for _, l := range lines {
			path, _, _ := strings.Cut(l, " = ")
			path, _, _ = strings.Cut(path, ": ")
			path = strings.TrimSuffix(path, " null")
			m[path] = l
		}
		return m
	}
	k, g := byPath(kafka), byPath(gregor)
	var paths []string
	for p := range k {
		paths = append(paths, p)
	}
	for p := range g {
		if _, ok := k[p]; !ok {
			paths = append(paths, p)
		}
	}
	sort.Strings(paths)
	var out [][2]string
	whole := map[string]bool{}
	for _, p := range paths {
		switch {
		case k[p] == g[p]:
		case k[p] != "" && g[p] != "":
			out = append(out, [2]string{k[p], g[p]})
		default:
			// Where an element is missing as a whole, that is one difference.
			other, has := g, "present"
			if k[p] == "" {
				other = k
			}
			element := missingElement(p, other)
			if whole[element] {
				continue
			}
			whole[element] = true
			if element == p {
				out = append(out, [2]string{orAbsent(k[p]), orAbsent(g[p])})
			} else if k[p] == "" {
				out = append(out, [2]string{"(absent)", element + " " + has})
			} else {
				out = append(out, [2]string{element + " " + has, "(absent)"})
			}
		}
	}
	return out
}

// missingElement is the shortest beginning of path, cut behind an index, of
// which the other answer has nothing.
func missingElement(path string, other map[string]string) string {
	for i, c := range path {
		if c != ']' {
			continue
		}
		element, found := path[:i+1], false
		for o := range other {
			if strings.HasPrefix(o, element) {
				found = true
				break
			}
		}
		if !found {
			return element
		}
	}
	return path
}

func orAbsent(s string) string {
	if s == "" {
		return "(absent)"
	}
	return s
}

// accepted differences: "label<TAB>line<TAB>reason", label and line (of either
// broker) being regular expressions.
type accepted struct {
	rules []*rule
}

type rule struct {
	text        string
	label, line *regexp.Regexp
	used        bool
}

func readAccepted(t *testing.T) *accepted {
	t.Helper()
	f, err := os.Open("testdata/accepted-differences.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a := &accepted{}
	for s := bufio.NewScanner(f); s.Scan(); {
		line := s.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		parts := strings.Split(line, "\t")
		if len(parts) != 3 || parts[2] == "" {
			t.Fatalf("accepted difference without label, line and reason: %q", line)
		}
		a.rules = append(a.rules, &rule{text: line, label: regexp.MustCompile("^(?:" + parts[0] + ")$"), line: regexp.MustCompile(parts[1])})
	}
	return a
}

func (a *accepted) covers(label string, d [2]string) bool {
	for _, r := range a.rules {
		if r.label.MatchString(label) && (r.line.MatchString(d[0]) || r.line.MatchString(d[1])) {
			r.used = true
			return true
		}
	}
	return false
}

func (a *accepted) unused() []string {
	var out []string
	for _, r := range a.rules {
		if !r.used {
			out = append(out, r.text)
		}
	}
	return out
}

// script asks one broker everything and keeps the answers by label.
type script struct {
	t        *testing.T
	b        *harness.Broker
	c        *wire.Conn
	n        *wire.Normal
	prefix   string
	versions map[int16][2]int16
	ids      map[string][16]byte
	answers  map[string][]string
	order    []string
	base     int64
}

func newScript(t *testing.T, b *harness.Broker, prefix string, versions map[int16][2]int16) *script {
	host, port, _ := strings.Cut(b.Addr, ":")
	mask := []string{b.Addr, "<address>", ":" + port, ":<port>", host + ":", "<host>:", prefix, "P-"}
	if b.DataDir != "" {
		mask = append(mask, b.DataDir, "<data>")
	}
	s := &script{
		t: t, b: b, prefix: prefix, versions: versions, ids: map[string][16]byte{}, answers: map[string][]string{},
		n: wire.NewNormal(strings.NewReplacer(mask...)),
		// A fixed moment, so that batches are the same bytes for both brokers.
		base: scriptBase,
	}
	s.dial()
	return s
}

var scriptBase = time.Now().Add(-24 * time.Hour).UnixMilli()

func (s *script) dial() {
	c, err := wire.Dial(s.b.Addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.c = c
}

func (s *script) close() {
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.Version, req.TimeoutMillis = 5, 10_000
	for name := range s.ids {
		req.TopicNames = append(req.TopicNames, name)
	}
	_, _ = s.c.Do(req)
	_ = s.c.Close()
}

// each calls f with every version of an API that is compared.
func (s *script) each(key int16, f func(v int16, label string)) {
	r, ok := s.versions[key]
	if !ok {
		return
	}
	for v := r[0]; v <= r[1]; v++ {
		if key == 0 && v < 3 {
			continue
		}
		f(v, fmt.Sprintf("%s v%d ", kmsg.NameForKey(key), v))
	}
}

// ask sends a request and keeps its answer.
func (s *script) ask(label string, req kmsg.Request) kmsg.Response {
	resp, err := s.c.Do(req)
	if err != nil {
		// A broker that hangs up did answer; anything else is the end.
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			s.t.Errorf("%s: %v", label, err)
		}
		_ = s.c.Close()
		s.dial()
		s.keep(label, []string{"<the broker closed the connection>"})
		return nil
	}
	s.keep(label, s.n.Lines(resp))
	return resp
}

func (s *script) keep(label string, lines []string) {
	if _, ok := s.answers[label]; ok {
		s.t.Fatalf("asked twice: %s", label)
	}
	s.answers[label] = lines
	s.order = append(s.order, label)
}

// topic creates a topic outside the comparison, with configs as "key=value".
func (s *script) topic(name string, partitions int32, conf ...string) string {
	name = s.prefix + name
	resp, err := s.c.Do(harness.CreateTopic(name, partitions, conf...))
	if err != nil {
		s.t.Fatal(err)
	}
	rt := resp.(*kmsg.CreateTopicsResponse).Topics[0]
	if rt.ErrorCode != 0 {
		s.t.Fatalf("create %s: %d %v", name, rt.ErrorCode, rt.ErrorMessage)
	}
	s.learn(name, rt.TopicID)
	settle(s.t, s.b, name, int(partitions))
	return name
}

func (s *script) learn(name string, id [16]byte) {
	s.n.Topic(id, strings.Replace(name, s.prefix, "P-", 1))
	s.ids[name] = id
}

// write appends batches to partition 0, each as a request of its own.
func (s *script) write(topic string, batches ...[]byte) {
	for _, b := range batches {
		resp, err := s.c.Do(produceRequest(9, topic, [16]byte{}, 0, b))
		if err != nil {
			s.t.Fatal(err)
		}
		if p := resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0]; p.ErrorCode != 0 {
			s.t.Fatalf("write to %s: %d %v", topic, p.ErrorCode, p.ErrorMessage)
		}
	}
}

func produceRequest(v int16, topic string, id [16]byte, partition int32, records []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = v, -1, 5000
	t := kmsg.NewProduceRequestTopic()
	t.Topic, t.TopicID = topic, id
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = partition, records
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

func (s *script) run() {
	for _, part := range []func(){
		s.apiVersions, s.createTopics, s.metadata, s.createPartitions, s.configs, s.produce, s.idempotent, s.fetch, s.sessions,
		s.listOffsets, s.deleteRecords, s.initProducerID, s.leaderEpochs, s.describeCluster, s.describeProducers,
		s.describeTopicPartitions, s.logDirs, s.deleteTopics,
	} {
		part()
	}
}

func (s *script) apiVersions() {
	s.each(18, func(v int16, label string) {
		req := kmsg.NewPtrApiVersionsRequest()
		req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = v, "gregor-compat", "1.0"
		s.ask(label+"plain", req)
		if v >= 3 {
			bad := *req
			bad.ClientSoftwareName = "not a valid name!"
			s.ask(label+"bad client name", &bad)
		}
	})
	// A version from the future is answered in version 0 with UNSUPPORTED_VERSION
	// and what ApiVersions itself can do.
	frame := []byte{0, 18, 0, 99, 0, 0, 0, 42, 0, 1, 'x', 0, 2, 'a', 2, 'b', 0}
	body, err := s.c.DoRaw(frame)
	if err != nil {
		s.t.Errorf("ApiVersions v99: %v", err)
		return
	}
	lines := []string{fmt.Sprintf("correlation = %d", binary.BigEndian.Uint32(body)), fmt.Sprintf("error = %d", binary.BigEndian.Uint16(body[4:]))}
	s.keep("ApiVersions v99", lines)
}

func (s *script) createTopics() {
	s.each(19, func(v int16, label string) {
		plain := func(name string, partitions int32, replicas int16) kmsg.CreateTopicsRequestTopic {
			t := kmsg.NewCreateTopicsRequestTopic()
			t.Topic, t.NumPartitions, t.ReplicationFactor = fmt.Sprintf("%sct%d-%s", s.prefix, v, name), partitions, replicas
			return t
		}
		config := func(t kmsg.CreateTopicsRequestTopic, kv ...string) kmsg.CreateTopicsRequestTopic {
			for i := 0; i < len(kv); i += 2 {
				c := kmsg.NewCreateTopicsRequestTopicConfig()
				c.Name = kv[i]
				if kv[i+1] != "null" {
					c.Value = &kv[i+1]
				}
				t.Configs = append(t.Configs, c)
			}
			return t
		}
		assign := func(t kmsg.CreateTopicsRequestTopic, brokers ...[]int32) kmsg.CreateTopicsRequestTopic {
			for i, r := range brokers {
				a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
				a.Partition, a.Replicas = int32(i), r
				t.ReplicaAssignment = append(t.ReplicaAssignment, a)
			}
			return t
		}
		named := func(t kmsg.CreateTopicsRequestTopic, name string) kmsg.CreateTopicsRequestTopic {
			t.Topic = name
			return t
		}
		ask := func(what string, validateOnly bool, topics ...kmsg.CreateTopicsRequestTopic) {
			req := kmsg.NewPtrCreateTopicsRequest()
			req.Version, req.TimeoutMillis, req.ValidateOnly, req.Topics = v, 10_000, validateOnly, topics
			// Ids are not known before the answer, so learn them first.
			resp, err := s.c.Do(req)
			if err != nil {
				_ = s.c.Close()
				s.dial()
				s.keep(label+what, []string{"<the broker closed the connection>"})
				return
			}
			r := resp.(*kmsg.CreateTopicsResponse)
			sort.Slice(r.Topics, func(i, j int) bool { return r.Topics[i].Topic < r.Topics[j].Topic })
			for i := range r.Topics {
				if r.Topics[i].ErrorCode == 0 && !validateOnly {
					s.learn(r.Topics[i].Topic, r.Topics[i].TopicID)
				}
				// Configs come in no order that means anything.
				sort.Slice(r.Topics[i].Configs, func(a, b int) bool { return r.Topics[i].Configs[a].Name < r.Topics[i].Configs[b].Name })
			}
			s.keep(label+what, s.n.Lines(r))
		}
		ask("plain", false, plain("plain", 3, 1))
		ask("exists", false, plain("plain", 1, 1))
		ask("validate only, exists", true, plain("plain", 1, 1))
		if v >= 4 {
			ask("defaults", false, plain("defaults", -1, -1))
		}
		ask("configs", false, config(plain("configs", 1, 1), "retention.ms", "1000", "cleanup.policy", "compact,delete", "compression.type", "zstd"))
		ask("config null", false, config(plain("null", 1, 1), "retention.ms", "null"))
		ask("config unknown", false, config(plain("unknown", 1, 1), "no.such", "1"))
		ask("config bad number", false, config(plain("badnumber", 1, 1), "retention.ms", "soon"))
		ask("config out of range", false, config(plain("range", 1, 1), "segment.bytes", "-1"))
		ask("config bad choice", false, config(plain("choice", 1, 1), "compression.type", "rar"))
		ask("config contradictory", false, config(plain("contra", 1, 1), "min.compaction.lag.ms", "100", "max.compaction.lag.ms", "10"))
		ask("assignment", false, assign(plain("assign", -1, -1), []int32{1}, []int32{1}))
		ask("assignment and counts", false, assign(plain("both", 2, 1), []int32{1}))
		ask("assignment to nobody", false, assign(plain("nobody", -1, -1), []int32{77}))
		ask("assignment twice to one", false, assign(plain("twice", -1, -1), []int32{1, 1}))
		ask("assignment empty", false, assign(plain("empty", -1, -1), []int32{}))
		ask("no partitions", false, plain("zero", 0, 1))
		ask("negative partitions", false, plain("negative", -5, 1))
		ask("no replicas", false, plain("norf", 1, 0))
		ask("too many replicas", false, plain("manyrf", 1, 3))
		ask("validate only", true, plain("dry", 2, 1))
		ask("validate only, bad", true, plain("dry", 0, 1))
		ask("empty name", false, named(plain("", 1, 1), ""))
		ask("bad name", false, named(plain("", 1, 1), s.prefix+"bad/name"))
		ask("dot", false, named(plain("", 1, 1), "."))
		ask("long name", false, named(plain("", 1, 1), strings.Repeat("n", 250)))
		ask("internal name", true, named(plain("", 1, 1), "__consumer_offsets_like"))
		ask("twice in a request", false, plain("dup", 1, 1), plain("dup", 2, 1))
		ask("colliding name", false, named(plain("", 1, 1), strings.ReplaceAll(fmt.Sprintf("%sct%d-plain", s.prefix, v), "-", "_")),
			named(plain("", 1, 1), strings.ReplaceAll(fmt.Sprintf("%sct%d-plain", s.prefix, v), "-", ".")))
		ask("several", false, plain("s1", 1, 1), plain("s2", 0, 1), plain("s3", 2, 1))
		ask("none", false)
	})
}

func (s *script) metadata() {
	topic := s.topic("metadata", 2)
	s.each(3, func(v int16, label string) {
		ask := func(what string, create bool, names ...string) {
			req := kmsg.NewPtrMetadataRequest()
			req.Version, req.AllowAutoTopicCreation, req.Topics = v, create, []kmsg.MetadataRequestTopic{}
			for _, n := range names {
				t := kmsg.NewMetadataRequestTopic()
				t.Topic = &n
				req.Topics = append(req.Topics, t)
			}
			s.ask(label+what, req)
		}
		ask("a topic", false, topic)
		if v >= 4 {
			ask("unknown", false, s.prefix+"not-there")
			ask("known and unknown", false, topic, s.prefix+"not-there")
		}
		if v >= 1 {
			ask("no topics", false)
		}
		ask("bad name", true, "bad/name")
		if v >= 8 {
			req := kmsg.NewPtrMetadataRequest()
			req.Version, req.IncludeTopicAuthorizedOperations, req.IncludeClusterAuthorizedOperations = v, true, v <= 10
			t := kmsg.NewMetadataRequestTopic()
			t.Topic = &topic
			req.Topics = append(req.Topics, t)
			s.ask(label+"authorized operations", req)
		}
		if v >= 12 {
			byID := func(what string, id [16]byte) {
				req := kmsg.NewPtrMetadataRequest()
				req.Version = v
				t := kmsg.NewMetadataRequestTopic()
				t.TopicID = id
				req.Topics = append(req.Topics, t)
				s.ask(label+what, req)
			}
			byID("by id", s.ids[topic])
			byID("by unknown id", [16]byte{1, 2, 3})
		}
	})
}

func (s *script) createPartitions() {
	s.each(37, func(v int16, label string) {
		topic := s.topic(fmt.Sprintf("cp%d", v), 2)
		ask := func(what, name string, count int32, validateOnly bool, assignment ...[]int32) {
			req := kmsg.NewPtrCreatePartitionsRequest()
			req.Version, req.TimeoutMillis, req.ValidateOnly = v, 10_000, validateOnly
			t := kmsg.NewCreatePartitionsRequestTopic()
			t.Topic, t.Count = name, count
			for _, r := range assignment {
				a := kmsg.NewCreatePartitionsRequestTopicAssignment()
				a.Replicas = r
				t.Assignment = append(t.Assignment, a)
			}
			req.Topics = append(req.Topics, t)
			s.ask(label+what, req)
		}
		ask("unknown", s.prefix+"not-there", 3, false)
		ask("same", topic, 2, false)
		ask("fewer", topic, 1, false)
		ask("none", topic, 0, false)
		ask("negative", topic, -1, false)
		ask("validate only", topic, 3, true)
		ask("more", topic, 3, false)
		ask("assigned", topic, 4, false, []int32{1})
		ask("assigned to nobody", topic, 5, false, []int32{9})
		ask("too few assignments", topic, 7, false, []int32{1})
		ask("too many assignments", topic, 5, false, []int32{1}, []int32{1})
		ask("assigned twice to one", topic, 5, false, []int32{1, 1})
	})
}

func (s *script) configs() {
	topic := s.topic("configs", 1, "retention.ms=12345678")
	s.each(32, func(v int16, label string) {
		ask := func(what string, kind kmsg.ConfigResourceType, name string, names ...string) {
			req := kmsg.NewPtrDescribeConfigsRequest()
			req.Version, req.IncludeSynonyms, req.IncludeDocumentation = v, true, v == 3
			r := kmsg.NewDescribeConfigsRequestResource()
			r.ResourceType, r.ResourceName, r.ConfigNames = kind, name, names
			req.Resources = append(req.Resources, r)
			s.ask(label+what, req)
		}
		ask("topic", kmsg.ConfigResourceTypeTopic, topic)
		ask("topic keys", kmsg.ConfigResourceTypeTopic, topic, "retention.ms", "no.such", "segment.bytes")
		ask("topic unknown", kmsg.ConfigResourceTypeTopic, s.prefix+"not-there")
		ask("topic bad name", kmsg.ConfigResourceTypeTopic, "bad/name")
		ask("topic no name", kmsg.ConfigResourceTypeTopic, "")
		ask("broker", kmsg.ConfigResourceTypeBroker, "1")
		ask("brokers' default", kmsg.ConfigResourceTypeBroker, "")
		ask("broker keys", kmsg.ConfigResourceTypeBroker, "1", "log.retention.hours", "num.io.threads")
		ask("another broker", kmsg.ConfigResourceTypeBroker, "5")
		ask("a broker that is no number", kmsg.ConfigResourceTypeBroker, "one")
		ask("unknown kind", 77, "x")
	})
	type op struct {
		name, value string
		kind        kmsg.IncrementalAlterConfigOp
		null        bool
	}
	s.each(44, func(v int16, label string) {
		topic := s.topic(fmt.Sprintf("iac%d", v), 1)
		ask := func(what string, kind kmsg.ConfigResourceType, name string, validateOnly bool, ops ...op) {
			req := kmsg.NewPtrIncrementalAlterConfigsRequest()
			req.Version, req.ValidateOnly = v, validateOnly
			r := kmsg.NewIncrementalAlterConfigsRequestResource()
			r.ResourceType, r.ResourceName = kind, name
			for _, o := range ops {
				c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
				c.Name, c.Op = o.name, o.kind
				if !o.null {
					c.Value = &o.value
				}
				r.Configs = append(r.Configs, c)
			}
			req.Resources = append(req.Resources, r)
			s.ask(label+what, req)
			if kind == kmsg.ConfigResourceTypeTopic && name == topic {
				s.settings(label+what+": after", topic)
			}
		}
		const set, del, app, sub = kmsg.IncrementalAlterConfigOpSet, kmsg.IncrementalAlterConfigOpDelete, kmsg.IncrementalAlterConfigOpAppend, kmsg.IncrementalAlterConfigOpSubtract
		T := kmsg.ConfigResourceTypeTopic
		ask("set", T, topic, false, op{name: "retention.ms", value: "1000", kind: set})
		ask("append", T, topic, false, op{name: "cleanup.policy", value: "compact", kind: app})
		ask("append again", T, topic, false, op{name: "cleanup.policy", value: "compact", kind: app})
		ask("subtract", T, topic, false, op{name: "cleanup.policy", value: "delete", kind: sub})
		ask("append to a number", T, topic, false, op{name: "retention.ms", value: "5", kind: app})
		ask("delete", T, topic, false, op{name: "retention.ms", kind: del, null: true})
		ask("delete what is not set", T, topic, false, op{name: "segment.bytes", kind: del, null: true})
		ask("set null", T, topic, false, op{name: "retention.ms", kind: set, null: true})
		ask("set bad", T, topic, false, op{name: "retention.ms", value: "never", kind: set})
		ask("set out of range", T, topic, false, op{name: "min.insync.replicas", value: "0", kind: set})
		ask("set unknown", T, topic, false, op{name: "no.such", value: "1", kind: set})
		ask("unknown operation", T, topic, false, op{name: "retention.ms", value: "1", kind: 9})
		ask("a key twice", T, topic, false, op{name: "retention.ms", value: "1", kind: set}, op{name: "retention.ms", value: "2", kind: set})
		ask("one good, one bad", T, topic, false, op{name: "retention.ms", value: "1", kind: set}, op{name: "segment.ms", value: "x", kind: set})
		ask("validate only", T, topic, true, op{name: "retention.ms", value: "77", kind: set})
		ask("validate only, bad", T, topic, true, op{name: "retention.ms", value: "x", kind: set})
		ask("nothing", T, topic, false)
		ask("unknown topic", T, s.prefix+"not-there", false, op{name: "retention.ms", value: "1000", kind: set})
		ask("no topic name", T, "", false, op{name: "retention.ms", value: "1000", kind: set})
		ask("another broker", kmsg.ConfigResourceTypeBroker, "5", true, op{name: "log.retention.ms", value: "1000", kind: set})
		ask("broker, read only", kmsg.ConfigResourceTypeBroker, "1", true, op{name: "node.id", value: "3", kind: set})
		ask("broker, bad value", kmsg.ConfigResourceTypeBroker, "1", true, op{name: "log.cleaner.threads", value: "many", kind: set})
		ask("unknown kind", 77, "x", false, op{name: "a", value: "b", kind: set})
	})
	s.each(33, func(v int16, label string) {
		topic := s.topic(fmt.Sprintf("ac%d", v), 1, "segment.ms=100000")
		ask := func(what string, name string, validateOnly bool, kv ...string) {
			req := kmsg.NewPtrAlterConfigsRequest()
			req.Version, req.ValidateOnly = v, validateOnly
			r := kmsg.NewAlterConfigsRequestResource()
			r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, name
			for i := 0; i < len(kv); i += 2 {
				c := kmsg.NewAlterConfigsRequestResourceConfig()
				c.Name = kv[i]
				if kv[i+1] != "null" {
					c.Value = &kv[i+1]
				}
				r.Configs = append(r.Configs, c)
			}
			req.Resources = append(req.Resources, r)
			s.ask(label+what, req)
			if name == topic {
				s.settings(label+what+": after", topic)
			}
		}
		ask("replace", topic, false, "retention.ms", "1000")
		ask("bad", topic, false, "retention.ms", "x")
		ask("unknown key", topic, false, "no.such", "x")
		ask("null", topic, false, "retention.ms", "null")
		ask("validate only", topic, true, "retention.ms", "5")
		ask("nothing", topic, false)
		ask("unknown topic", s.prefix+"not-there", false, "retention.ms", "1000")
	})
}

// settings keeps what a topic sets itself, once the broker has heard of it.
func (s *script) settings(label, topic string) {
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Version = 4
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, topic
	req.Resources = append(req.Resources, r)
	read := func() []string {
		resp, err := s.c.Do(req)
		if err != nil {
			s.t.Fatalf("%s: %v", label, err)
		}
		var lines []string
		for _, c := range resp.(*kmsg.DescribeConfigsResponse).Resources[0].Configs {
			if c.Source == kmsg.ConfigSourceDynamicTopicConfig {
				lines = append(lines, fmt.Sprintf("%s = %s", c.Name, *c.Value))
			}
		}
		return lines
	}
	lines := read()
	if s.b.Name == "kafka" {
		// The broker hears of an acknowledged change a little later.
		for range 5 {
			time.Sleep(20 * time.Millisecond)
			lines = read()
		}
	}
	s.keep(label, lines)
}

func (s *script) produce() {
	topic := s.topic("produce", 2, "max.message.bytes=20000")
	compacted := s.topic("compacted", 1, "cleanup.policy=compact")
	stamped := s.topic("stamped", 1, "message.timestamp.type=LogAppendTime")
	old := s.topic("old", 1, "message.timestamp.before.max.ms=1000")
	future := s.topic("future", 1)
	s.each(0, func(v int16, label string) {
		id := func(name string) (string, [16]byte) {
			if v >= 13 {
				return "", s.ids[name]
			}
			return name, [16]byte{}
		}
		ask := func(what, name string, partition int32, records []byte) {
			n, i := id(name)
			s.ask(label+what, produceRequest(v, n, i, partition, records))
		}
		good := func() *wire.Batch {
			return wire.NewBatch(s.base, wire.Rec{Key: []byte("k"), Value: []byte("v")}, wire.Rec{Key: []byte("k2"), Value: []byte("v2"), Delta: 5})
		}
		bad := func(f func(b *wire.Batch)) []byte { b := good(); f(b); return b.Bytes() }
		flip := func(at int) []byte { b := good().Bytes(); b[at] ^= 0x40; return b }
		ask("good", topic, 0, good().Bytes())
		ask("unknown partition", topic, 9, good().Bytes())
		ask("negative partition", topic, -1, good().Bytes())
		if v < 13 {
			s.ask(label+"unknown topic", produceRequest(v, s.prefix+"not-there", [16]byte{}, 0, good().Bytes()))
			s.ask(label+"bad topic name", produceRequest(v, "bad/name", [16]byte{}, 0, good().Bytes()))
		} else {
			s.ask(label+"unknown topic id", produceRequest(v, "", [16]byte{9, 9}, 0, good().Bytes()))
			s.ask(label+"no topic id", produceRequest(v, "", [16]byte{}, 0, good().Bytes()))
		}
		for _, acks := range []int16{1, 2, -2} {
			n, i := id(topic)
			req := produceRequest(v, n, i, 0, good().Bytes())
			req.Acks = acks
			s.ask(fmt.Sprintf("%sacks=%d", label, acks), req)
		}
		// Null records are not asked: Apache Kafka 4.3.1 never answers them.
		ask("no records", topic, 0, []byte{})
		ask("two batches", topic, 0, append(good().Bytes(), good().Bytes()...))
		ask("half a batch", topic, 0, good().Bytes()[:70])
		ask("a header alone", topic, 0, good().Bytes()[:12])
		ask("trailing bytes", topic, 0, append(good().Bytes(), 1, 2, 3))
		ask("bad checksum", topic, 0, flip(18))
		ask("bad payload", topic, 0, flip(63))
		ask("magic 1", topic, 0, bad(func(b *wire.Batch) { b.Magic = 1 }))
		ask("magic 3", topic, 0, bad(func(b *wire.Batch) { b.Magic = 3 }))
		ask("too large", topic, 0, wire.NewBatch(s.base, wire.Rec{Value: make([]byte, 30_000)}).Bytes())
		ask("count too large", topic, 0, bad(func(b *wire.Batch) { b.NumRecords = 5; b.LastOffsetDelta = 4 }))
		ask("count too small", topic, 0, bad(func(b *wire.Batch) { b.NumRecords = 1; b.LastOffsetDelta = 0 }))
		ask("count negative", topic, 0, bad(func(b *wire.Batch) { b.NumRecords = -1; b.LastOffsetDelta = -2 }))
		ask("count zero", topic, 0, bad(func(b *wire.Batch) { b.NumRecords = 0; b.LastOffsetDelta = -1 }))
		ask("last offset delta off", topic, 0, bad(func(b *wire.Batch) { b.LastOffsetDelta = 7 }))
		ask("base offset not zero", topic, 0, bad(func(b *wire.Batch) { b.FirstOffset = 100 }))
		ask("unknown codec", topic, 0, bad(func(b *wire.Batch) { b.Attributes = 6 }))
		ask("control batch", topic, 0, bad(func(b *wire.Batch) { b.Attributes = 0x20 }))
		ask("transactional batch", topic, 0, bad(func(b *wire.Batch) { b.Attributes = 0x10; b.Producer(123456789, 0, 0) }))
		ask("log append time from a client", topic, 0, bad(func(b *wire.Batch) { b.Attributes = 0x08 }))
		ask("delete horizon from a client", topic, 0, bad(func(b *wire.Batch) { b.Attributes = 0x40 }))
		ask("zstd", topic, 0, bad(func(b *wire.Batch) {
			b.Attributes = 4
			b.RecordBatch.Records = compressZstd(s.t, b.RecordBatch.Records)
		}))
		ask("no key into a compacted topic", compacted, 0, wire.NewBatch(s.base, wire.Rec{Key: []byte("a"), Value: []byte("v")}, wire.Rec{Value: []byte("v")}).Bytes())
		ask("key into a compacted topic", compacted, 0, wire.NewBatch(s.base, wire.Rec{Key: []byte("a"), Value: []byte("v")}).Bytes())
		ask("log append time", stamped, 0, good().Bytes())
		ask("too old", old, 0, good().Bytes())
		ask("from the future", future, 0, wire.NewBatch(s.base+10*24*3600_000, wire.Rec{Value: []byte("v")}).Bytes())
		ask("timestamp -1", topic, 0, bad(func(b *wire.Batch) { b.FirstTimestamp = -1; b.MaxTimestamp = 4 }))
		ask("max timestamp off", topic, 0, bad(func(b *wire.Batch) { b.MaxTimestamp += 1000 }))
		ask("max timestamp missing", topic, 0, bad(func(b *wire.Batch) { b.MaxTimestamp = -1 }))
		n, i := id(topic)
		req := produceRequest(v, n, i, 0, good().Bytes())
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, kmsg.ProduceRequestTopicPartition{Partition: 1, Records: flip(63)})
		s.ask(label+"one good, one bad partition", req)
		req = kmsg.NewPtrProduceRequest()
		req.Version, req.Acks, req.TimeoutMillis = v, -1, 1000
		s.ask(label+"nothing", req)
	})
}

func compressZstd(t *testing.T, b []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

func (s *script) idempotent() {
	topic := s.topic("idempotent", 1)
	ask := func(what string, id int64, epoch int16, sequence int32, n int) {
		var recs []wire.Rec
		for i := range n {
			recs = append(recs, wire.Rec{Value: fmt.Appendf(nil, "%d", i)})
		}
		s.ask("Produce idempotent: "+what, produceRequest(9, topic, [16]byte{}, 0, wire.NewBatch(s.base, recs...).Producer(id, epoch, sequence).Bytes()))
	}
	const p = 1_000_000_001
	for i := range 7 {
		ask(fmt.Sprintf("batch %d", i), p, 0, int32(3*i), 3)
	}
	for i := range 7 {
		ask(fmt.Sprintf("batch %d again", i), p, 0, int32(3*i), 3)
	}
	ask("a gap", p, 0, 100, 1)
	ask("overlapping", p, 0, 20, 3)
	ask("next", p, 0, 21, 1)
	ask("a new epoch not from 0", p, 1, 5, 1)
	ask("a new epoch", p, 1, 0, 1)
	ask("the old epoch", p, 0, 22, 1)
	ask("a new producer not from 0", p+1, 0, 7, 1)
	ask("negative sequence", p+2, 0, -1, 1)
	ask("negative epoch", p+3, -1, 0, 1)
	ask("sequence at the end", p+4, 0, 2147483647, 1)
	s.ask("Produce idempotent: two batches", produceRequest(9, topic, [16]byte{}, 0,
		append(wire.NewBatch(s.base, wire.Rec{}).Producer(p+5, 0, 0).Bytes(), wire.NewBatch(s.base, wire.Rec{}).Producer(p+5, 0, 1).Bytes()...)))
}

func (s *script) fetchTopic() string {
	topic := s.topic("fetch", 2)
	for i := range 5 {
		var recs []wire.Rec
		for j := range 10 {
			recs = append(recs, wire.Rec{Key: fmt.Appendf(nil, "k%d", j), Value: fmt.Appendf(nil, "batch %d record %d", i, j), Delta: int64(j)})
		}
		s.write(topic, wire.NewBatch(s.base+int64(i)*1000, recs...).Bytes())
	}
	return topic
}

func fetchRequest(v int16, topic string, id [16]byte, offset int64) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = v, 100, 1, 10<<20, -1
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = topic, id
	p := kmsg.NewFetchRequestTopicPartition()
	p.FetchOffset, p.PartitionMaxBytes = offset, 1<<20
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

func (s *script) fetch() {
	topic := s.fetchTopic()
	s.each(1, func(v int16, label string) {
		ask := func(what string, offset int64, f func(r *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition)) {
			req := fetchRequest(v, topic, s.ids[topic], offset)
			if f != nil {
				f(req, &req.Topics[0].Partitions[0])
			}
			s.ask(label+what, req)
		}
		type part = kmsg.FetchRequestTopicPartition
		ask("from 0", 0, nil)
		ask("from within a batch", 15, nil)
		ask("the last", 49, nil)
		ask("the end", 50, nil)
		ask("beyond the end", 51, nil)
		ask("negative", -1, nil)
		ask("few bytes", 20, func(_ *kmsg.FetchRequest, p *part) { p.PartitionMaxBytes = 1 })
		ask("few bytes in all", 20, func(r *kmsg.FetchRequest, _ *part) { r.MaxBytes = 1 })
		ask("two batches' bytes", 0, func(_ *kmsg.FetchRequest, p *part) { p.PartitionMaxBytes = 700 })
		ask("no bytes", 20, func(_ *kmsg.FetchRequest, p *part) { p.PartitionMaxBytes = 0 })
		ask("read committed", 30, func(r *kmsg.FetchRequest, _ *part) { r.IsolationLevel = 1 })
		ask("unknown partition", 0, func(_ *kmsg.FetchRequest, p *part) { p.Partition = 9 })
		ask("a second partition", 0, func(r *kmsg.FetchRequest, _ *part) {
			second := kmsg.NewFetchRequestTopicPartition()
			second.Partition, second.PartitionMaxBytes = 1, 1<<20
			r.Topics[0].Partitions = append(r.Topics[0].Partitions, second)
		})
		ask("nothing", 0, func(r *kmsg.FetchRequest, _ *part) { r.Topics = nil })
		if v < 13 {
			ask("unknown topic", 0, func(r *kmsg.FetchRequest, _ *part) { r.Topics[0].Topic = s.prefix + "not-there" })
		} else {
			ask("unknown topic id", 0, func(r *kmsg.FetchRequest, _ *part) { r.Topics[0].TopicID = [16]byte{7} })
			ask("no topic id", 0, func(r *kmsg.FetchRequest, _ *part) { r.Topics[0].TopicID = [16]byte{} })
		}
		if v >= 9 {
			ask("the right leader epoch", 40, func(_ *kmsg.FetchRequest, p *part) { p.CurrentLeaderEpoch = 0 })
			ask("a leader epoch from the future", 40, func(_ *kmsg.FetchRequest, p *part) { p.CurrentLeaderEpoch = 5 })
		}
		if v >= 12 {
			ask("the last fetched epoch", 40, func(_ *kmsg.FetchRequest, p *part) { p.CurrentLeaderEpoch, p.LastFetchedEpoch = 0, 0 })
			ask("diverged", 40, func(_ *kmsg.FetchRequest, p *part) { p.CurrentLeaderEpoch, p.LastFetchedEpoch = 0, 3 })
		}
		if v >= 7 {
			ask("an unknown session", 0, func(r *kmsg.FetchRequest, _ *part) { r.SessionID, r.SessionEpoch = 123, 4 })
		}
	})
}

// sessions goes through the life of an incremental fetch session (KIP-227).
func (s *script) sessions() {
	topic := s.topic("session", 3)
	s.each(1, func(v int16, label string) {
		if v < 7 {
			return
		}
		var session, epoch int32
		ask := func(what string, f func(r *kmsg.FetchRequest), parts ...int32) {
			req := fetchRequest(v, topic, s.ids[topic], 0)
			req.SessionID, req.SessionEpoch, req.MaxWaitMillis = session, epoch, 10
			req.Topics[0].Partitions = nil
			for _, p := range parts {
				fp := kmsg.NewFetchRequestTopicPartition()
				fp.Partition, fp.PartitionMaxBytes = p, 1<<20
				req.Topics[0].Partitions = append(req.Topics[0].Partitions, fp)
			}
			if len(parts) == 0 {
				req.Topics = nil
			}
			if f != nil {
				f(req)
			}
			resp, _ := s.ask(label+"session: "+what, req).(*kmsg.FetchResponse)
			if resp != nil && resp.SessionID != 0 {
				session = resp.SessionID
			}
			epoch++
		}
		ask("open", nil, 0, 1)
		ask("nothing new", nil)
		s.write(topic, wire.NewBatch(s.base, wire.Rec{Value: []byte("a")}).Bytes())
		ask("something new", nil)
		ask("the same again", nil)
		ask("one more partition", nil, 2)
		ask("forget one", func(r *kmsg.FetchRequest) {
			f := kmsg.NewFetchRequestForgottenTopic()
			f.Topic, f.TopicID, f.Partitions = topic, s.ids[topic], []int32{0}
			r.ForgottenTopics = append(r.ForgottenTopics, f)
		})
		s.write(topic, wire.NewBatch(s.base, wire.Rec{Value: []byte("b")}).Bytes())
		ask("nothing of the forgotten", nil)
		epoch = 99
		ask("a wrong epoch", nil)
		epoch = -1
		ask("closed", nil)
		epoch = 3
		ask("after the end", nil)
		// Leave the partition empty for the next version.
		req := kmsg.NewPtrDeleteRecordsRequest()
		req.Version, req.TimeoutMillis = 2, 5000
		dt := kmsg.NewDeleteRecordsRequestTopic()
		dt.Topic = topic
		dp := kmsg.NewDeleteRecordsRequestTopicPartition()
		dp.Offset = -1
		dt.Partitions = append(dt.Partitions, dp)
		req.Topics = append(req.Topics, dt)
		if _, err := s.c.Do(req); err != nil {
			s.t.Fatal(err)
		}
	})
}

func (s *script) listOffsets() {
	topic := s.fetchTopicAs("listoffsets")
	s.each(2, func(v int16, label string) {
		ask := func(what, name string, partition, epoch int32, timestamp int64, isolation int8) {
			req := kmsg.NewPtrListOffsetsRequest()
			req.Version, req.ReplicaID, req.IsolationLevel, req.TimeoutMillis = v, -1, isolation, 5000
			t := kmsg.NewListOffsetsRequestTopic()
			t.Topic = name
			p := kmsg.NewListOffsetsRequestTopicPartition()
			p.Partition, p.CurrentLeaderEpoch, p.Timestamp = partition, epoch, timestamp
			t.Partitions = append(t.Partitions, p)
			req.Topics = append(req.Topics, t)
			s.ask(label+what, req)
		}
		for _, ts := range []int64{-1, -2, -3, -4, -5, -6, -7} {
			ask(fmt.Sprintf("special %d", ts), topic, 0, -1, ts, 0)
			ask(fmt.Sprintf("special %d of an empty partition", ts), topic, 1, -1, ts, 0)
		}
		for _, d := range []int64{-1000, 0, 1, 5, 9, 10, 999, 1000, 4009, 4010} {
			ask(fmt.Sprintf("base%+d", d), topic, 0, -1, s.base+d, 0)
		}
		ask("by time in an empty partition", topic, 1, -1, s.base, 0)
		ask("time 0", topic, 0, -1, 0, 0)
		ask("committed", topic, 0, -1, -1, 1)
		ask("committed by time", topic, 0, -1, s.base+1000, 1)
		ask("unknown topic", s.prefix+"not-there", 0, -1, -1, 0)
		ask("unknown partition", topic, 7, -1, -1, 0)
		if v >= 4 {
			ask("the right epoch", topic, 0, 0, -1, 0)
			ask("an epoch from the future", topic, 0, 8, -1, 0)
		}
		req := kmsg.NewPtrListOffsetsRequest()
		req.Version, req.ReplicaID = v, -1
		s.ask(label+"nothing", req)
	})
}

func (s *script) fetchTopicAs(name string) string {
	topic := s.topic(name, 2)
	for i := range 5 {
		var recs []wire.Rec
		for j := range 10 {
			recs = append(recs, wire.Rec{Value: fmt.Appendf(nil, "batch %d record %d", i, j), Delta: int64(j)})
		}
		s.write(topic, wire.NewBatch(s.base+int64(i)*1000, recs...).Bytes())
	}
	return topic
}

func (s *script) deleteRecords() {
	s.each(21, func(v int16, label string) {
		topic := s.fetchTopicAs(fmt.Sprintf("dr%d", v))
		ask := func(what, name string, partition int32, offset int64) {
			req := kmsg.NewPtrDeleteRecordsRequest()
			req.Version, req.TimeoutMillis = v, 5000
			t := kmsg.NewDeleteRecordsRequestTopic()
			t.Topic = name
			p := kmsg.NewDeleteRecordsRequestTopicPartition()
			p.Partition, p.Offset = partition, offset
			t.Partitions = append(t.Partitions, p)
			req.Topics = append(req.Topics, t)
			s.ask(label+what, req)
		}
		ask("to 13", topic, 0, 13)
		ask("back to 5", topic, 0, 5)
		ask("beyond", topic, 0, 51)
		ask("negative", topic, 0, -2)
		ask("unknown topic", s.prefix+"not-there", 0, 1)
		ask("unknown partition", topic, 9, 1)
		s.ask(label+"fetch before the start", fetchRequest(12, topic, [16]byte{}, 12))
		s.ask(label+"fetch from the start", fetchRequest(12, topic, [16]byte{}, 13))
		ask("all", topic, 0, -1)
		ask("all again", topic, 0, -1)
		s.ask(label+"fetch from the end", fetchRequest(12, topic, [16]byte{}, 50))
	})
}

func (s *script) initProducerID() {
	// A broker that just started may have to wait for its first block of ids.
	for range 100 {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.Version, req.ProducerID, req.ProducerEpoch = 3, -1, -1
		resp, err := s.c.Do(req)
		if err != nil {
			s.t.Fatal(err)
		}
		if resp.(*kmsg.InitProducerIDResponse).ErrorCode != coordinatorLoading {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.each(22, func(v int16, label string) {
		ask := func(what string, txn *string, timeout int32, id int64, epoch int16) {
			req := kmsg.NewPtrInitProducerIDRequest()
			req.Version, req.TransactionalID, req.TransactionTimeoutMillis, req.ProducerID, req.ProducerEpoch = v, txn, timeout, id, epoch
			s.ask(label+what, req)
		}
		ask("new", nil, 0, -1, -1)
		ask("timeout ignored", nil, -1, -1, -1)
		empty := ""
		ask("empty transactional id", &empty, 1000, -1, -1)
		if v >= 3 {
			ask("id without epoch", nil, 0, 5, -1)
			ask("epoch without id", nil, 0, -1, 5)
			ask("id and epoch", nil, 0, 5, 3)
		}
	})
}

const coordinatorLoading = 14

func (s *script) leaderEpochs() {
	topic := s.fetchTopicAs("epochs")
	s.each(23, func(v int16, label string) {
		ask := func(what, name string, partition, current, epoch int32) {
			req := kmsg.NewPtrOffsetForLeaderEpochRequest()
			req.Version, req.ReplicaID = v, -1
			t := kmsg.NewOffsetForLeaderEpochRequestTopic()
			t.Topic = name
			p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
			p.Partition, p.CurrentLeaderEpoch, p.LeaderEpoch = partition, current, epoch
			t.Partitions = append(t.Partitions, p)
			req.Topics = append(req.Topics, t)
			s.ask(label+what, req)
		}
		ask("epoch 0", topic, 0, -1, 0)
		ask("epoch 0 of an empty partition", topic, 1, -1, 0)
		ask("epoch 5", topic, 0, -1, 5)
		ask("epoch -1", topic, 0, -1, -1)
		ask("current 0", topic, 0, 0, 0)
		ask("current 9", topic, 0, 9, 0)
		ask("unknown topic", s.prefix+"not-there", 0, -1, 0)
		ask("unknown partition", topic, 8, -1, 0)
	})
}

func (s *script) describeCluster() {
	s.each(60, func(v int16, label string) {
		req := kmsg.NewPtrDescribeClusterRequest()
		req.Version = v
		s.ask(label+"plain", req)
		ops := *req
		ops.IncludeClusterAuthorizedOperations = true
		s.ask(label+"operations", &ops)
		if v >= 1 {
			controllers := *req
			controllers.EndpointType = 2
			s.ask(label+"controllers", &controllers)
			unknown := *req
			unknown.EndpointType = 3
			s.ask(label+"unknown endpoint type", &unknown)
		}
		if v >= 2 {
			fenced := *req
			fenced.IncludeFencedBrokers = true
			s.ask(label+"fenced", &fenced)
		}
	})
}

func (s *script) describeProducers() {
	topic := s.topic("producers", 2)
	s.write(topic, wire.NewBatch(s.base, wire.Rec{Value: []byte("a")}, wire.Rec{Value: []byte("b")}).Producer(1_000_000_100, 3, 0).Bytes())
	s.each(61, func(v int16, label string) {
		ask := func(what, name string, partitions ...int32) {
			req := kmsg.NewPtrDescribeProducersRequest()
			req.Version = v
			t := kmsg.NewDescribeProducersRequestTopic()
			t.Topic, t.Partitions = name, partitions
			req.Topics = append(req.Topics, t)
			s.ask(label+what, req)
		}
		ask("one producer", topic, 0)
		ask("no producer", topic, 1)
		ask("unknown partition", topic, 5)
		ask("unknown topic", s.prefix+"not-there", 0)
	})
}

func (s *script) describeTopicPartitions() {
	a, b := s.topic("dtp-a", 3), s.topic("dtp-b", 2)
	s.each(75, func(v int16, label string) {
		ask := func(what string, limit int32, cursor *kmsg.DescribeTopicPartitionsRequestCursor, names ...string) {
			req := kmsg.NewPtrDescribeTopicPartitionsRequest()
			req.Version, req.ResponsePartitionLimit, req.Cursor = v, limit, cursor
			for _, n := range names {
				t := kmsg.NewDescribeTopicPartitionsRequestTopic()
				t.Topic = n
				req.Topics = append(req.Topics, t)
			}
			s.ask(label+what, req)
		}
		cursor := func(topic string, partition int32) *kmsg.DescribeTopicPartitionsRequestCursor {
			c := kmsg.NewDescribeTopicPartitionsRequestCursor()
			c.Topic, c.Partition = topic, partition
			return &c
		}
		ask("both", 2000, nil, b, a)
		ask("limit 2", 2, nil, a, b)
		ask("limit 2 from the cursor", 2, cursor(a, 2), a, b)
		ask("cursor in the second", 2, cursor(b, 1), a, b)
		ask("cursor beyond", 2, cursor(b, 9), a, b)
		ask("cursor of another topic", 10, cursor(s.prefix+"dtp-aa", 0), a, b)
		ask("negative cursor", 10, cursor(a, -1), a, b)
		ask("unknown", 10, nil, s.prefix+"not-there", a)
		ask("bad name", 10, nil, "bad/name")
		ask("twice", 10, nil, a, a)
		ask("limit 0", 0, nil, a)
	})
}

func (s *script) logDirs() {
	topic := s.fetchTopicAs("logdirs")
	s.each(35, func(v int16, label string) {
		ask := func(what, name string, partitions ...int32) {
			req := kmsg.NewPtrDescribeLogDirsRequest()
			req.Version = v
			t := kmsg.NewDescribeLogDirsRequestTopic()
			t.Topic, t.Partitions = name, partitions
			req.Topics = append(req.Topics, t)
			resp, _ := s.c.Do(req)
			r, ok := resp.(*kmsg.DescribeLogDirsResponse)
			if !ok {
				s.t.Errorf("%s%s: no answer", label, what)
				return
			}
			for i := range r.Dirs {
				for j := range r.Dirs[i].Topics {
					p := r.Dirs[i].Topics[j].Partitions
					sort.Slice(p, func(a, b int) bool { return p[a].Partition < p[b].Partition })
				}
			}
			s.keep(label+what, s.n.Lines(r))
		}
		ask("both partitions", topic, 0, 1)
		ask("one partition", topic, 0)
		ask("unknown partition", topic, 7)
		ask("unknown topic", s.prefix+"not-there", 0)
	})
}

func (s *script) deleteTopics() {
	s.each(20, func(v int16, label string) {
		topic := s.topic(fmt.Sprintf("dt%d", v), 1)
		ask := func(what string, names ...string) {
			req := kmsg.NewPtrDeleteTopicsRequest()
			req.Version, req.TimeoutMillis, req.TopicNames = v, 10_000, names
			for _, n := range names {
				t := kmsg.NewDeleteTopicsRequestTopic()
				t.Topic = &n
				req.Topics = append(req.Topics, t)
			}
			s.askDelete(label+what, req)
		}
		ask("unknown", s.prefix+"not-there")
		ask("known and unknown", topic, s.prefix+"not-there")
		ask("again", topic)
		ask("nothing")
		again := s.topic(fmt.Sprintf("dtt%d", v), 1)
		ask("twice in a request", again, again)
		if v < 6 {
			return
		}
		byID := s.topic(fmt.Sprintf("dti%d", v), 1)
		ids := func(what string, name *string, ids ...[16]byte) {
			req := kmsg.NewPtrDeleteTopicsRequest()
			req.Version, req.TimeoutMillis = v, 10_000
			for _, id := range ids {
				t := kmsg.NewDeleteTopicsRequestTopic()
				t.TopicID, t.Topic = id, name
				req.Topics = append(req.Topics, t)
			}
			s.askDelete(label+what, req)
		}
		ids("unknown id", nil, [16]byte{5})
		ids("neither name nor id", nil, [16]byte{})
		ids("name and id", &byID, s.ids[byID])
		ids("id twice", nil, s.ids[byID], s.ids[byID])
		ids("by id", nil, s.ids[byID])
		ids("by id again", nil, s.ids[byID])
	})
}

// askDelete sorts the answer, whose order means nothing.
func (s *script) askDelete(label string, req *kmsg.DeleteTopicsRequest) {
	resp, err := s.c.Do(req)
	if err != nil {
		_ = s.c.Close()
		s.dial()
		s.keep(label, []string{"<the broker closed the connection>"})
		return
	}
	r := resp.(*kmsg.DeleteTopicsResponse)
	slices.SortStableFunc(r.Topics, func(a, b kmsg.DeleteTopicsResponseTopic) int {
		name := func(t kmsg.DeleteTopicsResponseTopic) string {
			if t.Topic == nil {
				return ""
			}
			return *t.Topic
		}
		if c := strings.Compare(name(a), name(b)); c != 0 {
			return c
		}
		return int(a.ErrorCode - b.ErrorCode)
	})
	s.keep(label, s.n.Lines(r))
}
