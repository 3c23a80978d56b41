package vfs

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestScratch: what Scratch returns is empty, takes memory only when it is written, and gives it back at once.
func TestScratch(t *testing.T) {
	const size = 512 << 20
	before := resident(t)
	b, err := Scratch(size)
	if err != nil {
		t.Fatal(err)
	}
	if took := resident(t) - before; took > 64<<20 {
		t.Errorf("%d MiB taken before it is written", took>>20)
	}
	for i := 0; i < size/2; i += os.Getpagesize() {
		if b[i] != 0 {
			t.Fatalf("byte %d is %d", i, b[i])
		}
		b[i] = 1
	}
	if took := resident(t) - before; took < size/4 {
		t.Errorf("%d MiB taken for %d MiB", took>>20, size>>21)
	}
	if err := FreeScratch(b); err != nil {
		t.Fatal(err)
	}
	if took := resident(t) - before; took > 64<<20 {
		t.Errorf("%d MiB stayed", took>>20)
	}
}

// resident is what the process holds of the machine's memory.
func resident(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}
