package zmq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
)

// fakePeer is a server of which the test does each step.
type fakePeer struct {
	t  testing.TB
	ln net.Listener
}

func newPeer(t testing.TB) *fakePeer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return &fakePeer{t, ln}
}

func (p *fakePeer) addr() string { return "tcp://" + p.ln.Addr().String() }

// accept returns the next connection, whose handshake is done.
func (p *fakePeer) accept() *wire {
	nc, err := p.ln.Accept()
	if err != nil {
		return nil
	}
	w := newWire(nc)
	if err := w.accept(nil); err != nil {
		p.t.Error(err)
	}
	p.t.Cleanup(w.close)
	return w
}

// request reads a message, without its delimiter.
func (w *wire) request() (string, error) {
	var got []byte
	for {
		n, more, err := w.next()
		if err != nil {
			return "", err
		}
		part := make([]byte, n)
		if _, err := w.read(part); err != nil {
			return "", err
		}
		if got = append(got, part...); !more {
			return string(got), nil
		}
	}
}

func (w *wire) reply(s string) error { return w.send(nil, nil, transport.Slices{[]byte(s)}, 4) }

// exchanger returns an Exchanger and the server's side of its connection.
func exchanger(t testing.TB) (*fakePeer, *wire, *Exchanger) {
	t.Helper()
	return exchangerWith(t, DialOptions{})
}

func exchangerWith(t testing.TB, o DialOptions) (*fakePeer, *wire, *Exchanger) {
	t.Helper()
	p := newPeer(t)
	got := make(chan *wire)
	go func() {
		w := p.accept()
		if hi, err := w.request(); err != nil || hi != "ping" {
			t.Errorf("%q, %v", hi, err)
		}
		w.reply("pong")
		got <- w
	}()
	e, err := DialExchanger(testContext(t), p.addr(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return p, <-got, e
}

// call starts an exchange of s; the channel gives its answer, or its error's text.
func call(ctx context.Context, e *Exchanger, s string) chan string {
	c := make(chan string, 1)
	go func() {
		b, err := e.Exchange(ctx, transport.Slices{[]byte(s)})
		if err != nil {
			c <- "error: " + err.Error()
			return
		}
		c <- string(b.Bytes())
		b.Release()
	}()
	return c
}

func expect(t *testing.T, w *wire, want string) {
	t.Helper()
	if got, err := w.request(); err != nil || got != want {
		t.Fatalf("the server got %q, %v, want %q", got, err, want)
	}
}

func answer(t *testing.T, c chan string, want string) {
	t.Helper()
	if got := <-c; got != want {
		t.Fatalf("the answer is %q, want %q", got, want)
	}
}

// TestExchangeCancelOthers: who gives up while others wait leaves them the connection, and his answer is read away.
func TestExchangeCancelOthers(t *testing.T) {
	leakCheck(t)
	ctx := testContext(t)
	for _, victim := range []int{0, 1, 2} { // 0 reads
		for _, begun := range []bool{false, true} { // the first answer, when it happens
			t.Run(fmt.Sprintf("victim=%d/begun=%v", victim, begun), func(t *testing.T) {
				_, w, e := exchanger(t)
				var calls []chan string
				var cancel context.CancelFunc
				for i := range 3 {
					c := ctx
					if i == victim {
						c, cancel = context.WithCancel(ctx)
					}
					calls = append(calls, call(c, e, fmt.Sprint("request ", i)))
					expect(t, w, fmt.Sprint("request ", i))
				}
				rest := message(nil, []byte("answer"), []byte(" 0"))
				if begun {
					w.nc.Write(rest[:7])
					rest = rest[7:]
				}
				e.turn <- struct{}{} // not before the last sender knows that his request has left, which libzmq's link has to wait for
				<-e.turn
				cancel()
				answer(t, calls[victim], "error: context canceled")
				w.nc.Write(rest)
				for i := 1; i < 3; i++ {
					w.reply(fmt.Sprint("answer ", i))
				}
				for i := range 3 {
					if i != victim {
						answer(t, calls[i], fmt.Sprint("answer ", i))
					}
				}
				last := call(ctx, e, "last")
				expect(t, w, "last")
				w.reply("answer")
				answer(t, last, "answer")
			})
		}
	}
}

// lagging is a link on which the sender of "second" hears that it has left only after it was given up.
type lagging struct {
	*wire
	left  chan struct{} // closed when it has left
	heard chan struct{}
	once  sync.Once
}

func (l *lagging) send(first, meta []byte, body transport.Slices, cut int) error {
	err := l.wire.send(first, meta, body, cut)
	if string(body.Join()) == "second" {
		close(l.left)
		<-l.heard
	}
	return err
}

func (l *lagging) hurry() {
	l.wire.hurry()
	l.once.Do(func() { close(l.heard) })
}

func (l *lagging) close() {
	l.wire.close()
	l.once.Do(func() { close(l.heard) })
}

// TestExchangeCancelSent: who gives up when his request has left, before he knows it, leaves others the connection.
func TestExchangeCancelSent(t *testing.T) {
	leakCheck(t)
	ctx := testContext(t)
	lag := &lagging{left: make(chan struct{}), heard: make(chan struct{})}
	_, w, e := exchangerWith(t, DialOptions{connect: func(ctx context.Context, a address, o *DialOptions, hello [][]byte) (link, error) {
		l, err := connectPure(ctx, a, o, hello)
		if err != nil {
			return nil, err
		}
		lag.wire = l.(*wire)
		return lag, nil
	}})
	first := call(ctx, e, "first")
	expect(t, w, "first")
	cancelled, cancel := context.WithCancel(ctx)
	second := call(cancelled, e, "second")
	<-lag.left
	cancel()
	answer(t, second, "error: context canceled")
	expect(t, w, "second")
	third := call(ctx, e, "third") // what was done to the second harms it not
	expect(t, w, "third")
	for _, c := range []chan string{first, nil, third} {
		w.reply("answer")
		if c != nil {
			answer(t, c, "answer")
		}
	}
}

// TestExchangeCancelAlone: who gives up alone costs the connection, and the next call makes another.
func TestExchangeCancelAlone(t *testing.T) {
	leakCheck(t)
	ctx := testContext(t)
	for _, sent := range []string{"", "\x01", "\x01\x00\x01\x06ans"} {
		t.Run(fmt.Sprintf("%q", sent), func(t *testing.T) {
			p, w, e := exchanger(t)
			cancelled, cancel := context.WithCancel(ctx)
			c := call(cancelled, e, "request")
			expect(t, w, "request")
			w.nc.Write([]byte(sent))
			cancel()
			answer(t, c, "error: context canceled")
			if _, err := w.request(); err == nil {
				t.Error("the connection is open")
			}
			c = call(ctx, e, "again")
			w = p.accept()
			expect(t, w, "again")
			w.reply("answer")
			answer(t, c, "answer")
		})
	}
}

// TestExchangeCancelSending: a request that is sent in part cannot be taken back.
func TestExchangeCancelSending(t *testing.T) {
	leakCheck(t)
	ctx := testContext(t)
	p, w, e := exchanger(t)
	cancelled, cancel := context.WithCancel(ctx)
	done := make(chan error)
	go func() {
		_, err := e.Exchange(cancelled, transport.Slices{make([]byte, 64<<20)})
		done <- err
	}()
	if _, _, err := w.next(); err != nil {
		t.Fatal(err)
	}
	queued, cancelQueued := context.WithCancel(ctx)
	second := call(queued, e, "second") // waits for its turn
	cancelQueued()
	answer(t, second, "error: context canceled")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	c := call(ctx, e, "again")
	w = p.accept()
	expect(t, w, "again")
	w.reply("answer")
	answer(t, c, "answer")
	if _, err := e.Exchange(cancelled, nil); err != context.Canceled {
		t.Error(err)
	}
}

// TestExchangeBreaks: a connection that breaks fails who is on it, and the next call makes another.
func TestExchangeBreaks(t *testing.T) {
	leakCheck(t)
	ctx := testContext(t)
	for _, sent := range []string{"", "\x01", "\x01\x00\x01\x06ans", "\x00\x01x", "\x01\x00\x02\x7f\xff\xff\xff\xff\xff\xff\xff", "\xff"} {
		t.Run(fmt.Sprintf("%q", sent), func(t *testing.T) {
			p, w, e := exchanger(t)
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					if _, err := e.Exchange(ctx, transport.Slices{[]byte("request")}); !errors.Is(err, transport.ErrUnavailable) &&
						!errors.Is(err, transport.ErrCorrupt) && !errors.Is(err, transport.ErrTooLarge) {
						t.Error(err)
					}
				})
			}
			for range 3 {
				expect(t, w, "request")
			}
			w.nc.Write([]byte(sent))
			w.close()
			wg.Wait()
			// It also breaks while nobody uses it, which costs no call anything where that can be seen.
			for i := range 2 {
				c := call(ctx, e, "again")
				w = p.accept()
				expect(t, w, "again")
				w.reply("answer")
				answer(t, c, "answer")
				if i == 0 && runtime.GOOS == "linux" {
					w.close()
				}
			}
			p.ln.Close()
			w.close()
			if _, err := e.Exchange(ctx, transport.Slices{[]byte("x")}); !errors.Is(err, transport.ErrUnavailable) {
				t.Error(err)
			}
		})
	}
}

func TestExchangeClose(t *testing.T) {
	leakCheck(t)
	ctx := testContext(t)
	_, w, e := exchanger(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := e.Exchange(ctx, transport.Slices{[]byte("request")}); !errors.Is(err, transport.ErrClosed) {
				t.Error(err)
			}
		})
	}
	for range 4 {
		expect(t, w, "request")
	}
	w.nc.Write([]byte("\x01\x00\x01\x06ans"))
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if _, err := e.Exchange(ctx, nil); !errors.Is(err, transport.ErrClosed) {
		t.Error(err)
	}
}

// TestExchangeStorm: many callers, some of whom give up, on one connection that is cut now and then. No answer is another's.
func TestExchangeStorm(t *testing.T) {
	leakCheck(t)
	ctx := testContext(t)
	s := serve(t, "tcp://127.0.0.1:0", ListenOptions{Python: echo})
	e, err := DialExchanger(ctx, s.Addr(), DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 100 {
				want := []byte(fmt.Sprintf("%d/%d", g, i))
				want = append(want, make([]byte, (g*7919+i*104729)%200_000)...)
				c, cancel := context.WithCancel(ctx)
				if i%7 == g%7 {
					go cancel()
				}
				if i == 50 && g == 0 {
					e.mu.Lock()
					if e.s != nil {
						e.s.l.close()
					}
					e.mu.Unlock()
				}
				b, err := e.Exchange(c, transport.Slices{want})
				switch {
				case err == nil:
					if !bytes.Equal(b.Bytes(), want) {
						t.Errorf("the answer to %d/%d is another's", g, i)
					}
					b.Release()
				case !errors.Is(err, context.Canceled) && !errors.Is(err, transport.ErrUnavailable):
					t.Error(err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
}
