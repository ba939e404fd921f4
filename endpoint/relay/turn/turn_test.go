package turn

import (
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pion/turn/v5"
)

func checkLeaks(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for start := time.Now(); time.Since(start) < 5*time.Second; time.Sleep(5 * time.Millisecond) {
			if runtime.NumGoroutine() <= before {
				return
			}
		}
		buf := make([]byte, 1<<20)
		t.Errorf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
	})
}

var loopback = netip.MustParsePrefix("127.0.0.0/8")

func start(t *testing.T, change func(*Options)) *Server {
	t.Helper()
	o := Options{Address: "127.0.0.1:0", RelayAddress: "127.0.0.1", Users: map[string]string{"alice": "password"}, AllowPeers: []netip.Prefix{loopback}}
	if change != nil {
		change(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return s
}

func client(t *testing.T, s *Server, password string) *turn.Client {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := s.Addr().String()
	c, err := turn.NewClient(&turn.ClientConfig{
		STUNServerAddr: addr, TURNServerAddr: addr, Username: "alice", Password: password, Conn: conn, LoggerFactory: factory{discard()}, RTO: 50 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		conn.Close()
	})
	return c
}

// TestRelayed: packets go both ways through an allocation, and STUN needs no password.
func TestRelayed(t *testing.T) {
	checkLeaks(t)
	s := start(t, func(o *Options) { o.MaxAllocations = 1 })
	c := client(t, s, "password")
	if addr, err := c.SendBindingRequest(); err != nil || !strings.HasPrefix(addr.String(), "127.0.0.1:") {
		t.Fatalf("%v, %v", addr, err)
	}
	relayed, err := c.Allocate()
	if err != nil {
		t.Fatal(err)
	}
	peer, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	peer.SetDeadline(time.Now().Add(30 * time.Second))
	relayed.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := relayed.WriteTo([]byte("there"), peer.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, from, err := peer.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "there" || from.String() != relayed.LocalAddr().String() {
		t.Fatalf("%q from %v, %v", buf[:n], from, err)
	}
	if _, err := peer.WriteTo([]byte("and back"), from); err != nil {
		t.Fatal(err)
	}
	if n, _, err := relayed.ReadFrom(buf); err != nil || string(buf[:n]) != "and back" {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	if second, err := client(t, s, "password").Allocate(); err == nil {
		second.Close()
		t.Error("one allocation too many")
	}
	if err := relayed.Close(); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		second, err := client(t, s, "password").Allocate()
		if err == nil {
			second.Close()
			break
		}
		if time.Since(start) > 20*time.Second {
			t.Fatalf("the user's allocation was never counted out: %v", err)
		}
	}
}

func TestRefused(t *testing.T) {
	checkLeaks(t)
	s := start(t, func(o *Options) { o.AllowPeers = nil })
	if conn, err := client(t, s, "wrong").Allocate(); err == nil {
		conn.Close()
		t.Error("a wrong password was taken")
	}
	relayed, err := client(t, s, "password").Allocate()
	if err != nil {
		t.Fatal(err)
	}
	defer relayed.Close()
	if _, err := relayed.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}); err == nil {
		t.Error("a peer on a loopback address was allowed")
	}
}

func TestPermitted(t *testing.T) {
	for ip, want := range map[string]bool{
		"8.8.8.8": true, "2600::1": true, "127.0.0.1": false, "10.1.2.3": false, "192.168.1.1": false, "172.16.0.1": false, "169.254.169.254": false, "100.64.0.1": false,
		"0.0.0.0": false, "224.0.0.1": false, "255.255.255.255": false, "::1": false, "fe80::1": false, "fc00::1": false, "ff02::1": false, "::": false,
		"::ffff:10.0.0.1": false, "::ffff:8.8.8.8": true, "64:ff9b::a00:1": false, "2002:a00:1::": false,
	} {
		if got := Permitted(net.ParseIP(ip), nil); got != want {
			t.Errorf("%s: %t", ip, got)
		}
	}
	if !Permitted(net.ParseIP("::ffff:127.0.0.1"), []netip.Prefix{loopback}) || Permitted(net.IP{1, 2}, nil) {
		t.Error("allowed networks")
	}
}

func TestOptions(t *testing.T) {
	users := map[string]string{"a": "b"}
	for _, o := range []Options{
		{Address: "127.0.0.1:0", Users: users}, {Address: "127.0.0.1:0", RelayAddress: "host.example.org", Users: users}, {Address: "127.0.0.1:0", RelayAddress: "127.0.0.1"},
		{Address: "127.0.0.1:0", RelayAddress: "127.0.0.1", Users: map[string]string{"a": ""}}, {Address: "nowhere", RelayAddress: "127.0.0.1", Users: users},
		{Address: "127.0.0.1:0", RelayAddress: "127.0.0.1", Users: users, MinPort: 9, MaxPort: 8},
	} {
		if s, err := New(o); err == nil {
			s.Close()
			t.Errorf("%+v was taken", o)
		}
	}
	s := start(t, func(o *Options) { o.MinPort, o.MaxPort = 40000, 40999 })
	relayed, err := client(t, s, "password").Allocate()
	if err != nil {
		t.Fatal(err)
	}
	defer relayed.Close()
	if port := relayed.LocalAddr().(*net.UDPAddr).Port; port < 40000 || port > 40999 {
		t.Errorf("port %d", port)
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
