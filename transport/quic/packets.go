package quic

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
)

const (
	// maxOther bounds the bytes of packets that are not QUIC and wait for their reader. quic-go's own queue holds 32 packets, 3 ms of a data channel at 100
	// Mbit/s, and the goroutine that fills it does not pause while the kernel's buffer has more; the reader is not always there so soon.
	maxOther = 4 << 20
	// otherCost is what a queued packet costs beside its bytes.
	otherCost = 128
	// maxPacket is the longest packet that quic-go takes from the socket; a longer one comes cut off.
	maxPacket = 1452
	// gatherShort and gatherLong are for how long packets that are not QUIC may gather in the socket, once gatherFrom of them came within gatherSpan. Data
	// channels acknowledge nearly every packet, and where each of those wakes a reader, that takes more of both ends' processors than all else (the
	// sender's system does the waking, if both are on one machine). What is not longer than shortPacket is an acknowledgement, which may wait; data
	// that waits holds up whoever has sent it.
	gatherShort = 1500 * time.Microsecond
	gatherLong  = 500 * time.Microsecond
	gatherSpan  = 3 * time.Millisecond
	gatherFrom  = 12
	shortPacket = 200
	// socketBuffer is what the kernel is asked to hold, either way.
	socketBuffer = 7 << 20
)

// notQUIC reports whether a packet is one of STUN or DTLS (see the package's text). An empty packet is nobody's.
func notQUIC(b []byte) bool { return len(b) > 0 && b[0]&0xc0 == 0 }

// packets is a queue of the packets that are not QUIC, as a net.PacketConn. It is filled by whoever reads the socket for quic-go.
type packets struct {
	pc net.PacketConn

	mu       sync.Mutex
	ready    sync.Cond // broadcast when there is a packet, the end, or a deadline
	queue    []packet  // a ring of n from first
	first, n int
	bytes    int
	free     [][]byte
	wanted   bool // somebody has asked for it
	closed   bool
	deadline time.Time
	timer    *time.Timer
	write    time.Time
}

type packet struct {
	data []byte
	from net.Addr
}

func newPackets(pc net.PacketConn) *packets {
	p := &packets{pc: pc}
	p.ready.L = &p.mu
	return p
}

func (p *packets) want() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = true
}

// put queues a copy of b.
func (p *packets) put(b []byte, from net.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.wanted || p.closed || len(b) >= maxPacket || from == nil || p.bytes+len(b)+otherCost > maxOther {
		return
	}
	var data []byte
	if k := len(p.free); k > 0 {
		data, p.free = p.free[k-1], p.free[:k-1]
	} else {
		data = make([]byte, 0, maxPacket)
	}
	if p.n == len(p.queue) {
		grown := make([]packet, max(16, 2*p.n))
		k := copy(grown, p.queue[p.first:])
		copy(grown[k:], p.queue[:p.first])
		p.queue, p.first = grown, 0
	}
	p.queue[(p.first+p.n)%len(p.queue)] = packet{data: append(data, b...), from: from}
	p.n++
	p.bytes += len(b) + otherCost
	p.ready.Signal()
}

// ReadFrom implements net.PacketConn. A packet that is longer than b is cut off, as those of a UDP socket are.
func (p *packets) ReadFrom(b []byte) (int, net.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.closed:
			return 0, nil, p.fail("read", net.ErrClosed)
		case expired(p.deadline):
			return 0, nil, p.fail("read", os.ErrDeadlineExceeded)
		case p.n > 0:
			q := p.queue[p.first]
			p.queue[p.first] = packet{}
			p.first = (p.first + 1) % len(p.queue)
			p.n--
			p.bytes -= len(q.data) + otherCost
			n := copy(b, q.data)
			if len(p.free) < 256 {
				p.free = append(p.free, q.data[:0])
			}
			return n, q.from, nil
		}
		p.ready.Wait()
	}
}

// WriteTo implements net.PacketConn.
func (p *packets) WriteTo(b []byte, to net.Addr) (int, error) {
	p.mu.Lock()
	closed, late := p.closed, expired(p.write)
	p.mu.Unlock()
	switch {
	case closed:
		return 0, p.fail("write", net.ErrClosed)
	case late:
		return 0, p.fail("write", os.ErrDeadlineExceeded)
	}
	return p.pc.WriteTo(b, to)
}

// UDP lends the socket below, for writes that WriteTo cannot do; nil if it is none.
func (p *packets) UDP() *net.UDPConn {
	uc, _ := p.pc.(*net.UDPConn)
	return uc
}

func expired(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

func (p *packets) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "udp", Source: p.pc.LocalAddr(), Err: err}
}

// Close implements net.PacketConn. The socket stays open.
func (p *packets) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.queue, p.free, p.n, p.first, p.bytes = nil, nil, 0, 0, 0
	if p.timer != nil {
		p.timer.Stop()
	}
	p.ready.Broadcast()
	return nil
}

func (p *packets) LocalAddr() net.Addr { return p.pc.LocalAddr() }

func (p *packets) SetDeadline(t time.Time) error {
	p.SetWriteDeadline(t)
	return p.SetReadDeadline(t)
}

func (p *packets) SetReadDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deadline = t
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	if !t.IsZero() && !p.closed {
		p.timer = time.AfterFunc(time.Until(t), func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.ready.Broadcast()
		})
	}
	p.ready.Broadcast()
	return nil
}

// SetWriteDeadline implements net.PacketConn. A write to a UDP socket does not wait for anybody, so the deadline is looked at before it only.
func (p *packets) SetWriteDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.write = t
	return nil
}

// source returns what quic-go reads from: the socket less the packets that are not QUIC.
func (p *packets) source() net.PacketConn {
	if uc, ok := p.pc.(*net.UDPConn); ok {
		return &udpSource{UDPConn: uc, p: p, batch: ipv4.NewPacketConn(uc)}
	}
	return &plainSource{PacketConn: p.pc, p: p}
}

// take reads packets until one is QUIC.
func (p *packets) take(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := p.pc.ReadFrom(b)
		if err != nil || !notQUIC(b[:n]) {
			return n, from, err
		}
		p.put(b[:n], from)
	}
}

// plainSource is any net.PacketConn. quic-go sends and receives one packet per call on it.
type plainSource struct {
	net.PacketConn
	p *packets
}

func (s *plainSource) ReadFrom(b []byte) (int, net.Addr, error) { return s.p.take(b) }

// SetReadBuffer and SetWriteBuffer are asked for by quic-go, which complains through package log where there are none.
func (s *plainSource) SetReadBuffer(int) error  { return nil }
func (s *plainSource) SetWriteBuffer(int) error { return nil }

// udpSource is a UDP socket with all that quic-go makes of one.
type udpSource struct {
	*net.UDPConn
	p      *packets
	batch  *ipv4.PacketConn
	sized  bool // SetWriteBuffer was called
	gather gather
	pause  time.Duration // before the next batch
}

// gather decides when a reader should wait for more packets to come together. It belongs to the one goroutine that reads.
type gather struct {
	began   time.Time // of the span in which packets are counted
	n, long int       // all that came in it, and those that are longer than shortPacket
}

// came counts n packets, and returns for how long those that come next should gather. drained says that there were no more.
func (g *gather) came(n, long int, drained bool, now time.Time) time.Duration {
	if now.Sub(g.began) > gatherSpan {
		*g = gather{began: now}
	}
	g.n += n
	g.long += long
	switch {
	case !drained || g.n < gatherFrom:
		return 0
	case g.long < g.n/4:
		return gatherShort
	}
	return gatherLong
}

// ReadFrom is what quic-go calls where the system has no recvmmsg.
func (s *udpSource) ReadFrom(b []byte) (int, net.Addr, error) { return s.p.take(b) }

// ReadBatch is what it calls elsewhere. A packet that is not QUIC stays in ms with no bytes, which quic-go passes over.
func (s *udpSource) ReadBatch(ms []ipv4.Message, flags int) (int, error) {
	time.Sleep(s.pause) // now, when the last ones have been handed on
	n, err := s.batch.ReadBatch(ms, flags)
	others, long := 0, 0
	for i := range max(n, 0) {
		m := &ms[i]
		if b := m.Buffers[0][:m.N]; notQUIC(b) {
			s.p.put(b, m.Addr)
			others++
			if m.N > shortPacket {
				long++
			}
			m.N, m.NN = 0, 0
		}
	}
	s.pause = 0
	if others > 0 {
		s.pause = s.gather.came(others, long, n < len(ms), time.Now())
	}
	return n, err
}

// SyscallConn is refused until the buffers are sized. quic-go asks for it first to see whether they became as large as it wanted, and if they did not,
// says so through package log, on standard error of whoever uses this package; refused, it believes SetReadBuffer and SetWriteBuffer.
// After those two it asks again, for the options of the socket.
func (s *udpSource) SyscallConn() (syscall.RawConn, error) {
	if !s.sized {
		return nil, errNotSized
	}
	return s.UDPConn.SyscallConn()
}

var errNotSized = &net.OpError{Op: "set", Net: "udp", Err: os.ErrInvalid}

func (s *udpSource) SetReadBuffer(int) error {
	return s.UDPConn.SetReadBuffer(socketBuffer) // as much as the system grants
}

func (s *udpSource) SetWriteBuffer(int) error {
	s.sized = true
	err := s.UDPConn.SetWriteBuffer(socketBuffer)
	forceBuffers(s.UDPConn)
	return err
}
