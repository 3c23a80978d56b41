package protocol

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kerr"
)

// someInputs have sizes around the codecs' block sizes, and every kind of
// redundancy.
func someInputs() map[string][]byte {
	rng := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 300<<10)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	inputs := map[string][]byte{"words": bytes.Repeat([]byte("the same words again and "), 9000)}
	for _, n := range []int{0, 1, 15, 16, 17, 100, 32 << 10, 32<<10 + 1, 64 << 10, 64<<10 + 1, 128 << 10, 300 << 10} {
		inputs[fmt.Sprint("zeros ", n)] = make([]byte, n)
		inputs[fmt.Sprint("noise ", n)] = noise[:n]
		inputs[fmt.Sprint("mixed ", n)] = append(bytes.Clone(noise[:n/2]), make([]byte, n/2)...)
	}
	return inputs
}

func TestCodecsRoundTrip(t *testing.T) {
	for codec := None; codec <= Zstd; codec++ {
		for name, src := range someInputs() {
			for _, level := range []int{-1 << 20, -1, 0, 1, 3, 9, 10, 22, 1000} {
				if level != 3 && len(src) > 40<<10 {
					continue
				}
				packed, err := Compress([]byte("before"), codec, level, src)
				if err != nil || string(packed[:6]) != "before" {
					t.Fatalf("%v level %d %s: %v", codec, level, name, err)
				}
				packed = packed[6:]
				plain, err := Decompress([]byte("prefix"), codec, packed, len(src))
				if err != nil || string(plain[:6]) != "prefix" || !bytes.Equal(plain[6:], src) {
					t.Fatalf("%v level %d %s: %d of %d bytes, %v", codec, level, name, len(plain), len(src), err)
				}
				if len(src) == 0 {
					continue
				}
				kept, err := Decompress([]byte("prefix"), codec, packed, len(src)-1)
				if !errors.Is(err, ErrTooLarge) || string(kept) != "prefix" {
					t.Fatalf("%v level %d %s: limit one too low: %d bytes, %v", codec, level, name, len(kept), err)
				}
			}
		}
	}
}

// TestDefaultLevel: whoever sets no level gets compression.
func TestDefaultLevel(t *testing.T) {
	src := someInputs()["words"]
	for codec := Gzip; codec <= Zstd; codec++ {
		packed, err := Compress(nil, codec, 0, src)
		if err != nil || len(packed) > len(src)/10 {
			t.Errorf("%v: %d bytes from %d, %v", codec, len(packed), len(src), err)
		}
	}
}

// TestOthersReadOurs has each format's usual library read what Compress writes.
func TestOthersReadOurs(t *testing.T) {
	readers := map[Codec]func(src []byte) ([]byte, error){
		Gzip: func(src []byte) ([]byte, error) {
			r, err := gzip.NewReader(bytes.NewReader(src))
			if err != nil {
				return nil, err
			}
			return io.ReadAll(r)
		},
		LZ4: func(src []byte) ([]byte, error) { return io.ReadAll(lz4.NewReader(bytes.NewReader(src))) },
		Zstd: func(src []byte) ([]byte, error) {
			r, err := zstd.NewReader(bytes.NewReader(src))
			if err != nil {
				return nil, err
			}
			defer r.Close()
			return io.ReadAll(r)
		},
	}
	for codec, read := range readers {
		for name, src := range someInputs() {
			packed, err := Compress(nil, codec, 0, src)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := read(packed); err != nil || !bytes.Equal(got, src) {
				t.Errorf("%v %s: %d of %d bytes, %v", codec, name, len(got), len(src), err)
			}
		}
	}
}

// TestOursReadsOthers reads forms that Compress does not write.
func TestOursReadsOthers(t *testing.T) {
	src := bytes.Repeat([]byte("the same words again and "), 20000)
	check := func(name string, codec Codec, packed []byte) {
		t.Helper()
		got, err := Decompress(nil, codec, packed, len(src))
		if err != nil || !bytes.Equal(got, src) {
			t.Errorf("%s: %d of %d bytes, %v", name, len(got), len(src), err)
		}
		if _, err := Decompress(nil, codec, packed, len(src)-1); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: limit one too low: %v", name, err)
		}
	}
	check("raw snappy", Snappy, s2.EncodeSnappy(nil, src))
	for _, size := range []lz4.BlockSize{lz4.Block64Kb, lz4.Block256Kb, lz4.Block1Mb, lz4.Block4Mb} {
		for _, checksums := range []bool{false, true} {
			var w bytes.Buffer
			z := lz4.NewWriter(&w)
			err := z.Apply(lz4.BlockSizeOption(size), lz4.BlockChecksumOption(checksums), lz4.ChecksumOption(checksums),
				lz4.SizeOption(uint64(len(src))))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := z.Write(src); err != nil {
				t.Fatal(err)
			}
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			check(fmt.Sprint("lz4 ", size, checksums), LZ4, w.Bytes())
			for i := range w.Len() {
				if i%101 == 0 || i < 20 {
					if _, err := Decompress(nil, LZ4, w.Bytes()[:i], len(src)); err == nil {
						t.Errorf("lz4 %v %v: the first %d of %d bytes pass", size, checksums, i, w.Len())
					}
				}
			}
			if checksums {
				broken := bytes.Clone(w.Bytes())
				broken[len(broken)-1]++
				if _, err := Decompress(nil, LZ4, broken, len(src)); Code(err) != kerr.CorruptMessage.Code {
					t.Errorf("lz4 with a wrong content checksum: %v", err)
				}
			}
		}
	}
	check("linked lz4 blocks", LZ4, linkedLZ4(t, src))
	check("two gzip members", Gzip, slicesConcat(gzipped(t, src[:100]), gzipped(t, src[100:])))
	// Streaming: no content size, as Java writes it, and windows beyond it.
	for _, window := range []int{1 << 10, 1 << 20, 8 << 20, 128 << 20} {
		var w bytes.Buffer
		z, err := zstd.NewWriter(&w, zstd.WithWindowSize(window), zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		for part := src; len(part) > 0; part = part[min(len(part), 10000):] {
			if _, err := z.Write(part[:min(len(part), 10000)]); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		check(fmt.Sprint("zstd window ", window), Zstd, w.Bytes())
	}
}

func slicesConcat(a, b []byte) []byte { return append(bytes.Clone(a), b...) }

func gzipped(t *testing.T, src []byte) []byte {
	t.Helper()
	b, err := Compress(nil, Gzip, 1, src)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// linkedLZ4 writes a frame whose blocks refer to earlier ones, as the lz4 tool
// and some clients do.
func linkedLZ4(t *testing.T, src []byte) []byte {
	t.Helper()
	descriptor := []byte{lz4FlagVersion, lz4Block64K << 4}
	out := binary.LittleEndian.AppendUint32(nil, lz4Magic)
	out = append(out, descriptor[0], descriptor[1], byte(xxh32(descriptor)>>8))
	// The first block is stored; the others copy from 25 bytes back, which is
	// before their own beginning: token (no literals, long match), distance,
	// length, then the five literals that end a block.
	const blockLen = 64 << 10
	first := src[:blockLen]
	out = binary.LittleEndian.AppendUint32(out, uint32(len(first))|lz4Stored)
	out = append(out, first...)
	for rest := src[blockLen:]; len(rest) > 0; {
		n := min(len(rest), blockLen)
		match := n - 5 - 4 - 15
		block := []byte{0x0f, 25, 0}
		for ; match >= 255; match -= 255 {
			block = append(block, 255)
		}
		block = append(block, byte(match), 5<<4)
		block = append(block, rest[n-5:n]...)
		out = binary.LittleEndian.AppendUint32(out, uint32(len(block)))
		out = append(out, block...)
		rest = rest[n:]
	}
	return append(out, 0, 0, 0, 0)
}

// TestDecompressionBombs: whatever a payload claims or holds, memory stays near
// the limit.
func TestDecompressionBombs(t *testing.T) {
	const limit = 1 << 20
	huge := make([]byte, 16*limit)
	bomb := func(codec Codec) []byte {
		packed, err := Compress(nil, codec, 1, huge)
		if err != nil {
			t.Fatal(err)
		}
		return packed
	}
	snappyClaim := append(binary.AppendUvarint(nil, math.MaxUint32), make([]byte, 100)...)
	xerial := func(length uint32, block []byte) []byte {
		b := append([]byte(xerialMagic), 0, 0, 0, 1, 0, 0, 0, 1)
		return append(binary.BigEndian.AppendUint32(b, length), block...)
	}
	small := slicesConcat(binary.AppendUvarint(nil, limit), []byte{0, 0})
	if used := allocated(func() { _, _ = Decompress(nil, Snappy, small, limit) }); used > 64<<10 {
		t.Errorf("snappy claims what cannot be in it: %d bytes allocated", used)
	}
	lz4Header := func(flags, descriptor byte, more ...byte) []byte {
		d := append([]byte{flags, descriptor}, more...)
		b := append(binary.LittleEndian.AppendUint32(nil, lz4Magic), d...)
		return append(b, byte(xxh32(d)>>8))
	}
	sizes := bytes.Repeat([]byte{0xff}, 8)
	cases := map[string]struct {
		codec   Codec
		payload []byte
	}{
		"gzip of zeros":             {Gzip, bomb(Gzip)},
		"xerial of zeros":           {Snappy, bomb(Snappy)},
		"lz4 of zeros":              {LZ4, bomb(LZ4)},
		"zstd of zeros":             {Zstd, bomb(Zstd)},
		"raw snappy of zeros":       {Snappy, s2.EncodeSnappy(nil, huge)},
		"snappy claims 4 GiB":       {Snappy, snappyClaim},
		"snappy claims the limit":   {Snappy, append(binary.AppendUvarint(nil, limit), 0, 0)},
		"xerial claims 4 GiB":       {Snappy, xerial(20, snappyClaim)},
		"xerial block of 4 GiB":     {Snappy, xerial(math.MaxUint32, nil)},
		"lz4 claims 2^64-1":         {LZ4, append(lz4Header(0x68, 0x70, sizes...), 1, 0, 0, 0)},
		"lz4 block of 2 GiB":        {LZ4, append(lz4Header(0x60, 0x70), 0xff, 0xff, 0xff, 0x7f)},
		"lz4 block above its class": {LZ4, append(append(lz4Header(0x60, 0x40), 1, 0, 1, 0x80), make([]byte, 64<<10+5)...)},
		"lz4 stored block of 2 GiB": {LZ4, append(lz4Header(0x60, 0x70), 0xff, 0xff, 0xff, 0xff)},
		// Single segment, content size of 8 bytes.
		"zstd claims 2^64-1": {Zstd, append(append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0}, sizes...), 1, 0, 0)},
		// No content size, window descriptor 2^41 and 2^31.
		"zstd window of 3.75 TiB": {Zstd, []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0xff, 1, 0, 0}},
		"zstd window of 2 GiB":    {Zstd, []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1, 0, 0}},
		"zstd repeats a byte": {Zstd, append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 17 << 3},
			bytes.Repeat([]byte{0x02 | 0<<3, 0, 0x10, 'x'}, 100000)...)},
	}
	for name, c := range cases {
		out, err := Decompress(nil, c.codec, c.payload, limit)
		if err == nil {
			t.Errorf("%s: no error, %d bytes", name, len(out))
		}
		if used := allocated(func() { _, _ = Decompress(nil, c.codec, c.payload, limit) }); used > 4*limit {
			t.Errorf("%s: %d bytes allocated for a limit of %d", name, used, limit)
		}
	}
}

// allocated is how many bytes f allocates, at least: what a pool gives away
// again does not count twice.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestUnknownCodec(t *testing.T) {
	for codec := Codec(5); codec < 8; codec++ {
		if _, err := Decompress(nil, codec, []byte("x"), 10); Code(err) != kerr.UnsupportedCompressionType.Code {
			t.Errorf("%v: %v", codec, err)
		}
		if _, err := Compress(nil, codec, 0, []byte("x")); Code(err) != kerr.UnsupportedCompressionType.Code {
			t.Errorf("%v: %v", codec, err)
		}
	}
	if _, err := Decompress(nil, Gzip, []byte("nonsense"), 10); Code(err) != kerr.CorruptMessage.Code {
		t.Errorf("nonsense: %v", err)
	}
}
