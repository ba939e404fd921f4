//go:build cgo && zmq

package zmq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/cgo/zmq"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
)

// Under the tag the whole suite runs over libzmq, but for what says listenPure or connectPure.
func init() { defaultListen, defaultConnect = listenLibzmq, connectLibzmq }

// cCheck fails the test if, at its end, anything is left in C. It comes before leakCheck.
func cCheck(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		if n := zmq.Live(); n != (zmq.Counts{}) {
			t.Errorf("left in C: %+v", n)
		}
		if n, size := transport.Live(transport.CMemory); n != 0 {
			t.Errorf("%d buffers of %d bytes of C memory left", n, size)
		}
	})
}

// forms are the two of each end.
var listenForms = map[string]listenFunc{"pure": listenPure, "libzmq": listenLibzmq}
var connectForms = map[string]connectFunc{"pure": connectPure, "libzmq": connectLibzmq}

// crossed runs f with each listener and each connector.
func crossed(t *testing.T, f func(t *testing.T, listen listenFunc, connect connectFunc)) {
	for ln, listen := range listenForms {
		for cn, connect := range connectForms {
			t.Run(cn+" to "+ln, func(t *testing.T) {
				cCheck(t)
				leakCheck(t)
				f(t, listen, connect)
			})
		}
	}
}

type setup struct {
	curve   bool
	ipc     bool
	allowed []CurveKey // nil: the client's
	max     int
}

// linkPair listens with serve and returns how to connect.
func linkPair(t *testing.T, listen listenFunc, connect connectFunc, s setup, serve func(link)) func() (link, error) {
	t.Helper()
	lo, do := ListenOptions{MaxConnections: s.max}, DialOptions{}
	if s.curve {
		sp, ss, _ := NewCurveKeys()
		cp, cs, _ := NewCurveKeys()
		if s.allowed == nil {
			s.allowed = []CurveKey{cp}
		}
		lo.Curve = &CurveServer{PublicKey: sp, SecretKey: ss, AllowedClients: s.allowed}
		do.Curve = &CurveClient{ServerKey: sp, PublicKey: cp, SecretKey: cs}
	}
	l, err := lo.complete()
	if err != nil {
		t.Fatal(err)
	}
	d, err := do.complete()
	if err != nil {
		t.Fatal(err)
	}
	a := address{"tcp", "127.0.0.1:0"}
	if s.ipc {
		a = address{"unix", filepath.Join(t.TempDir(), "s")}
	}
	acc, err := listen(testContext(t), a, l, serve)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		acc.close()
		acc.close()
	})
	if a, err = parseAddress(acc.address()); err != nil {
		t.Fatal(err)
	}
	return func() (link, error) { return connect(testContext(t), a, d, nil) }
}

// readMessage reads the parts of the next message, some by take and some by read.
func readMessage(l link) ([][]byte, error) {
	var out [][]byte
	for more := true; more; {
		var n int64
		var err error
		if n, more, err = l.next(); err != nil {
			return nil, err
		}
		if b, ok := l.take(); ok {
			out = append(out, bytes.Clone(b.Bytes()))
			b.Release()
			continue
		}
		b := make([]byte, n)
		for at := range 2 {
			from, to := at*len(b)/2, (at+1)*len(b)/2
			if k, err := l.read(b[from:to]); err != nil || k != to-from {
				return nil, fmt.Errorf("read %d of %d: %w", k, to-from, err)
			}
		}
		out = append(out, b)
	}
	return out, nil
}

// echoLink answers each message with itself until the peer is gone.
func echoLink(l link) {
	for {
		m, err := readMessage(l)
		if err != nil {
			return
		}
		if l.send(m[0], nil, m[1:], asParts) != nil {
			return
		}
	}
}

func TestLinkEcho(t *testing.T) {
	for name, s := range map[string]setup{"tcp": {}, "ipc": {ipc: true}, "curve": {curve: true}} {
		t.Run(name, func(t *testing.T) {
			crossed(t, func(t *testing.T, listen listenFunc, connect connectFunc) {
				dial := linkPair(t, listen, connect, s, echoLink)
				l, err := dial()
				if err != nil {
					t.Fatal(err)
				}
				defer l.close()
				if !l.trusted() || l.remote() == "" {
					t.Errorf("trusted %v, remote %q", l.trusted(), l.remote())
				}
				for _, n := range []int{0, 1, 33, 1000, takeMin - 1, takeMin, refMin - 1, refMin, refMin + 1, 200_000, 3 << 20} {
					big := random(n)
					for _, c := range []struct {
						body transport.Slices
						cut  int
						want [][]byte
					}{
						{transport.Slices{big}, whole, [][]byte{big}},
						{transport.Slices{big[:n/3], nil, big[n/3:]}, whole, [][]byte{big}},
						{transport.Slices{big, []byte("x"), big}, asParts, [][]byte{big, []byte("x"), big}},
						{transport.Slices{big[:n/3], big[n/3:]}, 64 << 10, nil},
						{nil, whole, nil},
					} {
						if c.cut > 0 {
							for at := 0; at == 0 || at < n; at += c.cut {
								c.want = append(c.want, big[at:min(n, at+c.cut)])
							}
						}
						if n == 0 && c.cut == whole {
							c.want = nil
						}
						if err := l.send([]byte("first"), []byte("+meta"), c.body, c.cut); err != nil {
							t.Fatal(err)
						}
						got, err := readMessage(l)
						if err != nil {
							t.Fatal(err)
						}
						if string(got[0]) != "first+meta" || len(got) != len(c.want)+1 {
							t.Fatalf("%d bytes, cut %d: %d parts, want %d, first %q", n, c.cut, len(got), len(c.want)+1, got[0])
						}
						for i, w := range c.want {
							if !bytes.Equal(got[i+1], w) {
								t.Fatalf("%d bytes, cut %d: part %d differs", n, c.cut, i)
							}
						}
					}
				}
			})
		})
	}
}

// TestLinkMany: many links, many messages in flight each way.
func TestLinkMany(t *testing.T) {
	crossed(t, func(t *testing.T, listen listenFunc, connect connectFunc) {
		dial := linkPair(t, listen, connect, setup{}, echoLink)
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				l, err := dial()
				if err != nil {
					t.Error(err)
					return
				}
				defer l.close()
				const count = 200
				body := random(40_000)
				sent := make(chan error, 1)
				go func() {
					for i := range count {
						if err := l.send(fmt.Append(nil, i), nil, transport.Slices{body[:1+i*199]}, whole); err != nil {
							sent <- err
							return
						}
					}
					sent <- nil
				}()
				for i := range count {
					m, err := readMessage(l)
					if err != nil || string(m[0]) != fmt.Sprint(i) || !bytes.Equal(m[1], body[:1+i*199]) {
						t.Errorf("message %d: %v", i, err)
						return
					}
				}
				if err := <-sent; err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}

// TestLinkEnds: who closes is noticed at the other end, after what was sent before.
func TestLinkEnds(t *testing.T) {
	t.Run("server", func(t *testing.T) {
		crossed(t, func(t *testing.T, listen listenFunc, connect connectFunc) {
			dial := linkPair(t, listen, connect, setup{}, func(l link) {
				readMessage(l)
				l.send([]byte("bye"), nil, nil, whole)
			})
			l, err := dial()
			if err != nil {
				t.Fatal(err)
			}
			defer l.close()
			if err := l.send([]byte("hi"), nil, nil, whole); err != nil {
				t.Fatal(err)
			}
			if m, err := readMessage(l); err != nil || string(m[0]) != "bye" {
				t.Fatalf("%q, %v", m, err)
			}
			if _, _, err := l.next(); err != io.EOF && !errors.Is(err, transport.ErrUnavailable) {
				t.Errorf("after the server hung up: %v", err)
			}
		})
	})
	t.Run("client", func(t *testing.T) {
		crossed(t, func(t *testing.T, listen listenFunc, connect connectFunc) {
			ends := make(chan error, 1)
			got := make(chan [][]byte, 1)
			dial := linkPair(t, listen, connect, setup{}, func(l link) {
				m, _ := readMessage(l)
				got <- m
				_, _, err := l.next()
				ends <- err
			})
			l, err := dial()
			if err != nil {
				t.Fatal(err)
			}
			if err := l.send([]byte("hi"), nil, transport.Slices{random(100_000)}, whole); err != nil {
				t.Fatal(err)
			}
			if m := <-got; len(m) != 2 || len(m[1]) != 100_000 {
				t.Errorf("%d parts", len(m))
			}
			l.close()
			l.close()
			if err := <-ends; err != io.EOF && !errors.Is(err, transport.ErrUnavailable) {
				t.Errorf("after the client hung up: %v", err)
			}
			if err := l.send([]byte("hi"), nil, nil, whole); !errors.Is(err, transport.ErrUnavailable) {
				t.Errorf("send after close: %v", err)
			}
			if _, _, err := l.next(); !errors.Is(err, transport.ErrUnavailable) {
				t.Errorf("next after close: %v", err)
			}
		})
	})
}

func TestLinkInterrupt(t *testing.T) {
	crossed(t, func(t *testing.T, listen listenFunc, connect connectFunc) {
		served := make(chan link, 1)
		interrupted := make(chan error, 1)
		dial := linkPair(t, listen, connect, setup{}, func(l link) {
			readMessage(l)
			served <- l
			_, _, err := l.next()
			interrupted <- err
			echoLink(l)
		})
		l, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		defer l.close()
		for range 3 {
			l.interrupt()
			if _, _, err := l.next(); err != native.ErrInterrupted {
				t.Fatalf("next: %v", err)
			}
		}
		if err := l.send([]byte("hi"), nil, nil, whole); err != nil {
			t.Fatal(err)
		}
		(<-served).interrupt()
		if err := <-interrupted; err != native.ErrInterrupted {
			t.Errorf("the server's next: %v", err)
		}
		if err := l.send([]byte("again"), nil, nil, whole); err != nil {
			t.Fatal(err)
		}
		if m, err := readMessage(l); err != nil || string(m[0]) != "again" {
			t.Errorf("%q, %v", m, err)
		}
	})
}

// TestLinkCloseWhileSending: close ends a send to a peer that does not read, at both ends.
func TestLinkCloseWhileSending(t *testing.T) {
	big := transport.Slices{random(64 << 20)}
	flood := func(l link) error {
		for {
			if err := l.send([]byte("x"), nil, big, whole); err != nil {
				return err
			}
		}
	}
	t.Run("client", func(t *testing.T) {
		// A server over libzmq reads until its queue is full, then no more.
		crossed(t, func(t *testing.T, listen listenFunc, connect connectFunc) {
			stop := make(chan struct{})
			dial := linkPair(t, listen, connect, setup{}, func(l link) { <-stop })
			defer close(stop)
			l, err := dial()
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			first := make(chan struct{})
			go func() {
				l.send([]byte("x"), nil, nil, whole)
				close(first)
				done <- flood(l)
			}()
			<-first
			l.close()
			if err := <-done; !errors.Is(err, transport.ErrUnavailable) {
				t.Errorf("%v", err)
			}
		})
	})
	t.Run("server", func(t *testing.T) {
		crossed(t, func(t *testing.T, listen listenFunc, connect connectFunc) {
			done := make(chan error, 1)
			served := make(chan link, 1)
			dial := linkPair(t, listen, connect, setup{}, func(l link) {
				readMessage(l)
				served <- l
				done <- flood(l)
			})
			l, err := dial()
			if err != nil {
				t.Fatal(err)
			}
			defer l.close()
			if err := l.send([]byte("go"), nil, nil, whole); err != nil {
				t.Fatal(err)
			}
			if _, _, err := l.next(); err != nil { // it has begun to send
				t.Fatal(err)
			}
			(<-served).close()
			if err := <-done; !errors.Is(err, transport.ErrUnavailable) {
				t.Errorf("%v", err)
			}
		})
	})
}

// TestLinkServerCloses: closing the acceptor ends links that read and links that send.
func TestLinkServerCloses(t *testing.T) {
	crossed(t, func(t *testing.T, listen listenFunc, connect connectFunc) {
		lo, _ := ListenOptions{}.complete()
		do, _ := DialOptions{}.complete()
		var busy sync.WaitGroup
		busy.Add(2)
		big := transport.Slices{random(32 << 20)}
		acc, err := listen(testContext(t), address{"tcp", "127.0.0.1:0"}, lo, func(l link) {
			m, _ := readMessage(l)
			busy.Done()
			switch string(m[1]) {
			case "read":
				l.next()
			case "send":
				for l.send([]byte("x"), nil, big, whole) == nil {
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		a, _ := parseAddress(acc.address())
		for _, what := range []string{"read", "send"} {
			l, err := connect(testContext(t), a, do, [][]byte{[]byte(what)})
			if err != nil {
				t.Fatal(err)
			}
			defer l.close()
		}
		busy.Wait()
		acc.close()
		if _, err := connect(testContext(t), a, do, nil); !errors.Is(err, transport.ErrUnavailable) {
			t.Errorf("connect to a closed server: %v", err)
		}
	})
}

func TestLinkRefused(t *testing.T) {
	t.Run("key", func(t *testing.T) {
		crossed(t, func(t *testing.T, listen listenFunc, connect connectFunc) {
			other, _, _ := NewCurveKeys()
			dial := linkPair(t, listen, connect, setup{curve: true, allowed: []CurveKey{other}}, echoLink)
			if l, err := dial(); err == nil {
				l.close()
				t.Error("a key that is not allowed got in")
			}
		})
	})
	t.Run("count", func(t *testing.T) {
		crossed(t, func(t *testing.T, listen listenFunc, connect connectFunc) {
			dial := linkPair(t, listen, connect, setup{max: 1}, echoLink)
			a, err := dial()
			if err != nil {
				t.Fatal(err)
			}
			defer a.close()
			if err := a.send([]byte("a"), nil, nil, whole); err != nil {
				t.Fatal(err)
			}
			if m, err := readMessage(a); err != nil || string(m[0]) != "a" {
				t.Fatalf("%q, %v", m, err)
			}
			b, err := dial()
			if err != nil {
				return // hung up on during the handshake
			}
			defer b.close()
			if err := b.send([]byte("b"), nil, nil, whole); err != nil {
				return
			}
			if _, _, err := b.next(); err != io.EOF && !errors.Is(err, transport.ErrUnavailable) {
				t.Errorf("the second of one: %v", err)
			}
		})
	})
	t.Run("mechanism", func(t *testing.T) {
		crossed(t, func(t *testing.T, listen listenFunc, connect connectFunc) {
			lo, _ := ListenOptions{}.complete()
			acc, err := listen(testContext(t), address{"tcp", "127.0.0.1:0"}, lo, echoLink)
			if err != nil {
				t.Fatal(err)
			}
			defer acc.close()
			a, _ := parseAddress(acc.address())
			p, s, _ := NewCurveKeys()
			do, _ := DialOptions{Curve: &CurveClient{ServerKey: p, PublicKey: p, SecretKey: s}}.complete()
			if l, err := connect(testContext(t), a, do, nil); err == nil {
				l.close()
				t.Error("CURVE to a server without")
			}
		})
	})
	t.Run("hello", func(t *testing.T) { // the connection may end while the hello is sent
		cCheck(t)
		leakCheck(t)
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
		do, _ := DialOptions{}.complete()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 25 {
					if l, err := connectLibzmq(testContext(t), address{"tcp", ln.Addr().String()}, do, hello); err == nil {
						l.close()
						t.Error("connected")
					}
				}
			})
		}
		wg.Wait()
	})
	t.Run("cancel", func(t *testing.T) {
		crossed(t, func(t *testing.T, listen listenFunc, connect connectFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			do, _ := DialOptions{}.complete()
			if l, err := connect(ctx, address{"tcp", "127.0.0.1:1"}, do, nil); err == nil {
				l.close()
				t.Error("connected")
			}
			if _, err := connect(t.Context(), address{"tcp", "127.0.0.1:1"}, do, nil); !errors.Is(err, transport.ErrUnavailable) {
				t.Errorf("connect to nobody: %v", err)
			}
			lo, _ := ListenOptions{}.complete()
			if _, err := listen(t.Context(), address{"tcp", "192.0.2.1:0"}, lo, echoLink); err == nil || !strings.Contains(err.Error(), "192.0.2.1") {
				t.Errorf("listen elsewhere: %v", err)
			}
		})
	})
}

// TestLinkSilent: who connects and sends nothing, or not all of a message, is hung up on.
func TestLinkSilent(t *testing.T) {
	cCheck(t)
	leakCheck(t)
	var l logs
	lo := ListenOptions{}
	lo.StallTimeout, lo.Logger = 20*time.Millisecond, l.logger()
	o, err := lo.complete()
	if err != nil {
		t.Fatal(err)
	}
	acc, err := listenLibzmq(testContext(t), address{"tcp", "127.0.0.1:0"}, o, echoLink)
	if err != nil {
		t.Fatal(err)
	}
	defer acc.close()
	a, _ := parseAddress(acc.address())
	do, _ := DialOptions{}.complete()
	for _, sent := range []string{"", "\x01\x00\x00\x7fhalf"} {
		c, err := connectPure(testContext(t), a, do, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.(*wire).nc.Write([]byte(sent))
		if _, _, err := c.next(); err != io.EOF && !errors.Is(err, transport.ErrUnavailable) {
			t.Errorf("after %q: %v", sent, err)
		}
		c.close()
	}
	if !strings.Contains(l.String(), "nothing came or went") {
		t.Error(l.String())
	}
}

// TestLinkReadAfterClose: who reads a part while another closes the link hears that it is closed, not that the peer sent nonsense.
func TestLinkReadAfterClose(t *testing.T) {
	crossed(t, func(t *testing.T, listen listenFunc, connect connectFunc) {
		var both, done sync.WaitGroup
		both.Add(2)
		done.Add(1)
		begun := func(l link) {
			n, _, err := l.next()
			if err != nil || n != 100_000 {
				t.Errorf("next: %d, %v", n, err)
			}
			both.Done()
			both.Wait()
			l.close()
			if b, ok := l.take(); ok {
				t.Error("take after close")
				b.Release()
			}
			if _, err := l.read(make([]byte, n)); !errors.Is(err, transport.ErrUnavailable) || errors.Is(err, transport.ErrCorrupt) {
				t.Errorf("read after close: %v", err)
			}
		}
		body := random(100_000)
		dial := linkPair(t, listen, connect, setup{}, func(l link) {
			if err := l.send(body, nil, nil, whole); err != nil {
				t.Error(err)
			}
			begun(l)
			done.Done()
		})
		l, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		defer l.close()
		if err := l.send(body, nil, nil, whole); err != nil {
			t.Fatal(err)
		}
		begun(l)
		done.Wait()
	})
}

// TestLinkHurry: a send that the peer does not take is ended; one that has left, or can be left to libzmq, costs nothing.
func TestLinkHurry(t *testing.T) {
	for name, connect := range connectForms {
		t.Run(name, func(t *testing.T) {
			cCheck(t)
			leakCheck(t)
			stop, got := make(chan struct{}), make(chan struct{}, 1)
			dial := linkPair(t, listenPure, connect, setup{}, func(l link) {
				for range 3 {
					if _, err := readMessage(l); err != nil {
						t.Error(err)
					}
					got <- struct{}{}
				}
				l.next() // and reads on no more
				got <- struct{}{}
				<-stop
			})
			defer close(stop)
			l, err := dial()
			if err != nil {
				t.Fatal(err)
			}
			defer l.close()
			h := l.(hurrier)
			for _, n := range []int{10, 1 << 20} {
				if err := l.send([]byte("x"), nil, transport.Slices{random(n)}, 64<<10); err != nil {
					t.Fatal(err)
				}
				h.hurry() // all of it has left
				h.calm()
				<-got
			}
			if err := l.send([]byte("x"), nil, nil, whole); err != nil {
				t.Fatal(err)
			}
			<-got
			done := make(chan error)
			go func() { done <- l.send([]byte("x"), nil, transport.Slices{make([]byte, 64<<20)}, 64<<10) }()
			<-got
			h.hurry()
			if err := <-done; !errors.Is(err, transport.ErrUnavailable) {
				t.Errorf("hurried: %v", err)
			}
			h.calm()
			if err := l.send([]byte("x"), nil, nil, whole); !errors.Is(err, transport.ErrUnavailable) {
				t.Errorf("after half a message: %v", err)
			}
			if _, _, err := l.next(); !errors.Is(err, transport.ErrUnavailable) {
				t.Errorf("next: %v", err)
			}
		})
	}
}

// TestLinkPace: a message leaves however long it takes, unless the peer takes nothing of it.
func TestLinkPace(t *testing.T) {
	for name, listen := range listenForms {
		for _, cut := range []int{4 << 10, 64 << 10, whole} {
			t.Run(fmt.Sprintf("%s/%d", name, cut), func(t *testing.T) {
				cCheck(t)
				leakCheck(t)
				done := make(chan error)
				big := transport.Slices{make([]byte, 5<<20), make([]byte, 100), make([]byte, 11<<20)}
				dial := linkPair(t, listen, connectPure, setup{}, func(l link) {
					readMessage(l)
					l.(pacer).pace(time.Minute)
					done <- l.send([]byte("x"), nil, big, cut)
					l.(pacer).pace(20 * time.Millisecond)
					for {
						if err := l.send([]byte("x"), nil, big, cut); err != nil {
							done <- err
							return
						}
					}
				})
				l, err := dial()
				if err != nil {
					t.Fatal(err)
				}
				defer l.close()
				if err := l.send([]byte("go"), nil, nil, whole); err != nil {
					t.Fatal(err)
				}
				if _, err := readMessage(l); err != nil {
					t.Error(err)
				}
				if err := <-done; err != nil {
					t.Errorf("to who reads: %v", err)
				}
				if err := <-done; !errors.Is(err, transport.ErrUnavailable) || !strings.Contains(err.Error(), "nothing came or went") {
					t.Errorf("to who does not: %v", err)
				}
			})
		}
	}
}

// TestLinkFlood: a peer whose messages are not read keeps nobody waiting, and is hung up on when too many are there, also if they are empty.
func TestLinkFlood(t *testing.T) {
	for _, size := range []int{0, 1 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			cCheck(t)
			leakCheck(t)
			if size == 0 {
				defer func(n int) { queueMax = n }(queueMax)
				queueMax = 1 << 20
			}
			var l logs
			lo := ListenOptions{}
			lo.Logger = l.logger()
			o, _ := lo.complete()
			stop := make(chan struct{})
			acc, err := listenLibzmq(testContext(t), address{"tcp", "127.0.0.1:0"}, o, func(l link) {
				if m, err := readMessage(l); err == nil && string(m[0]) == "stay" {
					<-stop
					return
				}
				echoLink(l)
			})
			if err != nil {
				t.Fatal(err)
			}
			defer acc.close()
			defer close(stop)
			a, _ := parseAddress(acc.address())
			do, _ := DialOptions{}.complete()
			var links [2]link
			for i, say := range []string{"stay", "echo"} {
				if links[i], err = connectPure(testContext(t), a, do, nil); err != nil {
					t.Fatal(err)
				}
				defer links[i].close()
				if err := links[i].send([]byte(say), nil, nil, whole); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 80 { // what the other one's queue held before all had to wait
				if err := links[0].send(make([]byte, size), nil, nil, whole); err != nil {
					t.Fatalf("message %d: %v", i, err)
				}
			}
			if err := links[1].send([]byte("x"), nil, nil, whole); err != nil {
				t.Fatal(err)
			}
			if _, err := readMessage(links[1]); err != nil {
				t.Fatalf("the other peer: %v", err)
			}
			if size > 0 {
				return
			}
			for links[0].send(nil, nil, nil, whole) == nil {
			}
			if !strings.Contains(l.String(), "more than is read") {
				t.Error(l.String())
			}
		})
	}
}
