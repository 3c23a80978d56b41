package storage

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/gregor-broker/gregor/storage/vfs"
)

// Names of the small files, as Kafka's.
const (
	recoveryPointFile  = "recovery-point-offset-checkpoint"
	logStartFile       = "log-start-offset-checkpoint"
	highWatermarkFile  = "replication-offset-checkpoint"
	cleanerFile        = "cleaner-offset-checkpoint"
	cleanShutdownFile  = ".kafka_cleanshutdown"
	metaPropertiesFile = "meta.properties"
	lockFile           = ".lock"
	epochFile          = "leader-epoch-checkpoint"
	partitionMetaFile  = "partition.metadata"

	smallFileLimit = 64 << 20
)

// formatOffsets writes an offset checkpoint: version, number of entries, then "topic partition offset".
func formatOffsets(offsets map[TopicPartition]int64) []byte {
	tps := make([]TopicPartition, 0, len(offsets))
	for tp := range offsets {
		tps = append(tps, tp)
	}
	sortPartitions(tps)
	var b bytes.Buffer
	fmt.Fprintf(&b, "0\n%d\n", len(tps))
	for _, tp := range tps {
		fmt.Fprintf(&b, "%s %d %d\n", tp.Topic, tp.Partition, offsets[tp])
	}
	return b.Bytes()
}

func parseOffsets(name string, data []byte) (map[TopicPartition]int64, error) {
	lines, err := checkpointLines(name, data)
	if err != nil {
		return nil, err
	}
	offsets := make(map[TopicPartition]int64, len(lines))
	for i, line := range lines {
		f := strings.Fields(line)
		if len(f) != 3 {
			return nil, &CorruptError{File: name, Pos: int64(i), Reason: "not three fields"}
		}
		partition, err1 := strconv.ParseInt(f[1], 10, 32)
		offset, err2 := strconv.ParseInt(f[2], 10, 64)
		if err1 != nil || err2 != nil || partition < 0 || offset < 0 {
			return nil, &CorruptError{File: name, Pos: int64(i), Reason: "bad number"}
		}
		offsets[TopicPartition{f[0], int32(partition)}] = offset
	}
	return offsets, nil
}

// readOffsets reads an offset checkpoint; one that is missing or corrupt is empty, with the error told.
func readOffsets(fsys vfs.FS, name string) (map[TopicPartition]int64, error) {
	data, err := readFile(fsys, name, smallFileLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return map[TopicPartition]int64{}, nil
	}
	if err != nil {
		return map[TopicPartition]int64{}, err
	}
	offsets, err := parseOffsets(name, data)
	if err != nil {
		return map[TopicPartition]int64{}, err
	}
	return offsets, nil
}

// formatEpochs writes a leader-epoch checkpoint: version, number of entries, then "epoch startOffset".
func formatEpochs(entries []EpochStart) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "0\n%d\n", len(entries))
	for _, e := range entries {
		fmt.Fprintf(&b, "%d %d\n", e.Epoch, e.StartOffset)
	}
	return b.Bytes()
}

func parseEpochs(name string, data []byte) ([]EpochStart, error) {
	lines, err := checkpointLines(name, data)
	if err != nil {
		return nil, err
	}
	entries := make([]EpochStart, 0, len(lines))
	for i, line := range lines {
		f := strings.Fields(line)
		if len(f) != 2 {
			return nil, &CorruptError{File: name, Pos: int64(i), Reason: "not two fields"}
		}
		epoch, err1 := strconv.ParseInt(f[0], 10, 32)
		start, err2 := strconv.ParseInt(f[1], 10, 64)
		if err1 != nil || err2 != nil || epoch < 0 || start < 0 {
			return nil, &CorruptError{File: name, Pos: int64(i), Reason: "bad number"}
		}
		if n := len(entries); n > 0 && (entries[n-1].Epoch >= int32(epoch) || entries[n-1].StartOffset > start) {
			return nil, &CorruptError{File: name, Pos: int64(i), Reason: "entries do not ascend"}
		}
		entries = append(entries, EpochStart{int32(epoch), start})
	}
	return entries, nil
}

// checkpointLines splits off the version and the count that every checkpoint file begins with.
func checkpointLines(name string, data []byte) ([]string, error) {
	if len(data) == 0 || data[len(data)-1] != '\n' {
		return nil, &CorruptError{File: name, Pos: int64(len(data)), Reason: "does not end in a newline"}
	}
	lines := strings.Split(string(data[:len(data)-1]), "\n")
	if len(lines) < 2 || lines[0] != "0" {
		return nil, &CorruptError{File: name, Reason: "version is not 0"}
	}
	n, err := strconv.Atoi(lines[1])
	if err != nil || n != len(lines)-2 {
		return nil, &CorruptError{File: name, Pos: 1, Reason: fmt.Sprintf("%q entries announced, %d there", lines[1], len(lines)-2)}
	}
	return lines[2:], nil
}

// cleanShutdown is the contents of the clean-shutdown marker.
type cleanShutdown struct {
	Version int `json:"version"`
	// BrokerEpoch is -1 where the marker only says that the logs beside it need
	// no recovery, and not that the broker has all it had.
	BrokerEpoch int64 `json:"brokerEpoch"`
	// Directories are the ids of all directories that were shut down with this
	// one. Kafka has no such field.
	Directories []string `json:"directories,omitempty"`
}

func formatCleanShutdown(epoch int64, directories []string) []byte {
	data, _ := json.Marshal(cleanShutdown{0, epoch, directories})
	return data
}

func parseCleanShutdown(data []byte) (c cleanShutdown, ok bool) {
	c.BrokerEpoch = -1
	if err := json.Unmarshal(data, &c); err != nil || c.Version != 0 {
		return cleanShutdown{BrokerEpoch: -1}, false
	}
	return c, true
}

// formatPartitionMeta writes partition.metadata.
func formatPartitionMeta(id TopicID) []byte {
	return []byte("version: 0\ntopic_id: " + id.String() + "\n")
}

func parsePartitionMeta(name string, data []byte) (TopicID, error) {
	var id TopicID
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	if len(lines) != 2 || lines[0] != "version: 0" {
		return id, &CorruptError{File: name, Reason: "not version 0"}
	}
	text, ok := strings.CutPrefix(lines[1], "topic_id: ")
	if !ok {
		return id, &CorruptError{File: name, Pos: 1, Reason: "no topic_id"}
	}
	return parseUUID(name, text)
}

func parseUUID(name, text string) (TopicID, error) {
	var id TopicID
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) != len(id) {
		return id, &CorruptError{File: name, Reason: fmt.Sprintf("bad id %q", text)}
	}
	copy(id[:], raw)
	return id, nil
}

// formatProperties writes a Java properties file with sorted keys.
func formatProperties(props map[string]string) []byte {
	keys := make([]string, 0, len(props))
	for k := range props {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var b bytes.Buffer
	for _, k := range keys {
		fmt.Fprintf(&b, "%s=%s\n", k, props[k])
	}
	return b.Bytes()
}

// parseProperties reads the subset of Java properties that Kafka writes into meta.properties.
func parseProperties(data []byte) map[string]string {
	props := map[string]string{}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == '!' {
			continue
		}
		key, value, _ := strings.Cut(line, "=")
		props[strings.TrimSpace(key)] = strings.TrimSpace(value)
	}
	return props
}

func sortPartitions(tps []TopicPartition) {
	slices.SortFunc(tps, func(a, b TopicPartition) int {
		if c := strings.Compare(a.Topic, b.Topic); c != 0 {
			return c
		}
		return int(a.Partition) - int(b.Partition)
	})
}
