package main

import (
	"fmt"
	"strings"
	"time"
)

// report collects what was measured as Markdown.
type report struct {
	head string
	aims []string
	body strings.Builder
}

func newReport() *report { return &report{} }

func (r *report) String() string {
	var out strings.Builder
	out.WriteString("# gregor beside Apache Kafka and the machine's floor\n\n" + r.head)
	out.WriteString("\n## Aims\n\n| what | measured | aim | |\n|---|---|---|---|\n")
	for _, a := range r.aims {
		out.WriteString(a + "\n")
	}
	out.WriteString(r.body.String())
	return out.String()
}

// table is a scenario whose result is CPU per byte.
func (r *report) table(title, per string, all []*series) {
	fmt.Fprintf(&r.body, "\n## %s\n\n| | CPU-s per %s | of the floor | of Kafka | MB/s | system calls per MB | stolen at most |\n|---|---|---|---|---|---|---|\n", title, per)
	floor, kafka := find(all, "floor"), find(all, "kafka")
	for _, s := range all {
		calls := "-"
		if s.callsPerMB >= 0 {
			calls = fmt.Sprintf("%.1f", s.callsPerMB)
		}
		fmt.Fprintf(&r.body, "| %s | %s | %s | %s | %s | %s | %.1f%% |\n", s.line, s.cpuPerGB().format("%.3f"),
			ratio(s, floor), ratio(s, kafka), s.rate().format("%.0f"), calls, 100*s.mostStolen())
	}
}

func find(all []*series, line string) *series {
	for _, s := range all {
		if s.line == line {
			return s
		}
	}
	return nil
}

func ratio(s, to *series) string {
	if to == nil || s == to {
		return "-"
	}
	return fmt.Sprintf("%.2f", s.cpuPerGB().median/to.cpuPerGB().median)
}

func (r *report) ratioAim(what string, all []*series, of, to string, most float64) {
	a, b := find(all, of), find(all, to)
	if a == nil || b == nil {
		return
	}
	r.aim(what, a.cpuPerGB().median/b.cpuPerGB().median, most)
}

// aim notes a ratio that shall not exceed most.
func (r *report) aim(what string, got, most float64) {
	r.aims = append(r.aims, fmt.Sprintf("| %s | %.2f | at most %g | %s |", what, got, most, verdict(got, most)))
}

// limitAim notes a number that shall stay below most.
func (r *report) limitAim(what string, got, most float64) {
	r.aims = append(r.aims, fmt.Sprintf("| %s | %.1f | below %g | %s |", what, got, most, verdict(got, most)))
}

func verdict(got, most float64) string {
	if got <= most {
		return "met"
	}
	return "**missed**"
}

func (r *report) latencies(title string, order []string, rows map[string]*latencies) {
	fmt.Fprintf(&r.body, "\n## %s\n\n| | p50 | p99 | p99.9 | p99 of all | p99.9 of all | CPU per record | stolen at most |\n|---|---|---|---|---|---|---|---|\n", title)
	for _, name := range order {
		l := rows[name]
		fmt.Fprintf(&r.body, "| %s | %s | %s | %s | %.0f | %.0f | %s | %.1f%% |\n", name, spreadOf(l.p50).format("%.0f"), spreadOf(l.p99).format("%.0f"),
			spreadOf(l.p999).format("%.0f"), l.tail(0.99), l.tail(0.999), spreadOf(l.cpu).format("%.1f"), 100*l.mostStolen)
	}
}

func (r *report) footprint(order []string, first map[string][]float64, rss, anon, idleCPU, after, sizes map[string]float64, idle time.Duration) {
	fmt.Fprintf(&r.body, "\n## 12. Start and footprint\n\n| | exec to first acknowledged record, ms | resident after %s idle, MB | of it private memory, MB | CPU at rest, ms per s | resident after all of the above, MB | program, MB |\n|---|---|---|---|---|---|---|\n", 2*idle)
	for _, name := range order {
		fmt.Fprintf(&r.body, "| %s | %s | %.1f | %.1f | %.1f | %.1f | %.1f |\n", name, spreadOf(first[name]).format("%.1f"),
			rss[name], anon[name], idleCPU[name], after[name], sizes[name])
	}
	r.body.WriteString("\nThe program is gregor's stripped binary, and Kafka's jars without the JVM.\n")
}
