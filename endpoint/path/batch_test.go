package path

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport/faultnet"
)

// countConn counts writes.
type countConn struct {
	net.Conn
	mu     sync.Mutex
	writes []int
}

func (c *countConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.writes = append(c.writes, len(p))
	c.mu.Unlock()
	return c.Conn.Write(p)
}

// tlsOver returns both ends of a stream, the first over what wrap makes of a connection.
func tlsOver(t testing.TB, wrap func(net.Conn) net.Conn) (a, b *tlsStream) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	an, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	bn, err := l.Accept()
	must(t, err)
	t.Cleanup(func() { an.Close(); bn.Close() })
	ac := tls.Client(&batchConn{Conn: wrap(an)}, tlsConfig(certDial(), expect(certListen())))
	bc := tls.Server(&batchConn{Conn: bn}, tlsConfig(certListen(), expect(certDial())))
	failed := make(chan error, 1)
	go func() { failed <- bc.Handshake() }()
	must(t, ac.Handshake())
	must(t, <-failed)
	return &tlsStream{Conn: ac}, &tlsStream{Conn: bc}
}

func TestBatches(t *testing.T) {
	checkLeaks(t)
	var count *countConn
	a, b := tlsOver(t, func(nc net.Conn) net.Conn {
		count = &countConn{Conn: nc}
		return count
	})
	count.writes = nil
	data := payload(4, 1<<20)
	failed := make(chan error, 1)
	go func() {
		_, err := a.Write(data)
		failed <- err
	}()
	got := make([]byte, len(data))
	_, err := io.ReadFull(b, got)
	must(t, err)
	must(t, <-failed)
	if !bytes.Equal(got, data) {
		t.Error("other bytes")
	}
	if n := len(count.writes); n > 10 {
		t.Errorf("%d writes for 1 MiB: %v", n, count.writes)
	}
	_, err = a.Write([]byte("short"))
	must(t, err)
	_, err = io.ReadFull(b, got[:5])
	must(t, err)
	if string(got[:5]) != "short" {
		t.Errorf("got %q", got[:5])
	}
	// A deadline ends a read, which loses nothing, and a write for good.
	b.SetReadDeadline(time.Unix(1, 0))
	_, err = b.Read(got)
	wantErr(t, err, os.ErrDeadlineExceeded)
	b.SetReadDeadline(time.Time{})
	_, err = a.Write([]byte("again"))
	must(t, err)
	_, err = io.ReadFull(b, got[:5])
	must(t, err)
	a.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	_, err = a.Write(make([]byte, 64<<20))
	wantErr(t, err, os.ErrDeadlineExceeded)
	a.SetWriteDeadline(time.Time{})
	if _, err := a.Write([]byte("more")); err == nil {
		t.Error("wrote on after half a record")
	}
}

// TestBatchErrors cuts the connection at each write in turn: no error may pass unseen for good.
func TestBatchErrors(t *testing.T) {
	checkLeaks(t)
	for call := int64(1); call <= 6; call++ {
		var fc *faultnet.Conn
		a, b := tlsOver(t, func(nc net.Conn) net.Conn {
			fc = faultnet.Wrap(nc, faultnet.Plan{})
			return fc
		})
		go io.Copy(io.Discard, b)
		fc.Set(faultnet.Plan{Write: faultnet.Faults{ErrCall: call + 2}}) // the handshake took two
		var err error
		for i := 0; i < 3 && err == nil; i++ {
			_, err = a.Write(make([]byte, 300_000))
		}
		wantErr(t, err, faultnet.ErrInjected)
		if _, again := a.Write(make([]byte, 10)); again == nil || errors.Is(again, net.ErrClosed) {
			t.Errorf("call %d: %v after the error", call, again)
		}
		a.NetConn().Close()
		b.NetConn().Close()
	}
}
