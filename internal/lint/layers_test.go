package lint

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/gregor-broker/gregor"

// THINK HARD ABOUT THE LAYERING BEFORE CHANGING THIS TABLE.
//
// Arrows point down only: a package may import of ours what its row names and
// of others' what its row names. Whoever needs an interface declares it, and
// upward news is a callback that never blocks.
var layers = map[string]layer{
	"protocol": {third: []string{kmsg, kerr, klauspost, lz4}},
	// The program that writes protocol/schema_gen.go.
	"protocol/internal/gen": {},
	"storage/vfs":           {third: []string{xsys}},
	"config":                {},
	"config/...":            {ours: []string{"config", "config/..."}},
	"metadata":              {third: []string{kerr}},
	"metadata/storetest": {
		ours: []string{"metadata"}, third: []string{goleak, rapid},
	},
	"metadata/memstore":          {ours: []string{"metadata"}},
	"metadata/etcdstore":         {ours: []string{"metadata"}, third: append([]string{zerolog}, etcd...)},
	"metadata/etcdembed":         {ours: []string{"metadata", "metadata/etcdstore"}, third: append([]string{zerolog}, etcd...)},
	"storage":                    {ours: []string{"protocol", "storage/vfs"}, third: []string{kerr, zerolog, xsys}},
	"storage/...":                {ours: []string{"protocol", "storage", "storage/vfs"}, third: []string{kerr, zerolog, datadriven}},
	"peer":                       {ours: []string{"protocol", "replication"}, third: []string{kmsg, kerr}},
	"controller":                 {ours: []string{"metadata"}, third: []string{kerr, zerolog}},
	"replication":                {ours: []string{"protocol", "storage", "metadata", "config"}, third: []string{kerr, zerolog}},
	"coordinator/runtime":        {ours: []string{"protocol"}, third: []string{kerr, zerolog}},
	"coordinator/group":          {ours: []string{"coordinator/runtime", "coordinator/group/assignor", "metadata", "protocol"}, third: []string{kmsg, kerr, kbin}},
	"coordinator/group/assignor": {},
	"coordinator/txn":            {ours: []string{"coordinator/runtime", "metadata", "protocol"}, third: []string{kmsg, kerr}},
	"coordinator/share":          {ours: []string{"coordinator/runtime", "metadata", "protocol"}, third: []string{kmsg, kerr}},
	"broker/auth":                {third: []string{kerr}},
	"broker/handler": {
		ours: []string{
			"protocol", "metadata", "replication", "storage", "config", "broker/auth",
			"coordinator/runtime", "coordinator/group", "coordinator/txn", "coordinator/share",
		},
		third: []string{kmsg, kerr, zerolog},
	},
	"broker": {
		ours:  []string{"protocol", "broker/handler", "broker/auth", "metadata", "storage", "storage/vfs", "config"},
		third: []string{kmsg, kerr, zerolog, xsys, prometheus},
	},
	"node":          {all: true},
	"brokertest":    {ours: []string{"node", "config", "metadata", "metadata/memstore"}, third: []string{zerolog}},
	"cmd/gregor":    {all: true},
	"internal/lint": {},
}

// unboundPrefixes are trees of programs for measuring and trying, which stand
// beside the broker: they may import everything and nothing imports them.
var unboundPrefixes = []string{"bench", "compat-tests", "internal/testutil"}

// pure packages hold decisions only. What happens at what time, in what order
// and on which goroutine is their caller's, so a test can play every schedule.
var pure = []string{"protocol", "metadata", "coordinator/group", "coordinator/group/assignor", "coordinator/txn", "coordinator/share"}

// pureForbidden are the standard packages that a pure package has no use for.
// sync is allowed in protocol for pools of codecs only; see pureExceptions.
var pureForbidden = []string{"net", "os", "sync", "sync/atomic", "math/rand", "math/rand/v2", "os/exec", "io/ioutil", "syscall"}

// pureExceptions names, with the reason, the imports that are allowed all the
// same.
var pureExceptions = map[string][]string{
	// Encoders and decoders are dear to build; a sync.Pool of them is no
	// shared state that a caller could see.
	"protocol": {"sync"},
}

// notLinked may not become part of the broker itself: test doubles and tools.
var notLinked = []string{"github.com/twmb/franz-go/pkg/kfake"}

const (
	kmsg       = "github.com/twmb/franz-go/pkg/kmsg"
	kerr       = "github.com/twmb/franz-go/pkg/kerr"
	kbin       = "github.com/twmb/franz-go/pkg/kbin"
	klauspost  = "github.com/klauspost/compress"
	lz4        = "github.com/pierrec/lz4/v4"
	xsys       = "golang.org/x/sys"
	zerolog    = "github.com/rs/zerolog"
	goleak     = "go.uber.org/goleak"
	rapid      = "pgregory.net/rapid"
	datadriven = "github.com/cockroachdb/datadriven"
	prometheus = "github.com/prometheus/client_golang"
)

var etcd = []string{"go.etcd.io/etcd", "go.etcd.io/raft", "go.etcd.io/bbolt", "go.uber.org/zap", "google.golang.org/grpc"}

type layer struct {
	ours  []string
	third []string
	// all allows every import.
	all bool
}

// goPackage is what go list says of one package.
type goPackage struct {
	ImportPath   string
	Dir          string
	Doc          string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string
	Standard     bool
}

// rel is the path below the module.
func (p goPackage) rel() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Doc,GoFiles,TestGoFiles,XTestGoFiles,Imports,Standard", "./...")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var pkgs []goPackage
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) < 4 {
		t.Fatalf("go list found only %d packages", len(pkgs))
	}
	return pkgs
}

// root is the top of the module.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestImportsFollowTheLayers(t *testing.T) {
	for _, p := range listPackages(t) {
		for _, problem := range checkImports(p) {
			t.Error(problem)
		}
	}
}

// checkImports judges one package by the tables above.
func checkImports(p goPackage) []string {
	rel := p.rel()
	if rel == "" {
		return []string{"the module's root holds no package"}
	}
	if unbound(rel) {
		return nil
	}
	row, ok := rowOf(rel)
	if !ok {
		return []string{rel + ": unknown package; give it a row in the table of layers_test.go and in ARCHITECTURE.md"}
	}
	var problems []string
	for _, imp := range p.Imports {
		if slices.ContainsFunc(notLinked, func(prefix string) bool { return under(imp, prefix) }) {
			problems = append(problems, rel+" imports "+imp+", which is for tests only")
		}
		switch {
		case row.all:
		case under(imp, module):
			ours := strings.TrimPrefix(imp, module+"/")
			if !slices.ContainsFunc(row.ours, func(name string) bool { return matches(name, ours) }) {
				problems = append(problems, rel+" imports "+ours+" against the layering")
			}
		case strings.Contains(strings.SplitN(imp, "/", 2)[0], "."):
			if !slices.ContainsFunc(row.third, func(prefix string) bool { return under(imp, prefix) }) {
				problems = append(problems, rel+" imports "+imp+", which its row does not allow")
			}
		case slices.Contains(pure, rel) && slices.Contains(pureForbidden, imp) && !slices.Contains(pureExceptions[rel], imp):
			problems = append(problems, rel+" is pure and imports "+imp)
		}
		if rest, ok := strings.CutPrefix(imp, module+"/"); ok && unbound(rest) {
			problems = append(problems, rel+" imports "+rest+", which is not part of the broker")
		}
	}
	return problems
}

func rowOf(rel string) (layer, bool) {
	if row, ok := layers[rel]; ok {
		return row, true
	}
	for name, row := range layers {
		if strings.HasSuffix(name, "/...") && matches(name, rel) {
			return row, true
		}
	}
	return layer{}, false
}

// matches reports whether the table's name, which may end in /... for
// everything below, means the package.
func matches(name, rel string) bool {
	if prefix, ok := strings.CutSuffix(name, "/..."); ok {
		return strings.HasPrefix(rel, prefix+"/")
	}
	return name == rel
}

func under(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

func unbound(rel string) bool {
	return slices.ContainsFunc(unboundPrefixes, func(prefix string) bool { return under(rel, prefix) })
}

// TestCheckImportsFindsFaults shows that the judge can say no.
func TestCheckImportsFindsFaults(t *testing.T) {
	for name, tc := range map[string]struct {
		pkg   string
		imp   string
		fault bool
	}{
		"downward":               {"storage", module + "/protocol", false},
		"upward":                 {"protocol", module + "/storage", true},
		"third party":            {"storage", zerolog, false},
		"third party not in row": {"replication", kmsg, true},
		"etcd below the store":   {"controller", "go.etcd.io/etcd/client/v3", true},
		"etcd in the store":      {"metadata/etcdstore", "go.etcd.io/etcd/client/v3", false},
		"pure with os":           {"metadata", "os", true},
		"pure with sync":         {"metadata", "sync", true},
		"pure with strings":      {"metadata", "strings", false},
		"excepted":               {"protocol", "sync", false},
		"unknown package":        {"surprise", "strings", true},
		"bench into the broker":  {"cmd/gregor", module + "/bench/x", true},
	} {
		t.Run(name, func(t *testing.T) {
			got := checkImports(goPackage{ImportPath: module + "/" + tc.pkg, Imports: []string{tc.imp}})
			if (len(got) > 0) != tc.fault {
				t.Fatalf("problems %q, want fault %v", got, tc.fault)
			}
		})
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range listPackages(t) {
		if len(p.GoFiles) == 0 {
			continue
		}
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.rel())
		}
	}
}
