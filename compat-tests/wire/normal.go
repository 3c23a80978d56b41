package wire

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"time"
)

// Normal writes answers as lines "path = value", in which everything that may
// differ between two brokers that behave alike is masked: ids, addresses,
// directories, the present. What stands for what is remembered, so that the
// same id is the same name in every answer of one run.
type Normal struct {
	start     time.Time
	topics    map[[16]byte]string
	producers map[int64]string
	// Replace is applied to every string, e.g. to mask the broker's address.
	Replace *strings.Replacer
}

// NewNormal starts with nothing known.
func NewNormal(replace *strings.Replacer) *Normal {
	return &Normal{start: time.Now().Add(-time.Minute), topics: map[[16]byte]string{}, producers: map[int64]string{}, Replace: replace}
}

// Topic makes a topic's id known by the topic's name.
func (n *Normal) Topic(id [16]byte, name string) {
	if id != ([16]byte{}) {
		n.topics[id] = name
	}
}

// Lines flattens an answer.
func (n *Normal) Lines(resp any) []string {
	var out []string
	n.walk(reflect.ValueOf(resp), "", &out)
	return out
}

// moment is a time in milliseconds within a message, or a bound around one.
var moment = regexp.MustCompile(`-?[0-9]{13,19}`)

// masked fields differ between any two brokers, and only whether they are set
// is compared.
var masked = map[string]bool{
	"Host": true, "Port": true, "ClusterID": true, "Dir": true, "LogDir": true, "SessionID": true,
	"TotalBytes": true, "UsableBytes": true,
}

func (n *Normal) walk(v reflect.Value, path string, out *[]string) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			*out = append(*out, path+" = null")
			return
		}
		n.walk(v.Elem(), path, out)
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if f.Name == "Version" || f.Name == "UnknownTags" || !f.IsExported() {
				continue
			}
			n.walk(v.Field(i), path+"."+f.Name, out)
		}
	case reflect.Array:
		id, ok := v.Interface().([16]byte)
		if !ok {
			*out = append(*out, fmt.Sprintf("%s = %v", path, v.Interface()))
			return
		}
		name, known := n.topics[id]
		switch {
		case id == [16]byte{}:
			name = "none"
		case !known:
			name = "unknown"
		}
		*out = append(*out, fmt.Sprintf("%s = <id %s>", path, name))
	case reflect.Slice:
		if v.IsNil() {
			*out = append(*out, path+" = null")
			return
		}
		if v.Type().Elem().Kind() == reflect.Uint8 {
			*out = append(*out, fmt.Sprintf("%s = %x", path, v.Bytes()))
			return
		}
		*out = append(*out, fmt.Sprintf("%s: %d", path, v.Len()))
		for i := range v.Len() {
			n.walk(v.Index(i), path+"["+n.label(v.Index(i), i)+"]", out)
		}
	default:
		*out = append(*out, path+" = "+n.scalar(path[strings.LastIndexByte(path, '.')+1:], v))
	}
}

// label names an element by what it is about where that is clear, so that one
// missing element does not shift all others.
func (n *Normal) label(v reflect.Value, i int) string {
	if v.Kind() == reflect.Struct {
		for _, name := range []string{"ApiKey", "Name", "ConfigName", "Partition"} {
			if f := v.FieldByName(name); f.IsValid() && (f.Kind() == reflect.String || f.CanInt()) {
				return fmt.Sprint(f.Interface())
			}
		}
	}
	return fmt.Sprint(i)
}

func (n *Normal) scalar(field string, v reflect.Value) string {
	if i := strings.IndexByte(field, '['); i >= 0 {
		field = field[:i]
	}
	switch {
	case masked[field]:
		if v.IsZero() {
			return "<not set>"
		}
		return "<set>"
	case v.Kind() == reflect.String:
		s := v.String()
		if n.Replace != nil {
			s = n.Replace.Replace(s)
		}
		return fmt.Sprintf("%q", moment.ReplaceAllString(s, "<time>"))
	case field == "ProducerID" && v.Int() >= 0:
		if _, ok := n.producers[v.Int()]; !ok {
			n.producers[v.Int()] = fmt.Sprintf("<producer %d>", len(n.producers)+1)
		}
		return n.producers[v.Int()]
	case v.Kind() == reflect.Int64 && strings.Contains(field, "Time") && v.Int() > n.start.UnixMilli():
		return "<now>"
	}
	return fmt.Sprint(v.Interface())
}
