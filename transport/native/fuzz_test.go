package native_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// script turns arbitrary bytes into frames whose checks are right, so that a fuzzer gets past them: 12 bytes of header, then metadata and body from
// what follows. A first byte of 255 ends it, and the rest is sent as it is.
func script(data []byte) []byte {
	var out []byte
	for len(data) >= 12 && data[0] != 255 {
		h := native.Header{Type: native.Type(data[0] % 13), Flags: native.Flags(data[1]), Code: uint16(data[2] % 18), ID: uint32(data[3] % 8),
			Off: uint64(data[4]), Size: uint64(data[5]), Raw: uint32(data[6])}
		if data[7]&1 != 0 {
			h.Size = ^uint64(0) - uint64(data[5])
		}
		if data[7]&2 != 0 {
			h.Off <<= 8 * (data[7] >> 5)
		}
		if data[7]&4 != 0 {
			h.Size <<= 8 * (data[7] >> 5)
		}
		meta, body := int(data[8]), int(binary.LittleEndian.Uint16(data[9:]))%2048
		sum := data[11]&1 != 0
		data = data[12:]
		meta = min(meta, len(data))
		m := data[:meta]
		data = data[meta:]
		body = min(body, len(data))
		if sum {
			h.Flags |= native.FlagSum
		}
		out = append(out, frame(h, m, data[:body])...)
		data = data[body:]
	}
	return append(out, data...)
}

// line encodes one frame for script.
func line(typ native.Type, flags native.Flags, code uint16, id, off, size byte, meta, body []byte) []byte {
	b := []byte{byte(typ), byte(flags), byte(code), id, off, size, 0, 0, byte(len(meta))}
	b = append(binary.LittleEndian.AppendUint16(b, uint16(len(body))), 0)
	return append(append(b, meta...), body...)
}

func quiet(t testing.TB) *objects.Table {
	store, err := objects.NewTable(objects.TableOptions{Memory: 1 << 20, IdleMemory: -1})
	must(t, err)
	must(t, store.Put("x", transport.FromBytes(payload("x", 5000)), objects.PutOptions{}))
	return store
}

// FuzzServer sends a server arbitrary bytes, from the first one or after the handshake: it ends the session in order, and serves the next one.
func FuzzServer(f *testing.F) {
	last := native.FlagLast
	x := requestMeta("x")
	f.Add(true, line(native.TypeRequest, last, 3, 1, 0, 255, x, nil))
	f.Add(true, append(line(native.TypeRequest, 0, 2, 1, 0, 9, x, []byte("hello")), line(native.TypeData, last, 0, 1, 5, 0, nil, []byte("pack"))...))
	f.Add(true, append(line(native.TypeRequest, last|native.FlagCredit|native.FlagInfo, 3, 1, 0, 255, x, nil),
		line(native.TypeCredit, last, 0, 1, 0, 99, nil, nil)...))
	f.Add(true, append(line(native.TypeRequest, last, 7, 1, 0, 0, requestMeta("no"), nil), line(native.TypeCancel, last, 0, 1, 0, 0, nil, nil)...))
	f.Add(true, line(native.TypeRequest, last|native.FlagZstd, 2, 1, 0, 9, x, []byte("hello")))
	f.Add(false, line(native.TypeHello, last, 1, 0, 0, 0, helloMeta(1, 1, 3, 1<<20), nil))
	f.Add(false, []byte("\xffGET / HTTP/1.1\r\n"))
	store := quiet(f)
	f.Fuzz(func(t *testing.T, greeted bool, data []byte) {
		srv := native.NewServer(store, native.ServerOptions{MaxRequests: 2, Token: nil, HandshakeTimeout: time.Second, StallTimeout: time.Second})
		_, sc, cn, _ := setup{wire: overPipe, maxBody: 4096}.carriers(t)
		served := make(chan error, 1)
		go func() { served <- srv.ServeCarrier(context.Background(), sc) }()
		go io.Copy(io.Discard, cn)
		if greeted {
			cn.Write(frame(native.Header{Type: native.TypeHello, Flags: last}, helloMeta(1, 1, 3, 2048), nil))
		}
		cn.Write(script(data)) // the server may hang up on the way
		cn.Close()
		<-served
		must(t, srv.Close())
		if n := srv.Stats().InFlight; n != 0 {
			t.Errorf("%d requests are left in flight", n)
		}
	})
}

// FuzzClient lets an arbitrary server answer a client: its calls end, with memory in bounds.
func FuzzClient(f *testing.F) {
	last := native.FlagLast
	f.Add(true, append(line(native.TypeResponse, 0, 0, 1, 0, 9, nil, []byte("hello")), line(native.TypeData, last, 0, 1, 5, 0, nil, []byte("pack"))...))
	f.Add(true, line(native.TypeResponse, last, 1, 2, 0, 0, []byte{4, 0, 2, 0, 'n', 'o'}, nil))
	f.Add(true, line(native.TypeGoAway, last, 13, 0, 0, 0, nil, nil))
	f.Add(true, line(native.TypeError, last, 7, 0, 0, 0, []byte{4, 0, 2, 0, 'n', 'o'}, nil))
	f.Add(false, line(native.TypeError, last, uint16(native.StatusDeadline), 0, 0, 0, nil, nil)) // was taken for the client's own timeout
	f.Add(false, line(native.TypeWelcome, last, 1, 0, 0, 0, welcomeMeta(1, 2048, 3), nil))
	f.Add(false, line(native.TypeChallenge, last, 1, 0, 0, 0, make([]byte, 32), nil))
	f.Fuzz(func(t *testing.T, greeted bool, data []byte) {
		cc, _, _, sn := setup{wire: overPipe, maxBody: 4096}.carriers(t)
		go func() {
			if greeted {
				sn.Write(frame(native.Header{Type: native.TypeWelcome}, welcomeMeta(1, 2048, 3), nil))
			}
			sn.Write(script(data))
			sn.Close()
		}()
		go io.Copy(io.Discard, sn)
		c, err := native.NewClient(t.Context(), cc, native.ClientOptions{Token: nil, Chunk: 1024, Window: 2000, Trust: 1 << 16})
		if err != nil {
			return
		}
		if c == nil {
			t.Fatal("neither a client nor an error")
		}
		var wg sync.WaitGroup
		ctx := t.Context()
		wg.Go(func() {
			b, _ := c.Get(ctx, "x", 0, -1, 9)
			b.Release()
		})
		wg.Go(func() { c.GetBytes(ctx, "x", -1) })
		wg.Go(func() {
			if r, err := c.GetStream(ctx, "x", 0); err == nil {
				io.Copy(io.Discard, r)
				r.Close()
			}
		})
		wg.Go(func() { c.Put(ctx, "y", transport.Slices{make([]byte, 5000)}, objects.PutOptions{}) })
		wg.Wait()
		c.Close()
	})
}

// TestMetamorphic runs one random history on sessions of every kind and on a map, which must agree.
func TestMetamorphic(t *testing.T) {
	checkLeaks(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	type version struct{ data []byte }
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			p := v.o.start(t)
			model := map[string]version{}
			r := rand.New(rand.NewPCG(seed, 7))
			ctx := t.Context()
			var history []string
			fatal := func(format string, args ...any) {
				t.Fatalf("%s\nafter:\n%v", fmt.Sprintf(format, args...), history[max(0, len(history)-20):])
			}
			for range 400 {
				id := fmt.Sprint("object ", r.IntN(6))
				size := int(1 << (r.Uint64() % 17))
				size += r.IntN(size)
				off, n := int64(r.IntN(size+1)), int64(r.IntN(size+1)-1)
				data := payload(fmt.Sprint(r.Uint64()), size)
				have, there := model[id]
				op := r.IntN(8)
				history = append(history, fmt.Sprintf("%d %s %d %d %d", op, id, size, off, n))
				var err error
				var got []byte
				want := have.data
				switch op {
				case 0:
					cut := r.IntN(size)
					err, there, got = p.Put(ctx, id, transport.Slices{data[:cut], data[cut:]}, objects.PutOptions{}), true, have.data
					model[id] = version{data}
				case 1:
					var w objects.Writer
					if w, err = p.PutStream(ctx, id, int64(size*(r.IntN(2)*2-1)), objects.PutOptions{}); err == nil {
						for rest := data; len(rest) > 0 && err == nil; {
							k := 1 + r.IntN(len(rest))
							_, err = w.Write(rest[:k])
							rest = rest[k:]
						}
						if r.IntN(4) == 0 {
							w.Abort()
						} else if err = w.Commit(); err == nil {
							there, model[id] = true, version{data}
						}
					}
					got, there = have.data, true
				case 2:
					err, got, there = p.Evict(ctx, id), have.data, true
					delete(model, id)
				case 3:
					var ok bool
					ok, err = p.Exists(ctx, id)
					if got = have.data; ok != there {
						fatal("exists: %v, want %v", ok, there)
					}
					there = true
				case 4:
					got, err = p.GetBytes(ctx, id, int64(r.IntN(3)-1)*int64(size))
				case 5:
					var b *transport.Buffer
					b, err = p.Get(ctx, id, off, n, -1)
					if there && off > int64(len(want)) {
						if !errors.Is(err, transport.ErrInvalidRange) {
							fatal("get beyond the end: %v", err)
						}
						continue
					}
					if err == nil {
						want = want[off:]
						if n >= 0 {
							want = want[:min(n, int64(len(want)))]
						}
						got = bytes.Clone(b.Bytes())
						b.Release()
					}
				case 6:
					var s objects.Reader
					off = min(off, int64(len(want)))
					if s, err = p.GetStream(ctx, id, off); err == nil {
						want = want[off:]
						if r.IntN(3) == 0 { // leave it in the middle
							got = make([]byte, min(len(want), 100))
							_, err = io.ReadFull(s, got)
							want = want[:len(got)]
						} else {
							got, err = io.ReadAll(s)
						}
						s.Close()
					}
				case 7:
					var info objects.Info
					info, err = p.Stat(ctx, id)
					if got = have.data; err == nil && info.Size != int64(len(want)) {
						fatal("stat: %d bytes, want %d", info.Size, len(want))
					}
				}
				switch {
				case there && err != nil, !there && !errors.Is(err, transport.ErrNotFound):
					fatal("error %v, there %v", err, there)
				case there && !bytes.Equal(got, want):
					fatal("%d bytes, want %d", len(got), len(want))
				}
			}
			for _, id := range slices.Sorted(maps.Keys(model)) {
				getEqual(t, p, id, 0, -1, -1, model[id].data)
			}
		})
	}
}
