package compat

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gregor-broker/gregor/compat-tests/harness"
)

// burrow is a Burrow and how it was told to watch.
type burrow struct {
	*watcher
	version string // of Kafka, whose protocol it speaks; empty for its default
	reaper  bool   // it removes groups that the broker does not list
	dir     string
}

// burrowBin is the path of Burrow.
func burrowBin(t *testing.T) string {
	t.Helper()
	bin, err := harness.Burrow()
	if err != nil {
		missing(t, err)
	}
	return bin
}

// start starts it without notifiers and so without ZooKeeper. Where the reaper is
// off, it knows of groups by __consumer_offsets alone.
func (w *burrow) start(t *testing.T, b *harness.Broker) {
	t.Helper()
	addr := watcherAddr(t)
	w.dir = t.TempDir()
	version := ""
	if w.version != "" {
		version = fmt.Sprintf("kafka-version=%q\n", w.version)
	}
	reaper := 0
	if w.reaper {
		reaper = 1
	}
	// Old ones ask for ZooKeeper all the same, but never use it where its root
	// path is the root.
	config := fmt.Sprintf(`
[logging]
filename="burrow.log"
[zookeeper]
servers=["127.0.0.1:1"]
root-path="/"
[client-profile.own]
client-id="burrow"
%s[cluster.local]
class-name="kafka"
servers=[%q]
client-profile="own"
topic-refresh=1
offset-refresh=1
groups-reaper-refresh=%d
[consumer.local]
class-name="kafka"
cluster="local"
servers=[%q]
client-profile="own"
[httpserver.default]
address=%q
[storage.default]
class-name="inmemory"
min-distance=0
[evaluator.default]
class-name="caching"
expire-cache=1
`, version, b.Addr, reaper, b.Addr, addr)
	if err := os.WriteFile(filepath.Join(w.dir, "burrow.toml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(burrowBin(t), "--config-dir", ".")
	cmd.Dir = w.dir
	name := "Burrow for Kafka " + w.version
	if w.version == "" {
		name = "Burrow as it is by default"
	}
	w.watcher = startWatcher(t, name, addr, cmd)
}

// ask decodes what Burrow answers about its cluster.
func (w *burrow) ask(ctx context.Context, path string, answer any) error {
	body, err := w.get(ctx, "/v3/kafka/local/"+path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(body), answer); err != nil {
		return fmt.Errorf("%s: %w: %s", path, err, body)
	}
	return nil
}

// burrowStatus is what Burrow thinks of a group.
type burrowStatus struct {
	Status struct {
		Status     string
		Partitions []struct {
			Topic      string
			Partition  int32
			Owner      string
			ClientID   string `json:"client_id"`
			Status     string
			End        struct{ Offset int64 }
			CurrentLag int64 `json:"current_lag"`
		}
		TotalLag int64
	}
}

// look is all that Burrow knows of topics and groups.
func (w *burrow) look(ctx context.Context) ([]string, error) {
	var topics struct{ Topics []string }
	if err := w.ask(ctx, "topic", &topics); err != nil {
		return nil, err
	}
	var out []string
	for _, topic := range topics.Topics {
		if strings.HasPrefix(topic, "__") {
			continue
		}
		var detail struct{ Offsets []int64 }
		var readers struct{ Consumers []string }
		if err := errors.Join(w.ask(ctx, "topic/"+topic, &detail), w.ask(ctx, "topic/"+topic+"/consumers", &readers)); err != nil {
			return nil, err
		}
		slices.Sort(readers.Consumers)
		out = append(out, fmt.Sprintf("topic %s ends at %v, read by %v", topic, detail.Offsets, readers.Consumers))
	}
	var groups struct{ Consumers []string }
	if err := w.ask(ctx, "consumer", &groups); err != nil {
		return nil, err
	}
	for _, group := range groups.Consumers {
		if group == "burrow-local" { // itself
			continue
		}
		var s burrowStatus
		if err := w.ask(ctx, "consumer/"+group+"/lag", &s); err != nil {
			return nil, err
		}
		out = append(out, fmt.Sprintf("group %s lags %d", group, s.Status.TotalLag))
		for _, p := range s.Status.Partitions {
			out = append(out, fmt.Sprintf("group %s lags %d in %s-%d, at %d, with %q of %q", group, p.CurrentLag, p.Topic, p.Partition, p.End.Offset, p.ClientID, p.Owner))
		}
	}
	return out, nil
}

// sees is what look must tell.
func (w *burrow) sees(seen *watched) []string {
	var out []string
	for topic, ends := range seen.ends {
		var readers []string
		for name, g := range seen.groups {
			if g.offsets[topic] != nil {
				readers = append(readers, name)
			}
		}
		slices.Sort(readers)
		out = append(out, fmt.Sprintf("topic %s ends at %v, read by %v", topic, ends, readers))
	}
	for name, g := range seen.groups {
		var total int64
		for topic, offsets := range g.offsets {
			for partition, at := range offsets {
				lag, client, owner := seen.lag(name, topic, partition), "", ""
				// Burrow does not know the records of the new protocol's groups.
				if g.classic && g.member {
					client, owner = "live", "/127.0.0.1"
				}
				total += lag
				out = append(out, fmt.Sprintf("group %s lags %d in %s-%d, at %d, with %q of %q", name, lag, topic, partition, at, client, owner))
			}
		}
		out = append(out, fmt.Sprintf("group %s lags %d", name, total))
	}
	return out
}

// status is what Burrow warns of.
func (w *burrow) status(ctx context.Context, group string) ([]string, error) {
	var s burrowStatus
	if err := w.ask(ctx, "consumer/"+group+"/status", &s); err != nil {
		return nil, err
	}
	out := []string{s.Status.Status}
	for _, p := range s.Status.Partitions {
		out = append(out, fmt.Sprintf("%s of %s-%d", p.Status, p.Topic, p.Partition))
	}
	return out, nil
}

// TestBurrow: Burrow, which knows groups by __consumer_offsets alone, sees each
// kind of group, exactly and at each stage of their lives, with protocols from
// the oldest that Kafka 4 speaks to the newest that Burrow does.
func TestBurrow(t *testing.T) {
	needAll(t)
	burrowBin(t)
	onOwn(t, nil, func(t *testing.T, b *harness.Broker) {
		burrows := []*burrow{{version: "0.11.0", reaper: true}, {}, {version: "4.0.0"}}
		var consumer *watchedGroup
		watchGroups(t, b, func() {
			for _, w := range burrows {
				w.start(t, b)
			}
		}, func(stage string, seen *watched) {
			if stage == membersOut {
				consumer = seen.groups["consumer"]
			}
			for _, w := range burrows {
				if stage == atRest {
					w.mayBeTooOld(t, seen)
				}
				if stage == groupsGone && !w.reaper {
					// Neither the tombstones of offsets nor those of the new
					// protocol's groups mean anything to it.
					seen.groups["consumer"] = consumer
				}
				w.await(t, stage, w.sees(seen), w.look)
				if stage == atRest {
					w.await(t, stage, []string{"OK"}, func(ctx context.Context) ([]string, error) { return w.status(ctx, "classic") })
					w.await(t, stage, []string{"OK"}, func(ctx context.Context) ([]string, error) { return w.status(ctx, "consumer") })
					w.await(t, stage, []string{"ERR", "STOP of watched-0", "STOP of watched-1", "STOP of gone-0"},
						func(ctx context.Context) ([]string, error) { return w.status(ctx, "idle") })
				}
			}
		})
	})
}

// mayBeTooOld ends the test where the Burrow at hand is from before 1.9.5, which
// brought version 4 of the records of offsets, and where it has ListOffsets in a
// version that Kafka 4 does not speak any more. It must have read all of
// __consumer_offsets all the same.
func (w *burrow) mayBeTooOld(t *testing.T, seen *watched) {
	t.Helper()
	tooOld := false
	w.until(t, func(ctx context.Context) error {
		got, err := w.notDecoded()
		if err != nil {
			return err
		}
		if tooOld = len(got) > 0; !tooOld {
			var groups struct{ Consumers []string }
			if err := w.ask(ctx, "consumer", &groups); err != nil || slices.Contains(groups.Consumers, "classic") {
				return err
			}
			return fmt.Errorf("it knows %v alone", groups.Consumers)
		}
		var want []string
		for name, g := range seen.groups {
			for topic, offsets := range g.offsets {
				for partition := range offsets {
					want = append(want, fmt.Sprintf("%s of %s-%d", name, topic, partition))
				}
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			return errors.New(difference(got, want))
		}
		return nil
	})
	if tooOld {
		missing(t, &harness.MissingError{What: "Burrow", Foreign: true, Reason: "the one at hand is older than 1.9.5 and, having read all of __consumer_offsets, " +
			"cannot decode OffsetCommitValue 4, which Kafka 4 writes; it also asks for ends with ListOffsets 0, which Kafka 4 refuses"})
	}
}

// notDecoded are the committed offsets that Burrow said it could not decode.
func (w *burrow) notDecoded() ([]string, error) {
	text, err := os.ReadFile(filepath.Join(w.dir, "burrow.log"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []string
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		var line struct {
			Type         string `json:"message_type"`
			Reason       string
			Group, Topic string
			Partition    int32
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err == nil && line.Type == "offset" && line.Reason == "value version" {
			out = append(out, fmt.Sprintf("%s of %s-%d", line.Group, line.Topic, line.Partition))
		}
	}
	return out, nil
}
