package main

import (
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
)

// limitMemory tells the garbage collector of the container's memory limit,
// which Go does not look for itself: it collects harder when the heap comes
// near 90% of it, instead of growing until the kernel ends the process. An
// explicit GOMEMLIMIT wins. It returns the limit, 0 where there is none.
func limitMemory(sysfs string) int64 {
	if os.Getenv("GOMEMLIMIT") != "" {
		return 0
	}
	limit := cgroupLimit(sysfs)
	if limit == 0 {
		return 0
	}
	limit = limit / 10 * 9
	debug.SetMemoryLimit(limit)
	return limit
}

// cgroupLimit reads the memory limit of version 2 or 1 of control groups, as a
// container sees it. 0 means none.
func cgroupLimit(sysfs string) int64 {
	for _, name := range []string{"fs/cgroup/memory.max", "fs/cgroup/memory/memory.limit_in_bytes"} {
		data, err := os.ReadFile(filepath.Join(sysfs, name))
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		// "max" does not parse; version 1 writes a huge number instead.
		if err == nil && n > 0 && n < math.MaxInt64/4 {
			return n
		}
	}
	return 0
}
