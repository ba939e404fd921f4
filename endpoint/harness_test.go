package endpoint

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/endpoint/link"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// noLeaks fails t if there are goroutines at its end that were not there before.
func noLeaks(t testing.TB) {
	before := stacks()
	t.Cleanup(func() {
		var left []string
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			left = left[:0]
			for id, s := range stacks() {
				if _, ok := before[id]; !ok {
					left = append(left, s)
				}
			}
			if len(left) == 0 {
				return
			}
		}
		t.Errorf("goroutines left:\n%s", strings.Join(left, "\n\n"))
	})
}

func stacks() map[string]string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	all := map[string]string{}
	for s := range strings.SplitSeq(string(buf), "\n\n") {
		id, _, _ := strings.Cut(strings.TrimPrefix(s, "goroutine "), " ")
		if strings.Contains(s, "endpoint.stacks(") || strings.Contains(s, "testing.(*T).Run(") || strings.Contains(s, "created by runtime.") {
			continue
		}
		all[id] = s
	}
	return all
}

func newTable(t testing.TB, o objects.TableOptions) *objects.Table {
	t.Helper()
	if o.Memory == 0 {
		o.Memory = 1 << 30
	}
	table, err := objects.NewTable(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	return table
}

// fileStore is a Store whose larger objects are files, as storage.Store's are.
type fileStore struct {
	*objects.Table
	dir    string
	opened atomic.Int64
}

func (s *fileStore) Open(id string) (*os.File, objects.Info, error) {
	info, err := s.Table.Stat(id)
	if err != nil {
		return nil, info, err
	}
	if info.Size < 1000 {
		return nil, info, errors.ErrUnsupported
	}
	b, err := s.Table.Get(id)
	if err != nil {
		return nil, info, err
	}
	defer b.Release()
	f, err := os.CreateTemp(s.dir, "object")
	if err != nil {
		return nil, info, err
	}
	os.Remove(f.Name())
	if _, err := f.Write(b.Bytes()); err != nil {
		return nil, info, err
	}
	s.opened.Add(1)
	_, err = f.Seek(0, io.SeekStart)
	return f, info, err
}

var (
	ownID  = uuid.MustParse("00000000-1111-4222-8333-444444444444")
	peerID = uuid.MustParse("aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee")
	goneID = uuid.MustParse("aaaaaaaa-bbbb-4ccc-8ddd-ffffffffffff") // one that nobody can reach
)

// fakePeers is one peer with a Table; err, if set, is what every call returns.
type fakePeers struct {
	table *objects.Table
	err   error
	cut   int64 // a Get breaks after as many bytes, if positive
	gets  atomic.Int64
}

func (p *fakePeers) check(peer uuid.UUID) error {
	if p.err != nil {
		return p.err
	}
	if peer != peerID {
		return fmt.Errorf("%w: no such peer at the relay", transport.ErrUnavailable)
	}
	return nil
}

func (p *fakePeers) Get(_ context.Context, peer uuid.UUID, key string, off, n int64) (link.Reader, error) {
	p.gets.Add(1)
	if err := p.check(peer); err != nil {
		return nil, err
	}
	info, err := p.table.Stat(key)
	if err != nil {
		return nil, err
	}
	if off > info.Size {
		return nil, transport.ErrInvalidRange
	}
	b, err := p.table.Get(key)
	if err != nil {
		return nil, err
	}
	if n < 0 || n > info.Size-off {
		n = info.Size - off
	}
	data := bytes.Clone(b.Bytes()[off : off+n])
	b.Release()
	return &fakeReader{bytes.NewReader(data), info, p.cut}, nil
}

type fakeReader struct {
	*bytes.Reader
	info objects.Info
	cut  int64
}

func (r *fakeReader) Close() error       { return nil }
func (r *fakeReader) Size() int64        { return r.info.Size }
func (r *fakeReader) Info() objects.Info { return r.info }

func (r *fakeReader) WriteTo(w io.Writer) (int64, error) {
	if r.cut > 0 {
		n, _ := io.CopyN(w, r.Reader, r.cut)
		return n, transport.ErrUnavailable
	}
	return r.Reader.WriteTo(w)
}

func (p *fakePeers) Put(_ context.Context, peer uuid.UUID, key string, size int64, body io.Reader) error {
	if err := p.check(peer); err != nil {
		return err
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	if size >= 0 && int64(len(data)) != size {
		return fmt.Errorf("%d bytes came of %d", len(data), size)
	}
	return p.table.Put(key, transport.FromBytes(data), objects.PutOptions{})
}

func (p *fakePeers) Exists(_ context.Context, peer uuid.UUID, key string) (bool, error) {
	return p.err == nil && p.table.Exists(key), p.check(peer)
}

func (p *fakePeers) Evict(_ context.Context, peer uuid.UUID, key string) error {
	if err := p.check(peer); err != nil {
		return err
	}
	p.table.Evict(key)
	return nil
}

func (p *fakePeers) Stat(_ context.Context, peer uuid.UUID, key string) (objects.Info, error) {
	if err := p.check(peer); err != nil {
		return objects.Info{}, err
	}
	return p.table.Stat(key)
}

func (p *fakePeers) Wait(ctx context.Context, peer uuid.UUID, key string) error {
	if err := p.check(peer); err != nil {
		return err
	}
	return p.table.Wait(ctx, key)
}

// site is an endpoint that serves.
type site struct {
	*Endpoint
	url    string
	client *http.Client
}

func newSite(t testing.TB, o Options) *site {
	t.Helper()
	if o.Store == nil {
		o.Store = newTable(t, objects.TableOptions{})
	}
	o.UUID, o.Name = ownID, "site"
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := server(e.Handler(), e.log)
	done := make(chan struct{})
	go func() { srv.Serve(l); close(done) }()
	tr := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		e.Drain()
		srv.Close()
		<-done
		e.Close()
	})
	return &site{e, "http://" + l.Addr().String(), &http.Client{Transport: tr}}
}

// answer is a whole response.
type answer struct {
	code   int
	header http.Header
	body   []byte
	err    error // of reading the body
}

// do sends a request; header are pairs of name and value.
func (s *site) do(t testing.TB, method, path string, body io.Reader, header ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	resp, err := s.client.Do(r)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, data, err}
}

func (s *site) want(t testing.TB, code int, body, method, path string, send io.Reader, header ...string) answer {
	t.Helper()
	a := s.do(t, method, path, send, header...)
	if a.err != nil || a.code != code || body != "?" && string(a.body) != body {
		show := a.body[:min(len(a.body), 60)]
		t.Errorf("%s %s %v: %d %q %v, want %d %q", method, path, header, a.code, show, a.err, code, body[:min(len(body), 60)])
	}
	return a
}

// chunked hides a body's length, so that it is sent in chunks.
func chunked(data []byte) io.Reader { return struct{ io.Reader }{bytes.NewReader(data)} }

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
