package protocol

import (
	"encoding/binary"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
)

// ControlType is what a control record says.
type ControlType int16

// The control records of a partition's log that matter to clients.
const (
	ControlAbort  ControlType = 0
	ControlCommit ControlType = 1
)

func (t ControlType) String() string {
	switch t {
	case ControlAbort:
		return "abort"
	case ControlCommit:
		return "commit"
	}
	return fmt.Sprintf("control(%d)", int16(t))
}

// ControlParams describes the marker that ends a transaction in one partition.
type ControlParams struct {
	BaseOffset       int64
	LeaderEpoch      int32
	TimestampMs      int64
	ProducerID       int64
	ProducerEpoch    int16
	CoordinatorEpoch int32
	Type             ControlType
}

// AppendControlBatch appends a batch of one record that commits or aborts the
// producer's transaction.
func AppendControlBatch(dst []byte, p ControlParams) []byte {
	var key [4]byte // version int16, type int16
	binary.BigEndian.PutUint16(key[2:], uint16(p.Type))
	var value [6]byte // version int16, coordinator epoch int32
	binary.BigEndian.PutUint32(value[2:], uint32(p.CoordinatorEpoch))
	return AppendBatch(dst, BatchParams{
		BaseOffset:    p.BaseOffset,
		LeaderEpoch:   p.LeaderEpoch,
		BaseTimestamp: p.TimestampMs,
		Transactional: true,
		Control:       true,
		Producer:      &Producer{ID: p.ProducerID, Epoch: p.ProducerEpoch, BaseSequence: -1},
	}, []Record{{Key: key[:], Value: value[:]}})
}

// ParseControlType reads the type from a control record's key. Types other
// than abort and commit exist (KRaft's own) and are returned as they are.
func ParseControlType(key []byte) (ControlType, error) {
	if len(key) < 4 {
		return 0, fmt.Errorf("protocol: control record key of %d bytes: %w", len(key), kerr.InvalidRecord)
	}
	if version := int16(binary.BigEndian.Uint16(key)); version < 0 {
		return 0, fmt.Errorf("protocol: control record key version %d: %w", version, kerr.InvalidRecord)
	}
	return ControlType(binary.BigEndian.Uint16(key[2:])), nil
}

// ParseCoordinatorEpoch reads the transaction coordinator's epoch from the
// value of an abort or commit marker.
func ParseCoordinatorEpoch(value []byte) (int32, error) {
	if len(value) < 6 {
		return 0, fmt.Errorf("protocol: end marker value of %d bytes: %w", len(value), kerr.InvalidRecord)
	}
	return int32(binary.BigEndian.Uint32(value[2:])), nil
}

// ParseControlBatch reads the marker from a control batch, which holds one
// record and is never compressed.
func ParseControlBatch(b Batch) (t ControlType, coordinatorEpoch int32, err error) {
	r := NewRecordReader(b.Payload(), b.Count())
	rec, ok := r.Skim()
	if !ok {
		if err := r.Err(); err != nil {
			return 0, 0, err
		}
		return 0, 0, fmt.Errorf("protocol: control batch without a record: %w", kerr.InvalidRecord)
	}
	if t, err = ParseControlType(rec.Key); err != nil {
		return 0, 0, err
	}
	if t != ControlAbort && t != ControlCommit {
		return t, -1, nil
	}
	coordinatorEpoch, err = ParseCoordinatorEpoch(rec.Value)
	return t, coordinatorEpoch, err
}
