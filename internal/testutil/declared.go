// Package testutil holds what tests of several packages share.
package testutil

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Declared knows which tests directories declare, for lists in comments that name
// tests. The zero value is ready to use.
type Declared struct {
	sources map[string]string // of the tests, by directory
}

// Has reports whether the tests of a directory declare a function of that name.
func (d *Declared) Has(t testing.TB, dir, name string) bool {
	t.Helper()
	if d.sources[dir] == "" {
		if d.sources == nil {
			d.sources = map[string]string{}
		}
		d.sources[dir] = testsIn(t, dir)
	}
	return strings.Contains(d.sources[dir], "\nfunc "+name+"(")
}

func testsIn(t testing.TB, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v %v", dir, files, err)
	}
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	return all.String()
}
