package endpoint

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// spyConn sees what net/http hands to the connection; TCPConn.ReadFrom makes sendfile of a file behind a LimitedReader.
type spyConn struct {
	*net.TCPConn
	fromFile *atomic.Int64
}

func (c *spyConn) ReadFrom(r io.Reader) (int64, error) {
	n, err := c.TCPConn.ReadFrom(r)
	for {
		l, ok := r.(*io.LimitedReader)
		if !ok {
			break
		}
		r = l.R
	}
	if _, ok := r.(*os.File); ok {
		c.fromFile.Add(n)
	}
	return n, err
}

type spyListener struct {
	net.Listener
	fromFile atomic.Int64
}

func (l *spyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &spyConn{c.(*net.TCPConn), &l.fromFile}, nil
}

// want waits until so many bytes went by sendfile, but for a few: the client has them before ReadFrom returns.
func (l *spyListener) want(t *testing.T, n int64) {
	t.Helper()
	for i := 0; l.fromFile.Load() < n-512; i++ {
		if i == 500 {
			t.Fatalf("%d bytes of %d went by sendfile", l.fromFile.Load(), n)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestSendfile: the bytes of files go from the file to the socket, but for the few that net/http looks at.
func TestSendfile(t *testing.T) {
	noLeaks(t)
	store := &fileStore{Table: newTable(t, objects.TableOptions{}), dir: t.TempDir()}
	e, err := New(Options{UUID: ownID, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &spyListener{Listener: tcp}
	srv := server(e.Handler(), e.log)
	done := make(chan struct{})
	go func() { srv.Serve(l); close(done) }()
	tr := &http.Transport{}
	defer func() { tr.CloseIdleConnections(); srv.Close(); <-done; e.Close() }()
	s := &site{e, "http://" + tcp.Addr().String(), &http.Client{Transport: tr}}
	data := random(20 << 20)
	if err := store.Put("k", transport.FromBytes(bytes.Clone(data)), objects.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	s.want(t, 200, string(data), "GET", "/get?key=k", nil)
	l.want(t, int64(len(data)))
	l.fromFile.Store(0)
	s.want(t, 206, string(data[7:7+9<<20]), "GET", "/get?key=k", nil, "Range", "bytes=7-9437190")
	l.want(t, 9<<20)
}
