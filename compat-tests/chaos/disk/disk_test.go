package disk

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"

	"github.com/gregor-broker/gregor/compat-tests/chaos/history"
	"github.com/gregor-broker/gregor/compat-tests/wire"
)

func number(value []byte) int64 {
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// at gives a batch its place in a log, which its checksum does not cover.
func at(batch []byte, offset int64, epoch int32) []byte {
	binary.BigEndian.PutUint64(batch, uint64(offset))
	binary.BigEndian.PutUint32(batch[12:], uint32(epoch))
	return batch
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	k := history.Key{Topic: "t", Partition: 2}
	home := filepath.Join(dir, "t-2")
	if err := os.Mkdir(home, 0o755); err != nil {
		t.Fatal(err)
	}
	first := at(wire.NewBatch(1, wire.Rec{Value: []byte("7")}, wire.Rec{Value: []byte("8")}).Producer(5, 1, 0).Bytes(), 0, 3)
	second := at(wire.NewBatch(1, wire.Rec{Value: []byte("9")}).Bytes(), 2, 4)
	// The second segment is preallocated.
	for name, content := range map[string][]byte{
		"00000000000000000000.log": first, "00000000000000000002.log": append(second, make([]byte, 200)...), "00000000000000000002.index": {1},
	} {
		if err := os.WriteFile(filepath.Join(home, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Read(1, dir, []history.Key{k, {Topic: "elsewhere"}}, number)
	if err != nil {
		t.Fatal(err)
	}
	l := r.Logs[k]
	if len(r.Logs) != 1 || len(l.Batches) != 2 || l.Start != 0 || l.High != 3 {
		t.Fatalf("read %+v", r)
	}
	b := l.Batches[0]
	if b.Last != 1 || b.LeaderEpoch != 3 || b.PID != 5 || b.Epoch != 1 || b.BaseSequence != 0 || !reflect.DeepEqual(b.Values, []int64{7, 8}) {
		t.Fatalf("the first batch is %+v", b)
	}
	if l.Batches[1].PID != -1 || l.Batches[1].Base != 2 {
		t.Fatalf("the second batch is %+v", l.Batches[1])
	}
	first[len(first)-1] ^= 1
	if err := os.WriteFile(filepath.Join(home, "00000000000000000000.log"), first, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(1, dir, []history.Key{k}, number); err == nil {
		t.Fatal("a wrong checksum is not noticed")
	}
}
