package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gregor-broker/gregor/config"
)

// TestReadmeNamesOwnKeys holds the README's table against the keys there are.
func TestReadmeNamesOwnKeys(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if cells := strings.Split(line, "|"); len(cells) >= 4 && strings.HasPrefix(line, "| `") {
			rows[strings.Trim(cells[1], " `")] = strings.Trim(cells[2], " `")
		}
	}
	for _, k := range config.BrokerKeys() {
		if !k.Own || k.Internal || k.Tier > 1 {
			continue
		}
		def, ok := rows[k.Name]
		if want := k.Default; !ok || def != want {
			t.Errorf("README has %s with default %q (listed: %v), the table has %q", k.Name, def, ok, want)
		}
	}
}
