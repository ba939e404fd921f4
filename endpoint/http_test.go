package endpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

func TestProxyStoreAPI(t *testing.T) {
	noLeaks(t)
	table := newTable(t, objects.TableOptions{})
	peers := &fakePeers{table: newTable(t, objects.TableOptions{})}
	for name, o := range map[string]Options{"table": {Store: table}, "files": {Store: &fileStore{Table: table, dir: t.TempDir()}}, "peer": {Store: table, Peers: peers}} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, o)
			at := ""
			if o.Peers != nil {
				at = "&endpoint=" + peerID.String()
			}
			s.want(t, 200, "", "GET", "/", nil)
			s.want(t, 200, `{"uuid": "`+ownID.String()+`", "proxyplane": 1}`, "GET", "/endpoint", nil)
			for _, size := range []int{1, 100, 999, 1000, 4096, 65536, 1<<20 - 1, 1 << 20, 5<<20 + 7} {
				data := random(size)
				for kind, body := range map[string]io.Reader{"length": bytes.NewReader(data), "chunked": chunked(data)} {
					key := fmt.Sprintf("?key=%s%d", kind, size) + at
					s.want(t, 200, `{"exists": false}`, "GET", "/exists"+key, nil)
					s.want(t, 404, noData, "GET", "/get"+key, nil)
					s.want(t, 200, "", "POST", "/set"+key, body)
					s.want(t, 200, `{"exists": true}`, "GET", "/exists"+key, nil)
					a := s.want(t, 200, string(data), "GET", "/get"+key, nil)
					if a.header.Get("Content-Length") != fmt.Sprint(size) || a.header.Get("Content-Type") != "application/octet-stream" {
						t.Error(a.header)
					}
					if h := s.want(t, 200, "", "HEAD", "/get"+key, nil); h.header.Get("Content-Length") != fmt.Sprint(size) || h.header.Get("ETag") != a.header.Get("ETag") ||
						h.header.Get("Etag") == "" {
						t.Error(h.header)
					}
					s.want(t, 200, "", "POST", "/evict"+key, nil)
					s.want(t, 200, "", "POST", "/evict"+key, nil)
					s.want(t, 404, noData, "GET", "/get"+key, nil)
					s.want(t, 404, "", "HEAD", "/get"+key, nil)
				}
			}
		})
	}
}

func TestOddRequests(t *testing.T) {
	noLeaks(t)
	peers := &fakePeers{table: newTable(t, objects.TableOptions{})}
	s := newSite(t, Options{Peers: peers})
	for _, path := range []string{"/get", "/exists"} {
		s.want(t, 400, "request missing key", "GET", path, nil)
		s.want(t, 400, "x is not a valid UUID4", "GET", path+"?key=k&endpoint=x", nil)
		s.want(t, 400, " is not a valid UUID4", "GET", path+"?key=k&endpoint=", nil)
		s.want(t, 405, "?", "POST", path+"?key=k", nil)
		s.want(t, 200, "", "OPTIONS", path, nil)
	}
	for _, path := range []string{"/set", "/evict"} {
		s.want(t, 400, "request missing key", "POST", path, strings.NewReader("x"))
		s.want(t, 400, "x is not a valid UUID4", "POST", path+"?key=k&endpoint=x", chunked([]byte("x")))
		if a := s.want(t, 405, "?", "GET", path+"?key=k", nil); a.header.Get("Allow") != "POST, OPTIONS" {
			t.Error(a.header)
		}
	}
	s.want(t, 400, "received empty payload", "POST", "/set?key=k", nil)
	s.want(t, 400, "received empty payload", "POST", "/set?key=k", chunked(nil))
	s.want(t, 400, "received empty payload", "POST", "/set?key=k&endpoint="+peerID.String(), chunked(nil))
	s.want(t, 200, "", "POST", "/set?key=k", nil, "Proxyplane-Empty", "1")
	s.want(t, 200, "", "GET", "/get?key=k", nil)
	s.want(t, 200, "", "POST", "/set?key=k2&endpoint="+peerID.String(), chunked(nil), "Proxyplane-Empty", "1")
	s.want(t, 200, "", "GET", "/get?key=k2&endpoint="+peerID.String(), nil, "Range", "bytes=0-")
	s.want(t, 200, "", "GET", "/get?key=k2&endpoint="+peerID.String(), nil, "Range", "bytes=5-")
	s.want(t, 404, "?", "GET", "/nothing", nil)
	s.want(t, 404, "?", "GET", "/get/", nil)
	s.want(t, 404, noData, "GET", "/get?key=", nil)
	s.want(t, 400, "?", "POST", "/set?key="+strings.Repeat("k", maxKey+1), strings.NewReader("x"))
	s.want(t, 200, "", "POST", "/set?key="+strings.Repeat("k", maxKey), strings.NewReader("x"))
	s.want(t, 404, noData, "GET", "/get?key="+strings.Repeat("k", maxKey+1), nil)

	// Our own UUID, in any spelling, is this endpoint.
	s.want(t, 200, "", "POST", "/set?key=own&endpoint="+ownID.String(), strings.NewReader("x"))
	s.want(t, 200, "x", "GET", "/get?key=own", nil)
	s.want(t, 200, "x", "GET", "/get?endpoint="+url.QueryEscape("{"+strings.ToUpper(ownID.String())+"}")+"&key=own", nil)

	// A peer that cannot be reached.
	for _, req := range [][2]string{{"GET", "/get"}, {"GET", "/exists"}, {"POST", "/evict"}, {"POST", "/set"}, {"GET", "/exists?wait=1"}} {
		path, q, _ := strings.Cut(req[1], "?")
		s.want(t, 500, "Request to peer "+goneID.String()+" failed: unavailable: no such peer at the relay", req[0], path+"?key=k&endpoint="+goneID.String()+"&"+q,
			strings.NewReader("x"))
	}
	// Without peers every UUID is this endpoint's, as in ProxyStore's solo mode.
	solo := newSite(t, Options{})
	solo.want(t, 200, "", "POST", "/set?key=k&endpoint="+goneID.String(), strings.NewReader("x"))
	solo.want(t, 200, "x", "GET", "/get?key=k", nil)

	for err, code := range map[error]int{transport.ErrTooLarge: 413, transport.ErrFull: 507, transport.ErrDenied: 403, transport.ErrUnavailable: 500,
		transport.ErrClosed: 500, transport.ErrCorrupt: 500, errors.New("other"): 500, syscall.ENOSPC: 507, transport.ErrInvalidRange: 416} {
		peers.err = fmt.Errorf("wrapped: %w", err)
		s.want(t, code, "?", "POST", "/set?key=k&endpoint="+peerID.String(), strings.NewReader("x"))
		s.want(t, code, "?", "GET", "/get?key=k&endpoint="+peerID.String(), nil)
	}
}

func TestRanges(t *testing.T) {
	noLeaks(t)
	table := newTable(t, objects.TableOptions{})
	peers := &fakePeers{table: table}
	data := random(3<<20 + 5)
	size := len(data)
	for name, o := range map[string]Options{"table": {Store: table}, "files": {Store: &fileStore{Table: table, dir: t.TempDir()}}, "peer": {Store: newTable(t, objects.TableOptions{}), Peers: peers}} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, o)
			at := "?key=k"
			if o.Peers != nil {
				at += "&endpoint=" + peerID.String()
			}
			s.want(t, 200, "", "POST", "/set"+at, bytes.NewReader(data))
			whole := s.want(t, 200, string(data), "GET", "/get"+at, nil)
			tag, mod := whole.header.Get("ETag"), whole.header.Get("Last-Modified")
			for rng, want := range map[string][2]int{"bytes=0-0": {0, 1}, "bytes=0-": {0, size}, "bytes=1-1048577": {1, 1048578}, "bytes=2-1048576": {2, 1048577},
				"bytes=-5": {size - 5, size}, "bytes=-99999999": {0, size}, "bytes=7-99999999999999999999999": {7, size}, "Bytes= 100-200 ": {100, 201},
				fmt.Sprintf("bytes=%d-", size-1): {size - 1, size}} {
				a := s.want(t, 206, string(data[want[0]:want[1]]), "GET", "/get"+at, nil, "Range", rng)
				if cr := a.header.Get("Content-Range"); cr != fmt.Sprintf("bytes %d-%d/%d", want[0], want[1]-1, size) || a.header.Get("ETag") != tag {
					t.Error(rng, a.header)
				}
			}
			for _, rng := range []string{fmt.Sprintf("bytes=%d-", size), "bytes=99999999999-", "bytes=-0"} {
				if a := s.want(t, 416, "?", "GET", "/get"+at, nil, "Range", rng); a.header.Get("Content-Range") != fmt.Sprintf("bytes */%d", size) {
					t.Error(rng, a.header)
				}
			}
			for _, rng := range []string{"bytes=0-1,5-6", "bytes=5-4", "bytes=", "bytes=-", "bytes", "lines=0-1", "bytes=a-b", "bytes=+1-2", "bytes=1--2", "bytes=0x1-2"} {
				s.want(t, 200, string(data), "GET", "/get"+at, nil, "Range", rng)
			}
			// Conditions.
			for _, c := range []struct {
				code   int
				header []string
			}{
				{304, []string{"If-None-Match", tag}}, {304, []string{"If-None-Match", `"x", W/` + tag}}, {304, []string{"If-None-Match", "*"}}, {200, []string{"If-None-Match", `"x"`}},
				{304, []string{"If-Modified-Since", mod}}, {200, []string{"If-Modified-Since", "Thu, 01 Jan 1970 00:00:00 GMT"}}, {200, []string{"If-Modified-Since", "junk"}},
				{200, []string{"If-None-Match", `"x"`, "If-Modified-Since", mod}},
				{200, []string{"If-Match", tag}}, {412, []string{"If-Match", `"x"`}}, {412, []string{"If-Match", "W/" + tag}}, {200, []string{"If-Match", "*"}},
				{412, []string{"If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT"}}, {200, []string{"If-Unmodified-Since", mod}},
				{206, []string{"If-Range", tag, "Range", "bytes=0-9"}}, {200, []string{"If-Range", `"x"`, "Range", "bytes=0-9"}}, {200, []string{"If-Range", "W/" + tag, "Range", "bytes=0-9"}},
				{200, []string{"If-Range", "junk", "Range", "bytes=0-9"}}, {304, []string{"If-None-Match", tag, "Range", "bytes=0-9"}}, {412, []string{"If-Match", "junk"}},
			} {
				a := s.do(t, "GET", "/get"+at, nil, c.header...)
				if a.code != c.code || a.err != nil || c.code == 200 && !bytes.Equal(a.body, data) || c.code == 206 && !bytes.Equal(a.body, data[:10]) || c.code == 304 && len(a.body) > 0 {
					t.Errorf("%v: %d, %d bytes, %v; want %d", c.header, a.code, len(a.body), a.err, c.code)
				}
				if h := s.do(t, "HEAD", "/get"+at, nil, c.header...); c.code != 206 && h.code != c.code {
					t.Errorf("HEAD %v: %d, want %d", c.header, h.code, c.code)
				}
			}
			s.want(t, 200, "", "POST", "/set"+at, bytes.NewReader(data[:size-1]))
			if a := s.want(t, 200, string(data[:size-1]), "GET", "/get"+at, nil, "If-None-Match", tag); a.header.Get("ETag") == tag {
				t.Error("two versions have one ETag")
			}
			s.want(t, 412, "?", "POST", "/set"+at, strings.NewReader("x"), "If-None-Match", "*")
			s.want(t, 400, "?", "POST", "/set"+at, strings.NewReader("x"), "If-None-Match", tag)
			s.want(t, 200, "", "POST", "/evict"+at, nil)
			s.want(t, 200, "", "POST", "/set"+at, strings.NewReader("x"), "If-None-Match", "*")
		})
	}
}

// TestConditionalSetRace: of many that store only what is not there, one does.
func TestConditionalSetRace(t *testing.T) {
	noLeaks(t)
	s := newSite(t, Options{})
	var wins atomic.Int64
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			a := s.do(t, "POST", "/set?key=k", chunked([]byte{byte(i)}), "If-None-Match", "*")
			if a.code == 200 {
				wins.Add(1)
			} else if a.code != 412 {
				t.Error(a.code)
			}
		})
	}
	wg.Wait()
	if wins.Load() != 1 {
		t.Error(wins.Load())
	}
}

func TestLimits(t *testing.T) {
	noLeaks(t)
	table := newTable(t, objects.TableOptions{Memory: 1 << 20})
	s := newSite(t, Options{Store: table, MaxObject: 100_000})
	for _, body := range []func([]byte) io.Reader{func(b []byte) io.Reader { return bytes.NewReader(b) }, chunked} {
		s.want(t, 200, "", "POST", "/set?key=k", body(random(100_000)))
		if a := s.want(t, 413, "?", "POST", "/set?key=k", body(random(100_001))); !strings.Contains(string(a.body), "max_object_size") {
			t.Errorf("%s", a.body)
		}
		s.want(t, 413, "?", "POST", "/set?key=k", body(random(10_000_000))) // the answer comes, though much is still to be sent
	}
	for i := range 20 {
		a := s.do(t, "POST", fmt.Sprintf("/set?key=full%d", i), bytes.NewReader(random(100_000)))
		if a.code == 507 {
			if i < 5 {
				t.Error("full after", i)
			}
			break
		}
		if a.code != 200 || i == 19 {
			t.Error(i, a.code)
		}
	}
	if st := table.Stats(); st.Reserved != 0 {
		t.Errorf("%+v", st)
	}
}

// TestTruncatedBody: what came of a body that broke off is not an object.
func TestTruncatedBody(t *testing.T) {
	noLeaks(t)
	table := newTable(t, objects.TableOptions{})
	s := newSite(t, Options{Store: table, Peers: &fakePeers{table: newTable(t, objects.TableOptions{})}})
	for i, req := range []string{
		"POST /set?key=%s HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345",
		"POST /set?key=%s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
		"POST /set?key=%s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n1234",
		"POST /set?key=%s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\nzz\r\n",
		"POST /set?key=%s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		c, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, req, fmt.Sprint("k", i))
		c.(*net.TCPConn).CloseWrite()
		answer, _ := io.ReadAll(c)
		c.Close()
		if strings.Contains(string(answer), " 200 ") || table.Exists(fmt.Sprint("k", i)) {
			t.Errorf("%d: %s", i, answer)
		}
	}
}

// TestStall: a client that stops in the middle of a body is not waited for, and holds nothing.
func TestStall(t *testing.T) {
	noLeaks(t)
	table := newTable(t, objects.TableOptions{})
	s := newSite(t, Options{Store: table, Stall: time.Second})
	c, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST /set?key=k HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n12345")
	answer, _ := io.ReadAll(c)
	if !strings.HasPrefix(string(answer), "HTTP/1.1 408 ") || table.Exists("k") || table.Stats().Reserved != 0 {
		t.Errorf("%s, %+v", answer, table.Stats())
	}
	// One that is slow but goes on is served.
	body := &slowReader{left: 10, pause: 150 * time.Millisecond}
	s.want(t, 200, "", "POST", "/set?key=slow", body)
	s.want(t, 200, "xxxxxxxxxx", "GET", "/get?key=slow", nil)

	// A client that does not read.
	if err := table.Put("big", transport.FromBytes(random(64<<20)), objects.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	c2, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c2.Close()
	fmt.Fprintf(c2, "GET /get?key=big HTTP/1.1\r\nHost: x\r\n\r\n")
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if strings.Contains(string(s.do(t, "GET", "/metrics", nil).body), `proxyplane_endpoint_requests_total{op="get",status="aborted"} 1`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("still waits for a client that does not read")
		}
	}
}

type slowReader struct {
	left  int
	pause time.Duration
}

func (r *slowReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	time.Sleep(r.pause)
	r.left--
	p[0] = 'x'
	return 1, nil
}

// TestBrokenAnswer: a client never takes half of an object for the whole.
func TestBrokenAnswer(t *testing.T) {
	noLeaks(t)
	peers := &fakePeers{table: newTable(t, objects.TableOptions{}), cut: 1000}
	s := newSite(t, Options{Peers: peers})
	if err := peers.table.Put("k", transport.FromBytes(random(100_000)), objects.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	at := "&endpoint=" + peerID.String()
	if a := s.do(t, "GET", "/get?key=k"+at, nil); a.err == nil {
		t.Errorf("%d, %d bytes and no error", a.code, len(a.body))
	}
	a := s.do(t, "POST", "/batch/get", strings.NewReader(`{"keys": ["k", "k"], "endpoint": "`+peerID.String()+`"}`))
	if a.err == nil {
		t.Errorf("batch: %d, %d bytes and no error", a.code, len(a.body))
	}
}

func TestWait(t *testing.T) {
	noLeaks(t)
	table := newTable(t, objects.TableOptions{})
	s := newSite(t, Options{Store: table, Peers: &fakePeers{table: table}})
	for _, at := range []string{"", "&endpoint=" + peerID.String()} {
		s.want(t, 200, `{"exists": false}`, "GET", "/exists?key=k&wait=0"+at, nil)
		s.want(t, 200, `{"exists": false}`, "GET", "/exists?key=k&wait=0.01"+at, nil)
		for _, bad := range []string{"", "x", "-1", "NaN"} {
			s.want(t, 400, "?", "GET", "/exists?key=k&wait="+bad+at, nil)
		}
		got := make(chan answer)
		go func() { got <- s.do(t, "GET", "/exists?key=k&wait=1e30"+at, nil) }()
		for table.Stats().Waiting == 0 {
			time.Sleep(time.Millisecond)
		}
		s.want(t, 200, "", "POST", "/set?key=k", strings.NewReader("x"))
		if a := <-got; string(a.body) != `{"exists": true}` {
			t.Error(a)
		}
		s.want(t, 200, `{"exists": true}`, "GET", "/exists?key=k&wait=10"+at, nil)
		s.want(t, 200, "", "POST", "/evict?key=k", nil)
	}
	// A client that goes away, and an endpoint that does.
	ctx, cancel := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, "GET", s.url+"/exists?key=k&wait=100", nil)
	gone := make(chan error)
	go func() {
		_, err := s.client.Do(r)
		gone <- err
	}()
	for table.Stats().Waiting == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for table.Stats().Waiting != 0 {
		time.Sleep(time.Millisecond)
	}
	got := make(chan answer)
	go func() { got <- s.do(t, "GET", "/exists?key=k&wait=100", nil) }()
	for table.Stats().Waiting == 0 {
		time.Sleep(time.Millisecond)
	}
	s.want(t, 200, `{"status": "ok"}`, "GET", "/health", nil)
	s.Drain()
	if a := <-got; string(a.body) != `{"exists": false}` {
		t.Error(a)
	}
	s.want(t, 503, `{"status": "ending"}`, "GET", "/health", nil)
}

func TestAccess(t *testing.T) {
	noLeaks(t)
	s := newSite(t, Options{Token: "secret"})
	for _, auth := range []string{"", "secret", "Bearer", "Bearer other", "Basic secret", "Bearer secret2"} {
		h := []string{"Authorization", auth}
		if auth == "" {
			h = nil
		}
		if a := s.want(t, 401, "?", "GET", "/endpoint", nil, h...); a.header.Get("WWW-Authenticate") != "Bearer" {
			t.Error(a.header)
		}
		s.want(t, 401, "?", "GET", "/metrics", nil, h...)
		s.want(t, 401, "?", "GET", "/nothing", nil, h...)
	}
	s.want(t, 200, "?", "GET", "/endpoint", nil, "Authorization", "Bearer secret")
	s.want(t, 200, "?", "GET", "/endpoint", nil, "Authorization", "bearer  secret")
	s.want(t, 200, "?", "GET", "/health", nil)

	s = newSite(t, Options{})
	s.want(t, 403, "?", "GET", "/endpoint", nil, "Origin", "http://evil.example")
	s.want(t, 403, "?", "POST", "/set?key=k", strings.NewReader("x"), "Origin", "null")
	s.want(t, 403, "?", "OPTIONS", "/set", nil, "Origin", "http://evil.example")
	s.want(t, 403, "?", "GET", "/get?key=k", nil, "Sec-Fetch-Site", "cross-site")
	s.want(t, 200, "?", "GET", "/status", nil, "Sec-Fetch-Site", "none")
}

func TestConcurrencyLimit(t *testing.T) {
	noLeaks(t)
	table := newTable(t, objects.TableOptions{})
	s := newSite(t, Options{Store: table, MaxConcurrent: 1})
	pr, pw := io.Pipe()
	got := make(chan answer)
	go func() { got <- s.do(t, "POST", "/set?key=k", pr) }()
	pw.Write([]byte("x"))
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		a := s.do(t, "GET", "/endpoint", nil)
		if a.code == 503 && a.header.Get("Retry-After") != "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(a.code)
		}
	}
	s.want(t, 200, "?", "GET", "/health", nil)
	s.want(t, 200, "?", "GET", "/metrics", nil)
	s.want(t, 200, "?", "GET", "/exists?key=other&wait=0.01", nil) // waits have slots of their own
	pw.Close()
	if a := <-got; a.code != 200 {
		t.Error(a.code)
	}
	s.want(t, 200, "?", "GET", "/endpoint", nil)
}

func TestStatusAndMetrics(t *testing.T) {
	noLeaks(t)
	s := newSite(t, Options{MaxObject: 1000, Peers: &fakePeers{table: newTable(t, objects.TableOptions{})}})
	s.want(t, 200, "", "POST", "/set?key=k", strings.NewReader("12345"))
	s.want(t, 404, "?", "GET", "/get?key=none", nil)
	var st Status
	if a := s.want(t, 200, "?", "GET", "/status", nil); json.Unmarshal(a.body, &st) != nil || st.UUID != ownID.String() || st.Mode != "PEERING" || st.Storage.Objects != 1 ||
		st.Storage.Bytes != 5 || st.Storage.MaxObject != 1000 || st.Storage.Kind != "memory" {
		t.Errorf("%s", a.body)
	}
	text := string(s.want(t, 200, "?", "GET", "/metrics", nil).body)
	for _, line := range []string{`proxyplane_endpoint_requests_total{op="set",status="200"} 1`, `proxyplane_endpoint_requests_total{op="get",status="404"} 1`,
		`proxyplane_endpoint_body_bytes_total{direction="in"} 5`, `proxyplane_endpoint_objects 1`, `proxyplane_endpoint_object_bytes 5`, `proxyplane_endpoint_peers 0`,
		`proxyplane_endpoint_request_seconds_count{op="set"} 1`, `proxyplane_endpoint_requests_in_flight 1`} {
		if !slices.Contains(strings.Split(text, "\n"), line) {
			t.Errorf("no %s in\n%s", line, text)
		}
	}
	if strings.Contains(text, "relay_connected") {
		t.Error("a relay that there is not")
	}
	off := newSite(t, Options{NoMetrics: true})
	off.want(t, 404, "?", "GET", "/metrics", nil)
}

func TestNew(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("an endpoint without a store")
	}
	e, err := New(Options{UUID: ownID, Store: newTable(t, objects.TableOptions{})})
	if err != nil {
		t.Fatal(err)
	}
	e.Close()
	e.Close()
	for size, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1 KB", 1500: "1.5 KB", 100_000_000: "100 MB", 2e9: "2 GB", 3e12: "3 TB"} {
		if got := readable(size); got != want {
			t.Errorf("%d: %s, want %s", size, got, want)
		}
	}
}
