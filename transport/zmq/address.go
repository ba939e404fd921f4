package zmq

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/proxyplane/proxyplane/transport"
)

// address is where a server listens, taken apart.
type address struct {
	network string // "tcp" or "unix"
	host    string // host:port, or the path of the socket
}

// parseAddress reads "tcp://host:port" and "ipc:///path". For a server the host may be "*" or empty, which is every interface, and the port "*" or 0,
// which is any free one.
func parseAddress(s string) (address, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	switch {
	case ok && scheme == "tcp":
		host, port, err := net.SplitHostPort(rest)
		if err != nil || port == "" {
			return address{}, fmt.Errorf("zmq: address %q: want tcp://host:port", s)
		}
		if host == "*" {
			host = ""
		}
		if port == "*" {
			port = "0"
		}
		return address{"tcp", net.JoinHostPort(host, port)}, nil
	case ok && scheme == "ipc" && rest != "":
		return address{"unix", rest}, nil
	}
	return address{}, fmt.Errorf("zmq: address %q: want tcp://host:port or ipc:///path", s)
}

func (a address) String() string {
	if a.network == "unix" {
		return "ipc://" + a.host
	}
	return "tcp://" + a.host
}

// resolve turns a name into an IP address, so that what is judged is what is then listened on.
func (a address) resolve(ctx context.Context) (address, bool, error) {
	if a.network == "unix" {
		return a, true, nil
	}
	host, port, err := net.SplitHostPort(a.host)
	if err != nil {
		return a, false, err
	}
	if host == "" {
		return a, false, nil
	}
	ips, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return a, false, fmt.Errorf("zmq: %s: %w: %w", a, transport.ErrUnavailable, err)
	}
	ip := ips[0]
	for _, other := range ips { // what Go's own Listen prefers
		if other.IP.To4() != nil {
			ip = other
			break
		}
	}
	a.host = net.JoinHostPort(ip.String(), port)
	return a, ip.IP.IsLoopback(), nil
}

// local reports whether nobody outside this machine sees the connection's bytes.
func local(c net.Conn) bool {
	switch a := c.RemoteAddr().(type) {
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	}
	return false
}

// clearSocket removes a socket that a server which did not end well left behind. One that somebody listens on stays, and so does any other file.
func clearSocket(path string) error {
	if strings.HasPrefix(path, "@") {
		return nil // Linux's abstract names leave nothing behind
	}
	fi, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if fi.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s is there and is no socket: choose another path", path)
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
		return fmt.Errorf("%s: %w", path, syscall.EADDRINUSE)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}
