// Package protocol turns bytes into Kafka requests, and Kafka responses and
// record batches into bytes.
//
// It has no sockets, goroutines, clock or mutable state of its own (the codecs
// pool their working memory), so every function may be called from any
// goroutine. A view such as [Batch] belongs to whoever owns the bytes beneath
// it.
//
// # Requests
//
//	frame   = size int32 | header | body
//	header  = key int16 | version int16 | correlation id int32   v0
//	        | client id: nullable string, int16 length           v1
//	        | tagged fields                                      v2
//
// The body is decoded by kmsg, which believes the counts it reads: a tag count
// of 2^32-1 costs a minute of CPU, an array count costs memory before the
// elements are seen. [Decode] therefore walks the body first along a table
// made from Kafka's own message definitions (schema_gen.go) and lets kmsg run
// only over what is whole and small enough; see scan.go.
//
// # Record batches
//
// Batches stay as the producer made them; what the broker needs is read, and
// what it stamps is written, in place:
//
//	 0  base offset            int64   written by the broker, outside the CRC
//	 8  batch length           int32   of all that follows: total - 12
//	12  partition leader epoch int32   written by the broker, outside the CRC
//	16  magic                  int8    2
//	17  CRC                    uint32  CRC-32C of all from byte 21 on
//	21  attributes             int16   bits 0-2 codec, 3 log append time, 4 transactional,
//	                                   5 control, 6 delete horizon
//	23  last offset delta      int32
//	27  base timestamp         int64   ms; the delete horizon if bit 6 is set
//	35  max timestamp          int64   ms
//	43  producer id            int64   -1: none
//	51  producer epoch         int16
//	53  base sequence          int32
//	57  record count           int32
//	61  records                        compressed as one if there is a codec
//
// One record, where varint is the zig-zag form and -1 is the length of null:
//
//	length varint | attributes int8 | timestamp delta varlong | offset delta varint
//	| key length varint | key | value length varint | value
//	| header count varint | { key length varint | key | value length varint | value }
package protocol
