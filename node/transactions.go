package node

import (
	"time"

	"github.com/gregor-broker/gregor/broker/handler"
	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/coordinator/runtime"
	"github.com/gregor-broker/gregor/coordinator/txn"
	"github.com/gregor-broker/gregor/metadata"
)

// txnConfig takes the coordinator's settings from the broker's.
func txnConfig(v *config.Values, image func() *metadata.Image) *txn.Config {
	return &txn.Config{
		MaxTimeout:         v.Duration("transaction.max.timeout.ms"),
		IDExpiration:       v.Duration("transactional.id.expiration.ms"),
		TimeoutInterval:    v.Duration("transaction.abort.timed.out.transaction.cleanup.interval.ms"),
		ExpirationInterval: v.Duration("transaction.remove.expired.transaction.cleanup.interval.ms"),
		MaxRecordBytes:     v.Int("message.max.bytes")/2 - 1024,
		Version:            func() int16 { return image().Features()["transaction.version"] },
	}
}

// newTransactions makes the transaction coordinator, what writes its markers,
// and lets it follow the leadership of its topic's partitions.
func (n *Node) newTransactions(o Options) error {
	v, image := o.Config, func() *metadata.Image { return n.controller.Image() }
	cfg := txnConfig(v, image)
	cfg.Count = func(e txn.Event) { n.txnEvents[e].Add(1) }
	txns, err := runtime.New(runtime.Options[*txn.Shard]{
		Name:            "transaction",
		NewShard:        func(_ int32, writable func() error) *txn.Shard { return txn.NewShard(cfg, writable) },
		Now:             o.Now,
		Log:             n.log,
		LoadBufferBytes: v.Int("transaction.state.log.load.buffer.size"),
		OnLoaded: func(partition int32, took time.Duration, records int64) {
			if records > 0 {
				n.log.Info().Int32("partition", partition).Int64("records", records).Dur("took", took).Msg("transaction coordinator loaded")
			}
		},
		OnEffect: func(partition, epoch int32, effect any) {
			if s, ok := effect.(txn.SendMarkers); ok {
				n.markers.Send(partition, epoch, s)
			}
		},
	})
	if err != nil {
		return err
	}
	n.txns = txns
	n.markers = handler.NewMarkers(handler.MarkersOptions{
		NodeID: n.id, Image: image, Partitions: n.partitions, Groups: n.groups, Transactions: txns, Peers: n.peers,
		Now: o.Now, Log: n.log,
		// Before another broker that asked for them gives up its connection.
		Timeout: min(v.Duration("request.timeout.ms"), v.Duration("replica.socket.timeout.ms")*2/3),
	})
	n.partitions.OnLeadership(n.markers.Leadership)
	n.partitions.OnLeadership(leads(txns, handler.TransactionsTopic))
	return nil
}
