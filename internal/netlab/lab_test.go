//go:build linux

package netlab_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/internal/netlab"
)

// echo answers every datagram with the address that it came from.
func echo(t *testing.T, l *netlab.Lab, site string) string {
	t.Helper()
	pc, err := l.ListenPacket(site, "udp4", ":7000")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go func() {
		b := make([]byte, 65536)
		for {
			_, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			pc.WriteTo([]byte(from.String()), from)
		}
	}()
	return net.JoinHostPort(l.Addr(site).String(), "7000")
}

// socket is a UDP socket of a site.
func socket(t *testing.T, l *netlab.Lab, site string) net.PacketConn {
	t.Helper()
	pc, err := l.ListenPacket(site, "udp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	return pc
}

// ask sends a datagram and returns the answer, "" if there is none in that time.
func ask(t *testing.T, pc net.PacketConn, to string, patience time.Duration) string {
	t.Helper()
	addr, err := net.ResolveUDPAddr("udp4", to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pc.WriteTo([]byte("?"), addr); err != nil {
		t.Fatal(err)
	}
	return receive(t, pc, patience)
}

func receive(t *testing.T, pc net.PacketConn, patience time.Duration) string {
	t.Helper()
	pc.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 1500)
	n, _, err := pc.ReadFrom(b)
	if err != nil {
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		return ""
	}
	return string(b[:n])
}

const never = 150 * time.Millisecond // long enough to see that nothing comes

func TestDelay(t *testing.T) {
	l := netlab.Start(t, netlab.Options{Delay: 20 * time.Millisecond})
	to := echo(t, l, "B")
	pc := socket(t, l, "A")
	begin := time.Now()
	if got := ask(t, pc, to, 5*time.Second); !strings.HasPrefix(got, "10.77.0.1:") {
		t.Fatalf("answer %q", got)
	}
	if d := time.Since(begin); d < 40*time.Millisecond {
		t.Fatalf("round trip of %v through 20 ms each way", d)
	} else {
		t.Log("round trip", d)
	}
}

// transfer sends n bytes from A to B over TCP and returns the time that it took.
func transfer(t *testing.T, l *netlab.Lab, n int) time.Duration {
	t.Helper()
	ln, err := l.Listen("B", "tcp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	sent := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			defer c.Close()
			b := bytes.Repeat([]byte("0123456789abcdef"), 16<<10)
			for rest := n; rest > 0 && err == nil; rest -= len(b) {
				b = b[:min(len(b), rest)]
				_, err = c.Write(b)
			}
		}
		sent <- err
	}()
	port := ln.Addr().(*net.TCPAddr).Port
	begin := time.Now()
	c, err := l.Dial(t.Context(), "A", "tcp4", net.JoinHostPort(l.Addr("B").String(), strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	got, err := io.Copy(io.Discard, c)
	if err != nil || got != int64(n) {
		t.Fatalf("%d bytes of %d: %v", got, n, err)
	}
	d := time.Since(begin)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	return d
}

func TestRate(t *testing.T) {
	const n = 10_000_000
	l := netlab.Start(t, netlab.Options{Delay: time.Millisecond, Rate: 200e6})
	d := transfer(t, l, n)
	if least := time.Duration(n * 8 / 200e6 * 1e9); d < least {
		t.Fatalf("10 MB at 200 Mbit/s in %v: less than %v", d, least)
	}
	s, err := l.Stats("B")
	if err != nil || s.Bytes < n {
		t.Fatalf("%+v %v", s, err)
	}
	t.Logf("%.0f Mbit/s, %+v", n*8/d.Seconds()/1e6, s)
}

func TestUnlimited(t *testing.T) {
	for _, direct := range []bool{false, true} {
		l := netlab.Start(t, netlab.Options{Direct: direct})
		t.Logf("direct %v: %.1f Gbit/s", direct, 200e6*8/transfer(t, l, 200e6).Seconds()/1e9)
	}
}

func TestLoss(t *testing.T) {
	l := netlab.Start(t, netlab.Options{Loss: 0.2})
	to := echo(t, l, "B")
	pc := socket(t, l, "A")
	addr, _ := net.ResolveUDPAddr("udp4", to)
	for range 1000 {
		if _, err := pc.WriteTo([]byte("?"), addr); err != nil {
			t.Fatal(err)
		}
	}
	s, err := l.Stats("A")
	for deadline := time.Now().Add(5 * time.Second); err == nil && s.Packets < 1000 && time.Now().Before(deadline); s, err = l.Stats("A") {
		time.Sleep(time.Millisecond)
	}
	if err != nil || s.Packets < 1000 || s.Lost < 150 || s.Lost > 250 {
		t.Fatalf("%+v %v: want a fifth of 1000 lost", s, err)
	}
	if err := l.SetLoss(0); err != nil {
		t.Fatal(err)
	}
	transfer(t, l, 1e6)
	if after, _ := l.Stats("A"); after.Lost != s.Lost {
		t.Fatalf("lost %d more without loss", after.Lost-s.Lost)
	}
	if err := l.SetLoss(0.01); err != nil { // now large packets are whole, and lost as such at most until the device knows
		t.Fatal(err)
	}
	transfer(t, l, 1e6)
}

func TestCut(t *testing.T) {
	l := netlab.Start(t, netlab.Options{})
	to := echo(t, l, "B")
	pc := socket(t, l, "A")
	for _, sites := range [][]string{{"A"}, {"B"}, nil} {
		if err := l.Cut(sites...); err != nil {
			t.Fatal(err)
		}
		if got := ask(t, pc, to, never); got != "" {
			t.Fatalf("cut at %v: answer %q", sites, got)
		}
		if err := l.Heal(); err != nil {
			t.Fatal(err)
		}
		if got := ask(t, pc, to, 5*time.Second); got == "" {
			t.Fatal("not healed")
		}
	}
}

func TestUnknownAddress(t *testing.T) {
	l := netlab.Start(t, netlab.Options{Delay: time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if c, err := l.Dial(ctx, "A", "tcp4", "192.0.2.1:80"); err == nil || ctx.Err() != nil {
		t.Fatalf("dialled %v: %v", c, err)
	}
	if s, err := l.Stats("A"); err != nil || s.Unknown == 0 {
		t.Fatalf("%+v %v", s, err)
	}
}

func TestCommand(t *testing.T) {
	l := netlab.Start(t, netlab.Options{})
	out, err := l.Command("A", "ip", "-4", "-o", "addr", "show", "eth0").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "10.77.0.1/32") {
		t.Fatalf("%v: %s", err, out)
	}
	if err := l.Command("nowhere", "true").Run(); err == nil {
		t.Fatal("a command ran nowhere")
	}
	// An HTTP server in one site, a client in the other.
	ln, err := l.Listen("B", "tcp4", ":8080")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RemoteAddr) })}
	go srv.Serve(ln)
	defer srv.Close()
	c := l.Client("A")
	defer c.CloseIdleConnections()
	resp, err := c.Get("http://10.77.0.2:8080/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || !strings.HasPrefix(string(b), "10.77.0.1:") {
		t.Fatalf("%q %v", b, err)
	}
}

// TestCloseEndsProcesses: whatever still runs in a namespace ends with it.
func TestCloseEndsProcesses(t *testing.T) {
	l := netlab.Start(t, netlab.Options{})
	cmd := l.Command("A", "sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	inside := func() bool { // until nsenter has entered
		a, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "ns", "net"))
		b, err2 := os.Readlink("/proc/self/ns/net")
		return err == nil && err2 == nil && a != b
	}
	for !inside() {
		time.Sleep(time.Millisecond)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Fatal("sleep ended by itself")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Stats("A"); err == nil {
		t.Fatal("statistics of a closed network")
	}
}

func TestLife(t *testing.T) {
	l := netlab.Start(t, netlab.Options{Life: 50 * time.Millisecond})
	for err := error(nil); err == nil; _, err = l.Stats("A") {
		time.Sleep(10 * time.Millisecond)
	}
	if err := l.Close(); err == nil { // and says so
		t.Fatal("the network ended before Close, which does not tell")
	}
}

// star is a public site R and two behind NATs of that kind, both with the same inner address.
func star(t *testing.T, kind netlab.NAT) *netlab.Lab {
	inner := netip.MustParseAddr("192.168.1.2")
	return netlab.Start(t, netlab.Options{Delay: time.Millisecond, Sites: []netlab.Site{{Name: "R"}, {Name: "A", NAT: kind, Inner: inner}, {Name: "B", NAT: kind, Inner: inner}}})
}

func TestNAT(t *testing.T) {
	for _, c := range []struct {
		kind                       netlab.NAT
		same, anyone, addr, direct bool // one outer port for all; who may send to it; two behind such NATs meet
	}{
		{netlab.FullCone, true, true, true, true},
		{netlab.Restricted, true, false, true, true},
		{netlab.PortRestricted, true, false, false, true},
		{netlab.Symmetric, false, false, false, false},
	} {
		t.Run(strconv.Itoa(int(c.kind)), func(t *testing.T) {
			l := star(t, c.kind)
			to := echo(t, l, "R")
			a, b := socket(t, l, "A"), socket(t, l, "B")
			outerA, outerB := ask(t, a, to, 5*time.Second), ask(t, b, to, 5*time.Second)
			if !strings.HasPrefix(outerA, "10.77.0.2:") || !strings.HasPrefix(outerB, "10.77.0.3:") {
				t.Fatalf("outer addresses %q and %q", outerA, outerB)
			}
			if again := ask(t, a, to, 5*time.Second); again != outerA {
				t.Fatalf("%q and then %q to the same destination", outerA, again)
			}
			// From another port of R: the same address as before, which A has sent to, but not this port.
			r := socket(t, l, "R")
			if got := send(t, r, outerA, a); got != c.addr {
				t.Errorf("another port of a known address got through: %v", got)
			}
			// A sends there: now it may answer, and sees which port A has for it.
			port := r.LocalAddr().(*net.UDPAddr).Port
			seen := sendTo(t, a, "10.77.0.1:"+strconv.Itoa(port), r)
			if (seen == outerA) != c.same {
				t.Errorf("seen as %q by one port and as %q by another", outerA, seen)
			}
			if !send(t, r, seen, a) {
				t.Error("an answer did not come")
			}
			// From a site that A never sent to.
			if got := send(t, b, outerA, a); got != c.anyone {
				t.Errorf("a stranger got through: %v", got)
			}
			// A sends to B's outer address, which opens A's NAT for it.
			send(t, a, outerB, b)
			if got := send(t, b, outerA, a); got != c.direct {
				t.Errorf("direct path: %v", got)
			}
			if d := transferFrom(t, l, "A", "R"); d == 0 {
				t.Error("nothing came over TCP")
			}
		})
	}
}

// send tells whether a datagram from one socket to an address comes to the other socket.
func send(t *testing.T, from net.PacketConn, to string, at net.PacketConn) bool {
	t.Helper()
	addr, err := net.ResolveUDPAddr("udp4", to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := from.WriteTo([]byte("!"), addr); err != nil {
		t.Fatal(err)
	}
	return receive(t, at, never) != ""
}

// sendTo sends a datagram to where a socket listens, and returns where that saw it come from.
func sendTo(t *testing.T, from net.PacketConn, to string, at net.PacketConn) string {
	t.Helper()
	addr, err := net.ResolveUDPAddr("udp4", to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := from.WriteTo([]byte("!"), addr); err != nil {
		t.Fatal(err)
	}
	at.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, seen, err := at.ReadFrom(make([]byte, 100))
	if err != nil {
		t.Fatal(err)
	}
	return seen.String()
}

// transferFrom sends a megabyte over TCP and back, from a site to another.
func transferFrom(t *testing.T, l *netlab.Lab, from, to string) int64 {
	t.Helper()
	ln, err := l.Listen(to, "tcp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		if c, err := ln.Accept(); err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()
	c, err := l.Dial(t.Context(), from, "tcp4", net.JoinHostPort(l.Addr(to).String(), strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	go func() {
		c.Write(make([]byte, 1<<20))
		c.(*net.TCPConn).CloseWrite()
	}()
	n, err := io.Copy(io.Discard, c)
	if err != nil || n != 1<<20 {
		t.Fatal(n, err)
	}
	return n
}

func TestRebind(t *testing.T) {
	l := star(t, netlab.FullCone)
	to := echo(t, l, "R")
	a, r := socket(t, l, "A"), socket(t, l, "R")
	before := ask(t, a, to, 5*time.Second)
	if !send(t, r, before, a) {
		t.Fatal("the mapping does not work")
	}
	if err := l.Rebind("A", netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	if send(t, r, before, a) {
		t.Error("the old mapping works still")
	}
	after := ask(t, a, to, 5*time.Second)
	if after == before || !strings.HasPrefix(after, "10.77.0.2:") {
		t.Errorf("%q before, %q after", before, after)
	}
	if err := l.Rebind("A", netip.MustParseAddr("10.77.0.9")); err != nil {
		t.Fatal(err)
	}
	if moved := ask(t, a, to, 5*time.Second); !strings.HasPrefix(moved, "10.77.0.9:") || l.Addr("A").String() != "10.77.0.9" {
		t.Errorf("%q at the new address", moved)
	}
	if err := l.Rebind("R", netip.Addr{}); err == nil {
		t.Error("a site without NAT was rebound")
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []netlab.Options{
		{Sites: []netlab.Site{{}}}, {Sites: []netlab.Site{{Name: "A"}, {Name: "A"}}}, {Sites: []netlab.Site{{Name: "A", Addr: netip.IPv6Loopback()}}},
		{Sites: []netlab.Site{{Name: "A", NAT: 9}}}, {Sites: make([]netlab.Site, 99)}, {Delay: -1}, {Loss: 2}, {MTU: 10}, {Direct: true, Rate: 1},
	} {
		if l, err := netlab.New(o); err == nil {
			l.Close()
			t.Errorf("%+v: no error", o)
		}
	}
}
