package path_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/endpoint/link"
	"github.com/proxyplane/proxyplane/endpoint/path"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// TestGroupTransfer ends connections of a Path in the middle of transfers, which go on over what is left, with the same Path.
func TestGroupTransfer(t *testing.T) {
	path.CheckLeaks(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	store, err := objects.NewTable(objects.TableOptions{Memory: 256 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	a, b, conns := path.GroupPair(t, 4)
	server := link.NewServer(store, link.ServerOptions{})
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(ctx, uuid.New(), "", b)
	}()
	defer func() { b.Close(); server.Close(); <-served }()
	l := link.New(func(context.Context) (path.Path, error) { return a, nil }, link.Options{})
	defer l.Close()
	data := make([]byte, 24<<20)
	rand.NewChaCha8([32]byte{1}).Read(data)

	body := &hooked{Reader: bytes.NewReader(data), at: len(data) / 3, hook: func() { conns[1].Close() }}
	if err := l.Put(ctx, "k", int64(len(data)), body); err != nil {
		t.Fatal(err)
	}
	buf, err := store.Get("k")
	if err != nil || !bytes.Equal(buf.Bytes(), data) {
		t.Fatal("what was put differs", err)
	}
	buf.Release()
	for _, c := range []int{0, 3} { // the first one, too
		r, err := l.Get(ctx, "k", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(&hooked{Reader: r, at: len(data) / 3, hook: func() { conns[c].Close() }})
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		r.Close()
	}
	if s := l.Stats(); s.Paths != 1 || a.Err() != nil {
		t.Errorf("%+v; %v", s, a.Err())
	}
}

// hooked calls hook once at bytes were read.
type hooked struct {
	io.Reader
	at   int
	hook func()
}

func (h *hooked) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p)
	if h.at > 0 {
		if h.at -= n; h.at <= 0 {
			h.hook()
		}
	}
	return n, err
}
