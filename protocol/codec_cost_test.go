package protocol

import (
	"math/rand/v2"
	"runtime"
	"testing"
)

// TestCompressionTakesMemoryInProportion guards against growing the output block by block, which costs its square.
func TestCompressionTakesMemoryInProportion(t *testing.T) {
	src := make([]byte, 8<<20)
	for i := range src {
		src[i] = byte(rand.Uint32()) // does not compress: the output is as large
	}
	for c := None; c <= Zstd; c++ {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		out, err := Compress(nil, c, 0, src)
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatal(err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 10*uint64(len(src)) {
			t.Errorf("%v: %d MB allocated for %d MB", c, took>>20, len(out)>>20)
		}
	}
}
