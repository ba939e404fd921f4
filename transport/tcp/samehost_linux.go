package tcp

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/proxyplane/proxyplane/transport/native"
)

// The socket by which clients on the same host reach a TCP server is a file, and not an abstract name: whoever may open the file may connect, so that
// the kernel keeps other users and other containers out; an abstract name would be open to every user of the network namespace.
const (
	localDirPrefix = "proxyplane-"
	localName      = "objects.sock"
	// starting is how old a socket on which nobody listens must be before its server counts as dead: it may be just about to.
	starting = time.Minute
)

// bootID names this run of this host's kernel. Containers of one host have the same.
var bootID = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
})

// listenLocal makes the unix socket of a TCP server, in a directory of its own. Sockets that killed servers left are removed.
func listenLocal(dir string) (*net.UnixListener, error) {
	if dir == "" {
		dir = os.Getenv("XDG_RUNTIME_DIR")
	}
	if !filepath.IsAbs(dir) {
		dir = os.TempDir()
	}
	sweep(dir)
	var name [8]byte
	rand.Read(name[:])
	own := filepath.Join(dir, localDirPrefix+hex.EncodeToString(name[:]))
	if err := os.Mkdir(own, 0o700); err != nil {
		return nil, err
	}
	l, err := listenUnix(filepath.Join(own, localName), 0o600)
	if err != nil {
		os.Remove(own)
	}
	return l, err
}

// removeLocal removes what listenLocal made.
func removeLocal(path string) {
	os.Remove(path)
	os.Remove(filepath.Dir(path))
}

// sweep removes the directories of servers of this user that are gone: those whose socket nobody answers on.
func sweep(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), localDirPrefix) {
			continue
		}
		path := filepath.Join(dir, e.Name(), localName)
		info, err := os.Lstat(path)
		if err != nil || info.Mode().Type() != fs.ModeSocket || time.Since(info.ModTime()) < starting {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
			continue
		}
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
		} else if errors.Is(err, unix.ECONNREFUSED) {
			removeLocal(path)
		}
	}
}

// sameHost returns a session with the server that sent w over its unix socket, or nil.
func sameHost(ctx context.Context, w native.Welcome, o *DialOptions) *native.Client {
	if w.Local == "" || w.Host == "" || w.Host != bootID() || w.Instance == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, sameHostTimeout)
	defer cancel()
	c, err := dialLocal(ctx, w, o)
	if err != nil {
		if o.Logger != nil {
			o.Logger.Debug("the server is on this host, but its unix socket cannot be used", "socket", w.Local, "error", err)
		}
		return nil
	}
	return c
}

func dialLocal(ctx context.Context, w native.Welcome, o *DialOptions) (*native.Client, error) {
	path, ok := strings.CutPrefix(w.Local, "unix://")
	if !ok || !filepath.IsAbs(path) || filepath.Base(path) != localName || !strings.HasPrefix(filepath.Base(filepath.Dir(path)), localDirPrefix) {
		return nil, errors.New("no such socket is made by servers") // a server cannot have us speak to others' sockets
	}
	nc, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := checkPeer(nc.(*net.UnixConn)); err != nil {
		nc.Close()
		return nil, err
	}
	tune(nc, o.Stall, o.SendBuffer, o.ReceiveBuffer)
	c, err := native.NewClient(ctx, NewCarrier(nc, CarrierOptions{BusyPoll: o.BusyPoll, Stall: o.Stall}), o.ClientOptions)
	if err != nil {
		return nil, err
	}
	if c.Welcome().Instance != w.Instance {
		c.Close()
		return nil, errors.New("another server answers there")
	}
	return c, nil
}

// checkPeer says whether the other end belongs to this user or to root.
func checkPeer(c *net.UnixConn) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var cerr error
	if err := rc.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if cerr != nil {
		return cerr
	}
	if uid := int(cred.Uid); uid != 0 && uid != os.Geteuid() { // root can look into this program's memory anyway
		return fmt.Errorf("it belongs to user %d", uid)
	}
	return nil
}
