package native

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// The versions of the protocol that this package speaks.
const (
	minVersion = 1
	maxVersion = 1
)

const (
	magic     = "PXPLANE\x00"
	nonceSize = 32
	macSize   = 32
	unknown   = math.MaxUint64 // a size or count that the sender does not know
	minBody   = 1024           // a peer that takes less per frame cannot be served
	maxText   = 1 << 10        // bytes of an error's text that are believed
	maxName   = 1 << 10        // bytes of a name in WELCOME
)

// The metadata of most frames ends with a list of fields: two bytes of tag, two of length, the value. A receiver skips tags that it does not know.
const (
	tagTTL      = 1 // u64, nanoseconds that the object lives
	tagWindow   = 2 // u64, bytes that a GET with FlagCredit may send at first
	tagModTime  = 3 // i64, nanoseconds since 1970
	tagText     = 4 // UTF-8, for people
	tagInstance = 5
	tagHost     = 6
	tagLocal    = 7
)

func appendField(dst []byte, tag uint16, v []byte) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, tag)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(v)))
	return append(dst, v...)
}

func appendText(dst []byte, tag uint16, s string, limit int) []byte {
	if s == "" {
		return dst
	}
	s = s[:min(len(s), limit)]
	dst = binary.LittleEndian.AppendUint16(dst, tag)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(s)))
	return append(dst, s...)
}

func appendUint(dst []byte, tag uint16, v uint64) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, tag)
	dst = binary.LittleEndian.AppendUint16(dst, 8)
	return binary.LittleEndian.AppendUint64(dst, v)
}

// fields walks over a list of fields: each next takes one off. What is left over at the end is damage.
type fields []byte

func (f *fields) next() (tag uint16, v []byte, ok bool) {
	b := *f
	if len(b) < 4 {
		return 0, nil, false
	}
	n := int(binary.LittleEndian.Uint16(b[2:]))
	if len(b) < 4+n {
		return 0, nil, false
	}
	*f = b[4+n:]
	return binary.LittleEndian.Uint16(b), b[4 : 4+n : 4+n], true
}

func (f fields) end() error {
	if len(f) != 0 {
		return fmt.Errorf("%w: metadata ends within a field", transport.ErrCorrupt)
	}
	return nil
}

func fieldUint(v []byte) uint64 {
	if len(v) != 8 {
		return 0
	}
	return binary.LittleEndian.Uint64(v)
}

// clean makes a peer's text harmless to print.
func clean(v []byte, limit int) string {
	if len(v) > limit {
		v = v[:limit]
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, string(v))
}

// hello is the metadata of HELLO.
type hello struct {
	min, max uint16
	features uint64
	maxBody  uint32
	hash     uint8
	compress Compression
	nonce    [nonceSize]byte
}

const helloSize = len(magic) + 2 + 2 + 8 + 4 + 1 + 1 + 2 + nonceSize

func (m *hello) append(dst []byte) []byte {
	dst = append(dst, magic...)
	dst = binary.LittleEndian.AppendUint16(dst, m.min)
	dst = binary.LittleEndian.AppendUint16(dst, m.max)
	dst = binary.LittleEndian.AppendUint64(dst, m.features)
	dst = binary.LittleEndian.AppendUint32(dst, m.maxBody)
	dst = append(dst, m.hash, byte(m.compress), 0, 0)
	return append(dst, m.nonce[:]...)
}

func (m *hello) decode(b []byte) error {
	if len(b) < helloSize || string(b[:len(magic)]) != magic {
		return fmt.Errorf("%w: this is not a client of proxyplane's native protocol", transport.ErrCorrupt)
	}
	rest := fields(b[helloSize:])
	b = b[len(magic):]
	m.min, m.max = binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:])
	m.features = binary.LittleEndian.Uint64(b[4:])
	m.maxBody = binary.LittleEndian.Uint32(b[12:])
	m.hash, m.compress = b[16], Compression(b[17])
	copy(m.nonce[:], b[20:])
	for ok := true; ok; {
		_, _, ok = rest.next()
	}
	return rest.end()
}

// welcome is the metadata of WELCOME.
type welcome struct {
	version  uint16
	sums     bool
	compress Compression
	features uint64
	maxBody  uint32
	maxReqs  uint32
	proof    [macSize]byte // zero where there is no token, and while it is computed
	instance string
	host     string
	local    string
}

const (
	welcomeSize    = 2 + 1 + 1 + 8 + 4 + 4 + macSize
	welcomeProofAt = welcomeSize - macSize
)

func (m *welcome) append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, m.version)
	sums := byte(0)
	if m.sums {
		sums = 1
	}
	dst = append(dst, sums, byte(m.compress))
	dst = binary.LittleEndian.AppendUint64(dst, m.features)
	dst = binary.LittleEndian.AppendUint32(dst, m.maxBody)
	dst = binary.LittleEndian.AppendUint32(dst, m.maxReqs)
	dst = append(dst, m.proof[:]...)
	dst = appendText(dst, tagInstance, m.instance, maxName)
	dst = appendText(dst, tagHost, m.host, maxName)
	return appendText(dst, tagLocal, m.local, maxName)
}

func (m *welcome) decode(b []byte) error {
	if len(b) < welcomeSize {
		return fmt.Errorf("%w: WELCOME of %d bytes, want at least %d", transport.ErrCorrupt, len(b), welcomeSize)
	}
	rest := fields(b[welcomeSize:])
	m.version = binary.LittleEndian.Uint16(b)
	m.sums, m.compress = b[2] != 0, Compression(b[3])
	m.features = binary.LittleEndian.Uint64(b[4:])
	m.maxBody = binary.LittleEndian.Uint32(b[12:])
	m.maxReqs = binary.LittleEndian.Uint32(b[16:])
	copy(m.proof[:], b[welcomeProofAt:])
	for {
		tag, v, ok := rest.next()
		if !ok {
			return rest.end()
		}
		switch tag {
		case tagInstance:
			m.instance = clean(v, maxName)
		case tagHost:
			m.host = clean(v, maxName)
		case tagLocal:
			m.local = clean(v, maxName)
		}
	}
}

// appendRequest appends the metadata of a REQUEST up to the fields. It allocates nothing where dst has room.
func appendRequest(ctx context.Context, dst []byte, id string) []byte {
	ms := uint32(0)
	if d, ok := ctx.Deadline(); ok {
		ms = uint32(min(max(time.Until(d).Milliseconds()+1, 1), math.MaxUint32))
	}
	dst = binary.LittleEndian.AppendUint32(dst, ms)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(id)))
	return append(dst, id...)
}

// reqMeta is the decoded metadata of a REQUEST.
type reqMeta struct {
	deadline uint32 // ms; 0 for none
	id       []byte // lent
	ttl      time.Duration
	window   int64
}

func (m *reqMeta) decode(b []byte) error {
	*m = reqMeta{}
	if len(b) < 6 {
		return fmt.Errorf("%w: REQUEST with %d bytes of metadata, want at least 6", transport.ErrCorrupt, len(b))
	}
	m.deadline = binary.LittleEndian.Uint32(b)
	n := int(binary.LittleEndian.Uint16(b[4:]))
	if n > objects.MaxID || len(b) < 6+n {
		return fmt.Errorf("%w: an id of %d bytes in %d bytes of metadata; the limit is %d", transport.ErrCorrupt, n, len(b), objects.MaxID)
	}
	m.id = b[6 : 6+n]
	rest := fields(b[6+n:])
	for {
		tag, v, ok := rest.next()
		if !ok {
			return rest.end()
		}
		switch tag {
		case tagTTL:
			m.ttl = time.Duration(min(fieldUint(v), math.MaxInt64))
		case tagWindow:
			m.window = int64(min(fieldUint(v), math.MaxInt64/4))
		}
	}
}

// ansMeta is the decoded metadata of an answer.
type ansMeta struct {
	modTime int64
	text    []byte // lent
}

func (m *ansMeta) decode(b []byte) error {
	*m = ansMeta{}
	rest := fields(b)
	for {
		tag, v, ok := rest.next()
		if !ok {
			return rest.end()
		}
		switch tag {
		case tagModTime:
			m.modTime = int64(fieldUint(v))
		case tagText:
			m.text = v
		}
	}
}

func unixTime(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}

func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
