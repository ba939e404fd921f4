//go:build cgo && zmq && unix

package zmq

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	pebbe "github.com/pebbe/zmq4"
)

// open returns a Context whose end is checked: nothing of C's may be left, and no goroutine.
func open(t testing.TB) *Context {
	t.Helper()
	before := runtime.NumGoroutine()
	c, err := NewContext(1, 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if n := Live(); n != (Counts{}) {
			t.Errorf("left in C: %+v", n)
		}
		for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before && time.Now().Before(deadline); {
			runtime.Gosched()
		}
		if n := runtime.NumGoroutine(); n > before {
			t.Errorf("%d goroutines, %d before", n, before)
		}
	})
	return c
}

// box is a socket with its lock-free single user: the test.
type box struct {
	*Socket
	ready *Ready
}

func socket(t testing.TB, c *Context, typ Type, setup ...func(*Socket) error) box {
	t.Helper()
	s, err := c.NewSocket(typ)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Set(Linger, 0); err != nil {
		t.Fatal(err)
	}
	for _, f := range setup {
		if err := f(s); err != nil {
			t.Fatal(err)
		}
	}
	r, err := s.Ready()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		s.Close()
	})
	return box{s, r}
}

// bound binds to a free port.
func bound(s box) string {
	if err := s.Bind("tcp://127.0.0.1:*"); err != nil {
		panic(err)
	}
	e, err := s.LastEndpoint()
	if err != nil {
		panic(err)
	}
	return e
}

// recv waits for a message and returns its parts.
func (b box) recv(t testing.TB) []*Message {
	t.Helper()
	var parts []*Message
	var last error
	err := b.ready.Wait(func() bool {
		for {
			m := &Message{}
			if last = b.Receive(m); last != nil {
				return last != ErrAgain
			}
			parts = append(parts, m)
			if !m.More() {
				return true
			}
		}
	})
	if err != nil || last != nil {
		t.Fatalf("recv: %v, %v", err, last)
	}
	return parts
}

// send sends parts, waiting while it must.
func (b box) send(t testing.TB, parts ...[]byte) {
	t.Helper()
	for i, p := range parts {
		var last error
		err := b.ready.Wait(func() bool {
			last = b.Send(p, i < len(parts)-1)
			if last == ErrAgain {
				if e, _ := b.Events(); e&CanSend != 0 {
					last = b.Send(p, i < len(parts)-1)
				}
			}
			return last != ErrAgain
		})
		if err != nil || last != nil {
			t.Fatalf("send: %v, %v", err, last)
		}
	}
}

func closeAll(parts []*Message) {
	for _, m := range parts {
		m.Close()
		m.Close()
	}
}

func joined(parts []*Message) string {
	var b []string
	for _, m := range parts {
		b = append(b, string(m.Bytes()))
	}
	return strings.Join(b, "|")
}

var sizes = []int{0, 1, 29, 30, 31, 32, 33, 34, 64, 255, 256, 8191, 8192, 8193, 1 << 20, 32 << 20}

// TestRoundTrip sends parts of all sizes, copied and by reference, and looks at what comes.
func TestRoundTrip(t *testing.T) {
	for _, endpoint := range []string{"tcp://127.0.0.1:*", "tcp://[::1]:*", "ipc://" + filepath.Join(t.TempDir(), "s"), "inproc://x"} {
		t.Run(endpoint[:3], func(t *testing.T) {
			c := open(t)
			v6 := func(s *Socket) error { return s.Set(IPv6, 1) }
			a, b := socket(t, c, Router, v6), socket(t, c, Dealer, v6)
			if err := a.Bind(endpoint); err != nil {
				t.Fatal(err)
			}
			e, err := a.LastEndpoint()
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Connect(e); err != nil {
				t.Fatal(err)
			}
			ticket, err := c.NewTicket()
			if err != nil {
				t.Fatal(err)
			}
			defer ticket.Close()
			for _, n := range sizes {
				body := bytes.Repeat([]byte("0123456789abcdef"), n/16+1)[:n]
				b.send(t, []byte("head"), body)
				parts := a.recv(t)
				if len(parts) != 3 || string(parts[1].Bytes()) != "head" || !bytes.Equal(parts[2].Bytes(), body) {
					t.Fatalf("%d bytes: %d parts", n, len(parts))
				}
				if !strings.HasPrefix(endpoint, "inproc") && parts[1].SourceFD() < 0 {
					t.Error("no descriptor")
				}
				if strings.HasPrefix(endpoint, "tcp") && parts[1].Property("Socket-Type") != "DEALER" {
					t.Errorf("socket type %q", parts[1].Property("Socket-Type"))
				}
				id := bytes.Clone(parts[0].Bytes())
				closeAll(parts)
				if n == 0 {
					continue
				}
				ticket.Begin()
				ticket.Pin(body)
				if err := a.Send(id, true); err != nil {
					t.Fatal(err)
				}
				for i, p := range [][]byte{body, body[n/2:]} {
					if err := a.SendRef(p, i == 0, ticket); err != nil {
						t.Fatal(err)
					}
				}
				if parts = b.recv(t); len(parts) != 2 || !bytes.Equal(parts[0].Bytes(), body) || !bytes.Equal(parts[1].Bytes(), body[n/2:]) {
					t.Fatalf("%d bytes by reference: %d parts", n, len(parts))
				}
				if strings.HasPrefix(endpoint, "inproc") {
					closeAll(parts) // there the parts are the memory that was sent
					parts = nil
				}
				ticket.Wait()
				if live.pinned.Load() != 0 {
					t.Errorf("%d bytes pinned", live.pinned.Load())
				}
				closeAll(parts)
			}
		})
	}
}

// TestTicketAfterFailure: a part that could not be sent is let go of at once; one that nobody reads when the socket closes.
func TestTicketAfterFailure(t *testing.T) {
	c := open(t)
	a := socket(t, c, Router, func(s *Socket) error { return s.Set(RouterMandatory, 1) })
	bound(a)
	ticket, err := c.NewTicket()
	if err != nil {
		t.Fatal(err)
	}
	defer ticket.Close()
	if err := a.Send([]byte("nobody"), true); err != ErrUnreachable {
		t.Errorf("send to nobody: %v", err)
	}
	d := socket(t, c, Dealer, func(s *Socket) error { return s.Set(SendHWM, 1) })
	if err := d.Connect("tcp://127.0.0.1:1"); err != nil { // nobody is there; one message waits for him
		t.Fatal(err)
	}
	body := make([]byte, 1<<16)
	ticket.Begin()
	ticket.Pin(body)
	if err := d.SendRef(body, false, ticket); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		ticket.Wait()
		close(done)
	}()
	other, err := c.NewTicket()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	other.Begin()
	other.Pin(body)
	if err := d.SendRef(body, false, other); err != ErrAgain {
		t.Errorf("send of a second message: %v", err)
	}
	other.Wait()
	select {
	case <-done:
		t.Error("a message that was not sent is done")
	default:
	}
	d.Close()
	<-done
}

func TestMonitor(t *testing.T) {
	c := open(t)
	a := socket(t, c, Router)
	m, err := c.Monitor(a.Socket, AllEvents)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ready, err := m.Ready()
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	e := bound(a)
	wait := func(kind EventKind) Event {
		t.Helper()
		var ev Event
		err := ready.Wait(func() bool {
			for {
				var err error
				if ev, err = m.NextEvent(); err != nil {
					return err != ErrAgain
				}
				if ev.Kind == kind {
					return true
				}
			}
		})
		if err != nil || ev.Kind != kind {
			t.Fatalf("got %+v, %v, want %d", ev, err, kind)
		}
		return ev
	}
	b := socket(t, c, Dealer)
	if err := b.Connect(e); err != nil {
		t.Fatal(err)
	}
	fd := wait(Accepted).Value
	if hs := wait(HandshakeDone); hs.Endpoint == "" {
		t.Error("no endpoint")
	}
	b.send(t, []byte("hello"))
	parts := a.recv(t)
	if parts[1].SourceFD() != fd {
		t.Errorf("descriptor %d, accepted %d", parts[1].SourceFD(), fd)
	}
	closeAll(parts)
	b.Close()
	if ev := wait(Disconnected); ev.Value != fd {
		t.Errorf("descriptor %d disconnected, want %d", ev.Value, fd)
	}
	if err := errors.Join(a.StopMonitor(), a.StopMonitor()); err != nil {
		t.Error(err)
	}
	wait(MonitorStopped)
}

// TestReady: a Wait ends by Wake and by Close, and finds what came before it.
func TestReady(t *testing.T) {
	c := open(t)
	a := socket(t, c, Router)
	calls := make(chan struct{}, 10)
	got := make(chan error)
	go func() {
		for {
			err := a.ready.Wait(func() bool {
				select {
				case calls <- struct{}{}:
				default:
				}
				return a.Receive(&Message{}) == nil
			})
			got <- err
			if err != ErrWoken {
				return
			}
		}
	}()
	<-calls
	for range 3 {
		a.ready.Wake()
		if err := <-got; err != ErrWoken {
			t.Fatalf("%v, want ErrWoken", err)
		}
	}
	a.ready.Close()
	if err := <-got; !errors.Is(err, os.ErrClosed) {
		t.Errorf("%v, want closed", err)
	}
}

func TestCurve(t *testing.T) {
	if !Has("curve") {
		t.Fatal("this libzmq has no CURVE")
	}
	c := open(t)
	pub, sec, err := pebbe.NewCurveKeypair()
	if err != nil {
		t.Fatal(err)
	}
	key := func(s string) []byte { return []byte(pebbe.Z85decode(s)) }
	a := socket(t, c, Router, func(s *Socket) error {
		return errors.Join(s.Set(CurveServer, 1), s.SetBytes(CurveSecretKey, key(sec)))
	})
	e := bound(a)
	b := socket(t, c, Dealer, func(s *Socket) error {
		return errors.Join(s.SetBytes(CurveServerKey, key(pub)), s.SetBytes(CurvePublicKey, key(pub)), s.SetBytes(CurveSecretKey, key(sec)))
	})
	if m, err := b.Get(Mechanism); m != 2 || err != nil {
		t.Errorf("mechanism %d, %v", m, err)
	}
	if err := b.Connect(e); err != nil {
		t.Fatal(err)
	}
	b.send(t, []byte("secret"))
	parts := a.recv(t)
	if string(parts[1].Bytes()) != "secret" {
		t.Error(joined(parts))
	}
	closeAll(parts)
}

// TestPebbe has the other binding as the peer, both ways.
func TestPebbe(t *testing.T) {
	c := open(t)
	a := socket(t, c, Router)
	e := bound(a)
	peer := make(chan error)
	go func() {
		peer <- func() error {
			req, err := pebbe.NewSocket(pebbe.REQ)
			if err != nil {
				return err
			}
			defer req.Close()
			if err := req.Connect(e); err != nil {
				return err
			}
			for _, n := range sizes {
				body := string(bytes.Repeat([]byte("x"), n))
				if _, err := req.SendMessage(body, "tail"); err != nil {
					return err
				}
				got, err := req.RecvMessage(0)
				if err != nil {
					return err
				}
				if len(got) != 2 || got[0] != body || got[1] != "tail" {
					return fmt.Errorf("%d bytes came back as %d parts", n, len(got))
				}
			}
			return nil
		}()
	}()
	for range sizes {
		parts := a.recv(t)
		var out [][]byte
		for _, m := range parts {
			out = append(out, m.Bytes())
		}
		a.send(t, out...)
		closeAll(parts)
	}
	if err := <-peer; err != nil {
		t.Error(err)
	}
}

func TestErrors(t *testing.T) {
	c := open(t)
	a, b := socket(t, c, Router), socket(t, c, Router)
	e := bound(a)
	if err := b.Bind(e); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), e) {
		t.Errorf("bind twice: %v", err)
	}
	if err := b.Bind("nonsense"); err == nil {
		t.Error("bound to nonsense")
	}
	if err := b.Connect("tcp://"); err == nil {
		t.Error("connected to nothing")
	}
	if err := b.Set(IntOption(9999), 1); err == nil {
		t.Error("set an option that is none")
	}
	if _, err := b.Get(IntOption(9999)); err == nil {
		t.Error("got an option that is none")
	}
	if err := b.Receive(&Message{}); err != ErrAgain {
		t.Errorf("receive: %v", err)
	}
	if err := a.Unbind(e); err != nil {
		t.Error(err)
	}
	if _, err := NewContext(-1, 10); err == nil {
		t.Error("a context with -1 threads")
	}
	compiled, loaded := Versions()
	if compiled[0] < 4 || loaded[0] < 4 || CheckVersion() != nil {
		t.Errorf("versions %v and %v: %v", compiled, loaded, CheckVersion())
	}
	for _, v := range []struct {
		compiled, loaded Version
		ok               bool
	}{{Version{4, 3, 4}, Version{4, 3, 0}, true}, {Version{4, 3, 4}, Version{4, 4, 0}, true}, {Version{4, 3, 4}, Version{4, 2, 9}, false},
		{Version{4, 3, 4}, Version{5, 0, 0}, false}} {
		if err := compatible(v.compiled, v.loaded); (err == nil) != v.ok {
			t.Errorf("compiled for %v, loaded %v: %v", v.compiled, v.loaded, err)
		}
	}
	c.Shutdown()
	if err := b.Receive(&Message{}); err != ErrTerm {
		t.Errorf("receive after Shutdown: %v", err)
	}
}

// TestManyTickets has many senders wait at once, whose messages are let go of in bursts.
func TestManyTickets(t *testing.T) {
	c := open(t)
	a, b := socket(t, c, Dealer), socket(t, c, Dealer)
	if err := b.Connect(bound(a)); err != nil {
		t.Fatal(err)
	}
	const senders, each = 16, 30
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range senders {
		wg.Go(func() {
			ticket, err := c.NewTicket()
			if err != nil {
				t.Error(err)
				return
			}
			defer ticket.Close()
			body := bytes.Repeat([]byte("y"), 100_000)
			for range each {
				ticket.Begin()
				ticket.Pin(body)
				for sent := false; !sent; {
					mu.Lock()
					sent = b.SendRef(body, false, ticket) == nil
					mu.Unlock()
				}
				ticket.Wait()
			}
		})
	}
	for range senders * each {
		parts := a.recv(t)
		if len(parts[0].Bytes()) != 100_000 || parts[0].Bytes()[99_999] != 'y' {
			t.Error("wrong bytes")
		}
		closeAll(parts)
	}
	wg.Wait()
}

// TestMessageOutlivesContext: a received part is memory of its own.
func TestMessageOutlivesContext(t *testing.T) {
	var keep *Message
	t.Run("context", func(t *testing.T) {
		c, err := NewContext(1, 8)
		if err != nil {
			t.Fatal(err)
		}
		a, _ := c.NewSocket(Dealer)
		b, _ := c.NewSocket(Dealer)
		x := box{Socket: a}
		if err := b.Connect(bound(x)); err != nil {
			t.Fatal(err)
		}
		r, err := a.Ready()
		if err != nil {
			t.Fatal(err)
		}
		x.ready = r
		if err := b.Send(bytes.Repeat([]byte("z"), 1<<20), false); err != nil {
			t.Fatal(err)
		}
		keep = x.recv(t)[0]
		r.Close()
		a.Close()
		b.Set(Linger, 0)
		b.Close()
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	})
	if n := Live(); n.Messages != 1 || n.Bytes != 1<<20 || keep.Bytes()[1<<20-1] != 'z' {
		t.Errorf("%+v", n)
	}
	keep.Close()
	if n := Live(); n != (Counts{}) {
		t.Errorf("left in C: %+v", n)
	}
}

// TestMonitorFails: a monitor for which there is no room leaves the socket as it was, so that it can be closed.
func TestMonitorFails(t *testing.T) {
	for room := 1; ; room++ {
		c, err := NewContext(1, room)
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.NewSocket(Router)
		if err != nil {
			t.Fatal(err)
		}
		m, err := c.Monitor(s, AllEvents)
		s.Close()
		if err == nil {
			m.Close()
		}
		c.Close()
		if n := Live(); n != (Counts{}) {
			t.Errorf("left in C: %+v", n)
		}
		if err == nil {
			return
		}
	}
}
