package handler

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/config"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A script is a sequence of requests whose answers were recorded from Apache
// Kafka. The test plays the requests to this package's handlers and compares.
// To record anew (all topics named in the scripts are deleted there first):
//
//	go test ./broker/handler -run TestAsKafka -record 127.0.0.1:9092
var record = flag.String("record", "", "address of an Apache Kafka `broker` to record the scripts' answers from")

// step is one request of a script. A topic id in a request that begins with
// "id:" in its bytes stands for the id of the topic named after it.
type step struct {
	name string
	req  kmsg.Request
}

// topicID is the placeholder of the id of a topic.
func topicID(name string) (id [16]byte) {
	copy(id[:], "id:"+name)
	return id
}

// player answers the requests of a script in order.
type player interface {
	play(t testing.TB, req kmsg.Request) kmsg.Response
}

// parked sends a request whose answer is only waited for by the step that asks
// for it with awaited: a JoinGroup that waits for others.
type (
	parked  struct{ kmsg.Request }
	awaited struct{ kmsg.Request }
)

// wire plays requests to a broker over TCP.
type wire struct{ conn net.Conn }

func (w wire) play(t testing.TB, req kmsg.Request) kmsg.Response {
	t.Helper()
	frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID("gregor-script")).AppendRequest(nil, req, 7)
	if err := w.conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.conn.Write(frame); err != nil {
		t.Fatal(err)
	}
	var size [4]byte
	if _, err := io.ReadFull(w.conn, size[:]); err != nil {
		t.Fatalf("%s v%d: %v", kmsg.NameForKey(req.Key()), req.GetVersion(), err)
	}
	body := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(w.conn, body); err != nil {
		t.Fatal(err)
	}
	body = body[4:]
	resp := req.ResponseKind()
	if resp.IsFlexible() && req.Key() != int16(kmsg.ApiVersions) {
		body = body[1:]
	}
	if err := resp.ReadFrom(body); err != nil {
		t.Fatal(err)
	}
	return resp
}

// uuid is what coordinators end the ids of members with.
var uuid = regexp.MustCompile("[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}$")

// script keeps what one run learned: topic ids differ from run to run.
type script struct {
	ids  map[string][16]byte
	same map[string]string // texts that differ from run to run
	// members are the ids of groups' members, by the part of a step's name
	// before the colon; "<x>" in a request stands for x's.
	members map[string]string
	answers map[kmsg.Request]chan kmsg.Response
	// run makes the names of groups unique: they cannot all be deleted.
	run string
}

func newScript() *script {
	return &script{
		ids: make(map[string][16]byte), same: make(map[string]string), members: make(map[string]string),
		answers: make(map[kmsg.Request]chan kmsg.Response), run: fmt.Sprintf("-%08x", rand.Uint32()),
	}
}

// play plays a step. A parked request gets a connection of its own.
func (s *script) play(t *testing.T, p player, req kmsg.Request) kmsg.Response {
	switch r := req.(type) {
	case parked:
		answer := make(chan kmsg.Response, 1)
		s.answers[r.Request] = answer
		if w, live := p.(wire); live {
			conn, err := net.Dial("tcp", w.conn.RemoteAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			p = wire{conn}
		}
		go func() { answer <- p.play(t, r.Request) }()
		if b, ok := p.(*testBroker); ok {
			<-b.Groups.(*testGroups).parked
		}
		return nil
	case awaited:
		select {
		case resp := <-s.answers[r.Request]:
			return resp
		case <-time.After(10 * time.Second):
			t.Fatal("no answer to a parked request")
		}
	}
	return p.play(t, req)
}

// run plays the steps and renders the answers.
func (s *script) answersOf(t *testing.T, p player, steps []step) []string {
	var out []string
	for _, st := range steps {
		s.fill(reflect.ValueOf(st.req))
		if _, live := p.(wire); live {
			// Kafka answers before every part of it has taken note.
			time.Sleep(200 * time.Millisecond)
		}
		resp := s.play(t, p, st.req)
		if resp == nil {
			out = append(out, fmt.Sprintf("%s (%s v%d)\nwaits", st.name, kmsg.NameForKey(st.req.Key()), st.req.GetVersion()))
			continue
		}
		s.learn(resp)
		s.learnMember(st.name, resp)
		text, err := json.MarshalIndent(s.render(reflect.ValueOf(resp)), "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if _, live := p.(wire); live && st.req.Key() == int16(kmsg.CreateTopics) {
			time.Sleep(2 * time.Second)
		}
		if st.name == "set up" {
			text = []byte(`"done"`)
		}
		plain := strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(compact(text))
		out = append(out, fmt.Sprintf("%s (%s v%d)\n%s", st.name, kmsg.NameForKey(st.req.Key()), st.req.GetVersion(), plain))
	}
	return out
}

// fill replaces the placeholders of topic ids.
func (s *script) fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			s.fill(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				s.fill(v.Field(i))
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			s.fill(v.Index(i))
		}
	case reflect.Interface:
		s.fill(v.Elem())
	case reflect.String:
		switch text := v.String(); {
		case strings.HasPrefix(text, "<"):
			v.SetString(s.members[strings.Trim(text, "<>")])
		case strings.HasPrefix(text, "grp-") && !strings.HasSuffix(text, s.run):
			s.same[text+s.run] = text
			v.SetString(text + s.run)
		}
	case reflect.Array:
		if id, ok := v.Interface().([16]byte); ok && string(id[:3]) == "id:" {
			name := strings.TrimRight(string(id[3:]), "\x00")
			if known, ok := s.ids[name]; ok {
				v.Set(reflect.ValueOf(known))
			}
		}
	}
}

func (s *script) learnMember(step string, resp kmsg.Response) {
	who, _, ok := strings.Cut(step, ": ")
	if !ok {
		return
	}
	id := ""
	switch r := resp.(type) {
	case *kmsg.JoinGroupResponse:
		id = r.MemberID
	case *kmsg.ConsumerGroupHeartbeatResponse:
		if r.MemberID != nil {
			id = *r.MemberID
		}
	}
	if len(id) > 20 { // one that the coordinator made up
		s.members[who] = id
		s.same[id] = "<" + who + ">"
	}
}

func (s *script) learn(resp kmsg.Response) {
	switch r := resp.(type) {
	case *kmsg.CreateTopicsResponse:
		for _, t := range r.Topics {
			if t.ErrorCode == 0 && t.TopicID != [16]byte{} {
				s.ids[t.Topic] = t.TopicID
			}
		}
	case *kmsg.MetadataResponse:
		for _, t := range r.Topics {
			if t.Topic != nil && t.TopicID != [16]byte{} && t.ErrorCode == 0 {
				s.ids[*t.Topic] = t.TopicID
			}
		}
	}
}

// render turns a response into plain values, with names for what differs from
// run to run.
func (s *script) render(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return s.render(v.Elem())
	case reflect.Struct:
		if line := s.line(v.Interface()); line != "" {
			return line
		}
		type field struct {
			name string
			v    any
		}
		var fields []field
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			if name == "UnknownTags" || name == "Version" || name == "ThrottleMillis" {
				continue
			}
			f := s.render(v.Field(i))
			if where(name, f) {
				f = "some " + name
			}
			if code, ok := f.(int16); ok && name == "ErrorCode" {
				f = "NONE"
				if err := kerr.TypedErrorForCode(code); err != nil {
					f = err.Message
				}
			}
			fields = append(fields, field{name, f})
		}
		var b bytes.Buffer
		b.WriteByte('{')
		for i, f := range fields {
			if i > 0 {
				b.WriteByte(',')
			}
			text, err := json.Marshal(f.v)
			if err != nil {
				panic(err)
			}
			fmt.Fprintf(&b, "%q:%s", f.name, text)
		}
		b.WriteByte('}')
		return json.RawMessage(b.Bytes())
	case reflect.Slice:
		if v.IsNil() {
			return nil
		}
		all := make([]any, 0, v.Len())
		for i := range v.Len() {
			if e := s.render(v.Index(i)); e != "somebody else's" {
				all = append(all, e)
			}
		}
		if len(all) == 0 && v.Len() > 0 {
			return nil
		}
		if inNoOrder(v.Interface()) {
			slices.SortStableFunc(all, func(a, b any) int { return strings.Compare(fmt.Sprintf("%s", a), fmt.Sprintf("%s", b)) })
		}
		return all
	case reflect.Array:
		if id, ok := v.Interface().([16]byte); ok {
			if id == [16]byte{} {
				return "no id"
			}
			for name, known := range s.ids {
				if known == id {
					return "id:" + name
				}
			}
			return "unknown id"
		}
	case reflect.String:
		text := v.String()
		for from, to := range s.same {
			text = strings.ReplaceAll(text, from, to)
		}
		return uuid.ReplaceAllString(text, "some id")
	}
	return v.Interface()
}

// lineDiff lists the lines that only one of the two has.
func lineDiff(want, got string) string {
	var out strings.Builder
	only := func(mark, a, b string) {
		have := make(map[string]bool)
		for _, l := range strings.Split(b, "\n") {
			have[strings.TrimRight(l, ",")] = true
		}
		for _, l := range strings.Split(a, "\n") {
			if !have[strings.TrimRight(l, ",")] {
				out.WriteString(mark + l + "\n")
			}
		}
	}
	only("-", want, got)
	only("+", got, want)
	return out.String()
}

// inCluster tells the broker keys that the cluster in which answers were
// recorded had set.
func inCluster(name string) bool {
	switch name {
	case "advertised.listeners", "broker.id", "controller.quorum.voters", "controller.quorum.bootstrap.servers", "listeners",
		"listener.security.protocol.map", "log.dirs", "offsets.topic.replication.factor", "share.coordinator.state.topic.min.isr",
		"share.coordinator.state.topic.replication.factor", "transaction.state.log.min.isr", "transaction.state.log.replication.factor":
		return true
	}
	return false
}

// where tells what depends on the machine.
func where(field string, v any) bool {
	n, _ := v.(int64)
	if epoch, ok := v.(int32); ok && field == "LeaderEpoch" && epoch > 0 || field == "HighWatermark" && n > 0 {
		return true
	}
	if dir, ok := v.(string); ok && strings.HasPrefix(dir, "dir ") {
		return false // one of several that are told apart
	}
	if (field == "Size" || field == "OffsetLag") && n > 0 {
		return true
	}
	return field == "Port" || field == "Dir" || (field == "TotalBytes" || field == "UsableBytes") && n > 0
}

// line writes on one line what comes in great numbers.
func (s *script) line(v any) string {
	text := func(p *string) string {
		if p == nil {
			return "null"
		}
		return strconv.Quote(*p)
	}
	flags := func(readOnly, sensitive bool) (out string) {
		if readOnly {
			out += " read-only"
		}
		if sensitive {
			out += " sensitive"
		}
		return out
	}
	switch c := v.(type) {
	case kmsg.ListGroupsResponseGroup:
		if !strings.HasSuffix(c.Group, s.run) {
			return "somebody else's"
		}
	case kmsg.ListConfigResourcesResponseConfigResource:
		if !strings.HasPrefix(c.Name, "adm-") && c.Name != "1" {
			return "somebody else's"
		}
	case kmsg.CreateTopicsResponseTopicConfig:
		if c.Name == "min.insync.replicas" && c.Source == int8(kmsg.ConfigSourceDynamicDefaultBrokerConfig) {
			c.Source = int8(kmsg.ConfigSourceDefaultConfig) // see below
		}
		if k := config.TopicKey(c.Name); k != nil && k.Own {
			return "somebody else's"
		}
		return fmt.Sprintf("%s=%s %d%s", c.Name, text(c.Value), c.Source, flags(c.ReadOnly, c.IsSensitive))
	case kmsg.DescribeConfigsResponseResourceConfig:
		if k := config.BrokerKey(c.Name); k != nil && (k.Own || k.KafkaDefault != "" || inCluster(c.Name) || c.Source == kmsg.ConfigSourceStaticBrokerConfig) {
			return "somebody else's"
		}
		if k := config.TopicKey(c.Name); k != nil && k.Own || c.ConfigType == kmsg.ConfigTypeUnknown && c.IsSensitive {
			return "somebody else's"
		}
		if c.Name == "min.insync.replicas" && c.Source == kmsg.ConfigSourceDynamicDefaultBrokerConfig {
			// Kafka sets this for all brokers when it forms a cluster.
			if len(c.ConfigSynonyms) > 0 {
				c.ConfigSynonyms = c.ConfigSynonyms[1:]
			}
			c.Source = kmsg.ConfigSourceDefaultConfig
		}
		out := fmt.Sprintf("%s=%s %s %s%s", c.Name, text(c.Value), c.ConfigType, c.Source, flags(c.ReadOnly, c.IsSensitive))
		for _, syn := range c.ConfigSynonyms {
			out += fmt.Sprintf(" [%s=%s %s]", syn.Name, text(syn.Value), syn.Source)
		}
		if c.Documentation != nil {
			out += fmt.Sprintf(" doc:%08x", crc32.ChecksumIEEE([]byte(*c.Documentation)))
		}
		return out
	case kmsg.DescribeClientQuotasResponseEntry:
		var parts []string
		for _, e := range c.Entity {
			parts = append(parts, e.Type+"="+text(e.Name))
		}
		for _, v := range c.Values {
			parts = append(parts, fmt.Sprintf("%s:%v", v.Key, v.Value))
		}
		slices.Sort(parts)
		if all := strings.Join(parts, " "); !strings.Contains(all, "adm-") && !strings.Contains(all, "192.0.2.") {
			return "somebody else's"
		}
		return strings.Join(parts, " ")
	case kmsg.AlterClientQuotasResponseEntryEntity:
		return c.Type + "=" + text(c.Name)
	case kmsg.ElectLeadersResponseTopic:
		if !strings.HasPrefix(c.Topic, "adm-") {
			return "somebody else's"
		}
	case kmsg.DescribeQuorumResponseNodeListener:
		return "a listener"
	case kmsg.DescribeQuorumResponseTopicPartitionReplicaState:
		dir := "none"
		if c.ReplicaDirectoryID != [16]byte{} {
			dir = "some"
		}
		return fmt.Sprintf("replica=%d dir=%s offset>0=%t fetch>0=%t caught-up>0=%t", c.ReplicaID, dir, c.LogEndOffset > 0,
			c.LastFetchTimestamp > 0, c.LastCaughtUpTimestamp > 0)
	case kmsg.MetadataResponseTopicPartition:
		return fmt.Sprintf("%d code=%d leader=%d epoch=%d replicas=%v isr=%v offline=%v", c.Partition, c.ErrorCode, c.Leader, c.LeaderEpoch, c.Replicas, c.ISR, c.OfflineReplicas)
	case kmsg.DescribeTopicPartitionsResponseTopicPartition:
		return fmt.Sprintf("%d code=%d leader=%d epoch=%d replicas=%v isr=%v elr=%v/%t known=%v/%t offline=%v", c.Partition, c.ErrorCode, c.LeaderID, c.LeaderEpoch,
			c.Replicas, c.ISR, c.EligibleLeaderReplicas, c.EligibleLeaderReplicas == nil, c.LastKnownELR, c.LastKnownELR == nil, c.OfflineReplicas)
	}
	return ""
}

// inNoOrder tells the lists that Kafka shuffles, or fills from a hash table.
func inNoOrder(v any) bool {
	switch v.(type) {
	case []kmsg.CreateTopicsResponseTopic, []kmsg.DeleteTopicsResponseTopic, []kmsg.CreatePartitionsResponseTopic,
		[]kmsg.DescribeConfigsResponseResource, []kmsg.DescribeConfigsResponseResourceConfig,
		[]kmsg.IncrementalAlterConfigsResponseResource, []kmsg.AlterConfigsResponseResource,
		[]kmsg.MetadataResponseTopic, []kmsg.DescribeLogDirsResponseDir, []kmsg.DescribeLogDirsResponseDirTopic, []kmsg.DescribeLogDirsResponseDirTopicPartition,
		[]kmsg.AlterReplicaLogDirsResponseTopic, []kmsg.AlterReplicaLogDirsResponseTopicPartition,
		[]kmsg.ListConfigResourcesResponseConfigResource, []kmsg.ListGroupsResponseGroup,
		[]kmsg.DescribeGroupsResponseGroup, []kmsg.ConsumerGroupDescribeResponseGroup, []kmsg.DeleteGroupsResponseGroup,
		[]kmsg.JoinGroupResponseMember, []kmsg.DescribeGroupsResponseGroupMember, []kmsg.ConsumerGroupDescribeResponseGroupMember,
		[]kmsg.OffsetFetchResponseTopic, []kmsg.OffsetFetchResponseTopicPartition, []kmsg.OffsetFetchResponseGroupTopic, []kmsg.OffsetFetchResponseGroupTopicPartition,
		[]kmsg.DescribeClientQuotasResponseEntry, []kmsg.AlterClientQuotasResponseEntry, []kmsg.AlterClientQuotasResponseEntryEntity,
		[]kmsg.AlterUserSCRAMCredentialsResponseResult, []kmsg.DescribeUserSCRAMCredentialsResponseResult:
		return true
	}
	return false
}

// compact joins what fits on a line.
func compact(indented []byte) string {
	return string(fold(indented, ""))
}

func fold(raw json.RawMessage, indent string) []byte {
	var flat bytes.Buffer
	if err := json.Compact(&flat, raw); err != nil {
		panic(err)
	}
	if flat.Len()+len(indent) <= 160 || flat.Bytes()[0] != '[' && flat.Bytes()[0] != '{' {
		return flat.Bytes()
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	open, _ := d.Token()
	var b bytes.Buffer
	fmt.Fprintf(&b, "%v", open)
	for first := true; d.More(); first = false {
		if !first {
			b.WriteByte(',')
		}
		b.WriteString("\n" + indent + " ")
		if open == json.Delim('{') {
			key, _ := d.Token()
			fmt.Fprintf(&b, "%q:", key)
		}
		var e json.RawMessage
		if err := d.Decode(&e); err != nil {
			panic(err)
		}
		b.Write(fold(e, indent+" "))
	}
	end, _ := d.Token()
	fmt.Fprintf(&b, "\n%s%v", indent, end)
	return b.Bytes()
}

// TestAsKafka plays every script and compares with what Kafka answered.
func TestAsKafka(t *testing.T) {
	all := scripts()
	maps.Copy(all, clusterScripts())
	maps.Copy(all, groupScripts())
	for name, steps := range all {
		t.Run(name, func(t *testing.T) {
			golden := filepath.Join("testdata", "kafka", name+".txt")
			if *record != "" {
				conn, err := net.Dial("tcp", *record)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				w := wire{conn}
				cleanUp(t, w, steps)
				defer cleanUp(t, w, steps)
				s := newScript()
				s.describe(t, w)
				out := strings.Join(s.answersOf(t, w, steps), "\n\n") + "\n"
				if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, []byte(out), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			wants := strings.Split(strings.TrimSuffix(string(want), "\n"), "\n\n")
			b := newTestBroker(t)
			s := newScript()
			s.describe(t, b)
			got := s.answersOf(t, b, steps)
			if len(got) != len(wants) {
				t.Fatalf("%d steps, %d recorded", len(got), len(wants))
			}
			for i := range got {
				if differs[name][steps[i].name] == "" && got[i] != wants[i] {
					t.Errorf("%s: -Kafka +gregor\n%s", steps[i].name, lineDiff(wants[i], got[i]))
				}
			}
		})
	}
}

// describe learns the texts that are the cluster's own.
func (s *script) describe(t *testing.T, p player) {
	req := kmsg.NewPtrDescribeClusterRequest()
	resp := p.play(t, req).(*kmsg.DescribeClusterResponse)
	s.same[resp.ClusterID] = "<cluster id>"
}

// cleanUp deletes every topic that the steps name.
func cleanUp(t *testing.T, p player, steps []step) {
	names := make(map[string]bool)
	for _, st := range steps {
		if r, ok := st.req.(*kmsg.CreateTopicsRequest); ok {
			for _, topic := range r.Topics {
				names[topic.Topic] = true
			}
		}
		if r, ok := st.req.(*kmsg.MetadataRequest); ok && r.AllowAutoTopicCreation {
			for _, topic := range r.Topics {
				if topic.Topic != nil {
					names[*topic.Topic] = true
				}
			}
		}
	}
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.Version, req.TimeoutMillis = 5, 10000
	for n := range names {
		if strings.HasPrefix(n, "adm-") {
			req.TopicNames = append(req.TopicNames, n)
		}
	}
	slices.Sort(req.TopicNames)
	if len(req.TopicNames) > 0 {
		p.play(t, req)
	}
}
