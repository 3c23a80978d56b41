// Package metadata knows what a cluster is made of and how it may change.
//
// An Image is everything the cluster agreed on at one revision of the store:
// topics, partitions, configurations, brokers. It is immutable; the next one
// shares all it can with the former, so that one change costs the same in a
// cluster of ten topics and of ten thousand. A Delta names what differs
// between two images.
//
// The controller's decisions are functions here: image and request in, changes
// to the store and answers out. They read no clock, draw no randomness of
// their own, start no goroutine and hold no lock; whoever calls them passes
// these in. The loop that carries decisions out is package controller.
//
// Store is what the metadata is kept in: a small key-value store with
// revisions, compare-and-set transactions, watches and leases, as etcd is.
//
// # Keys
//
//	cluster                 cluster id, format version, finalized features
//	controller              who is controller; held by a lease. Its create
//	                        revision is the fence in every controller's write
//	controller_epoch        counts elections
//	topics/<name>           topic id, number of partitions, configs
//	parts/<topic id>/<n>    state of one partition
//	brokers/reg/<id>        what a broker told about itself, and its fencing
//	brokers/epoch/<id>      rewritten once per accepted registration; its
//	                        modification revision is the broker epoch
//	brokers/live/<id>       the broker's sign of life; held by a lease
//	configs/<type>/<name>   configs of brokers, groups, client metrics
//	quotas/<entity>         quotas of users, client ids and addresses
//	scram/<mechanism>/<user> what authenticates a user by SCRAM
//	producer_ids            first producer id that no block has taken
//
// Values are JSON objects (encode.go): a reader ignores fields that it does
// not know and refuses a value whose "v" is above what it can read.
//
// # Atomicity
//
// A store transaction takes a limited number of operations, a topic has any
// number of partitions. The topic key decides: partitions are written first,
// in as many transactions as it takes, and stay invisible until the topic key
// names them; a topic is gone when its key is gone, and its partitions are
// swept afterwards. A controller that dies in between leaves partitions that
// no topic names, which the next one sweeps (Orphans).
package metadata
