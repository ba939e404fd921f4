package tcp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// A client on the same host maps large objects of a TCP server; the mapping outlives object, connection and server.
func TestSameHostMap(t *testing.T) {
	checkLeaks(t)
	noDescriptorsLeft(t)
	ctx := background(t)
	buffers, _ := transport.Live(transport.Mapped)
	dir := t.TempDir()
	store, err := objects.NewTable(objects.TableOptions{Memory: 256 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Listen(ctx, "tcp://:0", store, ListenOptions{RuntimeDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	c, err := Dial(ctx, s.Addr(), DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if w := c.Welcome(); c.Network() != "unix" || w.Features&native.FeatureFiles == 0 || !strings.HasPrefix(w.Local, "unix://"+dir+"/") {
		t.Errorf("over %s, %+v", c.Network(), w)
	}
	obj := pattern(1, 32<<20)
	if err := c.Put(ctx, "big", transport.Slices{obj}, objects.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		b, err := c.Map(ctx, "big")
		if err != nil {
			t.Fatal(err)
		}
		if b.Backing() != transport.Mapped || !bytes.Equal(b.Bytes(), obj) {
			t.Errorf("%v memory, or another object", b.Backing())
		}
		b.Release()
	}
	b, err := c.Map(ctx, "big")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Evict(ctx, "big"); err != nil {
		t.Error(err)
	}
	if _, err := c.Map(ctx, "big"); !errors.Is(err, transport.ErrNotFound) {
		t.Errorf("Map of an evicted object: %v", err)
	}
	c.Close()
	s.Close()
	store.Close()
	if !bytes.Equal(b.Bytes(), obj) {
		t.Error("the mapping changed")
	}
	b.Release()
	if now, _ := transport.Live(transport.Mapped); now != buffers {
		t.Errorf("%d mapped buffers are left", now-buffers)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// fake serves a protocol server of its own on a TCP port, which says of itself what the test wants.
func fake(t *testing.T, o native.ServerOptions) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := native.NewServer(table(t), o)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go srv.ServeCarrier(background(t), NewCarrier(nc, CarrierOptions{}))
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		srv.Close()
	})
	return l.Addr().String()
}

// Whatever is wrong with the unix socket, the client stays on TCP, and everything works.
func TestSameHostRefusals(t *testing.T) {
	checkLeaks(t)
	ctx := background(t)
	dir := t.TempDir()
	other := listen(t, "tcp://:0", table(t), ListenOptions{RuntimeDir: dir})
	silentDir := filepath.Join(dir, localDirPrefix+"silent")
	if err := os.Mkdir(silentDir, 0o700); err != nil {
		t.Fatal(err)
	}
	silent, err := net.Listen("unix", filepath.Join(silentDir, localName)) // it accepts, and never says a word
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	elsewhere, err := net.Listen("unix", filepath.Join(dir, "database.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close()
	for name, o := range map[string]native.ServerOptions{
		"other host":     {Host: "11111111-2222-3333-4444-555555555555", Local: other.Local(), Instance: "a"},
		"no host":        {Local: other.Local(), Instance: "a"},
		"no socket":      {Host: bootID(), Instance: "a"},
		"missing":        {Host: bootID(), Local: "unix://" + dir + "/" + localDirPrefix + "gone/" + localName, Instance: "a"},
		"relative":       {Host: bootID(), Local: "unix://" + localDirPrefix + "x/" + localName, Instance: "a"},
		"other scheme":   {Host: bootID(), Local: "tcp://127.0.0.1:1", Instance: "a"},
		"other server":   {Host: bootID(), Local: other.Local(), Instance: "a"},
		"silent":         {Host: bootID(), Local: "unix://" + silentDir + "/" + localName, Instance: "a"},
		"others' socket": {Host: bootID(), Local: "unix://" + dir + "/database.sock", Instance: "a"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Dial(ctx, fake(t, o), DialOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if c.Network() != "tcp" {
				t.Errorf("over %s", c.Network())
			}
			if err := c.Put(ctx, "x", transport.Slices{pattern(1, 1000)}, objects.PutOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	elsewhere.(*net.UnixListener).SetDeadline(past)
	if nc, err := elsewhere.Accept(); err == nil {
		nc.Close()
		t.Error("a server had us call another one")
	}
	// Client certificates would not be asked for there.
	s := listen(t, "tls://:0", table(t), ListenOptions{TLS: serverTLS(true)})
	if s.Local() != "" {
		t.Errorf("a unix socket beside client certificates: %s", s.Local())
	}
	// A directory where nothing can be made is no reason not to serve.
	s = listen(t, "tcp://:0", table(t), ListenOptions{RuntimeDir: "/proc/self"})
	if s.Local() != "" {
		t.Errorf("a socket in /proc: %s", s.Local())
	}
	if c := dial(t, s.Addr(), DialOptions{}); c.Network() != "tcp" {
		t.Errorf("over %s", c.Network())
	}
}

// The socket of another user is not used, that of this one and of root is. It takes root to be somebody else.
func TestSameHostPeer(t *testing.T) {
	users := map[int]bool{os.Geteuid(): true}
	if os.Geteuid() == 0 {
		users[12345] = false
	}
	for uid, want := range users {
		path := filepath.Join(t.TempDir(), "s")
		made := make(chan net.Listener)
		go func() {
			runtime.LockOSThread() // for good: the thread ends with the goroutine, and its user with it
			if uid != os.Geteuid() {
				fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					t.Error(err)
				}
				if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
					t.Error(err)
				}
				if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
					t.Error(errno)
				}
				if err := unix.Listen(fd, 1); err != nil { // from now on it belongs to that user
					t.Error(err)
				}
				f := os.NewFile(uintptr(fd), path)
				l, err := net.FileListener(f)
				if err != nil {
					t.Error(err)
				}
				f.Close()
				made <- l
				return
			}
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Error(err)
			}
			made <- l
		}()
		l := <-made
		if l == nil {
			return
		}
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkPeer(c.(*net.UnixConn)); (err == nil) != want {
			t.Errorf("user %d: %v", uid, err)
		}
		c.Close()
		l.Close()
	}
}

// What killed servers left in the directory is removed by the next one; sockets in use and what is not ours stay.
func TestSameHostLeftovers(t *testing.T) {
	dir := t.TempDir()
	dead, err := listenLocal(dir)
	if err != nil {
		t.Fatal(err)
	}
	dead.Close() // as by kill -9: the file stays
	old := time.Now().Add(-2 * starting)
	if err := os.Chtimes(dead.Addr().String(), old, old); err != nil {
		t.Fatal(err)
	}
	live, err := listenLocal(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	if err := os.MkdirAll(filepath.Join(dir, localDirPrefix+"notes"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := listen(t, "tcp://:0", table(t), ListenOptions{RuntimeDir: dir})
	for path, want := range map[string]bool{dead.Addr().String(): false, live.Addr().String(): true, s.Local()[len("unix://"):]: true,
		filepath.Join(dir, localDirPrefix+"notes"): true} {
		if _, err := os.Lstat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
		if info, err := os.Stat(filepath.Dir(path)); strings.HasSuffix(path, localName) && want && (err != nil || info.Mode().Perm() != 0o700) {
			t.Errorf("%s: %v, %v", filepath.Dir(path), info.Mode(), err)
		}
	}
}

// A listener's paths are limited in length; a directory that is too deep means TCP, not an error.
func TestSameHostLongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 100))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := listen(t, "tcp://:0", table(t), ListenOptions{RuntimeDir: dir})
	if left, err := os.ReadDir(dir); s.Local() != "" || err != nil || len(left) > 0 {
		t.Errorf("%q, left %v, %v", s.Local(), left, err)
	}
}

// TestSocketOptions: dead peers are noticed, and the buffers are what was asked for.
func TestSocketOptions(t *testing.T) {
	x, _ := connect(t, "tcp", "127.0.0.1:0")
	tune(x, 7*time.Second, 1<<17, 1<<18)
	rc, err := x.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	rc.Control(func(fd uintptr) {
		for _, o := range []struct{ level, name, want int }{
			{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15},
			{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 7000}, {unix.SOL_SOCKET, unix.SO_SNDBUF, 1 << 18}, {unix.SOL_SOCKET, unix.SO_RCVBUF, 1 << 19},
		} { // the kernel doubles the sizes
			if got, err := unix.GetsockoptInt(int(fd), o.level, o.name); err != nil || got != o.want {
				t.Errorf("option %d of level %d is %d, %v, want %d", o.name, o.level, got, err, o.want)
			}
		}
	})
}

// A server that has just made its socket, and does not listen on it yet, is not taken for dead by another one that starts.
func TestSameHostStarting(t *testing.T) {
	dir := t.TempDir()
	own := filepath.Join(dir, localDirPrefix+"starting")
	if err := os.Mkdir(own, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(own, localName)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	sweep(dir)
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

// Where TLS may ask for client certificates there is no way around it; with a token there is one, which asks for that.
func TestSameHostCertificates(t *testing.T) {
	asks := func(change func(*tls.Config)) *tls.Config {
		cfg := serverTLS(false)
		change(cfg)
		return cfg
	}
	for name, cfg := range map[string]*tls.Config{
		"any":  asks(func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert }),
		"some": asks(func(c *tls.Config) { c.ClientAuth = tls.VerifyClientCertIfGiven }),
		"later": asks(func(c *tls.Config) {
			c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return serverTLS(true), nil }
		}),
	} {
		if s := listen(t, "tls://:0", table(t), ListenOptions{TLS: cfg}); s.Local() != "" {
			t.Errorf("%s: %s", name, s.Local())
		}
		if s := listen(t, "tls://:0", table(t), ListenOptions{TLS: cfg, ServerOptions: native.ServerOptions{Token: []byte("t")}}); s.Local() == "" {
			t.Errorf("%s: no socket with a token", name)
		}
	}
	// Without an authority of one's own, the system's would do: any that issues certificates to everybody.
	public := asks(func(c *tls.Config) { c.ClientAuth = tls.RequireAndVerifyClientCert })
	s, err := Listen(background(t), "tls://0.0.0.0:0", table(t), ListenOptions{TLS: public})
	if !errors.Is(err, transport.ErrDenied) || !strings.Contains(err.Error(), "ClientCAs") {
		t.Errorf("%v", err)
	}
	if err == nil {
		s.Close()
	}
}

// Who holds a lock on the directory, which anybody who can read it may, cannot make Listen wait for ever.
func TestListenLocked(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lockDir(background(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(background(t))
	done := make(chan error, 1)
	go func() {
		_, err := Listen(ctx, "unix://"+dir+"/s", table(t), ListenOptions{})
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	unlock()
	listen(t, "unix://"+dir+"/s", table(t), ListenOptions{})
	_, err = Listen(background(t), "unix://"+dir+"/"+strings.Repeat("s", 120), table(t), ListenOptions{})
	if err == nil || !strings.Contains(err.Error(), "shorter path") {
		t.Errorf("%v", err)
	}
}
