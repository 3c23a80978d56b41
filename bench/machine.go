package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The broker has the first CPU, the client the second.
const (
	brokerCPU = 0
	clientCPU = 1
)

// pinSelf puts this process on the client's CPU by starting it anew: threads
// that exist already would keep their own affinity.
func pinSelf() error {
	if runtime.NumCPU() == 1 || os.Getenv("GREGOR_BENCH_PINNED") != "" {
		return nil
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := setAffinity(clientCPU); err != nil {
		return fmt.Errorf("pin to CPU %d: %w", clientCPU, err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return syscall.Exec(self, os.Args, append(os.Environ(), "GREGOR_BENCH_PINNED=1"))
}

func setAffinity(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	return unix.SchedSetaffinity(0, &set)
}

// onBrokerCPU runs f, which starts a process: the process inherits the CPU.
func onBrokerCPU(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := setAffinity(brokerCPU); err != nil {
		return fmt.Errorf("pin to CPU %d: %w", brokerCPU, err)
	}
	err := f()
	return errors.Join(err, setAffinity(clientCPU))
}

// onAnyCPU runs a tool that has nothing to do with what is measured.
func onAnyCPU(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all unix.CPUSet
	all.Set(brokerCPU)
	all.Set(clientCPU)
	if err := unix.SchedSetaffinity(0, &all); err != nil {
		return err
	}
	err := f()
	return errors.Join(err, setAffinity(clientCPU))
}

// processCPU is the CPU time that a process and its ended threads have used, in
// nanoseconds: the kernel's own clock of the process, not the ticks of
// /proc/PID/stat.
func processCPU(pid int) (time.Duration, error) {
	const scheduler = 2 // CPUCLOCK_SCHED
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduler), &ts); err != nil {
		return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// memory is what a process holds: all of it, and the part that no file backs.
func memory(pid int) (resident, anonymous int64, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "Rss:":
			resident = n << 10
		case "Pss_Anon:":
			anonymous = n << 10
		}
	}
	return resident, anonymous, nil
}

// stolen is how much CPU time the machine below took, and all there was, in
// ticks.
func stolen() (steal, total int64) {
	data, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(data), "\n")
	for i, f := range strings.Fields(line)[1:] {
		n, _ := strconv.ParseInt(f, 10, 64)
		if i == 7 {
			steal = n
		}
		if i < 8 {
			total += n
		}
	}
	return steal, total
}

// loadAverage is the load of the last minute.
func loadAverage() float64 {
	data, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(data), " ")
	load, _ := strconv.ParseFloat(first, 64)
	return load
}

// favour puts all threads of a process before what else the machine does (they
// become real-time threads; being nice counts only within a session), or takes
// it back. They take turns: a thread that waits busily for another one must not
// keep it from running. Where that is not allowed nothing happens.
func favour(pid int, on bool) bool {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}
	if on {
		attr.Policy, attr.Priority = unix.SCHED_RR, 1
	}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, t := range tasks {
		tid, err := strconv.Atoi(filepath.Base(t))
		if err == nil {
			err = unix.SchedSetAttr(tid, &attr, 0)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return false
		}
	}
	return len(tasks) > 0
}

// realTime tells whether this process was started with precedence.
func realTime() bool {
	attr, err := unix.SchedGetAttr(0, 0)
	return err == nil && (attr.Policy == unix.SCHED_RR || attr.Policy == unix.SCHED_FIFO)
}

// freeMemory is what nobody uses, not even as page cache.
func freeMemory() int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return int64(info.Freeram) * int64(info.Unit)
}

// machine describes where this ran.
func machine() string {
	var un unix.Utsname
	_ = unix.Uname(&un)
	info, _ := os.ReadFile("/proc/cpuinfo")
	model := "unknown CPU"
	if m := regexp.MustCompile(`(?m)^model name\s*:\s*(.+)$`).FindSubmatch(info); m != nil {
		model = string(m[1])
	}
	mem, _ := os.ReadFile("/proc/meminfo")
	kb := 0
	if m := regexp.MustCompile(`MemTotal:\s+(\d+)`).FindSubmatch(mem); m != nil {
		kb, _ = strconv.Atoi(string(m[1]))
	}
	return fmt.Sprintf("%s, %d CPUs, %d GiB, Linux %s, %s", model, strings.Count(string(info), "processor\t:"),
		kb>>20, unix.ByteSliceToString(un.Release[:]), runtime.Version())
}

// countSyscalls counts the system calls that a process makes while f runs. It
// needs perf and the right to use it; -1 where it has not. The CPU of such a
// run is not counted: tracing costs the traced.
func countSyscalls(pid int, f func() error) (int64, error) {
	perf, err := exec.LookPath("perf")
	if err != nil {
		return -1, f()
	}
	var out bytes.Buffer
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cmd := exec.CommandContext(ctx, perf, "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", strconv.Itoa(pid))
	cmd.Stderr = &out
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Start(); err != nil {
		return -1, f()
	}
	time.Sleep(300 * time.Millisecond) // perf attaches
	err = f()
	cancel()
	_ = cmd.Wait() // ends with the interrupt's status
	first, _, _ := strings.Cut(out.String(), ",")
	n, perr := strconv.ParseInt(strings.TrimSpace(first), 10, 64)
	if perr != nil {
		n = -1
	}
	return n, err
}
