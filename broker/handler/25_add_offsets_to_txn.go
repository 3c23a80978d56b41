package handler

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/gregor-broker/gregor/coordinator/txn"
	"github.com/gregor-broker/gregor/protocol"
)

// addOffsetsToTxn answers AddOffsetsToTxn, versions 0 to 4: the partition of
// __consumer_offsets that holds a group takes part in the transaction. v2 may
// answer PRODUCER_FENCED, v3 is flexible, v4 belongs to KIP-890. Clients of
// transaction version 2 do not send it.
func addOffsetsToTxn(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.AddOffsetsToTxnRequest)
	resp := req.ResponseKind().(*kmsg.AddOffsetsToTxnResponse)
	resp.ErrorCode = fencedBefore(protocol.Code(b.addOffsets(r, req)), req.Version, 2)
	return resp, nil
}

func (b *Broker) addOffsets(r *Request, req *kmsg.AddOffsetsToTxnRequest) error {
	if req.TransactionalID == "" {
		return kerr.InvalidRequest
	}
	img, err := b.ensureTopic(r, OffsetsTopic)
	if err != nil {
		return kerr.CoordinatorNotAvailable
	}
	errs, err := callTxn[[]error](r.Ctx, b, req.TransactionalID, addPartitionsHandler(txn.AddPartitions{
		TransactionalID: req.TransactionalID, ProducerID: req.ProducerID, Epoch: req.ProducerEpoch,
		Partitions: []txn.TopicPartition{{Topic: OffsetsTopic, Partition: b.groupPartition(img, req.Group)}},
	}))
	if err != nil {
		return err
	}
	return errs[0]
}
