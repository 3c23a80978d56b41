package protocol

import (
	"reflect"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// sanitize makes every string of a decoded request valid UTF-8, as Kafka's
// decoder does: what is not becomes U+FFFD. Clients with names in other
// encodings get on with Kafka that way, and behind the decoder (metadata, JSON,
// logs) everybody may rely on UTF-8. It is slow, and runs only where the walk
// over the request met such a string.
func sanitize(r kmsg.Request) { sanitizeValue(reflect.ValueOf(r)) }

func sanitizeValue(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(validString(v.String()))
	case reflect.Pointer:
		if !v.IsNil() {
			sanitizeValue(v.Elem())
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return
		}
		for i := range v.Len() {
			sanitizeValue(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); f.CanSet() {
				sanitizeValue(f)
			}
		}
	}
}

// validString replaces each byte that is not part of a character.
func validString(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}
