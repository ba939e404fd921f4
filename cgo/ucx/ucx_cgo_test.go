//go:build cgo && ucx

package ucx

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

const everything = Tag | RMA | Stream | AM | Wakeup

// side is one end of a connection, in a context of its own as if it were another process.
type side struct {
	t      testing.TB
	c      *Context
	w      *Worker
	ep     *Endpoint
	done   map[uint64]Event
	errors []Event
	msgs   []Event
	conns  []Event
	peer   *side

	unwatched bool
}

func newSide(t testing.TB, tls string, client uint64) *side {
	t.Helper()
	c, err := Open(Options{Name: "test", Features: everything, Config: map[string]string{"TLS": tls}})
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.NewWorker(WorkerOptions{ClientID: client})
	if err != nil {
		t.Fatal(err)
	}
	return &side{t: t, c: c, w: w, done: map[uint64]Event{}}
}

// poll does one round on this side. What is lent only until the next Progress it copies.
func (s *side) poll() {
	s.t.Helper()
	events, _, err := s.w.Progress(0)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range events {
		e.Header, e.Inline = bytes.Clone(e.Header), bytes.Clone(e.Inline)
		switch e.Kind {
		case OpDone:
			s.done[e.Token] = e
		case ActiveMessage:
			s.msgs = append(s.msgs, e)
		case Connection:
			s.conns = append(s.conns, e)
		case EndpointError:
			s.errors = append(s.errors, e)
		}
	}
}

// until runs both sides until cond holds. The deadline is for tests that hang.
func (s *side) until(what string, cond func() bool) {
	s.t.Helper()
	for end := time.Now().Add(3 * time.Second); !cond(); {
		s.poll()
		if s.peer != nil && s.peer.w != nil {
			s.peer.poll()
		}
		if time.Now().After(end) {
			s.t.Fatalf("%s did not happen", what)
		}
	}
}

// wait is for the end of an operation that started with r and err.
func (s *side) wait(token uint64, r Result, err error) Event {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
	if r.Done {
		return Event{Length: r.Length, Tag: r.Tag}
	}
	s.until("operation "+fmt.Sprint(token), func() bool { _, ok := s.done[token]; return ok })
	e := s.done[token]
	delete(s.done, token)
	return e
}

func (s *side) close() {
	s.t.Helper()
	if s.unwatched {
		defer s.ep.Free()
	} else if s.ep != nil {
		r, err := s.ep.Close(true, 1<<40)
		s.wait(1<<40, r, err)
		s.ep.Free()
		s.ep = nil
	}
	for _, m := range s.msgs {
		if m.Message.Valid() {
			s.t.Error("a message was left over")
		}
	}
	if n := s.w.Pending(); n != 0 {
		s.t.Errorf("%d operations are under way at the end", n)
	}
	s.w.Close()
	s.w = nil
	s.c.Close()
}

// noneLive fails if anything is open.
func noneLive(t testing.TB) {
	t.Helper()
	for p := range numPurposes {
		if h, b := Live(p); h != 0 || b != 0 {
			t.Errorf("%d %v with %d bytes are open at the end", h, p, b)
		}
	}
}

// connected returns two sides with a connection between them.
func connected(t testing.TB, tls, host string) (client, server *side) {
	t.Helper()
	client, server = newSide(t, tls, 0xabcdef), newSide(t, tls, 0)
	client.peer, server.peer = server, client
	for _, s := range []*side{client, server} {
		if err := s.w.HandleMessages(3); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(tls, "tcp") && tls != "all" { // shared memory alone: see ConnectWorker
		var err error
		for _, s := range []*side{client, server} {
			address, aerr := s.peer.w.Address()
			if aerr != nil {
				t.Fatal(aerr)
			}
			if s.ep, err = s.w.ConnectWorker(address, false, 5); err != nil {
				t.Fatal(err)
			}
			s.unwatched = true
		}
		t.Cleanup(func() {
			client.close()
			server.close()
			noneLive(t)
		})
		return client, server
	}
	l, err := server.w.Listen(netip.AddrPortFrom(netip.MustParseAddr(host), 0), 77)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := l.Addr()
	if err != nil || addr.Port() == 0 || addr.Addr() != netip.MustParseAddr(host) {
		t.Fatalf("listening at %v, %v", addr, err)
	}
	if client.ep, err = client.w.Connect(addr, true, 5); err != nil {
		t.Fatal(err)
	}
	server.until("a connection request", func() bool { return len(server.conns) > 0 })
	if e := server.conns[0]; e.Token != 77 || e.Tag != 0xabcdef {
		t.Errorf("a connection request with token %d of client %x", e.Token, e.Tag)
	}
	if from, err := server.conns[0].Conn.Addr(); err != nil || from.Addr() != netip.MustParseAddr(host) || from.Port() == 0 {
		t.Errorf("a connection from %v, %v", from, err)
	}
	if server.ep, err = server.w.Accept(server.conns[0].Conn, 6); err != nil {
		t.Fatal(err)
	}
	l.Close()
	t.Cleanup(func() {
		client.close()
		server.close()
		noneLive(t)
	})
	return client, server
}

func random(n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n)})
	r.Read(p)
	return p
}

// pinned keeps p where it is until the test ends.
func pinned(t testing.TB, p []byte) []byte {
	if len(p) > 0 {
		var pin runtime.Pinner
		pin.Pin(&p[0])
		t.Cleanup(pin.Unpin)
	}
	return p
}

func transportsUnderTest() map[string]string {
	return map[string]string{"tcp": "tcp", "posix": "posix,self", "sysv": "sysv,self", "cma": "posix,cma,self", "all": "all"}
}

func forTransports(t *testing.T, f func(t *testing.T, tls string)) {
	for name, tls := range transportsUnderTest() {
		t.Run(name, func(t *testing.T) { f(t, tls) })
	}
}

var sizes = []int{0, 1, 7, 2 << 10, 2<<10 + 1, 9000, 64 << 10, 300_001, 5 << 20}

func TestActiveMessages(t *testing.T) {
	forTransports(t, func(t *testing.T, tls string) {
		client, server := connected(t, tls, "127.0.0.1")
		header := pinned(t, random(60))
		for _, flags := range []SendFlags{SendReply, SendReply | SendRendezvous, SendReply | SendEager} {
			for _, n := range sizes {
				body := pinned(t, random(n))
				r, err := client.ep.SendMessage(3, header, body, flags, 9)
				if err != nil {
					t.Fatal(err)
				}
				server.until("a message", func() bool { return len(server.msgs) > 0 })
				m := server.msgs[0]
				server.msgs = nil
				if !bytes.Equal(m.Header, header) || m.Length != n || m.From != server.ep.Handle() {
					t.Fatalf("%d bytes: header %d, length %d, from the endpoint: %v", n, len(m.Header), m.Length, m.From == server.ep.Handle())
				}
				got := m.Inline
				if m.Message.Valid() {
					if m.Message.Remote() != (server.w.MessageBytes(m.Message) == nil) {
						t.Error("bytes of a message that is remote")
					}
					got = pinned(t, make([]byte, n))
					r, err := server.w.RecvMessage(m.Message, got, 10)
					if e := server.wait(10, r, err); e.Err != nil || e.Length != n {
						t.Fatalf("received %d bytes of %d, %v", e.Length, n, e.Err)
					}
				}
				if !bytes.Equal(got, body) {
					t.Fatalf("%d bytes: not what was sent", n)
				}
				if e := client.wait(9, r, err); e.Err != nil {
					t.Fatal(e.Err)
				}
			}
		}
		t.Log(client.ep.Transports(), server.ep.Transports(), client.w.MaxHeader())
	})
}

func TestTags(t *testing.T) {
	forTransports(t, func(t *testing.T, tls string) {
		client, server := connected(t, tls, "127.0.0.1")
		for i, n := range sizes {
			tag := uint64(1000 + i)
			body, got := pinned(t, random(n)), pinned(t, make([]byte, n+1))
			if i%2 == 0 { // the message is there before the receive
				r, err := client.ep.SendTag(tag, body, 1)
				server.until("a message", func() bool { _, _, ok := server.w.ProbeTag(tag, ^uint64(0)); return ok })
				if length, sender, _ := server.w.ProbeTag(tag&0xff, 0xff); length != n || sender != tag {
					t.Fatalf("probed %d bytes of %d, tag %d", length, n, sender)
				}
				r2, err2 := server.w.RecvTag(tag, ^uint64(0), got, 2)
				if e := server.wait(2, r2, err2); e.Err != nil || e.Length != n || e.Tag != tag {
					t.Fatalf("%d bytes: received %d with tag %d, %v", n, e.Length, e.Tag, e.Err)
				}
				client.wait(1, r, err)
			} else {
				r2, err2 := server.w.RecvTag(tag, ^uint64(0), got, 2)
				if _, _, ok := server.w.ProbeTag(tag, ^uint64(0)); ok {
					t.Error("a message that nobody sent")
				}
				r, err := client.ep.SendTag(tag, body, 1)
				if e := server.wait(2, r2, err2); e.Err != nil || e.Length != n || e.Tag != tag {
					t.Fatalf("%d bytes: received %d with tag %d, %v", n, e.Length, e.Tag, e.Err)
				}
				client.wait(1, r, err)
			}
			if !bytes.Equal(got[:n], body) {
				t.Fatalf("%d bytes: not what was sent", n)
			}
		}
		// Longer than the receive's memory.
		got := pinned(t, make([]byte, 10))
		r2, err2 := server.w.RecvTag(5, ^uint64(0), got, 2)
		r, err := client.ep.SendTag(5, pinned(t, random(11)), 1)
		if e := server.wait(2, r2, err2); !errors.Is(e.Err, ErrTruncated) {
			t.Errorf("11 bytes into 10: %v", e.Err)
		}
		client.wait(1, r, err)
	})
}

func TestStreams(t *testing.T) {
	forTransports(t, func(t *testing.T, tls string) {
		client, server := connected(t, tls, "127.0.0.1")
		a, b := pinned(t, random(24)), pinned(t, make([]byte, 24))
		for range 3 {
			r2, err2 := client.ep.RecvStream(b, 2)
			r, err := server.ep.SendStream(a, 1)
			if e := client.wait(2, r2, err2); e.Err != nil || e.Length != 24 || !bytes.Equal(a, b) {
				t.Fatalf("%d bytes, %v", e.Length, e.Err)
			}
			server.wait(1, r, err)
			r, err = client.ep.SendStream(a[:20], 1)
			client.wait(1, r, err)
			r, err = client.ep.SendStream(a[20:], 1)
			client.wait(1, r, err)
			clear(b)
			r2, err2 = server.ep.RecvStream(b, 2)
			if e := server.wait(2, r2, err2); e.Err != nil || e.Length != 24 || !bytes.Equal(a, b) {
				t.Fatalf("%d bytes, %v", e.Length, e.Err)
			}
			clear(b)
		}
	})
}

func TestRemoteMemory(t *testing.T) {
	forTransports(t, func(t *testing.T, tls string) {
		client, server := connected(t, tls, "127.0.0.1")
		for _, kind := range []string{"registered", "allocated"} {
			for _, n := range []int{1, 4096, 1 << 20} {
				var mem *Memory
				var remote []byte
				var err error
				if kind == "registered" {
					remote = random(n)
					mem, err = server.c.Register(remote)
				} else if mem, err = server.c.Alloc(n); err == nil {
					remote = mem.Bytes()
					copy(remote, random(n))
				}
				if err != nil {
					t.Fatal(err)
				}
				if _, b := Live(Memories); b != int64(n) || mem.Len() != n {
					t.Errorf("%d bytes are registered, want %d", b, n)
				}
				key, err := mem.Key()
				if err != nil {
					t.Fatal(err)
				}
				k, err := client.ep.UnpackKey(key)
				if err != nil {
					t.Fatal(err)
				}
				dst := pinned(t, make([]byte, n))
				local, err := client.c.Register(dst)
				if err != nil {
					t.Fatal(err)
				}
				r, err := client.ep.Get(dst, mem.Addr(), k, local, 1)
				if e := client.wait(1, r, err); e.Err != nil || !bytes.Equal(dst, remote) {
					t.Fatalf("%s %d: get: %v", kind, n, e.Err)
				}
				for i := range dst {
					dst[i] ^= 0x5a
				}
				r, err = client.ep.Put(dst, mem.Addr(), k, 1)
				client.wait(1, r, err)
				r, err = client.ep.Flush(2)
				if e := client.wait(2, r, err); e.Err != nil || !bytes.Equal(dst, remote) {
					t.Fatalf("%s %d: put: %v", kind, n, e.Err)
				}
				k.Close()
				for _, m := range []*Memory{mem, local} {
					if err := m.Close(); err != nil {
						t.Error(err)
					}
				}
			}
		}
	})
}

func TestMain(m *testing.M) {
	if os.Getenv("UCX_LOG_LEVEL") == "" {
		os.Setenv("UCX_LOG_LEVEL", "error")
	}
	os.Setenv("UCX_WARN_UNUSED_ENV_VARS", "n")
	os.Exit(m.Run())
}

func TestInfo(t *testing.T) {
	host := os.Getenv("V6")
	if host == "" {
		host = "::1"
	}
	client, _ := connected(t, "tcp", host)
	t.Log(client.ep.Info())
	if !strings.Contains(client.c.Config(), "UCX_TLS=tcp") {
		t.Error("the settings do not show what was set")
	}
}
