package p2p

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/proxyplane/proxyplane/transport"
)

const (
	headerSize = 2 + 4*4
	chunkSize  = 32 << 10 // of data: MAX_CHUNK_SIZE_BYTES
	// maxChunk is the longest chunk that is read. Python's are 32 KiB; the data channels of all implementations carry 64 KiB.
	maxChunk = 64 << 10
	// maxAhead is how far a chunk may lie beyond what came of its message. Channels do not keep order, but no more can be on the way at once than the
	// receivers of the channels hold.
	maxAhead = 64 << 20
	// firstCapacity is the memory that a message's first chunk takes at most.
	firstCapacity = 1 << 20
	// minSize is the least that chunks have, but for the last of a message. Python's have 32 KiB; with less the bookkeeping would outgrow the data.
	minSize = 1 << 10
	// maxCount bounds the chunks of a message: half a terabyte.
	maxCount = 1 << 24
	// maxStreams bounds the messages that are under way at once, which are small things as long as nothing of them came.
	maxStreams = 1 << 14

	typeBytes  = 1
	typeString = 2
)

// header is the head of one chunk.
type header struct {
	dtype                uint16
	length               uint32
	stream, index, count uint32
}

func (h header) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, h.dtype)
	b = binary.BigEndian.AppendUint32(b, h.length)
	b = binary.BigEndian.AppendUint32(b, h.stream)
	b = binary.BigEndian.AppendUint32(b, h.index)
	return binary.BigEndian.AppendUint32(b, h.count)
}

// parseChunk returns the header and the data of a chunk, a part of b. Bytes beyond the length that the header says are dropped, as Python does.
func parseChunk(b []byte) (h header, data []byte, err error) {
	if len(b) < headerSize {
		return h, nil, corrupt("a chunk of %d bytes has no room for its header of %d", len(b), headerSize)
	}
	h.dtype = binary.BigEndian.Uint16(b)
	h.length = binary.BigEndian.Uint32(b[2:])
	h.stream = binary.BigEndian.Uint32(b[6:])
	h.index = binary.BigEndian.Uint32(b[10:])
	h.count = binary.BigEndian.Uint32(b[14:])
	switch {
	case h.dtype != typeBytes && h.dtype != typeString:
		return h, nil, corrupt("a chunk of type %d: 1 and 2 are known", h.dtype)
	case h.length <= headerSize || uint64(h.length) > uint64(len(b)):
		return h, nil, corrupt("a chunk of %d bytes says that it has %d", len(b), h.length)
	case h.index >= h.count || h.count > maxCount:
		return h, nil, corrupt("chunk %d of a message of %d, of at most %d", h.index, h.count, maxCount)
	case h.index < h.count-1 && h.length < headerSize+minSize:
		return h, nil, corrupt("chunk %d of a message of %d has %d bytes of data, fewer than %d", h.index, h.count, h.length-headerSize, minSize)
	}
	return h, b[headerSize:h.length], nil
}

// chunks cuts msg into chunks and hands each, as the parts that make it, to send together with its index. The parts are lent until send returns.
func chunks(msg transport.Slices, stream uint32, send func(index uint32, parts ...[]byte) error) error {
	total := msg.Len()
	n := (total + chunkSize - 1) / chunkSize
	if n > math.MaxUint32 {
		return fmt.Errorf("%w: a message of %d bytes has more chunks than can be counted", transport.ErrTooLarge, total)
	}
	var head [headerSize]byte
	parts := make([][]byte, 1, 4)
	part, at := 0, 0
	for i := range n {
		size := min(chunkSize, total-i*chunkSize)
		parts = append(parts[:0], header{typeBytes, headerSize + uint32(size), stream, uint32(i), uint32(n)}.append(head[:0]))
		for size > 0 {
			p := msg[part][at:]
			if int64(len(p)) > size {
				p = p[:size]
			}
			if at += len(p); at == len(msg[part]) {
				part, at = part+1, 0
			}
			if len(p) > 0 {
				parts = append(parts, p)
			}
			size -= int64(len(p))
		}
		if err := send(uint32(i), parts...); err != nil {
			return err
		}
	}
	return nil
}

// message is one on its way in.
type message struct {
	count, got uint32
	size       uint32            // of every chunk but the last; 0 until one of those came
	buf        *transport.Buffer // capacity so far; nil while nothing is kept
	seen       []uint64          // a bit for each chunk of those up to the farthest that came
	bytes      int64             // that came
	end        int64             // length of the message; 0 until the last chunk came
	early      []byte            // the last chunk, as long as where it belongs is not known
	dropped    error             // why only the first chunk and the last two are kept
	head       []byte            // if dropped
	tails      [2][]byte
}

// assembler puts messages together. It belongs to one goroutine at a time.
type assembler struct {
	pool    *transport.Pool
	max     int64 // bytes of one message
	budget  int64 // bytes of capacity of all messages together
	used    int64
	kept    int64 // bytes beside used that messages under way hold; at most budget too
	streams map[uint32]*message
}

func newAssembler(pool *transport.Pool, limit, budget int64) *assembler {
	return &assembler{pool: pool, max: limit, budget: budget, streams: map[uint32]*message{}}
}

// dropped is a message of which only the beginning and the end were kept.
type dropped struct {
	size       int64
	head, tail []byte
	err        error // why: ErrTooLarge or ErrFull
}

// add takes in one chunk, whose data it borrows. It returns the message if that is complete now, which the caller owns, or what was kept of one that was
// too large. After an error the assembler must not be used but to close it.
func (a *assembler) add(h header, data []byte) (*transport.Buffer, *dropped, error) {
	m := a.streams[h.stream]
	if m == nil {
		if len(a.streams) >= maxStreams {
			return nil, nil, corrupt("more than %d messages were begun and not ended", maxStreams)
		}
		m = &message{count: h.count}
		a.streams[h.stream] = m
	}
	last, kept := h.index == h.count-1, m.kept()
	switch {
	case m.count != h.count:
		return nil, nil, corrupt("chunks of one message say that it has %d and %d of them", m.count, h.count)
	case !last && m.size == 0:
		if m.size = uint32(len(data)); uint64(len(m.early)) > uint64(m.size) {
			return nil, nil, corrupt("the last chunk of a message is longer than others")
		}
	case !last && m.size != uint32(len(data)):
		return nil, nil, corrupt("chunks of one message have %d and %d bytes", m.size, len(data))
	case last && m.size != 0 && uint32(len(data)) > m.size:
		return nil, nil, corrupt("the last chunk of a message is longer than others")
	}
	if int64(h.index) > maxAhead/max(int64(m.size), 1)+int64(m.got) && !last {
		return nil, nil, corrupt("chunk %d of a message came after %d others", h.index, m.got)
	}
	if !m.mark(h.index, last) {
		return nil, nil, corrupt("chunk %d of a message came twice", h.index)
	}
	m.got++
	m.bytes += int64(len(data))
	if err := a.place(m, h.index, last, data); err != nil {
		return nil, nil, err
	}
	a.kept += m.kept() - kept
	if m.got < m.count {
		if a.kept > a.budget {
			return nil, nil, corrupt("more than %d bytes are left of messages that are under way and too large", a.budget)
		}
		return nil, nil, nil
	}
	delete(a.streams, h.stream)
	a.kept -= m.kept()
	if m.dropped != nil {
		return nil, &dropped{m.bytes, m.head, append(m.tails[0], m.tails[1]...), m.dropped}, nil
	}
	a.used -= int64(m.buf.Len())
	if int64(m.buf.Len()) == m.end {
		return m.buf, nil, nil
	}
	whole := m.buf.Slice(0, int(m.end))
	m.buf.Release()
	return whole, nil, nil
}

// kept is the memory that the message takes beside its buffer and an early chunk.
func (m *message) kept() int64 {
	return int64(8*cap(m.seen) + len(m.head) + len(m.tails[0]) + len(m.tails[1]))
}

// mark notes that the chunk came, and reports whether it had not before. The last chunk, which may come long before the others, needs no bit.
func (m *message) mark(index uint32, last bool) bool {
	if last {
		first := m.end == 0 && m.early == nil && m.tails[1] == nil
		return first
	}
	word := int(index / 64)
	if word >= len(m.seen) {
		m.seen = append(m.seen, make([]uint64, word+1-len(m.seen))...)
	}
	bit := uint64(1) << (index % 64)
	if m.seen[word]&bit != 0 {
		return false
	}
	m.seen[word] |= bit
	return true
}

// place puts the chunk's data where it belongs.
func (a *assembler) place(m *message, index uint32, last bool, data []byte) error {
	if last && m.count > 1 && m.size == 0 {
		if a.used+int64(len(data)) > a.budget {
			return corrupt("more than %d bytes of messages are under way", a.budget)
		}
		a.used += int64(len(data))
		m.early = append([]byte{}, data...) // how long the others are is not known yet
		return nil
	}
	off := int64(index) * int64(m.size)
	if m.dropped == nil {
		most := int64(m.count-1)*int64(m.size) + 1 // at least so long is the message
		if last {
			m.end = off + int64(len(data))
			most = m.end
		}
		if most > a.max {
			a.drop(m, fmt.Errorf("%w: a message of %d bytes or more; raise max_object_size, which allows objects of %d", transport.ErrTooLarge, most, a.max-overhead))
		} else if !a.room(m, off+int64(len(data)), most) {
			a.drop(m, fmt.Errorf("%w: messages of more than %d bytes are under way from this peer; try again", transport.ErrFull, a.budget))
		}
	}
	if m.dropped != nil {
		m.keep(index, data)
	} else {
		copy(m.buf.Bytes()[off:], data)
	}
	if early := m.early; early != nil {
		m.early = nil
		a.used -= int64(len(early))
		return a.place(m, m.count-1, true, early)
	}
	return nil
}

// room makes the message's memory at least need bytes long, of at least most that it will have. It reports whether the budget allows that.
func (a *assembler) room(m *message, need, most int64) bool {
	var have int64
	if m.buf != nil {
		have = int64(m.buf.Len())
	}
	if need <= have {
		return true
	}
	// Twice what is there, so that all copying together is less than the message; what the message has at least, if that is near.
	grown := max(need, 2*have, min(most, firstCapacity))
	if most > need && most < 2*grown {
		grown = most + chunkSize
	}
	if m.end > 0 {
		grown = min(grown, m.end)
		if need > m.end {
			return false // cannot be: a chunk beyond the last
		}
	}
	if a.used+grown-have > a.budget {
		return false
	}
	a.used += grown - have
	buf := a.pool.Get(int(grown))
	if m.buf != nil {
		copy(buf.Bytes(), m.buf.Bytes())
		m.buf.Release()
	}
	m.buf = buf
	return true
}

// drop gives up keeping the message, but for what tells who asked for what.
func (a *assembler) drop(m *message, why error) {
	m.dropped = why
	if m.buf == nil {
		return
	}
	if len(m.seen) > 0 && m.seen[0]&1 != 0 {
		m.keep(0, m.buf.Bytes()[:m.size])
	}
	// Of the last two only the one before the last can have come: with the last the length was known.
	if i := m.count - 2; m.count > 1 && int(i/64) < len(m.seen) && m.seen[i/64]&(1<<(i%64)) != 0 {
		if end := int64(i+1) * int64(m.size); end <= int64(m.buf.Len()) { // else it is the one that is about to be placed
			m.keep(i, m.buf.Bytes()[end-int64(m.size):end])
		}
	}
	a.used -= int64(m.buf.Len())
	m.buf.Release()
	m.buf = nil
}

func (m *message) keep(index uint32, data []byte) {
	data = append([]byte{}, data...)
	switch {
	case index == m.count-1:
		m.tails[1] = data
	case index == 0:
		m.head = data
	case index == m.count-2:
		m.tails[0] = data
	}
}

// close releases everything.
func (a *assembler) close() {
	for _, m := range a.streams {
		m.buf.Release()
	}
	a.streams = nil
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{transport.ErrCorrupt}, args...)...)
}
