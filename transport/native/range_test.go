package native_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

func TestOpenRange(t *testing.T) {
	checkLeaks(t)
	for _, window := range []int64{1 << 10, 100 << 10, 8 << 20} {
		p := setup{c: native.ClientOptions{Window: window, Chunk: 4 << 10}, s: native.ServerOptions{Chunk: 4 << 10}}.start(t)
		data := payload("x", 50_000)
		must(t, p.Put(t.Context(), "x", transport.Slices{data}, objects.PutOptions{}))
		for _, c := range [][2]int64{{0, 0}, {0, 1}, {0, 4096}, {1, 4097}, {100, 30_000}, {0, 50_000}, {49_999, 1}, {50_000, 0}, {50_000, 7}, {40_000, 1 << 40}, {3, -1}} {
			want := data[c[0]:]
			if c[1] >= 0 {
				want = want[:min(c[1], int64(len(want)))]
			}
			r, err := p.OpenRange(t.Context(), "x", c[0], c[1])
			must(t, err)
			got, err := io.ReadAll(r)
			must(t, err)
			if !bytes.Equal(got, want) {
				t.Fatalf("window %d, range %v: %d bytes, want %d", window, c, len(got), len(want))
			}
			if r.Size() != int64(len(data)) || r.Info().ModTime.IsZero() {
				t.Fatalf("%+v", r.Info())
			}
			must(t, r.Close())
		}
		_, err := p.OpenRange(t.Context(), "x", 50_001, 1)
		wantErr(t, err, transport.ErrInvalidRange)
		_, err = p.OpenRange(t.Context(), "x", -1, 1)
		wantErr(t, err, transport.ErrInvalidRange)
	}
}

// lateCarrier reports that a GET could not be sent when its answer has come already, as a connection does that breaks in between.
type lateCarrier struct {
	native.Carrier
	answered func() bool
	armed    atomic.Bool
}

func (c *lateCarrier) WriteFrame(h *native.Header, meta []byte, body transport.Slices) error {
	err := c.Carrier.WriteFrame(h, meta, body)
	if err != nil || native.Op(h.Code) != native.OpGet || !c.armed.Load() {
		return err
	}
	for start := time.Now(); !c.answered(); time.Sleep(time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			return errors.New("no answer came")
		}
	}
	return fmt.Errorf("late: %w", syscall.EPIPE)
}

func TestAnswerBeforeWriteFails(t *testing.T) {
	checkLeaks(t)
	store := table(t)
	must(t, store.Put("x", transport.FromBytes(payload("x", 100_000)), objects.PutOptions{}))
	cc, sc, _, _ := setup{}.carriers(t)
	srv := native.NewServer(store, native.ServerOptions{})
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.ServeCarrier(context.Background(), sc)
	}()
	pool := transport.NewPool(1 << 20)
	late := &lateCarrier{Carrier: cc, answered: func() bool { return pool.Stats().Held > 0 }}
	c, err := native.NewClient(t.Context(), late, native.ClientOptions{Pool: pool})
	must(t, err)
	waited := make(chan error)
	go func() { waited <- c.Wait(t.Context(), "never") }() // it reads the answers of all
	time.Sleep(10 * time.Millisecond)
	late.armed.Store(true)
	_, err = c.OpenRange(t.Context(), "x", 0, 50_000)
	wantErr(t, err, transport.ErrUnavailable)
	wantErr(t, <-waited, transport.ErrUnavailable)
	must(t, c.Close())
	<-served
	must(t, srv.Close())
	if n := pool.Stats().Held; n != 0 {
		t.Fatalf("%d buffers are held", n)
	}
}
