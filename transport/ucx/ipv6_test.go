//go:build linux && cgo && ucx

package ucx

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// TestIPv6 has a Server at an IPv6 address that is not loopback, in a network of its own, where the system gives us one. ::1 is refused,
// as UCX's TCP does not have it.
func TestIPv6(t *testing.T) {
	leaks(t)
	if os.Getenv("PROXYPLANE_UCX_IPV6") != "" {
		throughIPv6(t)
		return
	}
	for _, addr := range []string{"[::1]:7", "[::1%lo]:7"} {
		if _, err := Listen(t.Context(), addr, newTable(t), ListenOptions{Insecure: true}); !errors.Is(err, transport.ErrUnavailable) {
			t.Errorf("listening at %s: %v", addr, err)
		}
		if _, err := Dial(t.Context(), addr, DialOptions{}); !errors.Is(err, transport.ErrUnavailable) {
			t.Errorf("dialing %s: %v", addr, err)
		}
	}
	ip, err := exec.LookPath("ip")
	if err != nil {
		t.Logf("without the program ip there is no more to test: %v", err)
		return
	}
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c",
		ip+" link set lo up && "+ip+" addr add fd00:1::1/128 dev lo nodad && exec "+os.Args[0]+" -test.run '^TestIPv6$' -test.v")
	cmd.Env = append(os.Environ(), "PROXYPLANE_UCX_IPV6=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNET | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil && !strings.Contains(string(out), "TestIPv6") {
		t.Logf("the system gives us no network to test in: %v, %s", err, out)
		return
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func throughIPv6(t *testing.T) {
	const addr = "[fd00:1::1]:0"
	if _, err := Listen(t.Context(), addr, newTable(t), ListenOptions{}); !errors.Is(err, transport.ErrDenied) {
		t.Errorf("for other hosts without a token: %v", err)
	}
	for _, tls := range []string{"tcp", "all"} {
		own := config(tls)
		own["NET_DEVICES"] = "lo" // there is no other
		insecure, err := Listen(t.Context(), addr, newTable(t), ListenOptions{Config: own, Insecure: true})
		if err != nil {
			t.Fatal(err)
		}
		c := dialTo(t, insecure.Addr(), DialOptions{Config: own})
		if err := c.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		c.Close()
		if err := insecure.Close(); err != nil {
			t.Error(err)
		}
		o := ListenOptions{Config: own}
		o.Token = []byte("secret")
		s, err := Listen(t.Context(), addr, newTable(t), o)
		if err != nil {
			t.Fatal(err)
		}
		good := DialOptions{Config: own}
		good.Token = o.Token
		for _, token := range []string{"", "other"} {
			bad := DialOptions{Config: own}
			bad.Token = []byte(token)
			if _, err := Dial(t.Context(), s.Addr(), bad); !errors.Is(err, transport.ErrDenied) {
				t.Errorf("token %q: %v", token, err)
			}
		}
		c = dialTo(t, s.Addr(), good)
		for _, n := range sizes {
			p := random(n)
			if err := c.Put(t.Context(), "o", transport.Slices{p}, objects.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			if got, err := c.GetBytes(t.Context(), "o", -1); err != nil || !bytes.Equal(got, p) {
				t.Fatalf("%d bytes: got others, %v", n, err)
			}
		}
		t.Log(s.Addr(), c.Transports())
		c.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
