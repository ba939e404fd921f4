package native_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// variants are the ways in which a session can be set up.
var variants = []struct {
	name string
	o    setup
}{
	{"unix", setup{}},
	{"tcp", setup{wire: overNet("tcp"), untrust: true}},
	{"pipe", setup{wire: overPipe}},
	{"small", setup{maxBody: 2048, c: native.ClientOptions{Chunk: 1500, Window: 4000}, s: native.ServerOptions{Chunk: 1024}, untrust: true}},
	{"take", setup{take: true, untrust: true}},
	{"s2", setup{c: native.ClientOptions{Compress: native.CompressS2}, untrust: true}},
	{"zstd", setup{s: native.ServerOptions{Compress: native.CompressZstd, Chunk: 100_000}, c: native.ClientOptions{Chunk: 64 << 10}}},
	{"auto", setup{c: native.ClientOptions{Compress: native.CompressAuto, Hash: native.HashAlways}, untrust: true}},
	{"never", setup{c: native.ClientOptions{Hash: native.HashNever, Window: 9001, Trust: 1}, untrust: true, s: native.ServerOptions{Chunk: 10_000}}},
	{"token", setup{c: native.ClientOptions{Token: []byte("secret")}, s: native.ServerOptions{Token: []byte("secret"), MaxRequests: 2}}},
}

func TestObjects(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			checkLeaks(t)
			p := v.o.start(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			sizes := []int{0, 1, 1023, 1024, 1025, 1500, 65536, 1<<20 - 1, 1 << 20, 1<<20 + 3, 1<<20 + 1<<17 + 1, 3<<20 + 7}
			for _, size := range sizes {
				if v.o.maxBody > 0 || v.o.c.Window == 9001 {
					size = min(size, 100_000)
				}
				for _, kind := range []string{"random", "text"} {
					id := fmt.Sprintf("%s-%d", kind, size)
					want := payload(id, size)
					if kind == "text" {
						want = bytes.Repeat([]byte("proxies "), size/8+1)[:size]
					}
					must(t, p.Put(ctx, id, transport.Slices{want[:size/3], nil, want[size/3 : size/2], want[size/2:]}, objects.PutOptions{}))
					for _, hint := range []int64{-1, int64(size), 0, 1 << 60} {
						getEqual(t, p, id, 0, -1, hint, want)
					}
					getEqual(t, p, id, int64(size/2), -1, int64(size), want[size/2:])
					getEqual(t, p, id, int64(size/3), int64(size/4), -1, want[size/3:][:size/4])
					getEqual(t, p, id, int64(size), 10, -1, nil)
					b, err := p.GetBytes(ctx, id, -1)
					must(t, err)
					if !bytes.Equal(b, want) {
						t.Fatal("GetBytes differs")
					}
					_, err = p.Get(ctx, id, int64(size)+1, -1, -1)
					wantErr(t, err, transport.ErrInvalidRange)
					info, err := p.Stat(ctx, id)
					must(t, err)
					if info.Size != int64(size) || info.ModTime.IsZero() {
						t.Fatalf("stat: %+v", info)
					}
					for _, off := range []int{0, size / 2, size} {
						r, err := p.GetStream(ctx, id, int64(off))
						must(t, err)
						if r.Size() != int64(size) || r.(*native.Reader).Info() != info {
							t.Fatalf("stream of %d bytes, %+v", r.Size(), r.(*native.Reader).Info())
						}
						var got bytes.Buffer
						if off == 0 {
							_, err = r.WriteTo(&got)
						} else {
							_, err = io.CopyBuffer(&got, struct{ io.Reader }{r}, make([]byte, 700))
						}
						must(t, err)
						if !bytes.Equal(got.Bytes(), want[off:]) {
							t.Fatalf("stream from %d: %d bytes differ", off, got.Len())
						}
						must(t, r.Close())
						must(t, r.Close())
						if _, err := r.Read(make([]byte, 1)); err == nil {
							t.Fatal("read after Close")
						}
					}
					for _, announced := range []int64{-1, int64(size)} {
						w, err := p.PutStream(ctx, id+"-s", announced, objects.PutOptions{})
						must(t, err)
						_, err = w.Write(want[:size/3])
						must(t, err)
						_, err = w.ReadFrom(bytes.NewReader(want[size/3:]))
						must(t, err)
						if ok, err := p.Exists(ctx, id+"-s"); ok || err != nil {
							t.Fatalf("exists before Commit: %v, %v", ok, err)
						}
						must(t, w.Commit())
						must(t, w.Abort())
						getEqual(t, p, id+"-s", 0, -1, -1, want)
						must(t, p.Evict(ctx, id+"-s"))
					}
					must(t, p.Evict(ctx, id))
				}
			}
			must(t, p.Ping(ctx))
			must(t, p.Evict(ctx, "nothing"))
			_, err := p.Get(ctx, "nothing", 0, -1, -1)
			wantErr(t, err, transport.ErrNotFound)
			_, err = p.Stat(ctx, "nothing")
			wantErr(t, err, transport.ErrNotFound)
			_, err = p.GetStream(ctx, "nothing", 0)
			wantErr(t, err, transport.ErrNotFound)
			_, err = p.Map(ctx, "nothing")
			wantErr(t, err, errors.ErrUnsupported)
			for _, id := range []string{"", strings.Repeat("x", objects.MaxID+1)} {
				wantErr(t, p.Put(ctx, id, nil, objects.PutOptions{}), transport.ErrInvalidKey)
				_, err = p.PutStream(ctx, id, -1, objects.PutOptions{})
				wantErr(t, err, transport.ErrInvalidKey)
			}
			must(t, p.Put(ctx, strings.Repeat("x", objects.MaxID), nil, objects.PutOptions{TTL: time.Hour}))
			st := idle(t, p.server)
			if st.Sessions != 1 || st.Requests["put"] == 0 || st.Errors == 0 || st.BytesIn == 0 || st.BytesOut == 0 {
				t.Errorf("stats: %+v", st)
			}
			must(t, p.Close())
			_, err = p.Get(ctx, "nothing", 0, -1, -1)
			wantErr(t, err, transport.ErrClosed)
			wantErr(t, p.Client.Err(), transport.ErrClosed)
			<-p.Done()
			must(t, p.Close())
			if err := <-p.served; err != nil && v.name != "pipe" {
				t.Errorf("ServeCarrier: %v", err)
			}
		})
	}
}

func TestWriterErrors(t *testing.T) {
	checkLeaks(t)
	p := setup{}.start(t)
	ctx := t.Context()
	big := make([]byte, 3<<20)
	for _, size := range []int64{10, 2 << 20, 4 << 20} {
		w, err := p.PutStream(ctx, "short", size, objects.PutOptions{})
		must(t, err)
		_, err = w.Write(make([]byte, size-1))
		must(t, err)
		wantErr(t, w.Commit(), transport.ErrCorrupt)
		must(t, w.Abort())
		w, err = p.PutStream(ctx, "long", size, objects.PutOptions{})
		must(t, err)
		_, err = w.Write(make([]byte, size+1))
		wantErr(t, err, transport.ErrTooLarge)
		if w.Commit() == nil {
			t.Error("committed")
		}
	}
	w, err := p.PutStream(ctx, "aborted", -1, objects.PutOptions{})
	must(t, err)
	_, err = w.Write(big)
	must(t, err)
	must(t, w.Abort())
	must(t, w.Abort())
	_, err = w.Write(big)
	wantErr(t, err, transport.ErrClosed)
	wantErr(t, w.Commit(), transport.ErrClosed)
	for _, id := range []string{"short", "long", "aborted"} {
		if ok, err := p.Exists(ctx, id); ok || err != nil {
			t.Errorf("%s exists: %v, %v", id, ok, err)
		}
	}
	// An object beyond the limit is refused early, in one frame or many, and the connection goes on.
	small, err := objects.NewTable(objects.TableOptions{Memory: 1 << 20})
	must(t, err)
	defer small.Close()
	q := setup{store: small}.start(t)
	for range 3 {
		err := q.Put(ctx, "x", transport.Slices{big}, objects.PutOptions{})
		wantErr(t, err, transport.ErrTooLarge)
		wantErr(t, q.Put(ctx, "x", transport.Slices{big[:1<<20+1]}, objects.PutOptions{}), transport.ErrTooLarge)
		w, err := q.PutStream(ctx, "x", -1, objects.PutOptions{})
		must(t, err)
		_, err = w.Write(make([]byte, 32<<20))
		if err == nil {
			err = w.Commit()
		}
		if !errors.Is(err, transport.ErrTooLarge) && !errors.Is(err, transport.ErrFull) {
			t.Errorf("unlimited stream: %v", err)
		}
		must(t, w.Abort())
		must(t, q.Put(ctx, "y", transport.Slices{big[:1000]}, objects.PutOptions{}))
	}
	idle(t, q.server)
}

// idle waits until all requests have ended: an answer may be here a moment before its request counts as done there.
func idle(t testing.TB, s *native.Server) native.Stats {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		st := s.Stats()
		if st.InFlight == 0 {
			return st
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d requests in flight", st.InFlight)
		}
	}
}

func TestWait(t *testing.T) {
	checkLeaks(t)
	p := setup{}.start(t)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 2)
	go func() { got <- p.Wait(ctx, "a") }()
	go func() { got <- p.Wait(ctx, "never") }()
	for p.server.Stats().InFlight < 2 {
		must(t, p.Ping(t.Context()))
	}
	must(t, p.Put(t.Context(), "a", transport.Slices{[]byte("x")}, objects.PutOptions{}))
	must(t, <-got)
	must(t, p.Wait(t.Context(), "a"))
	cancel()
	wantErr(t, <-got, context.Canceled)
	for p.server.Stats().InFlight > 0 { // the server was told
		must(t, p.Ping(t.Context()))
	}
	short, cancel2 := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel2()
	wantErr(t, p.Wait(short, "never"), context.DeadlineExceeded)
}
