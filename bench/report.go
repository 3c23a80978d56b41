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
	if len(r.aims) > 0 {
		out.WriteString("\n## Aims\n\n| what | measured | aim | |\n|---|---|---|---|\n")
	}
	for _, a := range r.aims {
		out.WriteString(a + "\n")
	}
	out.WriteString(r.body.String())
	return out.String()
}

// table is a scenario whose result is CPU per byte.
func (r *report) table(title, per string, all []*series) {
	fmt.Fprintf(&r.body, "\n## %s\n\n| | CPU-s per %s | of the floor | of Kafka | with the client's CPU | of the floor | MB/s | system calls per MB | stolen at most |\n|---|---|---|---|---|---|---|---|---|\n", title, per)
	floor, kafka := find(all, "floor"), find(all, "kafka")
	for _, s := range all {
		calls := "-"
		if s.callsPerMB >= 0 {
			calls = fmt.Sprintf("%.1f", s.callsPerMB)
		}
		fmt.Fprintf(&r.body, "| %s | %s | %s | %s | %s | %s | %s | %s | %.1f%% |\n", s.line, s.cpuPerGB().format("%.3f"),
			ratio(s, floor, (*series).cpuPerGB), ratio(s, kafka, (*series).cpuPerGB),
			s.bothPerGB().format("%.3f"), ratio(s, floor, (*series).bothPerGB), s.rate().format("%.0f"), calls, 100*s.mostStolen())
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

func ratio(s, to *series, of func(*series) spread) string {
	if to == nil || s == to {
		return "-"
	}
	return fmt.Sprintf("%.2f", of(s).median/of(to).median)
}

func (r *report) ratioAim(what string, all []*series, of, to string, cost func(*series) spread, most float64) {
	a, b := find(all, of), find(all, to)
	if a == nil || b == nil {
		return
	}
	r.aim(what, cost(a).median/cost(b).median, most)
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

// floods is a table of what was done as often as it could be.
func (r *report) floods(title, what string, order []string, rows map[string]*floods) {
	fmt.Fprintf(&r.body, "\n## %s\n\n| | %ss per second | broker CPU per %s, microseconds | of Kafka | stolen at most |\n|---|---|---|---|---|\n", title, what, what)
	for _, name := range order {
		f := rows[name]
		fmt.Fprintf(&r.body, "| %s | %s | %s | %s | %.1f%% |\n", name, spreadOf(f.rate).format("%.0f"), spreadOf(f.cpu).format("%.1f"),
			medianRatio(name, f.cpu, kafkas(rows, func(f *floods) []float64 { return f.cpu })), 100*f.stolen)
	}
}

// kafkas are Kafka's numbers, nil without it.
func kafkas[T any](rows map[string]*T, of func(*T) []float64) []float64 {
	if k := rows["kafka"]; k != nil {
		return of(k)
	}
	return nil
}

// medianRatio is what a median is of Kafka's.
func medianRatio(name string, values, kafka []float64) string {
	if name == "kafka" || len(kafka) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", spreadOf(values).median/spreadOf(kafka).median)
}

func (r *report) rebalances(title string, order []string, rows map[string]*rebalances) {
	fmt.Fprintf(&r.body, "\n## %s\n\n| | all join: s until stable | broker CPU-s | of Kafka | one more joins: s until stable | broker CPU-s | of Kafka | at rest: broker CPU per heartbeat, microseconds | of Kafka | stolen at most |\n|---|---|---|---|---|---|---|---|---|---|\n", title)
	for _, name := range order {
		x := rows[name]
		fmt.Fprintf(&r.body, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %.1f%% |\n", name,
			spreadOf(x.joinWall).format("%.2f"), spreadOf(x.joinCPU).format("%.3f"), medianRatio(name, x.joinCPU, kafkas(rows, func(x *rebalances) []float64 { return x.joinCPU })),
			spreadOf(x.moreWall).format("%.2f"), spreadOf(x.moreCPU).format("%.3f"), medianRatio(name, x.moreCPU, kafkas(rows, func(x *rebalances) []float64 { return x.moreCPU })),
			spreadOf(x.beatCPU).format("%.1f"), medianRatio(name, x.beatCPU, kafkas(rows, func(x *rebalances) []float64 { return x.beatCPU })), 100*x.stolen)
	}
}

func (r *report) loads(title string, states, order []string, rows map[string]map[string]*loads) {
	fmt.Fprintf(&r.body, "\n## %s\n\n| | log of the shard | MB | exec to the first answer, s | CPU-s until then | load alone, s | resident then, MB |\n|---|---|---|---|---|---|---|\n", title)
	for _, state := range states {
		for _, name := range order {
			l, bare := rows[state][name], rows[states[0]][name]
			alone := "-"
			if l != bare {
				alone = fmt.Sprintf("%.2f", spreadOf(l.ready).median-spreadOf(bare.ready).median)
			}
			fmt.Fprintf(&r.body, "| %s | %s | %.0f | %s | %s | %s | %s |\n", name, state, l.logMB,
				spreadOf(l.ready).format("%.2f"), spreadOf(l.cpu).format("%.2f"), alone, spreadOf(l.resident).format("%.0f"))
		}
	}
}

func cpuOf(x *txns) []float64 { return x.cpu }

func (r *report) steadyTxns(title string, order []string, with, without map[string]*txns) {
	fmt.Fprintf(&r.body, "\n## %s\n\n| | commits per second | broker CPU per 100 ms, microseconds | of Kafka | without transactions | a commit alone | of Kafka | EndTxn p50 | p99 | first write after it p50 | p99 | stolen at most |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n", title)
	alone := func(name string) float64 { return spreadOf(with[name].cpu).median - spreadOf(without[name].cpu).median }
	for _, name := range order {
		x, plain := with[name], without[name]
		of := "-"
		if name != "kafka" && with["kafka"] != nil {
			of = fmt.Sprintf("%.2f", alone(name)/alone("kafka"))
		}
		fmt.Fprintf(&r.body, "| %s | %s | %s | %s | %s | %.0f | %s | %s | %s | %s | %s | %.1f%% |\n", name,
			spreadOf(x.rate).format("%.1f"), spreadOf(x.cpu).format("%.0f"), medianRatio(name, x.cpu, kafkas(with, cpuOf)),
			spreadOf(plain.cpu).format("%.0f"), alone(name), of,
			spreadOf(x.end50).format("%.0f"), spreadOf(x.end99).format("%.0f"), spreadOf(x.first50).format("%.0f"), spreadOf(x.first99).format("%.0f"),
			100*max(x.stolen, plain.stolen))
	}
}

func (r *report) singleTxns(title string, order []string, rows map[string]*txns) {
	fmt.Fprintf(&r.body, "\n## %s\n\n| | commits per second | broker CPU per transaction, microseconds | of Kafka | transaction p50 | p99 | of it EndTxn p50 | p99 | stolen at most |\n|---|---|---|---|---|---|---|---|---|\n", title)
	for _, name := range order {
		x := rows[name]
		fmt.Fprintf(&r.body, "| %s | %s | %s | %s | %s | %s | %s | %s | %.1f%% |\n", name,
			spreadOf(x.rate).format("%.0f"), spreadOf(x.cpu).format("%.0f"), medianRatio(name, x.cpu, kafkas(rows, cpuOf)),
			spreadOf(x.whole50).format("%.0f"), spreadOf(x.whole99).format("%.0f"), spreadOf(x.end50).format("%.0f"), spreadOf(x.end99).format("%.0f"), 100*x.stolen)
	}
}

func (r *report) failovers(cs []*cluster, rows map[string]map[string][]float64) {
	fmt.Fprintf(&r.body, "\n## 15. Failover: longest time without an acknowledgement of acks=all, %d brokers, milliseconds\n\n| |", clusterNodes)
	for _, f := range faults {
		fmt.Fprintf(&r.body, " %s |", f.name)
	}
	r.body.WriteString("\n|---|" + strings.Repeat("---|", len(faults)) + "\n")
	for _, c := range cs {
		fmt.Fprintf(&r.body, "| %s |", c.name)
		for _, f := range faults {
			fmt.Fprintf(&r.body, " %s |", spreadOf(rows[c.name][f.name]).format("%.0f"))
		}
		r.body.WriteString("\n")
	}
}
