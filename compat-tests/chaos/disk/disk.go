// Package disk reads what a broker that is not running has on its disk, from
// the segment files that gregor and Apache Kafka share, for the checker's
// properties P19 to P21.
package disk

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/compat-tests/chaos/check"
	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
)

// header is the size of a batch before its records.
const header = 61

// Read reads the partitions of keys below a data directory. Partitions that
// are not there are left out. decode turns a record's value into its number.
func Read(broker int32, dataDir string, keys []history.Key, decode func([]byte) int64) (check.Replica, error) {
	r := check.Replica{Broker: broker, Logs: map[history.Key]check.Log{}}
	for _, k := range keys {
		dir := filepath.Join(dataDir, k.Name()+"-"+strconv.Itoa(int(k.Partition)))
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		batches, err := partition(dir, decode)
		if err != nil {
			return r, fmt.Errorf("%s: %w", dir, err)
		}
		l := check.Log{InSync: true, Batches: batches}
		if n := len(batches); n > 0 {
			l.Start, l.High = batches[0].Base, batches[n-1].Last+1
		}
		r.Logs[k] = l
	}
	return r, nil
}

func partition(dir string, decode func([]byte) int64) ([]check.Batch, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".log") {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names) // names are offsets of a fixed width
	var out []check.Batch
	for _, name := range names {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		batches, err := segment(raw, decode)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, batches...)
	}
	return out, nil
}

// segment reads batches up to the end, or to the zeros of a segment that was
// preallocated.
func segment(raw []byte, decode func([]byte) int64) ([]check.Batch, error) {
	var out []check.Batch
	for at := 0; at+header <= len(raw); {
		size := int(binary.BigEndian.Uint32(raw[at+8:])) + 12
		if size == 12 {
			break
		}
		if size < header || at+size > len(raw) {
			return nil, fmt.Errorf("the batch at byte %d is cut off", at)
		}
		b, err := batch(raw[at:at+size], decode)
		if err != nil {
			return nil, fmt.Errorf("the batch at byte %d: %w", at, err)
		}
		out = append(out, b)
		at += size
	}
	return out, nil
}

func batch(raw []byte, decode func([]byte) int64) (check.Batch, error) {
	var b kmsg.RecordBatch
	if err := b.ReadFrom(raw); err != nil {
		return check.Batch{}, err
	}
	if got := crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)); got != uint32(b.CRC) {
		return check.Batch{}, fmt.Errorf("its checksum is %x, not %x", got, uint32(b.CRC))
	}
	h := fnv.New64a()
	_, _ = h.Write(raw) // a hash takes everything
	out := check.Batch{
		Base: b.FirstOffset, Last: b.FirstOffset + int64(b.LastOffsetDelta), LeaderEpoch: b.PartitionLeaderEpoch,
		PID: b.ProducerID, Epoch: b.ProducerEpoch, BaseSequence: b.FirstSequence,
		Txn: b.Attributes&0x10 != 0, Control: b.Attributes&0x20 != 0, Hash: h.Sum64(),
	}
	if out.Control {
		return out, nil
	}
	plain, err := kgo.DefaultDecompressor().Decompress(b.Records, kgo.CompressionCodecType(b.Attributes&7))
	if err != nil {
		return out, err
	}
	for range b.NumRecords {
		length, n := binary.Varint(plain)
		if n <= 0 || length < 0 || int(length) > len(plain)-n {
			return out, fmt.Errorf("a record of %d bytes", length)
		}
		var r kmsg.Record
		if err := r.ReadFrom(plain[:n+int(length)]); err != nil {
			return out, err
		}
		out.Values = append(out.Values, decode(r.Value))
		plain = plain[n+int(length):]
	}
	return out, nil
}
