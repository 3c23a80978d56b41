package broker

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// cpuClock measures the processor time of one request, waiting not counted, by
// keeping the goroutine on its thread meanwhile.
type cpuClock struct{ start time.Duration }

func startCPU() cpuClock {
	runtime.LockOSThread()
	return cpuClock{threadTime()}
}

func (c cpuClock) stop() time.Duration {
	defer runtime.UnlockOSThread()
	return threadTime() - c.start
}

func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0 // no kernel refuses this clock
	}
	return time.Duration(ts.Nano())
}
