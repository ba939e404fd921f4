package webrtc_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/tcp"
	"github.com/proxyplane/proxyplane/transport/webrtc"
)

func small(_ int, c *webrtc.Config) {
	c.Tuning = webrtc.Tuning{SendBuffer: 64 << 10, ReceiveBuffer: 64 << 10}
}

// TestBackpressure has a reader that does not read.
func TestBackpressure(t *testing.T) {
	noLeaks(t)
	_, a, b := connected(t, webrtc.AnswerOptions{}, small)
	x, y := channel(t, a, b, "l", true)
	const size, count = 1000, 1000
	var wg sync.WaitGroup
	sent := make(chan struct{}, count)
	wg.Go(func() {
		for range count {
			if _, err := x.Write(make([]byte, size)); err != nil {
				t.Error(err)
			}
			sent <- struct{}{}
		}
	})
	// Half of the messages fit into neither buffer: the writer must wait.
	for before := -1; before != len(sent) || before == 0; time.Sleep(200 * time.Millisecond) {
		before = len(sent)
	}
	if n := len(sent); n > count/2 {
		t.Errorf("%d messages of %d bytes were taken with nobody reading", n, size)
	}
	if n := x.Buffered(); n > 66<<10 {
		t.Errorf("%d bytes are buffered", n)
	}
	buf := make([]byte, size)
	for range count {
		if n, err := y.Read(buf); err != nil || n != size {
			t.Fatal(n, err)
		}
	}
	wg.Wait()
}

func TestCloseWakesWriter(t *testing.T) {
	noLeaks(t)
	for _, which := range []string{"channel", "channels", "agent", "peer"} {
		p, a, b := connected(t, webrtc.AnswerOptions{}, small)
		x, _ := channel(t, a, b, "l", true)
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				if _, err := x.Write(make([]byte, 10_000)); err != nil {
					if want := map[string]error{"peer": transport.ErrUnavailable}[which]; want == nil && !errors.Is(err, transport.ErrClosed) || want != nil && !errors.Is(err, want) {
						t.Errorf("%s: %v", which, err)
					}
					return
				}
			}
		})
		time.Sleep(50 * time.Millisecond)
		switch which {
		case "channel":
			x.Close()
		case "channels":
			a.Close()
		case "agent":
			p.offerer.Close()
		case "peer":
			p.answerer.Close()
		}
		wg.Wait()
		p.offerer.Close()
		p.answerer.Close()
	}
}

// TestFlush closes right after a write.
func TestFlush(t *testing.T) {
	noLeaks(t)
	_, a, b := connected(t, webrtc.AnswerOptions{}, nil)
	x, y := channel(t, a, b, "l", true)
	msg := make([]byte, 200_000)
	for range 5 {
		if _, err := x.Write(msg); err != nil {
			t.Fatal(err)
		}
	}
	a.Close()
	for range 5 {
		if n, err := y.Read(make([]byte, len(msg))); err != nil || n != len(msg) {
			t.Fatal(n, err)
		}
	}
	if _, err := y.Read(msg); !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("after the peer's Close: %v", err)
	}
}

func TestReadShort(t *testing.T) {
	noLeaks(t)
	_, a, b := connected(t, webrtc.AnswerOptions{}, nil)
	for _, ordered := range []bool{false, true} {
		x, y := channel(t, a, b, "l", ordered)
		if _, err := x.Write(make([]byte, 5000)); err != nil {
			t.Fatal(err)
		}
		if _, err := y.Read(make([]byte, 4999)); !errors.Is(err, transport.ErrTooLarge) || !errors.Is(err, io.ErrShortBuffer) {
			t.Fatal(err)
		}
		if n, err := y.Read(make([]byte, 5000)); n != 5000 || err != nil {
			t.Fatal(n, err)
		}
	}
}

func TestLimits(t *testing.T) {
	noLeaks(t)
	_, a, b := connected(t, webrtc.AnswerOptions{}, func(_ int, c *webrtc.Config) { c.Tuning.MaxChannels = 2 })
	x, y := channel(t, a, b, "l", true)
	if a.MaxMessage() != 256<<10 {
		t.Error(a.MaxMessage())
	}
	if _, err := x.Write(make([]byte, 256<<10+1)); !errors.Is(err, transport.ErrTooLarge) {
		t.Errorf("a message that is too long: %v", err)
	}
	if err := x.WriteSlices(make([]byte, 256<<10), []byte{1}); !errors.Is(err, transport.ErrTooLarge) {
		t.Errorf("a message that is too long: %v", err)
	}
	if _, err := a.Open(testContext(t), strings.Repeat("x", 257), true); !errors.Is(err, transport.ErrTooLarge) {
		t.Errorf("a label that is too long: %v", err)
	}
	channel(t, a, b, "m", true)
	third, err := a.Open(testContext(t), "n", true)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := third.Read(make([]byte, 10)); err != io.EOF {
		t.Errorf("a channel too many: %d, %v", n, err)
	}
	// Both sides' channels are of other streams, and their numbers are used again.
	x.Close()
	if _, err := y.Read(make([]byte, 10)); err != io.EOF {
		t.Error(err)
	}
	y.Close()
	for b.Stats().Open > 1 || a.Stats().Open > 1 {
		time.Sleep(time.Millisecond)
	}
	channel(t, b, a, "o", false)
	canceled, cancel := context.WithCancel(testContext(t))
	cancel()
	if _, err := a.Open(canceled, "p", true); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := a.Accept(canceled); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestUnreadClose closes a channel of which nobody has read what came: the others' share of the receive buffer comes back.
func TestUnreadClose(t *testing.T) {
	noLeaks(t)
	_, a, b := connected(t, webrtc.AnswerOptions{}, small)
	x, y := channel(t, a, b, "l", true)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			if _, err := x.Write(make([]byte, 10_000)); err != nil {
				return
			}
		}
	})
	time.Sleep(100 * time.Millisecond)
	y.Close()
	c, d := channel(t, a, b, "m", true)
	wg.Go(func() {
		for range 20 {
			if _, err := c.Write(make([]byte, 10_000)); err != nil {
				t.Error(err)
			}
		}
	})
	for range 20 {
		if _, err := d.Read(make([]byte, 10_000)); err != nil {
			t.Fatal(err)
		}
	}
	// The writer of the closed channel learns of it by reading.
	if _, err := x.Read(make([]byte, 10)); err != io.EOF {
		t.Error(err)
	}
	x.Close()
	wg.Wait()
}

// TestConcurrent has many channels, opened by both sides, ordered and not, with several writers each.
func TestConcurrent(t *testing.T) {
	noLeaks(t)
	_, a, b := connected(t, webrtc.AnswerOptions{}, nil)
	var wg sync.WaitGroup
	for i := range 12 {
		from, to := a, b
		if i%2 == 0 {
			from, to = b, a
		}
		x, y := channel(t, from, to, fmt.Sprint(i), i%3 == 0)
		const writers, each = 3, 30
		var want, got [sha256.Size]byte
		add := func(sum *[sha256.Size]byte, msg []byte) {
			s := sha256.Sum256(msg)
			for i := range sum {
				sum[i] ^= s[i]
			}
		}
		var mu sync.Mutex
		var writing sync.WaitGroup
		for w := range writers {
			writing.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(i), uint64(w)))
				for range each {
					msg := make([]byte, rng.IntN(10_000))
					for i := range msg {
						msg[i] = byte(rng.Uint32())
					}
					mu.Lock()
					add(&want, msg)
					mu.Unlock()
					if err := x.WriteSlices(msg[:len(msg)/3], msg[len(msg)/3:]); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Go(func() {
			buf := make([]byte, 40_000)
			for range writers * each {
				n, err := y.Read(buf)
				if err != nil {
					t.Error(err)
					return
				}
				add(&got, buf[:n])
			}
			writing.Wait()
			if got != want {
				t.Errorf("channel %d: other messages came than were sent", i)
			}
		})
	}
	wg.Wait()
	if s := a.Stats(); s.Open != 12 || s.BytesSent == 0 || s.BytesReceived == 0 || s.Window == 0 {
		t.Errorf("%+v", s)
	}
}

func TestStream(t *testing.T) {
	// The suite writes until a write blocks.
	noLeaks(t)
	_, a, b := connected(t, webrtc.AnswerOptions{}, small)
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		x, y := channel(t, a, b, "s", true)
		s, r := x.Stream(), y.Stream()
		return s, r, func() { s.Close(); r.Close() }, nil
	})
}

// TestStreamInterrupt interrupts reads again and again, as transport/tcp does: nothing may be lost.
func TestStreamInterrupt(t *testing.T) {
	noLeaks(t)
	_, a, b := connected(t, webrtc.AnswerOptions{}, nil)
	x, y := channel(t, a, b, "s", true)
	s, r := x.Stream(), y.Stream()
	want := make([]byte, 2<<20)
	for i := range want {
		want[i] = byte(i * 7 / 5)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; i < len(want); i += 7777 {
			if _, err := s.Write(want[i:min(i+7777, len(want))]); err != nil {
				t.Error(err)
			}
		}
		s.Close()
	})
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				r.SetReadDeadline(time.Unix(1, 0))
				time.Sleep(200 * time.Microsecond)
				r.SetReadDeadline(time.Time{})
				time.Sleep(200 * time.Microsecond)
			}
		}
	})
	var got []byte
	buf := make([]byte, 100_000)
	for {
		n, err := r.Read(buf[:1+rand.IntN(len(buf))])
		got = append(got, buf[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil && !isTimeout(err) {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	if !bytes.Equal(got, want) {
		t.Fatalf("%d bytes came, %d were sent, or they differ", len(got), len(want))
	}
}

// TestNative runs the native protocol over a Stream.
func TestNative(t *testing.T) {
	noLeaks(t)
	_, a, b := connected(t, webrtc.AnswerOptions{}, nil)
	x, y := channel(t, a, b, "s", true)
	store, err := objects.NewTable(objects.TableOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	server := native.NewServer(store, native.ServerOptions{})
	var wg sync.WaitGroup
	wg.Go(func() { server.ServeCarrier(context.Background(), tcp.NewCarrier(y.Stream(), tcp.CarrierOptions{})) })
	client, err := native.NewClient(testContext(t), tcp.NewCarrier(x.Stream(), tcp.CarrierOptions{}), native.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 1, 100_000, 3 << 20} {
		want := bytes.Repeat([]byte{byte(size), 1, 2}, size/3+1)[:size]
		if err := client.Put(testContext(t), "id", transport.Slices{want}, objects.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if got, err := client.GetBytes(testContext(t), "id", -1); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes came back as %d: %v", size, len(got), err)
		}
	}
	client.Close()
	server.Close()
	wg.Wait()
}

// BenchmarkStream moves bytes over one ordered channel between two Agents, and over TCP on loopback for comparison.
func BenchmarkStream(b *testing.B) {
	const size = 16 << 20
	run := func(b *testing.B, w io.Writer, r io.Reader) {
		b.SetBytes(size)
		b.ReportAllocs()
		msg := make([]byte, 1<<20)
		var wg sync.WaitGroup
		n := 0
		for b.Loop() {
			n++
			wg.Go(func() {
				for range size / len(msg) {
					if _, err := w.Write(msg); err != nil {
						b.Error(err)
						return
					}
				}
			})
			if _, err := io.CopyN(io.Discard, r, size); err != nil {
				b.Fatal(err)
			}
			wg.Wait()
		}
	}
	b.Run("over=webrtc", func(b *testing.B) {
		_, x, y := connected(b, webrtc.AnswerOptions{}, nil)
		c, d := channel(b, x, y, "s", true)
		run(b, c.Stream(), d.Stream())
	})
	b.Run("over=tcp", func(b *testing.B) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		d, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		defer d.Close()
		run(b, c, d)
	})
}
