package native

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"

	"github.com/proxyplane/proxyplane/transport"
)

// piece is how much of a body is read at once: small enough to be hashed while it is in the processor's cache, and for progress to be seen.
const piece = 256 << 10

// atOnce returns how much of a body is read at once over this Carrier.
func (l *link) atOnce() int {
	if l.whole {
		return MaxFrame
	}
	return piece
}

// minPack is the shortest body that compression is tried on.
const minPack = 1 << 10

// link is what both sides agreed on, and what was seen of the way between them.
type link struct {
	sums     bool
	compress Compression // CompressNone, CompressS2 or CompressZstd
	adapt    bool        // CompressAuto: by the rate at which the peer takes bytes
	maxSend  int         // bytes of body that the peer and the Carrier take per frame
	maxRecv  int
	whole    bool // see WholeReader
	chunk    int  // bytes of body per frame that are sent

	sent  atomic.Int64 // bytes of large frames
	spent atomic.Int64 // nanoseconds that writing them took
}

// single is the longest body that goes as one frame: a little more than a chunk, so that an object of a chunk and a codec's tag does not take two.
func (l *link) single() int64 { return int64(min(l.chunk+l.chunk/8, l.maxSend)) }

// seal sets what depends on the rest of the frame.
func (h *Header) seal(meta []byte, body int64) {
	h.Meta, h.Body = uint32(len(meta)), uint32(body)
	h.Check = h.check(meta)
}

// validate checks what holds for every frame, before anything is done with it.
func (l *link) validate(h *Header, meta []byte) error {
	switch packed := h.Flags & (FlagS2 | FlagZstd); {
	case h.check(meta) != h.Check:
		return fmt.Errorf("%w: the check of a frame header is wrong: damaged on the way, or the peer speaks something else", transport.ErrCorrupt)
	case int64(h.Body) > int64(l.maxRecv):
		return fmt.Errorf("%w: %s with a body of %d bytes, agreed were %d", transport.ErrCorrupt, h.Type, h.Body, l.maxRecv)
	case packed == 0 && h.Raw != 0, packed == FlagS2|FlagZstd, packed != 0 && (h.Body == 0 || h.Raw <= h.Body || int64(h.Raw) > int64(l.maxRecv)):
		return fmt.Errorf("%w: %s with a body of %d bytes that becomes %d", transport.ErrCorrupt, h.Type, h.Body, h.Raw)
	case l.sums && h.Body > 0 && h.Flags&FlagSum == 0:
		return fmt.Errorf("%w: %s without the checksum that was agreed", transport.ErrCorrupt, h.Type)
	}
	return nil
}

// packed reports whether the body is compressed.
func (h *Header) packed() bool { return h.Flags&(FlagS2|FlagZstd) != 0 }

// bodyLen returns the bytes of object in the frame.
func (h *Header) bodyLen() int {
	if h.packed() {
		return int(h.Raw)
	}
	return int(h.Body)
}

func badSum() error {
	return fmt.Errorf("%w: the checksum of a chunk is wrong: its bytes were damaged on the way", transport.ErrCorrupt)
}

// packer prepares the bodies of one request for sending. Its memory is used again for the next chunk, and for the next request.
type packer struct {
	mode  Compression
	adapt bool
	left  int // chunks until adapt looks again
	joined,
	out []byte
	one [1][]byte
	dig xxhash.Digest
}

// adaptEvery is how many chunks pass until the way's rate is looked at again.
const adaptEvery = 8

func (p *packer) reset(l *link) { p.mode, p.adapt, p.left = l.compress, l.adapt, adaptEvery }

// pack returns body as it is sent and sets Flags, Raw and Sum. The result is lent until the next pack, and as long as body is.
func (p *packer) pack(l *link, h *Header, body transport.Slices) transport.Slices {
	if n := body.Len(); p.mode != CompressNone && n >= minPack {
		body = p.squeeze(l, h, body, n)
	}
	if l.sums {
		h.Flags |= FlagSum
		if len(body) == 1 {
			h.Sum = xxhash.Sum64(body[0])
		} else {
			p.dig.Reset()
			for _, b := range body {
				p.dig.Write(b)
			}
			h.Sum = p.dig.Sum64()
		}
	}
	return body
}

func (p *packer) squeeze(l *link, h *Header, body transport.Slices, n int64) transport.Slices {
	var src []byte
	if len(body) == 1 {
		src = body[0]
	} else { // a block compressor needs one run; the copy costs little beside its work
		p.joined = body.AppendTo(p.joined[:0])
		src = p.joined
	}
	var began time.Time
	if p.adapt {
		began = time.Now()
	}
	if p.mode == CompressZstd {
		p.out = zstdEncoder().EncodeAll(src, p.out[:0])
	} else {
		if need := s2.MaxEncodedLen(len(src)); cap(p.out) < need {
			p.out = make([]byte, need)
		}
		p.out = s2.Encode(p.out[:cap(p.out)], src)
	}
	if int64(len(p.out)) > n-n/8 { // it would cost the other side more than it saves on the way
		p.mode = CompressNone
		return body
	}
	if p.adapt {
		if p.left--; p.left == 0 {
			p.left = adaptEvery
			p.choose(l, time.Since(began), n, int64(len(p.out)))
		}
	}
	h.Raw = uint32(n)
	if h.Flags |= FlagS2; p.mode == CompressZstd {
		h.Flags ^= FlagS2 | FlagZstd
	}
	p.one[0] = p.out
	return p.one[:]
}

// choose weighs what the last chunk cost against what it saved, at the rate that the session has seen.
func (p *packer) choose(l *link, cost time.Duration, raw, packed int64) {
	sent, spent := l.sent.Load(), l.spent.Load()
	if sent == 0 {
		return
	}
	saved := time.Duration(float64(raw-packed) / float64(sent) * float64(spent))
	switch {
	case saved < cost:
		p.mode = CompressNone
	case p.mode == CompressS2 && saved > 8*cost: // the way is so slow that there is time to work harder
		p.mode = CompressZstd
	}
}

// unpack decompresses src into dst, all of it: len(dst) is the length that the frame announced, and no more memory is ever used.
func unpack(h *Header, dst, src []byte) error {
	bad := func(why any) error {
		return fmt.Errorf("%w: a chunk does not decompress: %v", transport.ErrCorrupt, why)
	}
	if h.Flags&FlagZstd != 0 {
		out, err := zstdDecoder().DecodeAll(src, dst[:0:len(dst)])
		if err != nil {
			return bad(err)
		}
		if len(out) != len(dst) {
			return bad(fmt.Sprintf("%d bytes instead of %d", len(out), len(dst)))
		}
		return nil
	}
	if n, err := s2.DecodedLen(src); err != nil || n != len(dst) {
		return bad(fmt.Sprintf("%d bytes instead of %d", n, len(dst)))
	}
	if _, err := s2.Decode(dst, src); err != nil {
		return bad(err)
	}
	return nil
}

var zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true))
	if err != nil {
		panic(err) // only for options that do not fit each other
	}
	return e
})

var zstdDecoder = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxMemory(MaxFrame), zstd.WithDecoderMaxWindow(64<<20))
	if err != nil {
		panic(err)
	}
	return d
})

// writeFrame sends one frame that packer has prepared, and measures the way.
func (l *link) writeFrame(c Carrier, h *Header, meta []byte, body transport.Slices) error {
	n := body.Len()
	h.seal(meta, n)
	if n < 64<<10 || !l.adapt {
		return c.WriteFrame(h, meta, body)
	}
	began := time.Now()
	err := c.WriteFrame(h, meta, body)
	l.sent.Add(n)
	l.spent.Add(int64(time.Since(began)))
	return err
}

// cutter cuts Slices into runs of at most n bytes without copying.
type cutter struct {
	src transport.Slices
	off int // within src[0]
	out transport.Slices
}

// next lends the next n bytes, or what is left, until the next call.
func (c *cutter) next(n int64) transport.Slices {
	c.out = c.out[:0]
	for n > 0 && len(c.src) > 0 {
		part := c.src[0][c.off:]
		if int64(len(part)) > n {
			c.out = append(c.out, part[:n])
			c.off += int(n)
			break
		}
		if len(part) > 0 {
			c.out = append(c.out, part)
		}
		n -= int64(len(part))
		c.src, c.off = c.src[1:], 0
	}
	return c.out
}
