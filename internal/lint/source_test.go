package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// pureFiles are pure files of packages that are not pure as a whole.
var pureFiles = []string{"replication/isr.go", "replication/watermark.go", "replication/epoch.go"}

// TestPureCodeTakesTimeAndStartsNothing parses the pure code: no goroutine, no
// channel operation that could block, no reading of the clock.
func TestPureCodeTakesTimeAndStartsNothing(t *testing.T) {
	for _, p := range listPackages(t) {
		if !slices.Contains(pure, p.rel()) {
			continue
		}
		for _, name := range p.GoFiles {
			checkPureFile(t, filepath.Join(p.Dir, name))
		}
	}
	for _, name := range pureFiles {
		path := filepath.Join(root(t), name)
		if _, err := os.Stat(path); err == nil {
			checkPureFile(t, path)
		}
	}
}

func checkPureFile(t *testing.T, path string) {
	t.Helper()
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range impurities(t, path, src) {
		t.Error(problem)
	}
}

func impurities(t *testing.T, path string, src []byte) []string {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, src, 0)
	if err != nil {
		t.Fatal(err)
	}
	var problems []string
	report := func(n ast.Node, what string) {
		problems = append(problems, fset.Position(n.Pos()).String()+": "+what+" in pure code")
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			report(n, "go statement")
		case *ast.SelectStmt:
			report(n, "select statement")
		case *ast.SendStmt:
			report(n, "channel send")
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && x.Obj == nil {
				switch n.Sel.Name {
				case "Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker":
					report(n, "time."+n.Sel.Name)
				}
			}
		}
		return true
	})
	return problems
}

func TestImpuritiesAreFound(t *testing.T) {
	src := "package p\nimport \"time\"\nfunc f(c chan int) {\n go f(c)\n _ = time.Now()\n c <- 1\n select {}\n}\n" +
		"func g(d time.Duration) time.Time { return time.UnixMilli(0).Add(d) }\n"
	if got := impurities(t, "x.go", []byte(src)); len(got) != 4 {
		t.Fatalf("got %q, want 4 problems", got)
	}
}

var handlerFile = regexp.MustCompile(`^\d\d_[a-z0-9_]+\.go$`)

// TestHandlerFilesSayWhatTheyServe wants the first comment of every NN_name.go
// to name the versions, before any function.
func TestHandlerFilesSayWhatTheyServe(t *testing.T) {
	dir := filepath.Join(root(t), "broker", "handler")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?i)\b(v|versions? )\d+`)
	for _, e := range entries {
		name := e.Name()
		if !handlerFile.MatchString(name) || strings.HasSuffix(name, "_test.go") {
			continue
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, filepath.Join(dir, name), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if len(file.Comments) == 0 || afterFunction(file) || !version.MatchString(file.Comments[0].Text()) {
			t.Errorf("broker/handler/%s does not open with a comment that names its versions", name)
		}
	}
}

// afterFunction reports whether a function stands before the first comment.
func afterFunction(file *ast.File) bool {
	return slices.ContainsFunc(file.Decls, func(d ast.Decl) bool {
		_, isFunc := d.(*ast.FuncDecl)
		return isFunc && d.Pos() < file.Comments[0].Pos()
	})
}

// forbidden is what no committed file may contain: paths of one machine,
// addresses of package mirrors, unfinished ends.
var forbidden = []struct {
	pattern *regexp.Regexp
	why     string
}{
	{regexp.MustCompile(`(^|[^\w.<>}*)-])/(work|farm|root)/[a-z.]`), "a path of one machine"},
	{regexp.MustCompile(`/tmp/(suites|bash_jobs)`), "a path of one machine"},
	{regexp.MustCompile(`(?i)\b(proxy\.golang\.org|registry\.npmjs\.org|repo1?\.maven\.(apache\.)?org|pypi\.org/simple|index\.crates\.io)\b`), "the host of a package registry: the clients know theirs"},
	{regexp.MustCompile(`\b(TODO|FIXME|XXX)\b`), "an unfinished end"},
	{regexp.MustCompile(`(?i)\bthis (milestone|issue|session)\b|\bissue [0-9]+ of\b|\bthe lead\b|\bowner (NET|META|STORE|REPL|ADMIN|PROTO|CMD|COMPAT)\b`), "words about how work was organised"},
}

// TestNoForbiddenText reads every file that git tracks or would track.
func TestNoForbiddenText(t *testing.T) {
	top := root(t)
	cmd := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard")
	cmd.Dir = top
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("no git working tree: %v", err)
	}
	for _, name := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		if strings.HasPrefix(name, "internal/lint/") || strings.HasSuffix(name, "go.sum") || strings.Contains(name, "/testdata/fuzz/") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(top, name))
		if err != nil {
			continue // deleted in the working tree
		}
		for i, line := range strings.Split(string(data), "\n") {
			for _, f := range forbidden {
				if f.pattern.MatchString(line) {
					t.Errorf("%s:%d: %s: %.120s", name, i+1, f.why, strings.TrimSpace(line))
				}
			}
		}
	}
}

func TestForbiddenTextIsFound(t *testing.T) {
	for line, want := range map[string]bool{
		`cp "/wo` + `rk/main" x`:                true,
		"/ro" + "ot/go":                         true,
		"a/work/b":                              false,
		"${x}/root/y":                           false,
		"// TO" + "DO: later":                   true,
		"GOPROXY=https://proxy.go" + "lang.org": true,
		"the working set":                       false,
	} {
		got := slices.ContainsFunc(forbidden, func(f struct {
			pattern *regexp.Regexp
			why     string
		},
		) bool {
			return f.pattern.MatchString(line)
		})
		if got != want {
			t.Errorf("%q: found %v, want %v", line, got, want)
		}
	}
}

// docPath is a path in backticks whose first part is a directory of ours.
var docPath = regexp.MustCompile("`\\.?/?([a-z][a-z-]*/[A-Za-z0-9_./*-]+)`")

// TestDocsNameWhatExists keeps the file map and its like true.
func TestDocsNameWhatExists(t *testing.T) {
	top := root(t)
	for _, doc := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"} {
		data, err := os.ReadFile(filepath.Join(top, doc))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range docPath.FindAllStringSubmatch(string(data), -1) {
			path := strings.TrimSuffix(m[1], "/...")
			first, _, _ := strings.Cut(path, "/")
			if _, err := os.Stat(filepath.Join(top, first)); err != nil || first == "bin" || first == "data" {
				continue
			}
			found, err := filepath.Glob(filepath.Join(top, path))
			if err != nil || len(found) == 0 {
				t.Errorf("%s names %s, which does not exist", doc, m[1])
			}
		}
	}
}
