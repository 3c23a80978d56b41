package storage

import (
	"errors"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/gregor-broker/gregor/protocol"
	"github.com/gregor-broker/gregor/storage/vfs"
)

const (
	// decompressLimit bounds what a batch may decompress to.
	decompressLimit = 256 << 20
	// freelyDecompressed is what any number of batches may decompress to at a time. No ordinary batch takes more:
	// producers limit their batches by what the records take before compression.
	freelyDecompressed = 16 << 20
)

// keepPayloadBytes bounds what a buffer keeps between batches.
const keepPayloadBytes = 8 << 20

// inflater decompresses for all logs of a manager. A batch of a few KB that becomes hundreds of MB is taken, as Kafka takes
// it, but only one at a time: what many clients send at once must not add up.
type inflater struct {
	// buffers are used again: memory of this size made anew for each batch would be cleared by the allocator first, and
	// collected soon.
	buffers sync.Pool
	large   chan struct{} // holds a token while a large batch is in memory
}

func newInflater() *inflater {
	return &inflater{buffers: sync.Pool{New: func() any { return new([]byte) }}, large: make(chan struct{}, 1)}
}

// scratchBytes holds what the largest batch decompresses to, and what a codec wants beyond to see that it is not more:
// within it none of them takes memory of its own.
const scratchBytes = decompressLimit + 1<<20

// payload is what a batch decompressed to, until done.
type payload struct {
	plain   []byte
	buf     *[]byte // of the pool; nil if plain is part of the batch
	scratch []byte  // vfs.Scratch, of a large batch
	rewrite []byte  // vfs.Scratch for the records of a large batch that are written anew
}

// payload decompresses b if need be. An error is the codec's: see protocol.Decompress.
func (in *inflater) payload(b protocol.Batch) (payload, error) {
	if b.Codec() == protocol.None {
		return payload{plain: b.Payload()}, nil
	}
	p := payload{buf: in.buffers.Get().(*[]byte)}
	var err error
	p.plain, err = protocol.Decompress((*p.buf)[:0], b.Codec(), b.Payload(), freelyDecompressed)
	if errors.Is(err, protocol.ErrTooLarge) {
		in.large <- struct{}{}
		if p.scratch, err = vfs.Scratch(scratchBytes); err != nil {
			<-in.large
			return payload{}, errScratch(err)
		}
		p.plain, err = protocol.Decompress(p.scratch[:0], b.Codec(), b.Payload(), decompressLimit)
	}
	if err != nil {
		in.done(&p)
		return payload{}, err
	}
	return p, nil
}

// room returns an empty buffer for n bytes, which lives until done.
func (p *payload) room(n int) ([]byte, error) {
	if p.scratch == nil || n == 0 {
		return make([]byte, 0, n), nil
	}
	var err error
	if p.rewrite, err = vfs.Scratch(n); err != nil {
		return nil, errScratch(err)
	}
	return p.rewrite[:0], nil
}

func errScratch(err error) error {
	return clientErrorf(kerr.UnknownServerError, "no memory for a batch that decompresses to much: %v", err)
}

// done gives back what payload took. Nothing may alias it any more.
func (in *inflater) done(p *payload) {
	switch {
	case p.scratch != nil:
		err := vfs.FreeScratch(p.scratch)
		if p.rewrite != nil {
			err = errors.Join(err, vfs.FreeScratch(p.rewrite))
		}
		if err != nil {
			panic("storage: " + err.Error()) // each was mapped, and is unmapped once
		}
		<-in.large
	case p.buf != nil && cap(p.plain) <= keepPayloadBytes:
		*p.buf = p.plain
		in.buffers.Put(p.buf)
	}
}

// errPayload answers a payload that its codec cannot read. Not CORRUPT_MESSAGE: the CRC was right, so the producer sent
// just that, and would send it again for ever.
func errPayload(err error) error {
	if errors.Is(err, protocol.ErrTooLarge) {
		return err
	}
	return clientErrorf(kerr.InvalidRecord, "%v", err)
}
