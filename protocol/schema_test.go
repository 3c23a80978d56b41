package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// everyRequest calls f for each key and version that can be decoded.
func everyRequest(f func(key, version int16, s *schema)) {
	for key := range int16(len(requestSchemas)) {
		for i := range requestSchemas[key] {
			s := &requestSchemas[key][i]
			for version := int16(s.lo); version <= int16(s.hi); version++ {
				if r := kmsg.RequestForKey(key); r != nil && version <= r.MaxVersion() {
					f(key, version, s)
				}
			}
		}
	}
}

// TestSchemaReach fails when Kafka has a version that kmsg does not know.
func TestSchemaReach(t *testing.T) {
	for key := range int16(len(requestSchemas)) {
		for _, s := range requestSchemas[key] {
			for version := int16(s.lo); version <= int16(s.hi); version++ {
				if r := kmsg.RequestForKey(key); r == nil || version > r.MaxVersion() {
					t.Errorf("key %d v%d cannot be decoded", key, version)
				}
			}
		}
	}
	if s := schemaFor(0, 2); s == nil {
		t.Error("Produce v2 is to be known, for librdkafka's sake")
	}
	for _, v := range []struct{ key, version int16 }{{-1, 0}, {93, 0}, {3, -1}, {3, 14}, {3, 300}, {4, 0}, {5, 0}} {
		if schemaFor(v.key, v.version) != nil {
			t.Errorf("key %d version %d has a schema", v.key, v.version)
		}
	}
}

// TestSchemaFlexible checks the table's flexible versions, which also decide
// the request header, against kmsg's.
func TestSchemaFlexible(t *testing.T) {
	everyRequest(func(key, version int16, s *schema) {
		r := kmsg.RequestForKey(key)
		r.SetVersion(version)
		if got := version >= int16(s.flexible); got != r.IsFlexible() {
			t.Errorf("key %d v%d: flexible %v, kmsg says %v", key, version, got, r.IsFlexible())
		}
		want := 1
		if r.IsFlexible() {
			want = 2
		}
		if got, ok := requestHeaderVersion(key, version); !ok || got != want {
			t.Errorf("key %d v%d: request header v%d, want v%d", key, version, got, want)
		}
	})
}

// TestSchemaFromKafka writes random requests along the table and has kmsg read
// them: what kmsg encodes again must be the same bytes.
func TestSchemaFromKafka(t *testing.T) {
	everyRequest(func(key, version int16, s *schema) {
		for seed := range uint64(20) {
			w := requestWriter{
				rng: rand.New(rand.NewPCG(seed, uint64(key)<<16|uint64(version))),
				v:   int8(version), flexible: version >= int16(s.flexible),
			}
			w.fields(s.fields)
			if err := checkRoundTrip(key, version, w.b); err != nil {
				t.Errorf("key %d v%d seed %d: %v\n% x", key, version, seed, err, w.b)
				break
			}
		}
	})
}

// TestSchemaFromKmsg fills kmsg's structs at random, all fields of all
// versions, and has the table read what kmsg writes.
func TestSchemaFromKmsg(t *testing.T) {
	everyRequest(func(key, version int16, _ *schema) {
		for seed := range uint64(20) {
			rng := rand.New(rand.NewPCG(seed, uint64(key)<<16|uint64(version)))
			r := kmsg.RequestForKey(key)
			f := filler{rng: rng, key: key, version: version}
			f.fill(reflect.ValueOf(r).Elem())
			r.SetVersion(version)
			if err := checkRoundTrip(key, version, r.AppendTo(nil)); err != nil {
				t.Errorf("key %d v%d seed %d: %v\n% x", key, version, seed, err, r.AppendTo(nil))
				break
			}
		}
	})
}

// checkRoundTrip decodes a whole request, compares what it encodes to, and sees
// that no part of it passes for the whole.
func checkRoundTrip(key, version int16, body []byte) error {
	r, err := Decode(key, version, body)
	if err != nil {
		return err
	}
	if again := r.AppendTo(nil); !bytes.Equal(again, body) {
		return fmt.Errorf("encodes to\n% x", again)
	}
	if _, err := Decode(key, version, append(bytes.Clone(body), 0)); err != nil {
		return fmt.Errorf("with a byte after it: %w", err)
	}
	for n := range body {
		_, err := Decode(key, version, body[:n:n])
		if malformed := (*MalformedError)(nil); !errors.As(err, &malformed) {
			return fmt.Errorf("first %d bytes: error %w", n, err)
		}
	}
	return nil
}

// requestWriter writes a random request along its schema.
type requestWriter struct {
	rng      *rand.Rand
	b        []byte
	v        int8
	flexible bool
}

func (w *requestWriter) fields(fields []field) {
	for i := range fields {
		if f := &fields[i]; f.in(w.v) && !f.tagged {
			w.field(f, true)
		}
	}
	if w.flexible {
		w.tags(fields)
	}
}

// field writes a value; what may be null is at times, if that is allowed here.
func (w *requestWriter) field(f *field, allowNull bool) {
	null := allowNull && f.mayBeNull(w.v) && w.rng.IntN(3) == 0
	switch f.kind {
	case kindString:
		w.length(2, w.rng.IntN(5), null, func(n int) { w.letters(n) })
	case kindBytes:
		w.length(4, w.rng.IntN(5), null, func(n int) { w.random(n) })
	case kindArray:
		elem := *f
		elem.kind, elem.nullable = f.elem, false
		w.length(4, w.rng.IntN(3), null, func(n int) {
			for range n {
				w.field(&elem, false)
			}
		})
	case kindStruct:
		if f.mayBeNull(w.v) {
			if null {
				w.b = append(w.b, 0xff)
				return
			}
			w.b = append(w.b, 1)
		}
		w.fields(f.fields)
	case kindInt8:
		w.b = append(w.b, 1) // whatever else it means, it is a bool
	default:
		w.random(fixedSize[f.kind])
	}
}

func (w *requestWriter) length(width, n int, null bool, write func(n int)) {
	if null {
		n = -1
	}
	switch {
	case w.flexible:
		w.b = binary.AppendUvarint(w.b, uint64(n+1))
	case width == 2:
		w.b = binary.BigEndian.AppendUint16(w.b, uint16(n))
	default:
		w.b = binary.BigEndian.AppendUint32(w.b, uint32(n))
	}
	if n > 0 {
		write(n)
	}
}

func (w *requestWriter) letters(n int) {
	for range n {
		w.b = append(w.b, 'a'+byte(w.rng.IntN(26)))
	}
}

func (w *requestWriter) random(n int) {
	for range n {
		w.b = append(w.b, byte(1+w.rng.IntN(255)))
	}
}

// tags writes some of the known tagged fields and some unknown ones. Nulls and
// other defaults are left out, as every encoder does.
func (w *requestWriter) tags(fields []field) {
	var section []byte
	count := 0
	for tag := range uint8(8) {
		value := requestWriter{rng: w.rng, v: w.v, flexible: true}
		if f := taggedField(fields, uint32(tag)); f != nil {
			if !f.in(w.v) || w.rng.IntN(2) == 0 {
				continue
			}
			for len(value.b) == 0 || isDefault(f, value.b) {
				value.b = nil
				value.field(f, false)
			}
		} else if w.rng.IntN(12) == 0 {
			value.random(w.rng.IntN(4))
		} else {
			continue
		}
		section = append(section, tag, byte(len(value.b)))
		section = append(section, value.b...)
		count++
	}
	w.b = append(w.b, byte(count))
	w.b = append(w.b, section...)
}

// isDefault tells the empty string or array, which no encoder writes as a
// tagged field. (Random numbers are no defaults.)
func isDefault(f *field, value []byte) bool {
	return (f.kind == kindString || f.kind == kindBytes || f.kind == kindArray) && value[0] <= 1 && !f.nullable
}

// filler fills a kmsg struct with random values that are not default values.
type filler struct {
	rng          *rand.Rand
	key, version int16
}

// lateTags are the tagged fields that came later than their request's first
// flexible version. kmsg writes them whenever they are set; Kafka, and the
// table, refuse them before their version.
var lateTags = map[int16]map[string]int16{
	1:  {"ReplicaState": 15, "ReplicaDirectoryID": 17, "HighWatermark": 18},
	59: {"ReplicaDirectoryID": 1},
	63: {"OfflineLogDirs": 1, "CordonedLogDirs": 2},
}

func (f *filler) fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprint("s", f.rng.IntN(1000)))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(2 + f.rng.IntN(100)))
	case reflect.Uint16, reflect.Uint32:
		v.SetUint(uint64(2 + f.rng.IntN(100)))
	case reflect.Float64:
		v.SetFloat(float64(f.rng.IntN(100)) + 0.5)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem())
	case reflect.Array:
		for i := range v.Len() {
			v.Index(i).SetUint(uint64(1 + f.rng.IntN(255)))
		}
	case reflect.Slice:
		f.fillSlice(v)
	case reflect.Struct:
		f.fillStruct(v)
	}
}

func (f *filler) fillSlice(v reflect.Value) {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		v.SetBytes([]byte(fmt.Sprint("b", f.rng.IntN(1000))))
		return
	}
	n := 1 + f.rng.IntN(3)
	v.Set(reflect.MakeSlice(v.Type(), n, n))
	for i := range n {
		f.fill(v.Index(i))
	}
}

func (f *filler) fillStruct(v reflect.Value) {
	if tags, ok := v.Addr().Interface().(*kmsg.Tags); ok {
		if f.rng.IntN(6) == 0 {
			tags.Set(uint32(100+f.rng.IntN(100)), []byte("unknown"))
			tags.Set(uint32(1000000), nil)
		}
		return
	}
	if d, ok := v.Addr().Interface().(interface{ Default() }); ok {
		d.Default()
	}
	for i := range v.NumField() {
		if lateTags[f.key][v.Type().Field(i).Name] <= f.version {
			f.fill(v.Field(i))
		}
	}
}
