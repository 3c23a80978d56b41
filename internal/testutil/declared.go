// Package testutil holds what tests of several packages share.
package testutil

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
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

// NamedTestsExist fails a test where the comments of a file name tests, as
// [package.TestName], that the packages' directories do not declare, or fewer of
// them than there should be at least.
func NamedTestsExist(t testing.TB, file string, dirs map[string]string, least int) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var comments strings.Builder
	for _, c := range parsed.Comments {
		comments.WriteString(c.Text())
	}
	var declared Declared
	named := regexp.MustCompile(`\[(\w+)\.(Test\w+)\]`).FindAllStringSubmatch(comments.String(), -1)
	if len(named) < least {
		t.Fatalf("only %d tests are named", len(named))
	}
	for _, m := range named {
		dir, ok := dirs[m[1]]
		if !ok {
			t.Errorf("no package %s", m[1])
			continue
		}
		if !declared.Has(t, dir, m[2]) {
			t.Errorf("there is no test %s in %s", m[2], m[1])
		}
	}
}
