package quic

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

var (
	stunPacket = []byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	dtlsPacket = []byte{22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 9}
)

// TestPackets mixes the other protocols into a transfer.
func TestPackets(t *testing.T) {
	checkLeaks(t)
	a, b := sockets(t, nil)
	pa, pb := a.Packets(), b.Packets()
	if pa != a.Packets() {
		t.Error("another one")
	}
	ac, bc := connect(t, a, b, b.Addr())
	as, bs := streams(t, ac, bc)
	data := payload(5, 8<<20)
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := as.Write(data); err != nil {
			t.Error(err)
		}
		as.Close()
	})
	const rounds = 200
	wg.Go(func() {
		for i := range rounds {
			for _, p := range [][]byte{stunPacket, dtlsPacket} {
				if _, err := pa.WriteTo(append(p[:len(p):len(p)], byte(i)), b.Addr()); err != nil {
					t.Error(err)
				}
			}
			time.Sleep(50 * time.Microsecond)
		}
	})
	wg.Go(func() {
		got, buf := 0, make([]byte, 2000)
		for got < rounds/2 { // UDP may lose some
			pb.SetReadDeadline(time.Now().Add(20 * time.Second))
			n, from, err := pb.ReadFrom(buf)
			if err != nil {
				t.Errorf("after %d packets: %v", got, err)
				return
			}
			if from.String() != a.Addr().String() || !bytes.HasPrefix(buf[:n], stunPacket) && !bytes.HasPrefix(buf[:n], dtlsPacket) {
				t.Errorf("packet %x from %v", buf[:n], from)
			}
			got++
		}
	})
	got, err := io.ReadAll(bs)
	must(t, err)
	wg.Wait()
	if !bytes.Equal(got, data) {
		t.Error("other bytes")
	}
}

func TestPacketsDeadlinesAndClose(t *testing.T) {
	checkLeaks(t)
	a, b := sockets(t, nil)
	p := b.Packets()
	failed := make(chan error)
	read := func() {
		_, _, err := p.ReadFrom(make([]byte, 100))
		failed <- err
	}
	p.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
	go read()
	wantErr(t, <-failed, os.ErrDeadlineExceeded)
	p.SetReadDeadline(time.Time{})
	go read()
	p.SetDeadline(time.Unix(1, 0)) // while it waits
	wantErr(t, <-failed, os.ErrDeadlineExceeded)
	_, err := p.WriteTo(stunPacket, a.Addr())
	wantErr(t, err, os.ErrDeadlineExceeded)
	p.SetDeadline(time.Time{})
	_, err = p.WriteTo(stunPacket, a.Addr())
	must(t, err)
	var ne net.Error
	p.SetReadDeadline(time.Unix(1, 0))
	if _, _, err := p.ReadFrom(nil); !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("not a timeout: %v", err)
	}
	p.SetReadDeadline(time.Time{})
	go read()
	must(t, p.Close())
	must(t, p.Close())
	wantErr(t, <-failed, net.ErrClosed)
	_, err = p.WriteTo(stunPacket, a.Addr())
	wantErr(t, err, net.ErrClosed)
	connect(t, a, b, b.Addr()) // QUIC goes on
}

// TestPacketsFlood: who reads none does not hold up QUIC, and costs bounded memory.
func TestPacketsFlood(t *testing.T) {
	checkLeaks(t)
	a, b := sockets(t, nil)
	b.Packets()
	big := append([]byte{20}, make([]byte, 1300)...)
	for range 5000 {
		b.other.put(big, a.Addr())
	}
	b.other.put(append(big, make([]byte, 1000)...), a.Addr()) // would have been cut off
	if b.other.bytes > maxOther || b.other.n < 2000 {
		t.Errorf("%d packets, %d bytes", b.other.n, b.other.bytes)
	}
	for range 1000 {
		_, err := a.pc.WriteTo(big, b.Addr())
		must(t, err)
	}
	connect(t, a, b, b.Addr())
	n := b.other.n
	for range n {
		if _, _, err := b.other.ReadFrom(make([]byte, 2000)); err != nil {
			t.Fatal(err)
		}
	}
	if b.other.n != 0 && b.other.bytes != 0 {
		t.Errorf("%d packets, %d bytes are left", b.other.n, b.other.bytes)
	}
}

func FuzzPackets(f *testing.F) {
	f.Add(stunPacket)
	f.Add([]byte{0x40})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		p := newPackets(nil)
		p.want()
		p.put(b, RelayedPeer)
		if len(b) >= maxPacket {
			return
		}
		got := make([]byte, maxPacket)
		n, _, err := p.ReadFrom(got)
		if err != nil || !bytes.Equal(got[:n], b) || p.bytes != 0 {
			t.Errorf("got %x, %v", got[:n], err)
		}
	})
}

// packetPipe is a connection that keeps packets apart, as a relayed ICE pair does.
type packetPipe struct {
	net.Conn
}

func pipes(t testing.TB) (a, b net.Conn) {
	la, err := net.ListenPacket("udp", loopback0)
	must(t, err)
	lb, err := net.ListenPacket("udp", loopback0)
	must(t, err)
	aa, ba := la.LocalAddr().(*net.UDPAddr), lb.LocalAddr().(*net.UDPAddr)
	must(t, la.Close())
	must(t, lb.Close())
	a, err = net.DialUDP("udp", aa, ba)
	must(t, err)
	b, err = net.DialUDP("udp", ba, aa)
	must(t, err)
	return packetPipe{a}, packetPipe{b}
}

func TestFromConn(t *testing.T) {
	checkLeaks(t)
	pa, pb := pipes(t)
	a, err := NewSocket(FromConn(pa), Options{Certificate: certA(), Verify: expect(certB())})
	must(t, err)
	defer a.Close()
	b, err := NewSocket(FromConn(pb), Options{Certificate: certB(), Verify: expect(certA())})
	must(t, err)
	defer b.Close()
	ac, bc := connect(t, a, b, RelayedPeer)
	c := session(t, ac, bc)
	data := payload(9, 4<<20)
	must(t, c.Put(context.Background(), "k", transport.Slices{data}, objects.PutOptions{}))
	got, err := c.GetBytes(context.Background(), "k", -1)
	must(t, err)
	if !bytes.Equal(got, data) {
		t.Error("other bytes")
	}
	connect(t, a, b, pa.RemoteAddr())
}

// TestGather tells for how long packets that come at a rate are left to gather.
func TestGather(t *testing.T) {
	for _, c := range []struct {
		name    string
		every   time.Duration // a packet comes
		long    int           // of ten are
		drained bool
		want    time.Duration
	}{
		{"acknowledgements", gatherSpan / gatherFrom / 2, 0, true, gatherShort},
		{"acknowledgements and a few others", gatherSpan / gatherFrom / 2, 1, true, gatherShort},
		{"acknowledgements, and more are there", gatherSpan / gatherFrom / 2, 0, false, 0},
		{"data", gatherSpan / gatherFrom / 2, 10, true, gatherLong},
		{"few", gatherSpan, 5, true, 0},
		{"keep-alives", time.Second, 0, true, 0},
	} {
		var g gather
		now := time.Unix(1, 0)
		var pause time.Duration
		for i := range 1000 {
			now = now.Add(c.every)
			long := 0
			if i%10 < c.long {
				long = 1
			}
			pause = max(pause, g.came(1, long, c.drained, now))
		}
		if pause != c.want {
			t.Errorf("%s: %v, want %v", c.name, pause, c.want)
		}
	}
	// Once they gather, there are as many after each pause, even one of the system's making.
	var g gather
	now := time.Unix(1, 0)
	for range 10 {
		now = now.Add(gatherSpan + time.Millisecond)
		if g.came(gatherFrom, 0, true, now) == 0 {
			t.Fatal("they do not gather any more")
		}
	}
}
