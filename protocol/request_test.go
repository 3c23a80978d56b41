package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// mostMemory is what decoding a body of n bytes may allocate: the scanner's
// budget, what Go's allocator rounds up, strings, and the request itself.
func mostMemory(n int) uint64 { return 64<<10 + 64*uint64(n) }

// hostile are lengths and counts that lie, as int32, as int16 and as uvarint.
var hostile = [][]byte{
	{0x7f, 0xff, 0xff, 0xff},
	{0x80, 0x00, 0x00, 0x00},
	{0xff, 0xff, 0xff, 0xfe},
	{0x00, 0xff, 0xff, 0xff},
	{0x7f, 0xff},
	{0xff, 0xfe},
	{0xff, 0xff, 0xff, 0xff, 0x0f},
	{0xff, 0xff, 0xff, 0xff, 0x07},
	{0x80, 0x80, 0x80, 0x80, 0x80, 0x01},
	{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
}

// randomBody is a well-formed body along the schema.
func randomBody(key, version int16, s *schema, seed uint64) []byte {
	w := requestWriter{
		rng: rand.New(rand.NewPCG(seed, uint64(key)<<16|uint64(version))),
		v:   int8(version), flexible: version >= int16(s.flexible),
	}
	w.fields(s.fields)
	return w.b
}

// TestDecodeHostileCounts puts every lie at every place of a request of every
// key and version: it must not panic, loop, or take memory for the lie.
func TestDecodeHostileCounts(t *testing.T) {
	if raceEnabled {
		t.Skip("counts allocations")
	}
	everyRequest(func(key, version int16, s *schema) {
		body := randomBody(key, version, s, 1)
		var most uint64
		used := allocated(func() {
			for at := range body {
				for _, lie := range hostile {
					forged := append(append(bytes.Clone(body[:at]), lie...), body[min(len(body), at+len(lie)):]...)
					most += mostMemory(len(forged))
					_, _ = Decode(key, version, forged)
				}
			}
		})
		if used > most/4 { // most of them are refused
			t.Errorf("key %d v%d: %d bytes allocated for %d bytes of requests", key, version, used, most)
		}
	})
}

// TestDecodeAmplification fills every array of every request with as many of
// the smallest elements as a quarter of a megabyte holds, and every tag section
// with as many empty unknown tags.
func TestDecodeAmplification(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("walks some thousand large requests")
	}
	const size = 256 << 10
	everyRequest(func(key, version int16, s *schema) {
		if version != int16(s.hi) && version != int16(s.lo) {
			return
		}
		for target := 0; ; target++ {
			w := denseWriter{v: int8(version), flexible: version >= int16(s.flexible), target: target, size: size}
			w.fields(s.fields)
			if w.target >= 0 { // there was no array of this number
				return
			}
			used := allocated(func() { _, _ = Decode(key, version, w.b) })
			if used > mostMemory(len(w.b)) {
				t.Errorf("key %d v%d array %d: %d bytes allocated for %d", key, version, target, used, len(w.b))
			}
		}
	})
}

// denseWriter writes the smallest possible request, except that its target-th
// array or tag section has as many elements as fit the size; with tags, each
// element has an unknown one.
type denseWriter struct {
	b        []byte
	v        int8
	flexible bool
	target   int
	size     int
	tagged   bool
}

func (w *denseWriter) fields(fields []field) {
	for i := range fields {
		if f := &fields[i]; f.in(w.v) && !f.tagged {
			w.field(f)
		}
	}
	switch {
	case !w.flexible:
	case w.tagged:
		w.b = append(w.b, 1, 99, 0)
	default:
		w.b = append(w.b, 0)
	}
}

func (w *denseWriter) field(f *field) {
	switch f.kind {
	case kindString:
		w.length(2, 0)
	case kindBytes:
		w.length(4, 0)
	case kindArray:
		w.array(f)
	case kindStruct:
		if f.mayBeNull(w.v) {
			w.b = append(w.b, 1)
		}
		w.fields(f.fields)
	default:
		w.b = append(w.b, make([]byte, fixedSize[f.kind])...)
	}
}

func (w *denseWriter) array(f *field) {
	elem := *f
	elem.kind, elem.nullable = f.elem, false
	// One element first, with all arrays in it, so that each gets its turn as
	// a target; twice, without and with unknown tags.
	for _, tagged := range []bool{false, true} {
		w.target--
		if w.target == -1 {
			one := denseWriter{v: w.v, flexible: w.flexible, target: -1, tagged: tagged}
			one.field(&elem)
			n := w.size / len(one.b)
			w.length(4, n)
			w.b = append(w.b, bytes.Repeat(one.b, n)...)
			return
		}
	}
	if w.target < 0 {
		w.length(4, 0)
		return
	}
	w.length(4, 1)
	w.field(&elem)
}

func (w *denseWriter) length(width, n int) {
	switch {
	case w.flexible:
		w.b = binary.AppendUvarint(w.b, uint64(n+1))
	case width == 2:
		w.b = binary.BigEndian.AppendUint16(w.b, uint16(n))
	default:
		w.b = binary.BigEndian.AppendUint32(w.b, uint32(n))
	}
}

// TestDecodeManyTags: a section of nothing but unknown tags.
func TestDecodeManyTags(t *testing.T) {
	for _, n := range []int{1000, 100000} {
		body := binary.AppendUvarint([]byte{1, 0, 0, 0}, uint64(n))
		for tag := range n {
			body = append(binary.AppendUvarint(body, uint64(tag)), 0)
		}
		if used := allocated(func() { _, _ = Decode(3, 9, body) }); used > mostMemory(len(body))/2 {
			t.Errorf("%d tags: %d bytes allocated for %d", n, used, len(body))
		}
	}
}

// TestDecodeDenseHonest: what has no unknown tags is never refused for its
// memory, however short its names are.
func TestDecodeDenseHonest(t *testing.T) {
	topics := kmsg.NewPtrMetadataRequest()
	topics.SetVersion(13)
	for range 20000 {
		topic := kmsg.NewMetadataRequestTopic()
		topics.Topics = append(topics.Topics, topic)
	}
	offsets := kmsg.NewPtrOffsetFetchRequest()
	offsets.SetVersion(9)
	group := kmsg.NewOffsetFetchRequestGroup()
	for range 20000 {
		topic := kmsg.NewOffsetFetchRequestGroupTopic()
		topic.Topic, topic.Partitions = "t", []int32{0}
		group.Topics = append(group.Topics, topic)
	}
	offsets.Groups = append(offsets.Groups, group)
	partitions := kmsg.NewPtrCreatePartitionsRequest()
	partitions.SetVersion(3)
	topic := kmsg.NewCreatePartitionsRequestTopic()
	topic.Assignment = make([]kmsg.CreatePartitionsRequestTopicAssignment, 50000)
	partitions.Topics = append(partitions.Topics, topic)
	produce := kmsg.NewPtrProduceRequest()
	produce.SetVersion(9)
	produce.Topics = make([]kmsg.ProduceRequestTopic, 50000)
	for _, r := range []kmsg.Request{topics, offsets, partitions, produce} {
		if err := checkDecodes(r); err != nil {
			t.Errorf("key %d: %v", r.Key(), err)
		}
	}
}

func checkDecodes(r kmsg.Request) error {
	_, err := Decode(r.Key(), r.GetVersion(), r.AppendTo(nil))
	return err
}

// TestDecodeLikeKafka holds what Apache Kafka 4.3.1 answers to requests that are
// not quite right; the ones it closes the connection for are errors here.
func TestDecodeLikeKafka(t *testing.T) {
	const metadata = 3
	flexible := func(tags ...byte) []byte { return append([]byte{1, 0, 0, 0}, tags...) } // v9: no topics, three bools
	for name, c := range map[string]struct {
		version int16
		body    []byte
		ok      bool
	}{
		"no topics":                         {1, []byte{0, 0, 0, 0}, true},
		"null topics":                       {1, []byte{0xff, 0xff, 0xff, 0xff}, true},
		"null topics before v1":             {0, []byte{0xff, 0xff, 0xff, 0xff}, false},
		"null topic name":                   {1, []byte{0, 0, 0, 1, 0xff, 0xff}, false},
		"null topic name from v10":          {10, []byte{2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, true},
		"trailing bytes":                    {1, []byte{0, 0, 0, 0, 'x', 'y'}, true},
		"trailing bytes, flexible":          {9, flexible(0, 'x', 'y'), true},
		"bool of 2":                         {4, []byte{0, 0, 0, 0, 2}, true},
		"length not in its shortest form":   {9, []byte{0x81, 0x00, 0, 0, 0, 0}, true},
		"unknown tags":                      {9, flexible(2, 5, 1, 'a', 6, 1, 'b'), true},
		"unknown tags, unsorted":            {9, flexible(2, 6, 1, 'a', 5, 1, 'b'), true},
		"unknown tags, twice the same":      {9, flexible(2, 5, 1, 'a', 5, 1, 'b'), true},
		"tag longer than the rest":          {9, flexible(1, 5, 2, 'a'), false},
		"tag of 4 GiB":                      {9, flexible(1, 5, 0xff, 0xff, 0xff, 0xff, 0x0f), false},
		"more topics than bytes":            {1, []byte{0, 0, 0, 2, 0, 1, 'a'}, false},
		"2^31-1 topics":                     {1, []byte{0x7f, 0xff, 0xff, 0xff}, false},
		"name longer than the rest":         {1, []byte{0, 0, 0, 1, 0, 2, 'a'}, false},
		"array length of more than 5 bytes": {9, []byte{0x81, 0x80, 0x80, 0x80, 0x80, 0x00, 0, 0, 0, 0}, false},

		// Kafka lets these two pass: a negative length is null to it, and a
		// tag count above 2^31 is negative, that is, none.
		"-2 topics":         {1, []byte{0xff, 0xff, 0xff, 0xfe}, false},
		"2^32-1 tags":       {9, flexible(0xff, 0xff, 0xff, 0xff, 0x0f), false},
		"2^31-1 tags":       {9, flexible(0xff, 0xff, 0xff, 0xff, 0x07), false},
		"2^32-1 topic tags": {9, []byte{2, 2, 'a', 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0}, false},
	} {
		_, err := Decode(metadata, c.version, c.body)
		if malformed := (*MalformedError)(nil); (err == nil) != c.ok || err != nil && !errors.As(err, &malformed) {
			t.Errorf("%s: %v", name, err)
		}
	}

	// A tag that came with v15 is an error in v12, and so is a known tag
	// with a size that is not its value's.
	fetch := func(tags ...byte) []byte {
		r := kmsg.NewPtrFetchRequest()
		r.SetVersion(12)
		b := r.AppendTo(nil)
		return append(b[:len(b)-1], tags...)
	}
	for name, body := range map[string][]byte{
		"cluster id":                  fetch(1, 0, 3, 3, 'a', 'b'),
		"cluster id twice":            fetch(2, 0, 3, 3, 'a', 'b', 0, 3, 3, 'c', 'd'),
		"cluster id after a tag of 9": fetch(2, 9, 1, 'x', 0, 3, 3, 'a', 'b'),
	} {
		if _, err := Decode(1, 12, body); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	early := kmsg.NewPtrFetchRequest()
	early.SetVersion(12)
	partition := kmsg.NewFetchRequestTopicPartition()
	partition.ReplicaDirectoryID = [16]byte{1} // a tag of v17, which kmsg writes all the same
	early.Topics = []kmsg.FetchRequestTopic{{Topic: "t", Partitions: []kmsg.FetchRequestTopicPartition{partition}}}
	for name, body := range map[string][]byte{
		"tag of v17":             early.AppendTo(nil),
		"tag of v15":             fetch(append([]byte{1, 1, 13}, make([]byte, 13)...)...),
		"cluster id too short":   fetch(1, 0, 2, 3, 'a', 'b'),
		"cluster id too long":    fetch(1, 0, 4, 3, 'a', 'b', 'c'),
		"cluster id without end": fetch(1, 0, 3, 9, 'a', 'b'),
	} {
		if _, err := Decode(1, 12, body); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestDecodeReplacesInvalidUTF8: Apache Kafka 4.3.1 answers a Metadata request
// for 61 ff fe c3 62 with the topic name a, three times U+FFFD, b.
func TestDecodeReplacesInvalidUTF8(t *testing.T) {
	r, err := Decode(3, 1, []byte{0, 0, 0, 1, 0, 5, 'a', 0xff, 0xfe, 0xc3, 'b'})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := *r.(*kmsg.MetadataRequest).Topics[0].Topic, "a\ufffd\ufffd\ufffdb"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	// Bytes are not strings.
	body := []byte{0, 1, 0xfe, 0, 0, 0, 1, 0, 1, 0xff, 0, 0, 0, 1, 0, 1, 'm', 0, 0, 0, 1, 0xff}
	if r, err = Decode(14, 0, body); err != nil {
		t.Fatal(err)
	}
	sync := r.(*kmsg.SyncGroupRequest)
	if sync.Group != "\ufffd" || sync.MemberID != "\ufffd" || !bytes.Equal(sync.GroupAssignment[0].MemberAssignment, []byte{0xff}) {
		t.Errorf("got %+v", sync)
	}
}

func TestDecodeUnsupported(t *testing.T) {
	for _, c := range []struct{ key, version int16 }{{-1, 0}, {93, 0}, {1000, 0}, {3, -1}, {3, 14}, {0, 14}, {7, 0}, {4, 1}, {18, 5}} {
		if _, err := Decode(c.key, c.version, nil); Code(err) != kerr.UnsupportedVersion.Code {
			t.Errorf("key %d version %d: %v", c.key, c.version, err)
		}
	}
}

// TestDecodeAliasesBytes: records are not copied, strings are.
func TestDecodeAliasesBytes(t *testing.T) {
	body := produceRequest(9, []byte("records")).AppendTo(nil)
	r, err := Decode(0, 9, body)
	if err != nil {
		t.Fatal(err)
	}
	topic := r.(*kmsg.ProduceRequest).Topics[0]
	for i := range body {
		body[i] = 'X'
	}
	if topic.Topic != "topic" || string(topic.Partitions[0].Records) != "XXXXXXX" {
		t.Errorf("topic %q, records %q", topic.Topic, topic.Partitions[0].Records)
	}
}

func TestCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int16
	}{
		{nil, 0},
		{kerr.NotLeaderForPartition, 6},
		{errors.Join(errors.New("context"), kerr.CorruptMessage), 2},
		{errors.New("any"), -1},
		{&MalformedError{}, kerr.InvalidRequest.Code},
	} {
		if got := Code(c.err); got != c.want {
			t.Errorf("Code(%v) = %d, want %d", c.err, got, c.want)
		}
	}
}

func TestHeader(t *testing.T) {
	everyRequest(func(key, version int16, _ *schema) {
		for _, want := range []Header{
			{CorrelationID: 7, ClientID: "client", HasClientID: true},
			{CorrelationID: -1, ClientID: "", HasClientID: true},
			{CorrelationID: 1 << 30},
		} {
			r := kmsg.RequestForKey(key)
			r.SetVersion(version)
			frame := AppendRequest([]byte("before"), want, r)[len("before"):]
			want.Key, want.Version = key, version
			if size := binary.BigEndian.Uint32(frame); int(size) != len(frame)-4 {
				t.Fatalf("frame of %d bytes says %d", len(frame), size)
			}
			got, body, err := ReadHeader(frame[4:])
			if err != nil || got != want || !bytes.Equal(body, r.AppendTo(nil)) {
				t.Fatalf("got %+v, % x, %v\nwant %+v", got, body, err, want)
			}
			for n := range len(frame) - 4 - len(body) {
				if _, _, err := ReadHeader(frame[4 : 4+n]); err == nil {
					t.Fatalf("key %d v%d: the first %d bytes pass for a header", key, version, n)
				}
			}
		}
	})
}

func TestHeaderOddities(t *testing.T) {
	future := []byte{0, 18, 0, 99, 0, 0, 0, 5, 0, 1, 'c', 0, 'b'}
	h, body, err := ReadHeader(future)
	if err != nil || h.Version != 99 || h.CorrelationID != 5 || h.ClientID != "c" || string(body) != "b" {
		t.Errorf("ApiVersions v99: %+v, %q, %v", h, body, err)
	}
	h, body, err = ReadHeader([]byte{0, 7, 0, 0, 0, 0, 0, 5, 'b'})
	if err != nil || h.HasClientID || string(body) != "b" {
		t.Errorf("ControlledShutdown v0, the only header v0: %+v, %q, %v", h, body, err)
	}
	h, _, err = ReadHeader([]byte{0, 3, 0, 1, 0, 0, 0, 5, 0, 2, 0xff, 'c'})
	if err != nil || h.ClientID != "\ufffdc" {
		t.Errorf("client id that is not UTF-8: %q, %v", h.ClientID, err)
	}
	for name, frame := range map[string][]byte{
		"key -1":                {0xff, 0xff, 0, 0, 0, 0, 0, 5, 0, 0},
		"key 93":                {0, 93, 0, 0, 0, 0, 0, 5, 0, 0},
		"client id of -2 bytes": {0, 3, 0, 1, 0, 0, 0, 5, 0xff, 0xfe},
		"2^32-1 tags":           {0, 3, 0, 9, 0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f},
		"HTTP":                  []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		"TLS":                   {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3},
	} {
		if _, _, err := ReadHeader(frame); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestResponseRoundTrip(t *testing.T) {
	everyRequest(func(key, version int16, _ *schema) {
		want := kmsg.ResponseForKey(key)
		want.SetVersion(version)
		frame := AppendResponse([]byte("before"), 77, want)[len("before"):]
		if size := binary.BigEndian.Uint32(frame); int(size) != len(frame)-4 {
			t.Fatalf("frame of %d bytes says %d", len(frame), size)
		}
		got := kmsg.ResponseForKey(key)
		got.SetVersion(version)
		id, err := ReadResponse(frame[4:], got)
		if err != nil || id != 77 || !reflect.DeepEqual(got.AppendTo(nil), want.AppendTo(nil)) {
			t.Errorf("key %d v%d: id %d, %v", key, version, id, err)
		}
	})
	v3 := kmsg.NewPtrApiVersionsResponse()
	v3.SetVersion(3)
	if frame := AppendResponse(nil, 1, v3); !bytes.Equal(frame[8:], v3.AppendTo(nil)) {
		t.Error("ApiVersions v3 has a response header with tags")
	}
}

// TestDecodeTooManyThings: a request may not name more than any cluster has, in one
// array or in many, since each thing is answered.
func TestDecodeTooManyThings(t *testing.T) {
	keys := kmsg.NewPtrFindCoordinatorRequest()
	keys.Version, keys.CoordinatorKeys = 6, make([]string, mostThings)
	groups := kmsg.NewPtrOffsetFetchRequest()
	groups.Version = 8
	group := kmsg.NewOffsetFetchRequestGroup()
	group.Topics = []kmsg.OffsetFetchRequestGroupTopic{{Partitions: make([]int32, mostThings/5-2)}} // and itself, and its group
	for range 5 {
		groups.Groups = append(groups.Groups, group)
	}
	for _, r := range []kmsg.Request{keys, groups} {
		body := r.AppendTo(nil)
		if _, err := Decode(r.Key(), r.GetVersion(), body); err != nil {
			t.Errorf("%T: %v", r, err)
		}
	}
	keys.CoordinatorKeys = append(keys.CoordinatorKeys, "")
	groups.Groups = append(groups.Groups, kmsg.NewOffsetFetchRequestGroup())
	for _, r := range []kmsg.Request{keys, groups} {
		var malformed *MalformedError
		if _, err := Decode(r.Key(), r.GetVersion(), r.AppendTo(nil)); !errors.As(err, &malformed) {
			t.Errorf("%T with one thing more: %v", r, err)
		}
	}
}
