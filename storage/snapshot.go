package storage

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sort"
)

// A producer snapshot <offset>.snapshot holds the producers as of offset, in Kafka's form: version int16 (1), CRC-32C
// uint32 of what follows, count int32, then entries of 50 bytes: producer id int64, epoch int16, last sequence int32, last
// offset int64, offset delta int32, timestamp int64, coordinator epoch int32, first offset of the open transaction int64.
const (
	snapshotVersion   = 1
	snapshotHeader    = 2 + 4 + 4
	snapshotEntrySize = 8 + 2 + 4 + 8 + 4 + 8 + 4 + 8
)

// snapshotTable is a read-only table.
var snapshotTable = crc32.MakeTable(crc32.Castagnoli)

// snapshot writes the producers down. Like Kafka's it keeps only the last batch of each.
func (ps *producers) snapshot() []byte {
	ids := make([]int64, 0, len(ps.byID))
	for id := range ps.byID {
		ids = append(ids, id)
	}
	sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })

	b := make([]byte, snapshotHeader, snapshotHeader+len(ids)*snapshotEntrySize)
	be := binary.BigEndian
	be.PutUint16(b, snapshotVersion)
	be.PutUint32(b[6:], uint32(len(ids)))
	for _, id := range ids {
		p := ps.byID[id]
		last := producerBatch{lastSeq: -1, lastOffset: -1}
		if l := p.last(); l != nil {
			last = *l
		}
		b = be.AppendUint64(b, uint64(id))
		b = be.AppendUint16(b, uint16(p.epoch))
		b = be.AppendUint32(b, uint32(last.lastSeq))
		b = be.AppendUint64(b, uint64(last.lastOffset))
		b = be.AppendUint32(b, uint32(last.offsetDelta))
		b = be.AppendUint64(b, uint64(p.timestamp))
		b = be.AppendUint32(b, uint32(p.coordEpoch))
		b = be.AppendUint64(b, uint64(p.txnFirst))
	}
	be.PutUint32(b[2:], crc32.Checksum(b[6:], snapshotTable))
	return b
}

// restore replaces the producers by those of a snapshot.
func (ps *producers) restore(name string, data []byte) error {
	if len(data) < snapshotHeader {
		return &CorruptError{File: name, Pos: int64(len(data)), Reason: "too short"}
	}
	be := binary.BigEndian
	if v := be.Uint16(data); v != snapshotVersion {
		return &CorruptError{File: name, Reason: fmt.Sprintf("version %d", v)}
	}
	if crc32.Checksum(data[6:], snapshotTable) != be.Uint32(data[2:]) {
		return &CorruptError{File: name, Pos: 2, Reason: "CRC does not match"}
	}
	n := int64(int32(be.Uint32(data[6:])))
	if n < 0 || n*snapshotEntrySize != int64(len(data)-snapshotHeader) {
		return &CorruptError{File: name, Pos: 6, Reason: fmt.Sprintf("%d entries in %d bytes", n, len(data))}
	}
	ps.reset()
	for b := data[snapshotHeader:]; len(b) > 0; b = b[snapshotEntrySize:] {
		p := &producer{
			id:         int64(be.Uint64(b)),
			epoch:      int16(be.Uint16(b[8:])),
			timestamp:  int64(be.Uint64(b[26:])),
			coordEpoch: int32(be.Uint32(b[34:])),
			txnFirst:   int64(be.Uint64(b[38:])),
		}
		last := producerBatch{
			lastSeq:     int32(be.Uint32(b[10:])),
			lastOffset:  int64(be.Uint64(b[14:])),
			offsetDelta: int32(be.Uint32(b[22:])),
			timestamp:   p.timestamp,
		}
		if last.lastSeq >= 0 {
			p.remember(last)
		}
		ps.byID[p.id] = p
		if p.txnFirst >= 0 {
			ps.open = append(ps.open, openTxn{p.id, p.txnFirst})
		}
	}
	sort.Slice(ps.open, func(i, j int) bool { return ps.open[i].firstOffset < ps.open[j].firstOffset })
	return nil
}
