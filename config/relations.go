package config

import (
	"path"
	"slices"
	"strings"
)

// checkRelations looks at keys whose values suit them but not each other, as
// Kafka does at start: what is wrong here would show much later, as members that
// expire at once or replicas that never stay in sync.
func (v *Values) checkRelations(at func(key, format string, args ...any)) {
	v.checkGroupBounds(at)
	for _, r := range []struct{ low, high, why string }{
		{
			"replica.fetch.wait.max.ms", "replica.socket.timeout.ms",
			"replica.socket.timeout.ms should always be at least replica.fetch.wait.max.ms to prevent unnecessary socket timeouts",
		},
		{
			"replica.fetch.wait.max.ms", "replica.lag.time.max.ms",
			"replica.fetch.wait.max.ms should always be less than or equal to replica.lag.time.max.ms to prevent frequent changes in ISR",
		},
	} {
		if v.number(r.low) > v.number(r.high) {
			at(v.whichSet(r.low, r.high), "%s", r.why)
		}
	}
	if queued := v.number("queued.max.request.bytes"); queued > 0 && queued < v.number("socket.request.max.bytes") {
		at(v.whichSet("queued.max.request.bytes", "socket.request.max.bytes"), "queued.max.request.bytes must be larger or equal to socket.request.max.bytes")
	}
	if idle, delay := v.number("connections.max.idle.ms"), v.number("connection.failed.authentication.delay.ms"); idle >= 0 && delay >= idle {
		at(v.whichSet("connections.max.idle.ms", "connection.failed.authentication.delay.ms"), "connection.failed.authentication.delay.ms=%d should always be less than connections.max.idle.ms=%d to prevent failed authentication responses from timing out", delay, idle)
	}
	const perThread = 1 << 20
	if threads := v.number("log.cleaner.threads"); threads == 0 {
		at("log.cleaner.threads", "log.cleaner.threads must be at least 1; log.cleaner.enable switches the cleaner off")
	} else if v.number("log.cleaner.dedupe.buffer.size")/threads <= perThread {
		at(v.whichSet("log.cleaner.dedupe.buffer.size", "log.cleaner.threads"), "log.cleaner.dedupe.buffer.size must be at least 1MB per cleaner thread.")
	}
	v.checkCordoned(at)
}

// whichSet is the one of two keys to name: one that was given.
func (v *Values) whichSet(a, b string) string {
	if !v.IsSet(a) && v.IsSet(b) {
		return b
	}
	return a
}

// number is the value of a key that is a number of any size.
func (v *Values) number(name string) int64 { return v.get(name, TypeInt, TypeLong).num }

// checkGroupBounds: the broker's own setting for groups lies within the bounds that
// it holds groups to.
func (v *Values) checkGroupBounds(at func(key, format string, args ...any)) {
	least := func(key, bound string) {
		if v.number(key) < v.number(bound) {
			at(v.whichSet(key, bound), "%s must be greater than or equal to %s", key, bound)
		}
	}
	most := func(key, bound string) {
		if v.number(key) > v.number(bound) {
			at(v.whichSet(key, bound), "%s must be less than or equal to %s", key, bound)
		}
	}
	for _, kind := range []string{"consumer", "share", "streams"} {
		for _, what := range []string{"heartbeat.interval.ms", "session.timeout.ms", "assignment.interval.ms"} {
			own, lowest, highest := "group."+kind+"."+what, "group."+kind+".min."+what, "group."+kind+".max."+what
			least(highest, lowest)
			least(own, lowest)
			most(own, highest)
		}
	}
	most("group.streams.num.standby.replicas", "group.streams.max.standby.replicas")
	if !slices.Contains(v.List("group.coordinator.rebalance.protocols"), "classic") {
		at("group.coordinator.rebalance.protocols", "Disabling the 'classic' protocol is not supported.")
	}
	for _, name := range v.List("group.consumer.assignors") {
		if assignorName(name) == "" {
			at("group.consumer.assignors", "there is no assignor %q; \"uniform\" and \"range\" are built in", name)
		}
	}
}

// ConsumerAssignors are those of group.consumer.assignors by the names that clients
// call them; the first is the default.
func (v *Values) ConsumerAssignors() []string {
	var names []string
	for _, name := range v.List("group.consumer.assignors") {
		if own := assignorName(name); own != "" && !slices.Contains(names, own) {
			names = append(names, own)
		}
	}
	return names
}

// assignorName is the short name of an assignor that may be given by the name of
// Kafka's class, "" if there is none.
func assignorName(given string) string {
	switch given {
	case "uniform", "org.apache.kafka.coordinator.group.assignor.UniformAssignor":
		return "uniform"
	case "range", "org.apache.kafka.coordinator.group.assignor.RangeAssignor":
		return "range"
	}
	return ""
}

func (v *Values) checkCordoned(at func(key, format string, args ...any)) {
	var dirs []string
	for _, d := range v.LogDirs() {
		dirs = append(dirs, path.Clean(d))
	}
	var missing []string
	for _, d := range v.List("cordoned.log.dirs") {
		if d != "*" && !slices.Contains(dirs, path.Clean(d)) {
			missing = append(missing, d)
		}
	}
	if len(missing) > 0 {
		at("cordoned.log.dirs", "All entries in cordoned.log.dirs must be present in log.dirs or log.dir. Missing entries : %s", strings.Join(missing, ", "))
	}
}
