package webrtc

import (
	"errors"
	"net"
	"net/netip"
	"sync"

	"github.com/pion/dtls/v3"
)

const (
	// senderQueue is how many bytes of SCTP packets may wait for DTLS before SCTP waits.
	senderQueue = 512 << 10
	// maxSegments and maxSegmented bound what is handed to the system at once: Linux takes 64 packets of one length, and a datagram's worth of bytes.
	maxSegments, maxSegmented = 64, 60 << 10
)

// sender is the DTLS connection as SCTP sees it. Writes only queue a packet, and a goroutine encrypts and sends what has gathered: SCTP hands out a whole
// window's worth at once, so that many packets of one length leave by one system call, while SCTP works on the next ones.
type sender struct {
	*dtls.Conn
	p        *port
	inflight *inflight // nil: nothing bounds it here

	mu      sync.Mutex
	changed sync.Cond // broadcast when any of these changed
	data    []byte    // packets, one after the other
	ends    []int     // where each ends
	err     error
	closed  bool
	done    chan struct{} // closed when run has ended
}

func newSender(c *dtls.Conn, p *port, t Tuning) *sender {
	s := &sender{Conn: c, p: p, done: make(chan struct{})}
	if t.PeerBuffer > 0 {
		s.inflight = newInflight(t.PeerBuffer)
	}
	s.changed.L = &s.mu
	go s.run()
	return s
}

// Write queues a copy of b. An error is one of an earlier packet.
func (s *sender) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.data)+len(b) > senderQueue && len(s.data) > 0 && s.err == nil && !s.closed {
		s.changed.Wait()
	}
	switch {
	case s.err != nil:
		return 0, s.err
	case s.closed:
		return 0, net.ErrClosed
	}
	if len(s.data) == 0 {
		s.changed.Broadcast()
	}
	s.data = append(s.data, b...)
	s.ends = append(s.ends, len(s.data))
	return len(b), nil
}

// Read reads a packet for SCTP.
func (s *sender) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if s.inflight != nil && n > 0 {
		s.inflight.receive(b[:n])
	}
	return n, err
}

func (s *sender) run() {
	defer close(s.done)
	var data []byte
	var ends []int
	for {
		s.mu.Lock()
		for len(s.ends) == 0 && !s.closed {
			s.changed.Wait()
		}
		if len(s.ends) == 0 {
			s.mu.Unlock()
			return
		}
		data, s.data = s.data, data[:0]
		ends, s.ends = s.ends, ends[:0]
		s.changed.Broadcast()
		s.mu.Unlock()

		s.p.hold()
		from := 0
		var err error
		for _, end := range ends {
			if s.inflight != nil {
				s.inflight.send(data[from:end])
			}
			if _, err = s.Conn.Write(data[from:end]); err != nil {
				break
			}
			from = end
		}
		s.p.release()
		if err != nil {
			s.mu.Lock()
			s.err = err
			s.data, s.ends = nil, nil
			s.changed.Broadcast()
			s.mu.Unlock()
		}
	}
}

// Close sends what is queued, and DTLS's good-bye.
func (s *sender) Close() error {
	s.mu.Lock()
	s.closed = true
	s.changed.Broadcast()
	s.mu.Unlock()
	<-s.done
	return s.Conn.Close()
}

// batch is what a port holds back: packets one after the other, to be sent with few system calls.
type batch struct {
	mu     sync.Mutex
	held   bool
	single bool // the system did not take several at once
	data   []byte
	ends   []int
}

// hold keeps back the packets written from now on, until release.
func (p *port) hold() {
	p.batch.mu.Lock()
	defer p.batch.mu.Unlock()
	p.batch.held = true
}

func (p *port) release() {
	p.batch.mu.Lock()
	defer p.batch.mu.Unlock()
	p.batch.held = false
	p.flush()
}

// add takes b if packets are held back now.
func (p *port) add(b []byte) bool {
	p.batch.mu.Lock()
	defer p.batch.mu.Unlock()
	if !p.batch.held || p.batch.single {
		return false
	}
	if len(p.batch.ends) == maxSegments {
		p.flush()
	}
	p.batch.data = append(p.batch.data, b...)
	p.batch.ends = append(p.batch.ends, len(p.batch.data))
	return true
}

// flush sends what is held back. p.batch.mu is held.
func (p *port) flush() {
	b := &p.batch
	from := 0
	for i := 0; i < len(b.ends); {
		// As many as have the length of the first, and one shorter one at the end.
		size, n, end := b.ends[i]-from, 1, b.ends[i]
		for i+n < len(b.ends) && n < maxSegments {
			next := b.ends[i+n]
			if next-end > size || next-from > maxSegmented {
				break
			}
			n++
			short := next-end < size
			end = next
			if short {
				break
			}
		}
		if to := p.a.route.Load(); n == 1 || b.single || to == nil || !p.sendSegments(b.data[from:end], size, *to) {
			for one := from; one < end; one += size {
				p.send(b.data[one:min(one+size, end)])
			}
		}
		i, from = i+n, end
	}
	b.data, b.ends = b.data[:0], b.ends[:0]
}

// sendSegments sends packets of one length, the last of which may be shorter, and reports whether that was possible.
func (p *port) sendSegments(b []byte, size int, to netip.AddrPort) bool {
	err := p.a.c.Mux.pc.writeSegments(b, size, to)
	if err == nil || errors.Is(err, net.ErrClosed) {
		return true
	}
	if segmentsRefused(err) {
		p.batch.single = true
	}
	return false
}
