package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"pgregory.net/rapid"
)

func genBytes(t *rapid.T, label string) []byte {
	if rapid.Bool().Draw(t, label+" null") {
		return nil
	}
	return append([]byte{}, rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, label)...)
}

func genRecord(t *rapid.T) Record {
	r := Record{
		Attributes:     rapid.Int8().Draw(t, "attributes"),
		TimestampDelta: rapid.Int64().Draw(t, "timestamp delta"),
		OffsetDelta:    rapid.Int32().Draw(t, "offset delta"),
		Key:            genBytes(t, "key"),
		Value:          genBytes(t, "value"),
	}
	for range rapid.IntRange(0, 3).Draw(t, "headers") {
		h := RecordHeader{Key: append([]byte{}, rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(t, "header key")...), Value: genBytes(t, "header value")}
		r.Headers = append(r.Headers, h)
	}
	return r
}

// TestRecordsRoundTrip: what is appended is read, byte for byte, and no part of
// a payload passes for the whole.
func TestRecordsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var payload []byte
		var want []Record
		for range rapid.IntRange(0, 4).Draw(t, "records") {
			r := genRecord(t)
			before := len(payload)
			payload = AppendRecord(payload, &r)
			if got := len(payload) - before - varintLen(int64(r.bodyLen())); got != r.bodyLen() {
				t.Fatalf("record takes %d bytes and says %d", got, r.bodyLen())
			}
			want = append(want, r)
		}
		count := int32(len(want))
		if got, err := readRecords(payload, count); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("read %v, %v\nwant %v", got, err, want)
		}
		skimmed := 0
		r := NewRecordReader(payload, count)
		for rec, ok := r.Skim(); ok; rec, ok = r.Skim() {
			if rec.Headers != nil || !bytes.Equal(rec.Value, want[skimmed].Value) {
				t.Fatalf("skimmed %v", rec)
			}
			skimmed++
		}
		if r.Err() != nil || skimmed != len(want) {
			t.Fatalf("skimmed %d records, %v", skimmed, r.Err())
		}
		if len(payload) > 0 {
			cut := rapid.IntRange(0, len(payload)-1).Draw(t, "cut")
			if _, err := readRecords(payload[:cut:cut], count); err == nil {
				t.Fatalf("first %d of %d bytes pass", cut, len(payload))
			}
		}
		if _, err := readRecords(payload, count+1); err == nil {
			t.Fatal("one record too few passes")
		}
		if _, err := readRecords(append(payload, 0), count); err == nil {
			t.Fatal("a byte too many passes")
		}
	})
}

// readRecords copies all records, headers included.
func readRecords(payload []byte, count int32) (all []Record, err error) {
	r := NewRecordReader(payload, count)
	for rec, ok := r.Next(); ok; rec, ok = r.Next() {
		rec.Headers = append([]RecordHeader(nil), rec.Headers...)
		all = append(all, rec)
	}
	return all, r.Err()
}

func TestRecordsRefused(t *testing.T) {
	v := func(n int64) []byte { return appendVarint(nil, n) }
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	// body puts its own length before a record.
	body := func(parts ...[]byte) []byte {
		b := join(parts...)
		return join(v(int64(len(b))), b)
	}
	attributes, null, zero, padding := []byte{0}, v(-1), v(0), make([]byte, 32)
	for name, c := range map[string]struct {
		payload []byte
		count   int32
	}{
		"count -1":                      {padding, -1},
		"count 2^31-1":                  {padding, math.MaxInt32},
		"count without bytes":           {nil, 1},
		"bytes without count":           {padding, 0},
		"length -1":                     {join(v(-1), padding), 1},
		"length 0":                      {join(v(0), padding), 1},
		"length 2^31-1":                 {join(v(math.MaxInt32), padding), 1},
		"length of 6 bytes":             {join([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, padding), 1},
		"length of 33 bits":             {join([]byte{0xff, 0xff, 0xff, 0xff, 0x1f}, padding), 1},
		"timestamp of 11 bytes":         {body(attributes, bytes.Repeat([]byte{0xff}, 10), []byte{1}, zero, null, null, zero), 1},
		"timestamp of 65 bits":          {body(attributes, bytes.Repeat([]byte{0xff}, 9), []byte{3}, zero, null, null, zero), 1},
		"key length -2":                 {body(attributes, zero, zero, v(-2), null, zero), 1},
		"key longer than the record":    {join(body(attributes, zero, zero, v(20), null, zero), padding), 1},
		"value longer than the record":  {join(body(attributes, zero, zero, null, v(20), zero), padding), 1},
		"header count -1":               {body(attributes, zero, zero, null, null, v(-1)), 1},
		"header count 2^31-1":           {body(attributes, zero, zero, null, null, v(math.MaxInt32)), 1},
		"header count beyond its bytes": {body(attributes, zero, zero, null, null, v(2), zero, zero), 1},
		"header key null":               {body(attributes, zero, zero, null, null, v(1), null, zero), 1},
		"header value too long":         {body(attributes, zero, zero, null, null, v(1), zero, v(1)), 1},
		"bytes after the headers":       {body(attributes, zero, zero, null, null, zero, zero), 1},
		"length one too short":          {join(v(5), attributes, zero, zero, null, null, zero), 1},
	} {
		_, err := readRecords(c.payload, c.count)
		var recordErr *RecordError
		if !errors.As(err, &recordErr) || Code(err) != kerr.InvalidRecord.Code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := readRecords(body(attributes, zero, zero, null, null, zero), 1); err != nil {
		t.Errorf("the smallest record: %v", err)
	}
}

func TestRecordErrorTellsPlace(t *testing.T) {
	payload := AppendRecord(nil, &Record{Value: []byte("v")})
	first := len(payload)
	payload = append(payload, 0xff)
	payload = append(payload, make([]byte, 10)...)
	_, err := readRecords(payload, 2)
	if want := fmt.Sprintf("protocol: record 1 at byte %d: record length is beyond the payload", first); err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}
