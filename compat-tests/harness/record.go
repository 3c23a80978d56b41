package harness

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

// Record is a record as every client can write and read it. Nil key, value and
// header value mean null, which is not the same as empty.
type Record struct {
	Topic     string
	Partition int32 // -1: the client's partitioner decides
	Offset    int64 // known after an acknowledgement or a read, else -1
	Timestamp int64 // milliseconds, -1: the client's clock
	Key       []byte
	Value     []byte
	Headers   []Header
}

// Header is a record header.
type Header struct {
	Key   string
	Value []byte
}

// Same tells whether two records carry the same bytes; offset and partition
// aside, and timestamps only where both are known.
func (r Record) Same(o Record) bool {
	if !sameBytes(r.Key, o.Key) || !sameBytes(r.Value, o.Value) || len(r.Headers) != len(o.Headers) {
		return false
	}
	for i, h := range r.Headers {
		if h.Key != o.Headers[i].Key || !sameBytes(h.Value, o.Headers[i].Value) {
			return false
		}
	}
	return r.Timestamp == -1 || o.Timestamp == -1 || r.Timestamp == o.Timestamp
}

func (r Record) String() string {
	short := func(b []byte) string {
		switch {
		case b == nil:
			return "null"
		case len(b) > 24:
			return fmt.Sprintf("%q... (%d bytes)", b[:24], len(b))
		}
		return fmt.Sprintf("%q", b)
	}
	var hs []string
	for _, h := range r.Headers {
		hs = append(hs, h.Key+"="+short(h.Value))
	}
	return fmt.Sprintf("%s[%d]@%d ts=%d key=%s value=%s headers=[%s]",
		r.Topic, r.Partition, r.Offset, r.Timestamp, short(r.Key), short(r.Value), strings.Join(hs, " "))
}

func sameBytes(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

// The line form of a record, as the clients' programs read and write it:
//
//	topic partition offset timestamp key value headers
//
// tab-separated; bytes are base64, "~" is null, headers are name=value pairs
// joined by commas (both base64), "-" for none.
func (r Record) line() string {
	hs := "-"
	if len(r.Headers) > 0 {
		var parts []string
		for _, h := range r.Headers {
			parts = append(parts, encode([]byte(h.Key))+":"+encode(h.Value))
		}
		hs = strings.Join(parts, ",")
	}
	return strings.Join([]string{
		r.Topic, strconv.Itoa(int(r.Partition)), strconv.FormatInt(r.Offset, 10),
		strconv.FormatInt(r.Timestamp, 10), encode(r.Key), encode(r.Value), hs,
	}, "\t")
}

func parseRecord(f []string) (Record, error) {
	if len(f) != 7 {
		return Record{}, fmt.Errorf("record line of %d fields", len(f))
	}
	p, err1 := strconv.ParseInt(f[1], 10, 32)
	off, err2 := strconv.ParseInt(f[2], 10, 64)
	ts, err3 := strconv.ParseInt(f[3], 10, 64)
	key, err4 := decode(f[4])
	val, err5 := decode(f[5])
	for _, err := range []error{err1, err2, err3, err4, err5} {
		if err != nil {
			return Record{}, fmt.Errorf("record line: %w", err)
		}
	}
	r := Record{Topic: f[0], Partition: int32(p), Offset: off, Timestamp: ts, Key: key, Value: val}
	if f[6] == "-" {
		return r, nil
	}
	for part := range strings.SplitSeq(f[6], ",") {
		k, v, _ := strings.Cut(part, ":")
		name, err := decode(k)
		if err != nil {
			return Record{}, fmt.Errorf("header name: %w", err)
		}
		value, err := decode(v)
		if err != nil {
			return Record{}, fmt.Errorf("header value: %w", err)
		}
		r.Headers = append(r.Headers, Header{Key: string(name), Value: value})
	}
	return r, nil
}

func encode(b []byte) string {
	if b == nil {
		return "~"
	}
	return base64.StdEncoding.EncodeToString(b)
}

func decode(s string) ([]byte, error) {
	if s == "~" {
		return nil, nil
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if b == nil {
		b = []byte{}
	}
	return b, err
}
