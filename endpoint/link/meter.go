package link

import (
	"sync"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
)

// meter counts bytes and how many there were in the last second.
type meter struct {
	mu         sync.Mutex
	total      int64
	slot       time.Time // when cur began
	cur, prev  int64
	everything bool // prev holds a whole second
}

const meterSlot = time.Second

func (m *meter) add(n int64, now time.Time) {
	m.mu.Lock()
	m.roll(now)
	m.total += n
	m.cur += n
	m.mu.Unlock()
}

// roll begins a new slot when the current one is over. Under mu.
func (m *meter) roll(now time.Time) {
	age := now.Sub(m.slot)
	switch {
	case age < meterSlot:
	case age < 2*meterSlot:
		m.prev, m.cur, m.slot, m.everything = m.cur, 0, m.slot.Add(meterSlot), true
	default:
		m.prev, m.cur, m.slot, m.everything = 0, 0, now, false
	}
}

// read returns the bytes so far, and those per second lately.
func (m *meter) read(now time.Time) (total int64, rate float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.roll(now)
	age := min(now.Sub(m.slot), meterSlot)
	if !m.everything {
		return m.total, float64(m.cur) / max(age.Seconds(), 0.1)
	}
	left := 1 - age.Seconds()/meterSlot.Seconds()
	return m.total, (float64(m.cur) + left*float64(m.prev)) / meterSlot.Seconds()
}

// traffic is told of every piece that moved.
type traffic interface {
	moved(in, out int64)
}

// counted is a Carrier that tells of its traffic. It hides what else the Carrier below can do: files are of no use between sites.
type counted struct {
	native.Carrier
	to traffic
}

// readPiece is how much of a body is read before it is told: on a slow path that is the sign of life.
const readPiece = 128 << 10

func (c *counted) ReadFrame(h *native.Header) ([]byte, error) {
	meta, err := c.Carrier.ReadFrame(h)
	if err == nil {
		c.to.moved(native.HeaderSize+int64(len(meta)), 0)
	}
	return meta, err
}

func (c *counted) ReadBody(dst []byte) (int, error) {
	for n := 0; ; {
		k, err := c.Carrier.ReadBody(dst[n:min(n+readPiece, len(dst))])
		n += k
		c.to.moved(int64(k), 0)
		if err != nil || n == len(dst) {
			return n, err
		}
	}
}

func (c *counted) WriteFrame(h *native.Header, meta []byte, body transport.Slices) error {
	err := c.Carrier.WriteFrame(h, meta, body)
	if err == nil {
		c.to.moved(0, native.HeaderSize+int64(len(meta))+body.Len())
	}
	return err
}
