//go:build linux && cgo && ucx

package ucx

import (
	"errors"
	"runtime"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// TestWithdrawn has a server that stands still while a client sends a long body, closes, and uses its memory for something else. The server still has
// the address when it goes on, and can read there: it must not take that for the body.
func TestWithdrawn(t *testing.T) {
	leaks(t)
	table := newTable(t)
	s, err := Listen(t.Context(), "127.0.0.1:0", table, ListenOptions{Config: config("tcp,posix,cma,self"), Workers: 64})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	conn, err := Connect(t.Context(), s.Addr(), DialOptions{Config: config("tcp,posix,cma,self")})
	if err != nil {
		t.Fatal(err)
	}
	mine := conn.c
	if mine.fast == nil || mine.theirs == nil {
		t.Fatalf("no shared memory with a lease: %v", mine.tx.Transports())
	}
	c, err := conn.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	var theirs *carrier
	s.mu.Lock()
	for theirs = range s.open {
	}
	s.mu.Unlock()
	theirs.e.lock() // it stands still

	obj := random(512 << 10) // one frame
	put := make(chan error)
	go func() { put <- c.Put(t.Context(), "o", transport.Slices{obj}, objects.PutOptions{}) }()
	for sending := false; !sending; runtime.Gosched() {
		mine.e.lock()
		sending = mine.pending > 0
		mine.e.unlock()
	}
	c.Close()
	if err := <-put; !errors.Is(err, transport.ErrClosed) && !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("a put that was not taken: %v", err)
	}
	clear(obj) // it is ours again
	theirs.e.unlock()
	for s.Stats().Conns > 0 {
		runtime.Gosched()
	}
	if b, err := table.Get("o"); !errors.Is(err, transport.ErrNotFound) {
		t.Errorf("the server has an object of bytes that nobody sent: %v", err)
		b.Release()
	}
}

// TestLease looks at words of this process as a peer would.
func TestLease(t *testing.T) {
	l := newLease()
	g := l.grant()
	parsed, err := parseGrant(g.append(nil))
	if err != nil || *parsed != g {
		t.Fatalf("%v became %v, %v", g, parsed, err)
	}
	if err := parsed.good(); err != nil {
		t.Error(err)
	}
	l.end()
	if err := parsed.good(); !errors.Is(err, transport.ErrUnavailable) {
		t.Errorf("a lease that has ended: %v", err)
	}
	(*lease)(nil).end()
	for _, g := range []grant{{g.pid, 8, 1}, {1<<30 - 1, g.addr, g.id}} { // no memory there; no such process
		if err := g.good(); !errors.Is(err, transport.ErrUnavailable) {
			t.Errorf("%v: %v", g, err)
		}
	}
	for _, g := range []grant{{0, 8, 1}, {1 << 31, 8, 1}, {1, 0, 1}, {1, 8, 0}} {
		if _, err := parseGrant(g.append(nil)); !errors.Is(err, transport.ErrCorrupt) {
			t.Errorf("%v: %v", g, err)
		}
	}
	if _, err := parseGrant(make([]byte, grantSize-1)); !errors.Is(err, transport.ErrCorrupt) {
		t.Errorf("a short lease: %v", err)
	}
	if g, err := parseGrant(nil); g != nil || err != nil {
		t.Errorf("no lease: %v, %v", g, err)
	}
}
