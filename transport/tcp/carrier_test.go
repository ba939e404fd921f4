package tcp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
)

// pattern returns n bytes that depend on seed.
func pattern(seed, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8 + seed*13)
	}
	return b
}

// readAll reads one frame with its body, going on after interrupts, whose number it returns.
func readAll(c native.Carrier, h *native.Header) (meta, body []byte, interrupts int, err error) {
	m, err := c.ReadFrame(h)
	for errors.Is(err, native.ErrInterrupted) {
		interrupts++
		m, err = c.ReadFrame(h)
	}
	if err != nil {
		return nil, nil, interrupts, err
	}
	body = make([]byte, h.Body)
	for n := 0; n < len(body); {
		k, err := c.ReadBody(body[n:])
		n += k
		if errors.Is(err, native.ErrInterrupted) {
			interrupts++
		} else if err != nil {
			return nil, nil, interrupts, err
		}
	}
	return bytes.Clone(m), body, interrupts, nil // the body is read while the metadata is lent
}

type frame struct {
	meta int
	body []int // lengths of the parts
}

func (f frame) make(seed int) (h native.Header, meta []byte, body transport.Slices) {
	h = native.Header{Type: 7, Flags: 3, Code: uint16(seed), ID: uint32(seed), Off: 1 << 40, Size: 1 << 41, Sum: 1 << 63}
	for i, n := range f.body {
		body = append(body, pattern(seed+i, n))
	}
	return h, pattern(seed, f.meta), body
}

var frames = []frame{
	{}, {meta: 1}, {body: []int{1}}, {meta: 36, body: []int{1000}}, {meta: 36, body: []int{0, 3, 0, 100_000, 0}}, {body: []int{0, 0}},
	{meta: readBuffer - native.HeaderSize}, {meta: readBuffer}, {meta: readBuffer + 1, body: []int{5}}, {meta: native.MaxMeta, body: []int{1 << 20}},
	{meta: 3000, body: []int{gather}}, {body: []int{gather - native.HeaderSize}}, {body: []int{gather - native.HeaderSize + 1}},
	{meta: 1000, body: []int{3 << 20, 1, 2 << 20}}, {body: make([]int, 3000)}, {body: []int{maxBody}}, {meta: 20}, {meta: 20, body: []int{16 << 10}},
}

func TestRoundTrip(t *testing.T) {
	for _, spin := range []time.Duration{0, 20 * time.Microsecond} {
		t.Run(fmt.Sprintf("spin=%v", spin), func(t *testing.T) {
			each(t, CarrierOptions{BusyPoll: spin}, func(t *testing.T, a, b *carrier) {
				go func() {
					for i, f := range frames {
						h, meta, body := f.make(i)
						for j := range body {
							if f.body[j] == 0 && len(f.body) > 1000 { // more parts than one writev takes
								body[j] = pattern(j, 1)
							}
						}
						if err := a.WriteFrame(&h, meta, body); err != nil {
							t.Errorf("frame %d: %v", i, err)
						}
					}
					a.Close()
				}()
				for i, f := range frames {
					var h native.Header
					meta, body, _, err := readAll(b, &h)
					if err != nil {
						t.Fatalf("frame %d: %v", i, err)
					}
					want, wantMeta, parts := f.make(i)
					want.Meta, want.Body = uint32(f.meta), h.Body
					if h != want || !bytes.Equal(meta, wantMeta) {
						t.Errorf("frame %d: %+v, %d bytes of metadata, want %+v", i, h, len(meta), want)
					}
					if len(f.body) < 1000 && !bytes.Equal(body, parts.Join()) || len(f.body) > 1000 && len(body) != len(f.body) {
						t.Errorf("frame %d: another body", i)
					}
				}
				var h native.Header
				if _, err := b.ReadFrame(&h); err != io.EOF {
					t.Errorf("after the last frame: %v, want io.EOF", err)
				}
			})
		})
	}
}

// Bodies may be read in any pieces.
func TestReadBodyInPieces(t *testing.T) {
	each(t, CarrierOptions{}, func(t *testing.T, a, b *carrier) {
		const n = 50
		go func() {
			for i := range n {
				h := native.Header{ID: uint32(i)}
				if err := a.WriteFrame(&h, pattern(i, i*11), transport.Slices{pattern(i, i*997)}); err != nil {
					t.Error(err)
				}
			}
		}()
		rnd := rand.New(rand.NewPCG(1, 2))
		for i := range n {
			var h native.Header
			meta, err := b.ReadFrame(&h)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.ReadBody(make([]byte, h.Body+1)); err == nil {
				t.Error("more than the body was read")
			}
			if h.Body > 0 {
				if _, err := b.ReadFrame(new(native.Header)); err == nil {
					t.Error("a frame inside a frame")
				}
			}
			body := make([]byte, h.Body)
			for off := 0; off < len(body); {
				k := min(len(body)-off, 1+rnd.IntN(8000))
				if m, err := b.ReadBody(body[off : off+k]); m != k || err != nil {
					t.Fatalf("ReadBody = %d, %v", m, err)
				}
				off += k
			}
			if !bytes.Equal(meta, pattern(i, i*11)) || !bytes.Equal(body, pattern(i, i*997)) {
				t.Fatalf("frame %d differs", i)
			}
		}
	})
}

// Frames of many goroutines come whole, and those of one goroutine in its order, whatever waits in the queue.
func TestConcurrentWriters(t *testing.T) {
	each(t, CarrierOptions{}, func(t *testing.T, a, b *carrier) {
		const writers, each = 16, 80
		var wg sync.WaitGroup
		for g := range writers {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(g), 1))
				for i := range each {
					n := rnd.IntN(200)
					if rnd.IntN(8) == 0 {
						n = rnd.IntN(300_000)
					}
					h := native.Header{ID: uint32(g), Off: uint64(i)}
					if err := a.WriteFrame(&h, pattern(i, rnd.IntN(100)), transport.Slices{pattern(g+i, n)}); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		var next [writers]uint64
		for range writers * each {
			var h native.Header
			_, body, _, err := readAll(b, &h)
			if err != nil {
				t.Fatal(err)
			}
			if h.Off != next[h.ID] {
				t.Fatalf("frame %d of writer %d came where %d was due", h.Off, h.ID, next[h.ID])
			}
			next[h.ID]++
			if !bytes.Equal(body, pattern(int(h.ID)+int(h.Off), len(body))) {
				t.Fatal("another body")
			}
		}
		wg.Wait()
		if n := a.queue.n.Load(); n != 0 {
			t.Errorf("%d bytes stay in the queue", n)
		}
	})
}

// A frame that waits behind one under way leaves without anybody writing another: nothing is forgotten in the queue.
func TestQueueIsFlushed(t *testing.T) {
	a, b := kinds["unix"](t, CarrierOptions{})
	big := pattern(1, 4<<20)
	first := make(chan error, 1)
	go func() {
		h := native.Header{ID: 1}
		first <- a.WriteFrame(&h, nil, transport.Slices{big})
	}()
	for a.turn.TryLock() { // until the first writer has the turn; it keeps it, as nobody reads
		a.turn.Unlock()
	}
	for i := range 10 {
		h := native.Header{ID: uint32(2 + i)}
		if err := a.WriteFrame(&h, nil, transport.Slices{pattern(i, 100)}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 11 {
		var h native.Header
		if _, _, _, err := readAll(b, &h); err != nil || h.ID != uint32(i+1) {
			t.Fatalf("frame %d: %+v, %v", i, h, err)
		}
	}
	if err := <-first; err != nil {
		t.Error(err)
	}
}

// Whatever the header claims, nothing but the connection is lost.
func TestBadLengths(t *testing.T) {
	for _, h := range []native.Header{{Meta: native.MaxMeta + 1}, {Body: maxBody + 1}, {Meta: 1<<32 - 1}, {Body: 1<<32 - 1}} {
		a, b := connect(t, "tcp", "127.0.0.1:0")
		c := newCarrier(b, CarrierOptions{})
		if _, err := a.Write(h.Append(nil)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.ReadFrame(&native.Header{}); !errors.Is(err, transport.ErrCorrupt) {
			t.Errorf("%+v: %v", h, err)
		}
		if err := c.WriteFrame(&native.Header{}, make([]byte, native.MaxMeta+1), nil); !errors.Is(err, transport.ErrTooLarge) {
			t.Errorf("WriteFrame: %v", err)
		}
		if err := c.WriteFrame(&native.Header{}, nil, transport.Slices{make([]byte, maxBody), {1}}); !errors.Is(err, transport.ErrTooLarge) {
			t.Errorf("WriteFrame: %v", err)
		}
	}
}

// The connection ends at every byte of two frames: all frames that came whole are read, then io.EOF between frames and ErrUnavailable within one.
func TestCutAnywhere(t *testing.T) {
	var stream []byte
	var ends []int
	for i, f := range []frame{{meta: 30, body: []int{100}}, {meta: 5}, {body: []int{60}}} {
		h, meta, body := f.make(i)
		h.Meta, h.Body = uint32(len(meta)), uint32(body.Len())
		stream = body.AppendTo(append(h.Append(stream), meta...))
		ends = append(ends, len(stream))
	}
	for cut := range len(stream) + 1 {
		a, b := connect(t, "tcp", "127.0.0.1:0")
		c := newCarrier(b, CarrierOptions{})
		a.Write(stream[:cut])
		a.Close()
		whole := 0
		var err error
		for err == nil {
			_, _, _, err = readAll(c, &native.Header{})
			whole++
		}
		whole--
		between := cut == 0
		for i, end := range ends {
			if between = between || cut == end; (cut >= end) != (whole > i) {
				t.Errorf("cut at %d: %d frames", cut, whole)
			}
		}
		if between != (err == io.EOF) || !between && !errors.Is(err, transport.ErrUnavailable) {
			t.Errorf("cut at %d: %v", cut, err)
		}
		c.Close()
	}
}

// An interrupt stops a read at any byte, and nothing is lost.
func TestInterruptAtEveryByte(t *testing.T) {
	each(t, CarrierOptions{}, func(t *testing.T, a, b *carrier) {
		var stream []byte
		for i, f := range []frame{{meta: 30, body: []int{60}}, {meta: 20}} {
			h, meta, body := f.make(i)
			h.Meta, h.Body = uint32(len(meta)), uint32(body.Len())
			stream = body.AppendTo(append(h.Append(stream), meta...))
		}
		read := make(chan error)
		resume := make(chan bool)
		go func() {
			for range 2 {
				meta, err := b.ReadFrame(&b.head)
				for ; errors.Is(err, native.ErrInterrupted); meta, err = b.ReadFrame(&b.head) {
					read <- err
					<-resume
				}
				if err != nil {
					read <- err
					return
				}
				h := b.head
				meta = bytes.Clone(meta)
				body := make([]byte, h.Body)
				for n := 0; n < len(body); {
					k, err := b.ReadBody(body[n:])
					n += k
					if errors.Is(err, native.ErrInterrupted) {
						read <- err
						<-resume
					} else if err != nil {
						read <- err
						return
					}
				}
				_, wantMeta, wantBody := frame{meta: len(meta), body: []int{len(body)}}.make(int(h.ID))
				if !bytes.Equal(meta, wantMeta) || !bytes.Equal(body, wantBody.Join()) {
					t.Error("what was read in pieces differs")
				}
			}
			read <- nil
		}()
		for i := range stream {
			b.Interrupt()
			if err := <-read; !errors.Is(err, native.ErrInterrupted) {
				t.Fatalf("at byte %d: %v", i, err)
			}
			resume <- true
			if _, err := a.nc.Write(stream[i : i+1]); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-read; err != nil {
			t.Error(err)
		}
	})
}

// Interrupts that race with reads: each is seen once, by a read that would block, and none stops the connection.
func TestInterruptStress(t *testing.T) {
	each(t, CarrierOptions{BusyPoll: time.Microsecond}, func(t *testing.T, a, b *carrier) {
		const n = 1000
		var sent, seen atomic.Int64
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						b.Interrupt()
						sent.Add(1)
					}
				}
			})
		}
		wg.Go(func() {
			for i := range n {
				h := native.Header{ID: uint32(i)}
				if err := a.WriteFrame(&h, pattern(i, i%100), transport.Slices{pattern(i, i%7000)}); err != nil {
					t.Error(err)
					return
				}
			}
		})
		for i := range n {
			var h native.Header
			meta, body, k, err := readAll(b, &h)
			if err != nil {
				t.Fatalf("frame %d: %v", i, err)
			}
			seen.Add(int64(k))
			if h.ID != uint32(i) || !bytes.Equal(meta, pattern(i, i%100)) || !bytes.Equal(body, pattern(i, i%7000)) {
				t.Fatalf("frame %d differs", i)
			}
		}
		close(stop)
		wg.Wait()
		b.gate.mu.Lock()
		late := b.gate.pending
		b.gate.mu.Unlock()
		var h native.Header
		if late {
			if _, err := b.ReadFrame(&h); !errors.Is(err, native.ErrInterrupted) {
				t.Errorf("a pending interrupt: %v", err)
			}
		}
		if seen.Load() > sent.Load() {
			t.Errorf("%d interrupts were seen, of %d", seen.Load(), sent.Load())
		}
		// An interrupt with no read under way stops the next one, once, and two that nobody has seen yet are one; the read after that gets the frame.
		b.Interrupt()
		b.Interrupt()
		if _, err := b.ReadFrame(&h); !errors.Is(err, native.ErrInterrupted) {
			t.Errorf("after an interrupt: %v", err)
		}
		if err := a.WriteFrame(&h, nil, nil); err != nil {
			t.Error(err)
		}
		if _, err := b.ReadFrame(&h); err != nil {
			t.Errorf("after a seen interrupt: %v", err)
		}
	})
}

// Close ends blocked reads and writes.
func TestCloseUnblocks(t *testing.T) {
	each(t, CarrierOptions{}, func(t *testing.T, a, b *carrier) {
		errs := make(chan error, 2)
		go func() { _, err := a.ReadFrame(&native.Header{}); errs <- err }()
		go func() {
			big := transport.Slices{make([]byte, maxBody)}
			for {
				if err := a.WriteFrame(&native.Header{}, nil, big); err != nil {
					errs <- err
					return
				}
			}
		}()
		for a.turn.TryLock() { // until the writer has begun
			a.turn.Unlock()
		}
		if err := a.Close(); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		for range 2 {
			if err := <-errs; !errors.Is(err, transport.ErrUnavailable) && !errors.Is(err, io.EOF) {
				t.Error(err)
			}
		}
		if err := a.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		if err := a.WriteFrame(&native.Header{}, nil, nil); !errors.Is(err, transport.ErrUnavailable) {
			t.Errorf("WriteFrame after Close: %v", err)
		}
		if _, err := a.ReadFrame(&native.Header{}); err == nil {
			t.Error("ReadFrame after Close")
		}
	})
}

// A peer that stops in the middle of a frame is given up, one that is silent between frames is not.
func TestStalledPeer(t *testing.T) {
	each(t, CarrierOptions{Stall: 30 * time.Millisecond}, func(t *testing.T, a, b *carrier) {
		h := native.Header{Body: 1000}
		if _, err := a.nc.Write(h.Append(nil)); err != nil {
			t.Fatal(err)
		}
		if _, err := b.ReadFrame(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := b.ReadBody(make([]byte, 1000)); !errors.Is(err, transport.ErrUnavailable) {
			t.Errorf("ReadBody: %v", err)
		}
		big := transport.Slices{make([]byte, maxBody)}
		var err error
		for err == nil { // until the buffers of the system are full
			err = b.WriteFrame(&native.Header{}, nil, big)
		}
		if !errors.Is(err, transport.ErrUnavailable) {
			t.Errorf("WriteFrame: %v", err)
		}
		if again := b.WriteFrame(&native.Header{}, nil, nil); !errors.Is(again, err) {
			t.Errorf("WriteFrame after %v: %v", err, again)
		}
	})
	each(t, CarrierOptions{Stall: 400 * time.Millisecond}, func(t *testing.T, a, b *carrier) { // long enough for a busy machine to send a frame
		// A silence longer than the limit, and then a frame.
		done := make(chan error)
		go func() { _, _, _, err := readAll(b, &native.Header{}); done <- err }()
		time.Sleep(500 * time.Millisecond)
		if err := a.WriteFrame(&native.Header{}, nil, transport.Slices{pattern(0, 100_000)}); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestTrusted(t *testing.T) {
	for kind, want := range map[string]bool{"tcp": true, "tcp6": true, "unix": true, "tls": true, "portable": true, "other": false} {
		a, _ := kinds[kind](t, CarrierOptions{})
		if a.Trusted() != want || a.MaxBody() < 1<<20 {
			t.Errorf("%s: Trusted = %v, MaxBody = %d", kind, a.Trusted(), a.MaxBody())
		}
	}
}

// FuzzReadFrame: a stream of anything, in any pieces, is frames or an error, and those frames are its bytes.
func FuzzReadFrame(f *testing.F) {
	for i, fr := range []frame{{}, {meta: 3, body: []int{5}}, {meta: 300, body: []int{1000}}, {meta: 20_000, body: []int{100}}} {
		h, meta, body := fr.make(i)
		h.Meta, h.Body = uint32(len(meta)), uint32(body.Len())
		one := body.AppendTo(append(h.Append(nil), meta...))
		f.Add(append(one, one...), []byte{1, 0, 30, 255, 3})
		f.Add(one[:len(one)-1], []byte{7})
	}
	f.Add([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"), []byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 100), []byte{50})
	f.Fuzz(func(t *testing.T, stream, cuts []byte) {
		c := newCarrier(&scripted{rest: stream, cuts: cuts}, CarrierOptions{Stall: -1})
		at := 0
		for {
			var h native.Header
			meta, body, _, err := readAll(c, &h)
			if err != nil {
				if err == io.EOF && at != len(stream) {
					t.Errorf("the end at %d of %d", at, len(stream))
				}
				if err != io.EOF && !errors.Is(err, transport.ErrUnavailable) && !errors.Is(err, transport.ErrCorrupt) {
					t.Error(err)
				}
				return
			}
			again := append(append(h.Append(nil), meta...), body...)
			if at+len(again) > len(stream) || !bytes.Equal(stream[at:at+len(again)], again) {
				t.Fatalf("frame at %d differs", at)
			}
			at += len(again)
		}
	})
}

// scripted is a connection whose reads return pieces of the given lengths (0: an interrupt), again and again.
type scripted struct {
	net.Conn
	rest, cuts []byte
	i          int
}

func (s *scripted) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := len(p)
	if len(s.cuts) > 0 {
		n = int(s.cuts[s.i%len(s.cuts)])
		s.i++
		if n == 0 && s.i < 1000 {
			return 0, os.ErrDeadlineExceeded
		}
	}
	n = copy(p, s.rest[:min(max(n, 1), len(s.rest))])
	s.rest = s.rest[n:]
	return n, nil
}

func (s *scripted) SetReadDeadline(time.Time) error { return nil }
func (s *scripted) RemoteAddr() net.Addr            { return nil }

// A limit that passed while nobody read, since what came was still being worked on, is not the peer's fault.
func TestCarrierLateReader(t *testing.T) {
	each(t, CarrierOptions{Stall: time.Hour}, func(t *testing.T, a, b *carrier) {
		const n = 1 << 20
		sent := make(chan error, 1)
		go func() {
			sent <- a.WriteFrame(&native.Header{Type: native.TypeData}, nil, transport.Slices{pattern(1, n)})
		}()
		var h native.Header
		if _, err := b.ReadFrame(&h); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, n)
		if _, err := b.ReadBody(got[:n/2]); err != nil {
			t.Fatal(err)
		}
		b.gate.limited, b.gate.mark = true, time.Now().Add(-2*time.Hour)
		b.nc.SetReadDeadline(past)
		if _, err := b.ReadBody(got[n/2:]); err != nil || !bytes.Equal(got, pattern(1, n)) {
			t.Errorf("%v, or other bytes", err)
			b.Close() // which ends the writer
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
	})
}
