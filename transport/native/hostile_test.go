package native_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/tcp"
)

// hand speaks the protocol frame by frame.
type hand struct {
	t testing.TB
	*connCarrier
}

// frame returns the encoded frame.
func frame(h native.Header, meta, body []byte) []byte {
	h.Seal(meta, len(body))
	return append(append(h.Append(nil), meta...), body...)
}

func (p *hand) send(h native.Header, meta, body []byte) error {
	_, err := p.nc.Write(frame(h, meta, body))
	return err
}

func (p *hand) next() (native.Header, []byte, error) {
	var h native.Header
	meta, err := p.ReadFrame(&h)
	if err != nil {
		return h, nil, err
	}
	meta = bytes.Clone(meta)
	body := make([]byte, h.Body)
	_, err = p.ReadBody(body)
	return h, append(meta, body...), err
}

func helloMeta(low, high uint16, features uint64, maxBody uint32) []byte {
	m := []byte("PXPLANE\x00")
	m = binary.LittleEndian.AppendUint16(m, low)
	m = binary.LittleEndian.AppendUint16(m, high)
	m = binary.LittleEndian.AppendUint64(m, features)
	m = binary.LittleEndian.AppendUint32(m, maxBody)
	m = append(m, 1, 0, 0, 0)
	return append(m, bytes.Repeat([]byte{0xc1}, 32)...)
}

func welcomeMeta(version uint16, maxBody, maxReqs uint32) []byte {
	m := binary.LittleEndian.AppendUint16(nil, version)
	m = append(m, 0, 0)
	m = binary.LittleEndian.AppendUint64(m, 3)
	m = binary.LittleEndian.AppendUint32(m, maxBody)
	m = binary.LittleEndian.AppendUint32(m, maxReqs)
	return append(m, make([]byte, 32)...)
}

func requestMeta(id string) []byte {
	m := binary.LittleEndian.AppendUint16(make([]byte, 4), uint16(len(id)))
	return append(m, id...)
}

// byHand starts a server and opens a session with it by hand.
func byHand(t testing.TB, o setup) (*hand, *pair) {
	if o.store == nil {
		o.store = table(t)
	}
	_, sc, cn, _ := o.carriers(t)
	p := &pair{store: o.store, served: make(chan error, 1), server: native.NewServer(o.store, o.s)}
	go func() { p.served <- p.server.ServeCarrier(context.Background(), sc) }()
	t.Cleanup(func() { cn.Close(); p.server.Close() })
	h := &hand{t, newConnCarrier(cn, 16<<20, true)}
	must(t, h.send(native.Header{Type: native.TypeHello, Flags: native.FlagLast}, helloMeta(1, 1, 3, 1<<20), nil))
	head, _, err := h.next()
	must(t, err)
	if head.Type != native.TypeWelcome {
		t.Fatal(head.Type)
	}
	return h, p
}

// TestServerRefuses: what no client sends ends the session with an ERROR frame that says why, and costs no memory.
func TestServerRefuses(t *testing.T) {
	checkLeaks(t)
	last := native.FlagLast
	big := make([]byte, 2000)
	type f struct {
		h    native.Header
		meta []byte
		body []byte
	}
	req := func(op native.Op, flags native.Flags, id uint32, size uint64, body []byte) f {
		return f{native.Header{Type: native.TypeRequest, Code: uint16(op), Flags: flags, ID: id, Size: size}, requestMeta("x"), body}
	}
	for name, frames := range map[string][]f{
		"frame type 77":               {{h: native.Header{Type: 77}}},
		"RESPONSE is nothing":         {{h: native.Header{Type: native.TypeResponse}}},
		"HELLO is nothing":            {{h: native.Header{Type: native.TypeHello}}},
		"request number 0 is taken":   {req(native.OpPing, last, 0, 0, nil)},
		"request number 5 is taken":   {req(native.OpPut, 0, 5, 9, big[:1]), req(native.OpPing, last, 5, 0, nil)},
		"which is no upload":          {{h: native.Header{Type: native.TypeData, ID: 3}, body: big}},
		"bytes from 7 on, want 1":     {req(native.OpPut, 0, 5, 9, big[:1]), {h: native.Header{Type: native.TypeData, ID: 5, Off: 7}, body: big[:1]}},
		"an empty chunk":              {req(native.OpPut, 0, 5, 9, nil)},
		"stat with a body":            {req(native.OpStat, last, 5, 0, big)},
		"CANCEL with a body":          {{h: native.Header{Type: native.TypeCancel}, body: big}},
		"an upload of":                {req(native.OpPut, 0, 5, 1<<63, big)},
		"REQUEST with 3 bytes":        {{h: native.Header{Type: native.TypeRequest, Flags: last, ID: 1}, meta: big[:3]}},
		"metadata ends within":        {{h: native.Header{Type: native.TypeRequest, Code: 1, Flags: last, ID: 1}, meta: append(requestMeta("x"), 1, 0, 9)}},
		"an id of 2000 bytes":         {{h: native.Header{Type: native.TypeRequest, Code: 3, Flags: last, ID: 1}, meta: requestMeta(string(big))}},
		"that becomes 5":              {{h: native.Header{Type: native.TypeData, Flags: native.FlagS2, Raw: 5}, body: big}},
		"that becomes 2147483648":     {{h: native.Header{Type: native.TypeData, Flags: native.FlagZstd, Raw: 1 << 31}, body: big}},
		"without one":                 nil, // below
		"requests at once":            nil,
		"the check of a frame header": nil,
	} {
		t.Run(name, func(t *testing.T) {
			h, p := byHand(t, setup{s: native.ServerOptions{MaxRequests: 1}})
			switch name {
			case "without one":
				frames = []f{req(native.OpAdopt, last, 1, 5, nil)}
				name = "this connection" // an answer: the connection passes no files
			case "requests at once":
				for id := range uint32(100) {
					frames = append(frames, req(native.OpPut, 0, id+1, 9, big[:1]))
				}
			case "the check of a frame header":
				raw := frame(native.Header{Type: native.TypeRequest, ID: 1}, requestMeta("x"), nil)
				raw[native.HeaderSize+6]++
				if _, err := h.nc.Write(raw); err != nil {
					t.Fatal(err)
				}
			}
			go func() {
				for _, f := range frames {
					if h.send(f.h, f.meta, f.body) != nil {
						return
					}
				}
			}()
			var said string
			for !strings.Contains(said, name) {
				_, text, err := h.next()
				if err != nil {
					break
				}
				said = string(text)
			}
			if !strings.Contains(said, name) && name != "the check of a frame header" {
				t.Fatalf("the server said %q", said)
			}
			h.nc.Close()
			if err := <-p.served; name != "this connection" {
				wantErr(t, err, transport.ErrCorrupt)
			}
		})
	}
}

// TestClientRefuses: what no server sends ends the session, or that call, and never costs more memory than what was sent.
func TestClientRefuses(t *testing.T) {
	checkLeaks(t)
	head := func(typ native.Type, off, size uint64) native.Header {
		return native.Header{Type: typ, ID: 1, Off: off, Size: size}
	}
	ok := func(size uint64) native.Header { return head(native.TypeResponse, 0, size) }
	data := func(off uint64) native.Header { return head(native.TypeData, off, 0) }
	lastOf := func(h native.Header) native.Header { h.Flags = native.FlagLast; return h }
	body := make([]byte, 1000)
	type f struct {
		h    native.Header
		body []byte
	}
	for name, frames := range map[string][]f{
		"which is not open":          {{h: native.Header{Type: native.TypeResponse, ID: 9}}},
		"at the wrong time":          {{h: data(0), body: body}},
		"a size of 922":              {{h: ok(1 << 63)}},
		"bytes after 0":              {{h: ok(999), body: body}},
		"bytes after 1000":           {{h: ok(1999), body: body}, {h: data(1000), body: body}},
		"bytes from 5 on, want 1000": {{h: ok(1 << 40), body: body}, {h: data(5), body: body}},
		"an empty chunk":             {{h: ok(1 << 40), body: body}, {h: data(1000)}},
		"0 bytes after 1000":         {{h: ok(1 << 60), body: body}, {h: lastOf(data(1000))}},
		"an error that is not":       {{h: native.Header{Type: native.TypeResponse, ID: 1, Code: 3}}},
		"HELLO is nothing":           {{h: native.Header{Type: native.TypeHello}}},
		"frame type 200":             {{h: native.Header{Type: 200}}},
		"closed the connection":      {{h: ok(1 << 60), body: body}},
	} {
		for _, op := range []string{"get", "bytes", "stream"} {
			t.Run(op+"/"+name, func(t *testing.T) {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				c, server := clientByHand(t, native.ClientOptions{Trust: 1 << 20})
				go func() {
					server.next()
					for _, f := range frames {
						server.send(f.h, nil, f.body)
					}
					server.nc.Close()
				}()
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				var err error
				switch op {
				case "get":
					_, err = c.Get(ctx, "x", 0, -1, -1)
				case "bytes":
					_, err = c.GetBytes(ctx, "x", -1)
				case "stream":
					var r objects.Reader
					if r, err = c.GetStream(ctx, "x", 0); err == nil {
						_, err = io.Copy(io.Discard, r)
						r.Close()
					}
				}
				if name == "closed the connection" {
					wantErr(t, err, transport.ErrUnavailable)
				} else {
					wantErr(t, err, transport.ErrCorrupt)
				}
				if !strings.Contains(err.Error(), name) {
					t.Errorf("error %q", err)
				}
				<-c.Done()
				c.Close()
				runtime.ReadMemStats(&after)
				if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
					t.Errorf("a lie took %d bytes", n)
				}
			})
		}
	}
}

// clientByHand opens a client's session with a server that the test plays.
func clientByHand(t testing.TB, o native.ClientOptions) (*native.Client, *hand) {
	cc, _, _, sn := setup{}.carriers(t)
	h := &hand{t, newConnCarrier(sn, 16<<20, true)}
	t.Cleanup(func() { sn.Close() })
	go func() {
		h.next()
		h.send(native.Header{Type: native.TypeWelcome}, welcomeMeta(1, 1<<20, 100), nil)
	}()
	c, err := native.NewClient(t.Context(), cc, o)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c, h
}

func TestHandshakeErrors(t *testing.T) {
	checkLeaks(t)
	for _, v := range []struct {
		client, server string
		text           string
	}{{"a", "b", "tokens of client and server differ"}, {"", "b", "set the client's Token"}, {"a", "", "did not ask for the token"}} {
		o := setup{c: native.ClientOptions{Token: []byte(v.client)}, s: native.ServerOptions{Token: []byte(v.server)}}
		p, err := o.try(t)
		wantErr(t, err, transport.ErrDenied)
		if !strings.Contains(err.Error(), v.text) {
			t.Errorf("error %q", err)
		}
		if err := <-p.served; v.server != "" && err == nil {
			t.Error("the server noticed nothing")
		}
	}
	// Versions that have nothing in common: each side names both ranges.
	store := table(t)
	_, sc, cn, _ := setup{}.carriers(t)
	srv := native.NewServer(store, native.ServerOptions{})
	go srv.ServeCarrier(context.Background(), sc)
	defer srv.Close()
	h := &hand{t, newConnCarrier(cn, 1<<20, true)}
	must(t, h.send(native.Header{Type: native.TypeHello}, helloMeta(7, 9, 0, 1<<20), nil))
	head, text, err := h.next()
	must(t, err)
	if head.Type != native.TypeError || native.Status(head.Code) != native.StatusVersion || !strings.Contains(string(text), "7 to 9") ||
		!strings.Contains(string(text), "1 to 1") {
		t.Errorf("%v %d %q", head.Type, head.Code, text)
	}
	cn.Close()
	bad := map[string][]byte{"version 9": welcomeMeta(9, 1<<20, 5), "frames of 10 bytes": welcomeMeta(1, 10, 5), "WELCOME of 3": {1, 2, 3}}
	for name, meta := range bad {
		cc, _, _, sn := setup{}.carriers(t)
		h := &hand{t, newConnCarrier(sn, 1<<20, true)}
		go func() {
			h.next()
			h.send(native.Header{Type: native.TypeWelcome}, meta, nil)
		}()
		_, err := native.NewClient(t.Context(), cc, native.ClientOptions{})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v, want one about %q", err, name)
		}
		sn.Close()
	}
	// A peer that speaks something else, hangs up, or says nothing.
	for _, say := range []string{"", "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"} {
		cc, _, _, sn := setup{}.carriers(t)
		go func() {
			io.ReadFull(sn, make([]byte, native.HeaderSize+60)) // all of HELLO, so that no reset takes back what follows
			io.WriteString(sn, say)
			sn.Close()
		}()
		if _, err := native.NewClient(t.Context(), cc, native.ClientOptions{}); err == nil || !known(err) {
			t.Errorf("after %q: %v", say, err)
		}
	}
	cc, _, _, sn := setup{}.carriers(t)
	defer sn.Close()
	_, err = native.NewClient(t.Context(), cc, native.ClientOptions{HandshakeTimeout: time.Millisecond})
	wantErr(t, err, transport.ErrUnavailable)
	cc, _, _, sn = setup{}.carriers(t)
	defer sn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(time.Millisecond, cancel)
	_, err = native.NewClient(ctx, cc, native.ClientOptions{})
	wantErr(t, err, context.Canceled)
}

// TestTimeouts, in a bubble where time passes at once: silence in the handshake, half a body, an answer that nobody reads, a session that is idle.
func TestTimeouts(t *testing.T) {
	big := make([]byte, 1<<20)
	for name, play := range map[string]func(h *hand){
		"handshake": nil,
		"sent nothing of a body": func(h *hand) {
			put := native.Header{Type: native.TypeRequest, Code: uint16(native.OpPut), Flags: native.FlagLast, ID: 1, Size: 1 << 20}
			raw := frame(put, requestMeta("y"), big)
			h.nc.Write(raw[:len(raw)/2])
		},
		"read nothing of its answer": func(h *hand) {
			h.send(native.Header{Type: native.TypeRequest, Code: uint16(native.OpGet), Flags: native.FlagLast, ID: 1, Size: 1 << 20}, requestMeta("x"), nil)
		},
		"asked for nothing": func(*hand) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, err := objects.NewTable(objects.TableOptions{Memory: 64 << 20, IdleMemory: -1})
				must(t, err)
				must(t, store.Put("x", transport.FromBytes(make([]byte, 1<<20)), objects.PutOptions{}))
				cn, sn := net.Pipe()
				srv := native.NewServer(store, native.ServerOptions{IdleTimeout: 5 * time.Minute})
				served := make(chan error, 1)
				go func() { served <- srv.ServeCarrier(context.Background(), newConnCarrier(sn, 16<<20, true)) }()
				h := &hand{t, newConnCarrier(cn, 16<<20, true)}
				began := time.Now()
				if play != nil {
					must(t, h.send(native.Header{Type: native.TypeHello}, helloMeta(1, 1, 3, 1<<20), nil))
					_, _, err := h.next()
					must(t, err)
					play(h)
				}
				err = <-served
				wantErr(t, err, transport.ErrUnavailable)
				if !strings.Contains(err.Error(), name) {
					t.Errorf("error %q", err)
				}
				t.Logf("cut after %v", time.Since(began))
				cn.Close()
				must(t, srv.Close())
				must(t, store.Close())
			})
		})
	}
}

// TestCancelGrace: a call whose peer takes no bytes ends soon after its context.
func TestCancelGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cn, sn := net.Pipe()
		h := &hand{t, newConnCarrier(sn, 16<<20, true)}
		go func() {
			h.next()
			h.send(native.Header{Type: native.TypeWelcome}, welcomeMeta(1, 1<<20, 100), nil)
		}()
		c, err := native.NewClient(t.Context(), newConnCarrier(cn, 16<<20, true), native.ClientOptions{})
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err = c.Put(ctx, "x", transport.Slices{make([]byte, 1000)}, objects.PutOptions{})
		wantErr(t, err, context.DeadlineExceeded)
		wantErr(t, c.Ping(t.Context()), transport.ErrUnavailable)
		c.Close()
		sn.Close()
	})
}

// TestShutdown: what is in flight ends, what is new is refused, and both sides are gone in the end.
func TestShutdown(t *testing.T) {
	checkLeaks(t)
	for _, inTime := range []bool{true, false} {
		p := setup{c: native.ClientOptions{Chunk: 1000, Window: 1000}, s: native.ServerOptions{Chunk: 1000}}.start(t)
		idle := setup{store: p.store}
		cc, sc, _, _ := idle.carriers(t)
		go p.server.ServeCarrier(context.Background(), sc)
		other, err := native.NewClient(t.Context(), cc, native.ClientOptions{})
		must(t, err)
		t.Cleanup(func() { other.Close() })
		data := payload("x", 100_000)
		must(t, p.Put(t.Context(), "x", transport.Slices{data}, objects.PutOptions{}))
		r, err := p.GetStream(t.Context(), "x", 0)
		must(t, err)
		w, err := p.PutStream(t.Context(), "y", -1, objects.PutOptions{})
		must(t, err)
		_, err = w.Write(data)
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error)
		go func() { over <- p.server.Shutdown(ctx) }()
		err = nil
		for err == nil {
			err = p.Ping(t.Context())
		}
		wantErr(t, err, transport.ErrUnavailable)
		if !strings.Contains(err.Error(), "shutting down") {
			t.Errorf("error %q", err)
		}
		if inTime {
			got, err := io.ReadAll(r)
			must(t, err)
			must(t, r.Close())
			if !bytes.Equal(got, data) {
				t.Error("wrong bytes")
			}
			must(t, w.Commit())
			must(t, <-over)
			b, err := p.store.Get("y")
			must(t, err)
			b.Release()
		} else {
			cancel()
			wantErr(t, <-over, context.Canceled)
			_, err := io.Copy(io.Discard, r)
			wantErr(t, err, transport.ErrUnavailable)
			must(t, r.Close())
			wantErr(t, w.Commit(), transport.ErrUnavailable)
		}
		cancel()
		<-p.Done()
		wantErr(t, other.Ping(t.Context()), transport.ErrUnavailable)
		wantErr(t, p.server.ServeCarrier(t.Context(), newConnCarrier(p.nc, 1<<20, true)), transport.ErrClosed)
	}
}

// TestCloseDuringCalls: every call that waits ends with ErrClosed.
func TestCloseDuringCalls(t *testing.T) {
	checkLeaks(t)
	for range 20 {
		p := setup{}.start(t)
		must(t, p.Put(t.Context(), "x", transport.Slices{make([]byte, 8<<20)}, objects.PutOptions{}))
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				for {
					var err error
					switch i % 4 {
					case 0:
						var b *transport.Buffer
						b, err = p.Get(context.Background(), "x", 0, -1, -1)
						b.Release()
					case 1:
						err = p.Put(context.Background(), "y", transport.Slices{make([]byte, 3<<20)}, objects.PutOptions{})
					case 2:
						err = p.Wait(context.Background(), "never")
					case 3:
						var r objects.Reader
						if r, err = p.GetStream(context.Background(), "x", 0); err == nil {
							_, err = io.Copy(io.Discard, r)
							r.Close()
						}
					}
					if err != nil {
						if !errors.Is(err, transport.ErrClosed) {
							t.Errorf("kind %d: %v", i%4, err)
						}
						return
					}
				}
			})
		}
		for p.server.Stats().InFlight < 3 {
			p.Ping(t.Context())
		}
		p.Close()
		wg.Wait()
		p.server.Close()
	}
}

// TestGrowth: a server skips fields that it does not know, answers operations that it does not know, and keeps a client's deadline.
func TestGrowth(t *testing.T) {
	checkLeaks(t)
	h, p := byHand(t, setup{})
	must(t, p.store.Put("x", transport.FromBytes([]byte("hello")), objects.PutOptions{}))
	late := requestMeta("never")
	late[0] = 5 // milliseconds
	for id, v := range []struct {
		op   uint16
		meta []byte
		want native.Status
		body string
	}{
		{uint16(native.OpGet), append(requestMeta("x"), 0x99, 0x99, 3, 0, 1, 2, 3), native.StatusOK, "hello"},
		{uint16(native.OpGet), append(requestMeta("x"), 1, 0, 3, 0, 1, 2, 3), native.StatusOK, "hello"}, // a TTL of three bytes
		{4711, requestMeta("x"), native.StatusUnsupported, ""},
		{uint16(native.OpWait), late, native.StatusDeadline, ""},
		{uint16(native.OpMap), requestMeta("x"), native.StatusUnsupported, ""},
		{uint16(native.OpStat), requestMeta(""), native.StatusInvalidKey, ""},
	} {
		must(t, h.send(native.Header{Type: native.TypeRequest, Code: v.op, Flags: native.FlagLast, ID: uint32(id + 1), Size: 1 << 60}, v.meta, nil))
		got, rest, err := h.next()
		must(t, err)
		if got.Type != native.TypeResponse || native.Status(got.Code) != v.want || got.ID != uint32(id+1) || v.body != "" && string(rest) != v.body {
			t.Errorf("operation %d: %v %d %q", v.op, got.Type, got.Code, rest)
		}
	}
	// What has just ended may still be cancelled and credited.
	must(t, h.send(native.Header{Type: native.TypeCancel, ID: 77}, nil, nil))
	must(t, h.send(native.Header{Type: native.TypeCredit, ID: 77, Size: 1 << 63}, nil, nil))
	// Waits beyond the limit are refused, not queued.
	h, _ = byHand(t, setup{s: native.ServerOptions{MaxRequests: 2}})
	for id := range uint32(3) {
		must(t, h.send(native.Header{Type: native.TypeRequest, Code: uint16(native.OpWait), Flags: native.FlagLast, ID: id + 1}, requestMeta("never"), nil))
	}
	got, _, err := h.next()
	must(t, err)
	if native.Status(got.Code) != native.StatusBusy || got.ID != 3 {
		t.Errorf("%d for %d", got.Code, got.ID)
	}
}

// TestTinyPieces: a server that sends a stream byte by byte to a reader who does not read cannot make the client hold a buffer for each.
func TestTinyPieces(t *testing.T) {
	checkLeaks(t)
	c, server := clientByHand(t, native.ClientOptions{Window: 1 << 20})
	go func() {
		server.next()
		server.send(native.Header{Type: native.TypeResponse, ID: 1, Size: 1 << 40}, nil, []byte{1})
		for off := uint64(1); off < 100_000; off++ {
			if server.send(native.Header{Type: native.TypeData, ID: 1, Off: off}, nil, []byte{1}) != nil {
				return
			}
		}
	}()
	r, err := c.GetStream(t.Context(), "x", 0)
	must(t, err)
	<-c.Done()
	wantErr(t, c.Err(), transport.ErrCorrupt)
	must(t, r.Close())
}

// lastCarrier holds back who has sent a last frame until the session has handled one more request.
type lastCarrier struct {
	native.Carrier
	reads   int
	handled chan struct{}
	once    sync.Once
}

func (c *lastCarrier) let() { c.once.Do(func() { close(c.handled) }) }

func (c *lastCarrier) ReadFrame(h *native.Header) ([]byte, error) {
	if c.reads++; c.reads == 4 { // HELLO, one request, another
		c.let()
	}
	return c.Carrier.ReadFrame(h)
}

func (c *lastCarrier) WriteFrame(h *native.Header, meta []byte, body transport.Slices) error {
	err := c.Carrier.WriteFrame(h, meta, body)
	if h.ID == 1 && h.Flags&native.FlagLast != 0 {
		<-c.handled
	}
	return err
}

func (c *lastCarrier) Close() error {
	c.let()
	return c.Carrier.Close()
}

// TestNumberIsFree: who has got the last frame of an answer may use its number again at once.
func TestNumberIsFree(t *testing.T) {
	checkLeaks(t)
	for _, op := range []native.Op{native.OpGet, native.OpWait} {
		t.Run(op.String(), func(t *testing.T) {
			h, p := byHand(t, setup{s: native.ServerOptions{Chunk: 1000}, wrap: func(c, s native.Carrier) (native.Carrier, native.Carrier) {
				return c, &lastCarrier{Carrier: s, handled: make(chan struct{})}
			}})
			x := payload("x", 5000)
			if op == native.OpGet {
				must(t, p.store.Put("x", transport.FromBytes(bytes.Clone(x)), objects.PutOptions{}))
			}
			for round := range 2 {
				must(t, h.send(native.Header{Type: native.TypeRequest, Code: uint16(op), Flags: native.FlagLast, ID: 1, Size: 1 << 20}, requestMeta("x"), nil))
				if op == native.OpWait && round == 0 {
					for p.server.Stats().InFlight == 0 {
						runtime.Gosched()
					}
					must(t, p.store.Put("x", transport.FromBytes(bytes.Clone(x)), objects.PutOptions{}))
				}
				for last := false; !last; {
					head, text, err := h.next()
					must(t, err)
					if head.ID != 1 || head.Code != 0 {
						t.Fatalf("round %d: %v %d %q", round, head.Type, head.Code, text)
					}
					last = head.Flags&native.FlagLast != 0
				}
			}
		})
	}
}

// TestDataForADownload: DATA that belongs to a download is refused, also at the moment in which that ends.
func TestDataForADownload(t *testing.T) {
	checkLeaks(t)
	store := table(t)
	must(t, store.Put("x", transport.FromBytes(make([]byte, 5000)), objects.PutOptions{}))
	for range 50 {
		h, p := byHand(t, setup{store: store, s: native.ServerOptions{Chunk: 1000}})
		get := frame(native.Header{Type: native.TypeRequest, Code: uint16(native.OpGet), Flags: native.FlagLast, ID: 1, Size: 1 << 20}, requestMeta("x"), nil)
		_, err := h.nc.Write(append(get, frame(native.Header{Type: native.TypeData, ID: 1}, nil, []byte{1})...))
		must(t, err)
		for err == nil {
			_, _, err = h.next()
		}
		wantErr(t, <-p.served, transport.ErrCorrupt)
	}
}

// TestUploadTimeout, in a bubble: an upload that pauses for too long gives its room back, one that goes on does not, and the session stays.
func TestUploadTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, err := objects.NewTable(objects.TableOptions{Memory: 64 << 20, IdleMemory: -1})
		must(t, err)
		cn, sn := net.Pipe()
		srv := native.NewServer(store, native.ServerOptions{UploadTimeout: 10 * time.Minute})
		served := make(chan error, 1)
		go func() { served <- srv.ServeCarrier(context.Background(), newConnCarrier(sn, 16<<20, true)) }()
		h := &hand{t, newConnCarrier(cn, 16<<20, true)}
		must(t, h.send(native.Header{Type: native.TypeHello}, helloMeta(1, 1, 3, 1<<20), nil))
		_, _, err = h.next()
		must(t, err)
		put := native.Header{Type: native.TypeRequest, Code: uint16(native.OpPut), ID: 1, Size: 40 << 20}
		must(t, h.send(put, requestMeta("paused"), make([]byte, 10)))
		put.ID, put.Size = 2, 21
		must(t, h.send(put, requestMeta("slow"), []byte{0}))
		answer := make(chan native.Header, 1)
		go func() {
			head, text, err := h.next()
			if err != nil || !strings.Contains(string(text), "UploadTimeout") {
				t.Errorf("%q, %v", text, err)
			}
			answer <- head
		}()
		for i := range uint64(19) {
			time.Sleep(time.Minute)
			must(t, h.send(native.Header{Type: native.TypeData, ID: 2, Off: 1 + i}, nil, []byte{0}))
		}
		if head := <-answer; head.ID != 1 || native.Status(head.Code) != native.StatusUnavailable || head.Flags != native.FlagLast {
			t.Errorf("%+v", head)
		}
		in, err := store.Create("other", 40<<20, objects.PutOptions{}) // the room is free again
		must(t, err)
		in.Abort()
		// The client goes on as it does when it has not heard yet.
		must(t, h.send(native.Header{Type: native.TypeData, ID: 1, Off: 10}, nil, make([]byte, 10)))
		must(t, h.send(native.Header{Type: native.TypeCancel, ID: 1}, nil, nil))
		must(t, h.send(native.Header{Type: native.TypeData, Flags: native.FlagLast, ID: 2, Off: 20}, nil, []byte{0}))
		head, _, err := h.next()
		must(t, err)
		if head.ID != 2 || head.Code != 0 || store.Exists("paused") || !store.Exists("slow") {
			t.Errorf("%+v, %v, %v", head, store.Exists("paused"), store.Exists("slow"))
		}
		cn.Close()
		must(t, <-served)
		must(t, srv.Close())
		must(t, store.Close())
	})
}

// TestUploadTimeoutTold: a Writer that paused for too long, over the Carrier of package tcp, learns of it; the session stays.
func TestUploadTimeoutTold(t *testing.T) {
	checkLeaks(t)
	p := setup{wire: overNet("tcp"), c: native.ClientOptions{Chunk: 1000}, s: native.ServerOptions{UploadTimeout: 10 * time.Millisecond},
		wrap: func(c, s native.Carrier) (native.Carrier, native.Carrier) {
			return tcp.NewCarrier(c.(*connCarrier).nc, tcp.CarrierOptions{}), tcp.NewCarrier(s.(*connCarrier).nc, tcp.CarrierOptions{})
		}}.start(t)
	w, err := p.PutStream(t.Context(), "x", -1, objects.PutOptions{})
	must(t, err)
	_, err = w.Write(make([]byte, 5000))
	must(t, err)
	for p.server.Stats().Errors == 0 {
		runtime.Gosched()
	}
	must(t, p.Ping(t.Context())) // what was answered before it has come
	_, err = w.Write(make([]byte, 5000))
	wantErr(t, err, transport.ErrUnavailable)
	if !strings.Contains(err.Error(), "UploadTimeout") {
		t.Errorf("error %q", err)
	}
	must(t, w.Abort())
	for p.server.Stats().InFlight > 0 {
		must(t, p.Ping(t.Context()))
	}
	if p.store.Exists("x") {
		t.Error("a part was published")
	}
}
