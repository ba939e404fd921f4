package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/iotest"
	"time"

	"github.com/proxyplane/proxyplane/transport"
)

var sizes = []int{0, 1, 1000, minSegment - 1, minSegment, firstSegment - 1, firstSegment, firstSegment + 1, 1 << 20, 3<<20 + 17, 20<<20 + 1}

func TestRoundTrip(t *testing.T) {
	for name, dial := range map[string]func(int) (net.Conn, net.Conn, error){"tcp": overTCP, "pipe": overPipe} {
		t.Run(name, func(t *testing.T) {
			leaks(t)
			p := newPair(t, pairOptions{dial: dial})
			ctx := testContext(t)
			for i, n := range sizes {
				key, data := fmt.Sprint("key", i), payload(n, uint64(i))
				p.mustPut(ctx, key, data)
				got, err := p.read(ctx, key, 0, -1)
				if err != nil {
					t.Fatal(err)
				}
				same(t, "read", got, data)
				if got, err = p.copyOut(ctx, key, 0, -1); err != nil {
					t.Fatal(err)
				}
				same(t, "copy", got, data)
				// of unknown length, from a source that gives little at a time
				if err := p.link.Put(ctx, key+"?", -1, iotest.HalfReader(bytes.NewReader(data))); err != nil {
					t.Fatal(err)
				}
				if got, err = p.copyOut(ctx, key+"?", 0, -1); err != nil {
					t.Fatal(err)
				}
				same(t, "unknown length", got, data)
				for _, c := range [][2]int64{{0, 0}, {0, 1}, {int64(n) / 2, -1}, {int64(n) / 3, int64(n) / 3}, {int64(n), -1}, {int64(n), 5}, {int64(n) / 2, 1 << 40}} {
					want := data[c[0]:]
					if c[1] >= 0 && c[1] < int64(len(want)) {
						want = want[:c[1]]
					}
					got, err := p.read(ctx, key, c[0], c[1])
					if err != nil {
						t.Fatalf("range %v of %d: %v", c, n, err)
					}
					same(t, fmt.Sprint("range ", c), got, want)
				}
				if _, err := p.read(ctx, key, int64(n)+1, -1); !errors.Is(err, transport.ErrInvalidRange) {
					t.Fatalf("beyond the end: %v", err)
				}
				info, err := p.link.Stat(ctx, key)
				if err != nil || info.Size != int64(n) || info.ModTime.IsZero() {
					t.Fatal(info, err)
				}
				r, err := p.link.Get(ctx, key, 0, -1)
				if err != nil || r.Info() != info || r.Size() != int64(n) {
					t.Fatal(r.Info(), err)
				}
				r.Close()
				r.Close()
				if _, err := r.Read(make([]byte, 1)); !errors.Is(err, transport.ErrClosed) {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestOthers(t *testing.T) {
	leaks(t)
	p := newPair(t, pairOptions{})
	ctx := testContext(t)
	if ok, err := p.link.Exists(ctx, "a"); ok || err != nil {
		t.Fatal(ok, err)
	}
	for _, err := range []error{
		second(p.link.Get(ctx, "a", 0, -1)), second(p.link.Stat(ctx, "a")),
	} {
		if !errors.Is(err, transport.ErrNotFound) {
			t.Fatal(err)
		}
	}
	waited := make(chan error, 1)
	go func() { waited <- p.link.Wait(ctx, "a") }()
	time.Sleep(20 * time.Millisecond)
	p.mustPut(ctx, "a", []byte("x"))
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
	if ok, err := p.link.Exists(ctx, "a"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if err := p.link.Evict(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if err := p.link.Evict(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if ok, err := p.link.Exists(ctx, "a"); ok || err != nil {
		t.Fatal(ok, err)
	}
	if took, err := p.link.Ping(ctx); err != nil || took <= 0 {
		t.Fatal(took, err)
	}
	long := string(bytes.Repeat([]byte("k"), MaxKey))
	p.mustPut(ctx, long, payload(2<<20, 3))
	if got, err := p.copyOut(ctx, long, 0, -1); err != nil || len(got) != 2<<20 {
		t.Fatal(len(got), err)
	}
	for _, key := range []string{"", long + "k"} {
		for _, err := range []error{p.link.Put(ctx, key, 1, bytes.NewReader([]byte("x"))), second(p.link.Get(ctx, key, 0, -1)), p.link.Evict(ctx, key)} {
			if !errors.Is(err, transport.ErrInvalidKey) {
				t.Fatalf("key of %d bytes: %v", len(key), err)
			}
		}
	}
	if err := second(p.link.Get(ctx, "a", -1, 1)); !errors.Is(err, transport.ErrInvalidRange) {
		t.Fatal(err)
	}
	st := p.link.Stats()
	if !st.Connected || st.Paths != 1 || st.BytesIn < 2<<20 || st.BytesOut < 2<<20 || st.Lanes == 0 || st.InFlight != 0 {
		t.Fatalf("%+v", st)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := second(p.link.Get(gone, "a", 0, -1)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	p.link.Close()
	if err := second(p.link.Get(ctx, long, 0, -1)); !errors.Is(err, transport.ErrClosed) {
		t.Fatal(err)
	}
}

func second[T any](_ T, err error) error { return err }

// brokenSource fails after n bytes.
func brokenSource(n int, err error) io.Reader {
	return io.MultiReader(bytes.NewReader(payload(n, 1)), iotest.ErrReader(err))
}

func TestSourceFails(t *testing.T) {
	leaks(t)
	p := newPair(t, pairOptions{})
	ctx := testContext(t)
	bad := errors.New("the disk is on fire")
	for _, n := range []int{0, 10, firstSegment, firstSegment + 1, 5 << 20} {
		for _, size := range []int64{-1, 6 << 20} {
			if err := p.link.Put(ctx, "k", size, brokenSource(n, bad)); !errors.Is(err, bad) {
				t.Fatalf("%d of %d: %v", n, size, err)
			}
		}
		if err := p.link.Put(ctx, "k", 6<<20, brokenSource(n, io.EOF)); !errors.Is(err, transport.ErrCorrupt) {
			t.Fatal(err)
		}
		if ok, err := p.link.Exists(ctx, "k"); ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	for start := time.Now(); p.srv.Stats().Uploads > 0 || p.srv.Stats().Held > 0; time.Sleep(time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatalf("uploads are left: %+v", p.srv.Stats())
		}
	}
}
