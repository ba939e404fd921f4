//go:build cgo && ucx

package ucx

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
	client, _ := connected(t, "tcp", "127.0.0.1")
	for what, text := range map[string]string{"context": client.c.Info(), "worker": client.w.Info(), "endpoint": client.ep.Info()} {
		if !strings.Contains(text, "tcp") && !strings.Contains(text, "UCP worker") {
			t.Errorf("libucp says of the %s: %q", what, text)
		}
	}
	if !strings.Contains(client.c.Config(), "UCX_TLS=tcp") {
		t.Error("the settings do not show what was set")
	}
	if loaded, built := Version(); !strings.HasPrefix(loaded, "1.") || !strings.HasPrefix(built, "1.") {
		t.Errorf("versions %q and %q", loaded, built)
	}
}

func TestVersions(t *testing.T) {
	for _, c := range []struct {
		major, minor uint
		ok           bool
	}{{1, 13, true}, {1, 14, true}, {1, 12, false}, {2, 13, false}} {
		if err := checkVersion(c.major, c.minor, 1, 13); (err == nil) != c.ok {
			t.Errorf("%d.%d for a program built for 1.13: %v", c.major, c.minor, err)
		}
	}
}

// TestIPv6 gets as far as libucp goes on any machine: listening at ::1 and its connection request, with the whole address. Endpoints need an address that
// is not ::1, which libucp's TCP leaves out; with one they are tested in a network of their own, where the system gives us one.
func TestIPv6(t *testing.T) {
	if os.Getenv("PROXYPLANE_UCX_IPV6") != "" {
		t.Setenv("UCX_TCP_AF_PRIO", "inet6,inet")
		t.Setenv("UCX_NET_DEVICES", "lo")
		client, server := connected(t, "tcp", "fd00:1::1")
		body, got := pinned(t, random(100_000)), pinned(t, make([]byte, 100_000))
		r2, err2 := server.w.RecvTag(1, ^uint64(0), got, 2)
		r, err := client.ep.SendTag(1, body, 1)
		server.wait(2, r2, err2)
		client.wait(1, r, err)
		if !bytes.Equal(body, got) {
			t.Error("not what was sent")
		}
		return
	}
	client, server := newSide(t, "tcp", 7), newSide(t, "tcp", 0)
	client.peer, server.peer = server, client
	l, err := server.w.Listen(netip.MustParseAddrPort("[::1]:0"), 1)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := l.Addr()
	if err != nil || addr.Addr() != netip.IPv6Loopback() || addr.Port() == 0 {
		t.Fatalf("listening at %v, %v", addr, err)
	}
	if client.ep, err = client.w.Connect(addr, true, 1); err != nil {
		t.Fatal(err)
	}
	server.until("a connection request", func() bool { return len(server.conns) > 0 })
	if from, err := server.conns[0].Conn.Addr(); err != nil || from.Addr() != netip.IPv6Loopback() {
		t.Errorf("a connection from %v, %v", from, err)
	}
	if err := l.Reject(server.conns[0].Conn); err != nil {
		t.Error(err)
	}
	client.until("a refusal", func() bool { return len(client.errors) > 0 })
	if e := client.errors[0]; e.Token != 1 || !errors.Is(e.Err, ErrRejected) {
		t.Errorf("a refusal with token %d: %v", e.Token, e.Err)
	}
	l.Close()
	client.close()
	server.close()
	noneLive(t)

	ip, err := exec.LookPath("ip")
	if err != nil {
		t.Logf("without the program ip there is no more to test: %v", err)
		return
	}
	cmd := exec.Command("/bin/sh", "-c",
		ip+" link set lo up && "+ip+" addr add fd00:1::1/128 dev lo nodad && exec "+os.Args[0]+" -test.run '^TestIPv6$' -test.v")
	cmd.Env = append(os.Environ(), "PROXYPLANE_UCX_IPV6=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNET | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil && !strings.Contains(string(out), "TestIPv6") {
		t.Logf("the system gives us no network to test in: %v, %s", err, out)
		return
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestRefused(t *testing.T) {
	s := newSide(t, "tcp", 0)
	l, err := s.w.Listen(netip.MustParseAddrPort("127.0.0.1:0"), 1)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := l.Addr()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.w.Listen(addr, 1); err == nil {
		t.Error("two listeners at one port")
	}
	l.Close()
	l.Close()
	if s.ep, err = s.w.Connect(addr, false, 9); err == nil {
		s.until("an error", func() bool { return len(s.errors) > 0 })
		if e := s.errors[0]; e.Token != 9 || e.Err == nil {
			t.Errorf("nobody listens: %v", e)
		}
	}
	for _, bad := range []netip.AddrPort{{}, netip.MustParseAddrPort("[fe80::1%nonesuch]:1")} {
		if _, err := s.w.Listen(bad, 1); err == nil {
			t.Errorf("listening at %v", bad)
		}
		if _, err := s.w.Connect(bad, false, 1); err == nil {
			t.Errorf("connecting to %v", bad)
		}
	}
	if _, err := s.w.ConnectWorker(nil, true, 1); err == nil {
		t.Error("connecting to a worker without address")
	}
	if _, err := s.c.Register(nil); err == nil {
		t.Error("registering nothing")
	}
	if _, err := s.c.Alloc(0); err == nil {
		t.Error("allocating nothing")
	}
	s.close()
	for _, o := range []Options{
		{Features: everything, Config: map[string]string{"TLS": "nonesuch"}},
		{Features: everything, Config: map[string]string{"TLS": "a\x00b"}},
		{Features: everything, Config: map[string]string{"RNDV_THRESH": "much"}},
	} {
		if c, err := Open(o); err == nil {
			t.Errorf("opened with %v", o.Config)
			c.Close()
		}
	}
	noneLive(t)
}

func TestCancel(t *testing.T) {
	forTransports(t, func(t *testing.T, tls string) {
		_, server := connected(t, tls, "127.0.0.1")
		got := pinned(t, make([]byte, 100))
		r, err := server.w.RecvTag(1, ^uint64(0), got, 2)
		if err != nil || r.Done || server.w.Pending() != 1 {
			t.Fatalf("a receive of nothing: %v, %v, %d under way", r, err, server.w.Pending())
		}
		server.w.Cancel(r)
		if e := server.wait(2, r, err); !errors.Is(e.Err, ErrCanceled) {
			t.Errorf("cancelled: %v", e.Err)
		}
		server.w.Cancel(Result{Done: true})
	})
}

// TestPeerCloses: the end of one side is an event of the other.
func TestPeerCloses(t *testing.T) {
	client, server := connected(t, "tcp", "127.0.0.1")
	r, err := client.ep.SendTag(1, pinned(t, random(10)), 1)
	client.wait(1, r, err)
	r, err = client.ep.Flush(2)
	if e := client.wait(2, r, err); e.Err != nil {
		t.Fatal(e.Err)
	}
	r, err = client.w.Flush(3)
	if e := client.wait(3, r, err); e.Err != nil {
		t.Fatal(e.Err)
	}
	r, err = server.ep.Close(true, 4)
	server.wait(4, r, err)
	server.ep.Free()
	server.ep = nil
	client.until("the end of the peer", func() bool { return len(client.errors) > 0 })
	if e := client.errors[0]; e.Token != 5 || e.Err == nil {
		t.Errorf("the peer has gone: %v", e)
	}
	got := pinned(t, make([]byte, 10))
	r, err = server.w.RecvTag(1, ^uint64(0), got, 5)
	server.wait(5, r, err)
}

func TestSleep(t *testing.T) {
	forTransports(t, func(t *testing.T, tls string) {
		client, server := connected(t, tls, "127.0.0.1")
		r, err := client.ep.SendTag(1, pinned(t, random(10)), 1)
		client.wait(1, r, err)
		for range 3 { // a signal wakes a sleeper
			for armed := false; !armed; {
				server.poll()
				if armed, err = server.w.Arm(); err != nil {
					t.Fatal(err)
				}
			}
			if err := server.w.Signal(); err != nil {
				t.Fatal(err)
			}
			p := []unix.PollFd{{Fd: int32(server.w.FD()), Events: unix.POLLIN}}
			if n, err := unix.Poll(p, 3000); n != 1 || err != nil {
				t.Fatalf("a signalled worker does not wake: %d, %v", n, err)
			}
		}
		got := pinned(t, make([]byte, 10))
		r, err = server.w.RecvTag(1, ^uint64(0), got, 5)
		server.wait(5, r, err)
	})
}

func TestParts(t *testing.T) {
	forTransports(t, func(t *testing.T, tls string) {
		client, server := connected(t, tls, "127.0.0.1")
		for _, lens := range [][]int{{}, {0}, {3, 0, 5}, {10, 200_000, 7}} {
			var parts [][]byte
			var want []byte
			for _, n := range lens {
				parts = append(parts, pinned(t, random(n)))
				want = append(want, parts[len(parts)-1]...)
			}
			got := pinned(t, make([]byte, len(want)+1))
			r, err := client.ep.SendTagParts(8, parts, 1)
			r2, err2 := server.w.RecvTag(8, ^uint64(0), got, 2)
			if e := server.wait(2, r2, err2); e.Err != nil || e.Length != len(want) || !bytes.Equal(got[:e.Length], want) {
				t.Errorf("%v: %d bytes, %v", lens, e.Length, e.Err)
			}
			client.wait(1, r, err)
		}
	})
}

// TestHostileKeys: whatever a packed key says, it is read within our memory, and refused or useless.
func TestHostileKeys(t *testing.T) {
	client, server := connected(t, "tcp", "127.0.0.1")
	mem, err := server.c.Register(random(4096))
	if err != nil {
		t.Fatal(err)
	}
	key, err := mem.Key()
	if err != nil {
		t.Fatal(err)
	}
	for n := range key { // shorter than they claim
		if k, err := client.ep.UnpackKey(key[:n]); err == nil {
			k.Close()
		}
	}
	for _, n := range []int{0, maxKey + 1} {
		if _, err := client.ep.UnpackKey(make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes", n)
		}
	}
	if err := mem.Close(); err != nil {
		t.Error(err)
	}
	if err := mem.Close(); err != nil {
		t.Error(err)
	}
}

// TestGuard has libucs miss an event of a descriptor that another worker then gets. See guard.c.
func TestGuard(t *testing.T) {
	if !Guarded() {
		t.Error("this program does not use the definition in guard.c")
	}
	cc := strings.Fields(os.Getenv("CC"))
	if len(cc) == 0 {
		cc = []string{"cc"}
	}
	program := filepath.Join(t.TempDir(), "clash")
	flags, err := exec.Command("pkg-config", "--cflags", "--libs", "ucx").Output()
	if err != nil {
		t.Fatal(err)
	}
	args := slices.Concat(cc[1:], []string{"-o", program, "testdata/clash.c", "guard.c"}, strings.Fields(string(flags)), []string{"-ldl"})
	if out, err := exec.Command(cc[0], args...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command(program).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
