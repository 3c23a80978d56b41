package main

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/magiconair/properties"
)

func TestParseProperties(t *testing.T) {
	const in = "# comment\n! another\n\nlisteners=PLAINTEXT://:9092\n" +
		"  log.dirs : /a,/b\nnum.partitions 3\n" +
		"sasl.jaas.config=Login required \\\n    username=\"u\" \\\n    password=\"p${x}\";\n" +
		"esc\\ aped\\=key=v\\u00e9\\tx\nempty=\nbare\nwin=C:\\\\dir\\\\\r\nlast=1"
	want := []property{
		{"listeners", "PLAINTEXT://:9092", 4},
		{"log.dirs", "/a,/b", 5},
		{"num.partitions", "3", 6},
		{"sasl.jaas.config", `Login required username="u" password="p${x}";`, 7},
		{"esc aped=key", "vé\tx", 10},
		{"empty", "", 11},
		{"bare", "", 12},
		{"win", `C:\dir\`, 13},
		{"last", "1", 14},
	}
	got, err := parseProperties([]byte(in))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Fatalf("got %d properties, want %d: %+v", len(got), len(want), got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("property %d: got %+v, want %+v", i, got[i], want[i])
		}
	}
}

func TestParsePropertiesLatin1(t *testing.T) {
	got, err := parseProperties([]byte("k=caf\xe9"))
	if err != nil || got[0].value != "café" {
		t.Fatalf("got %+v, %v", got, err)
	}
}

func TestParsePropertiesErrors(t *testing.T) {
	for in, want := range map[string]string{
		"a=1\nb=\\u12":  "line 2: b: malformed",
		"\n\n=x":        "line 3: no key",
		"b=\\u12g4":     "line 1: b: malformed",
		"a=1\\\n2\n\\u": "line 3: malformed",
	} {
		_, err := parseProperties([]byte(in))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", in, err, want)
		}
	}
}

// FuzzParseProperties holds the parser against an independent one: where both
// accept the input, they must agree on every key's last value.
func FuzzParseProperties(f *testing.F) {
	for _, seed := range []string{
		"a=1\nb: 2\n#c\n!d\ne f", "a=\\\n  b", "a\\=b=c", "k=\\u00e9", "x = y\\\\", "a=b\\", "\\ =\\ ",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got, err := parseProperties([]byte(in))
		if err != nil {
			return
		}
		for _, p := range got {
			if p.line < 1 || p.line > strings.Count(in, "\n")+strings.Count(in, "\r")+1 {
				t.Fatalf("line %d is not in the input", p.line)
			}
		}
		// The oracle knows nothing of a carriage return alone, of a key
		// that is empty, or of a form feed; escapes differ by design.
		if strings.ContainsAny(in, "\r\f\\") || !utf8.ValidString(in) {
			return
		}
		loader := properties.Loader{Encoding: properties.UTF8, DisableExpansion: true}
		oracle, err := loader.LoadBytes([]byte(in))
		if err != nil {
			return
		}
		last := map[string]string{}
		for _, p := range got {
			last[p.key] = p.value
		}
		for k, v := range last {
			if o, _ := oracle.Get(k); o != v {
				t.Fatalf("%q: got %q, the oracle has %q", k, v, o)
			}
		}
	})
}
