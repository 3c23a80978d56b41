//go:build !linux

package broker

import "time"

// cpuClock stands in where a thread's processor time is not to be had: it
// measures the time that passes, waiting included.
type cpuClock struct{ start time.Time }

func startCPU() cpuClock { return cpuClock{time.Now()} }

func (c cpuClock) stop() time.Duration { return time.Since(c.start) }
