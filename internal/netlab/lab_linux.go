package netlab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/proxyplane/proxyplane/internal/testenv"
)

// environment names the variable that makes a process the emulator.
const environment = "PROXYPLANE_NETLAB"

// Lab is a running network. Its methods may be called concurrently.
type Lab struct {
	sites []Site
	ns    []*os.File // by site; open until Close

	mu     sync.Mutex // one request and its reply at a time
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	closed bool
}

// Start is New for a test, which is skipped where no network can be made, and closes it when it ends.
func Start(tb testing.TB, o Options) *Lab {
	tb.Helper()
	testenv.Netns(tb)
	l, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Error(err)
		}
	})
	return l
}

// New makes a network. The caller closes it.
func New(o Options) (*Lab, error) {
	o, err := o.defaults()
	if err != nil {
		return nil, err
	}
	l := &Lab{sites: o.Sites, cmd: exec.Command("/proc/self/exe")}
	l.cmd.Env = append(os.Environ(), environment+"=1")
	l.cmd.Stderr = os.Stderr // panics of the emulator
	if l.in, err = l.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("netlab: %w", err)
	}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("netlab: %w", err)
	}
	l.out = bufio.NewScanner(out)
	if err := l.cmd.Start(); err != nil {
		return nil, fmt.Errorf("netlab: starting the emulator: %w", err)
	}
	r, err := l.ask(request{Options: &o})
	for i := 0; err == nil && i < len(r.FDs); i++ {
		var f *os.File
		if f, err = os.Open(fmt.Sprintf("/proc/%d/fd/%d", l.cmd.Process.Pid, r.FDs[i])); err == nil {
			l.ns = append(l.ns, f)
		}
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Close ends the network and every process that still runs in it. It may be called twice.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	l.in.Close() // at which the emulator ends
	timer := time.AfterFunc(10*time.Second, func() { l.cmd.Process.Kill() })
	defer timer.Stop()
	for l.out.Scan() { // Wait closes the pipe, so first to its end
	}
	err := l.cmd.Wait()
	for _, f := range l.ns {
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("netlab: the emulator: %w", err)
	}
	return nil
}

func (l *Lab) ask(q request) (reply, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var r reply
	if l.closed {
		return r, errors.New("netlab: the network is closed")
	}
	line, err := json.Marshal(q)
	if err != nil {
		return r, fmt.Errorf("netlab: %w", err)
	}
	if _, err = l.in.Write(append(line, '\n')); err != nil {
		return r, fmt.Errorf("netlab: the emulator has ended (Options.Life?): %w", err)
	}
	if !l.out.Scan() {
		return r, fmt.Errorf("netlab: the emulator has ended (Options.Life?): %w", errors.Join(io.ErrUnexpectedEOF, l.out.Err()))
	}
	if err := json.Unmarshal(l.out.Bytes(), &r); err != nil {
		return r, fmt.Errorf("netlab: the emulator said %q: %w", l.out.Bytes(), err)
	}
	if r.Error != "" {
		return r, errors.New("netlab: " + r.Error)
	}
	return r, nil
}

func (l *Lab) site(name string) (int, error) {
	i := slices.IndexFunc(l.sites, func(s Site) bool { return s.Name == name })
	if i < 0 {
		return 0, fmt.Errorf("netlab: no site %q", name)
	}
	return i, nil
}

// Addr returns the address under which other sites reach this one, and an invalid one for an unknown site.
func (l *Lab) Addr(site string) netip.Addr {
	i, err := l.site(site)
	if err != nil {
		return netip.Addr{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sites[i].Addr
}

// Inner returns the address that the site itself has: another than Addr behind a NAT.
func (l *Lab) Inner(site string) netip.Addr {
	i, err := l.site(site)
	if err != nil {
		return netip.Addr{}
	}
	return l.sites[i].Inner
}

// Command is exec.Command for a program in the site's namespace; it fails at Start for an unknown site. The program sees the same files and processes.
func (l *Lab) Command(site, name string, args ...string) *exec.Cmd {
	return l.CommandContext(context.Background(), site, name, args...)
}

// CommandContext is exec.CommandContext for a program in the site's namespace.
func (l *Lab) CommandContext(ctx context.Context, site, name string, args ...string) *exec.Cmd {
	i, err := l.site(site)
	if err != nil {
		return &exec.Cmd{Path: name, Err: err}
	}
	// nsenter becomes the program: the process that Start makes is the program's, for signals and Wait.
	ns := "--net=/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(int(l.ns[i].Fd()))
	return exec.CommandContext(ctx, "nsenter", append([]string{ns, "--", name}, args...)...)
}

// Do runs f on a thread in the site's namespace. Sockets that f makes stay there, wherever they are used; goroutines that it starts do not, so that names
// cannot be looked up.
func (l *Lab) Do(site string, f func() error) error {
	i, err := l.site(site)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		err := errors.New("netlab: the function did not return") // runtime.Goexit, as testing.T.Fatal does
		defer func() { done <- err }()
		runtime.LockOSThread() // for good: a thread in another namespace must end with the goroutine
		if e := unix.Setns(int(l.ns[i].Fd()), unix.CLONE_NEWNET); e != nil {
			err = fmt.Errorf("netlab: entering the namespace of %s: %w", site, e)
			return
		}
		err = f()
	}()
	return <-done
}

// Listen is net.Listen in the site's namespace.
func (l *Lab) Listen(site, network, addr string) (ln net.Listener, err error) {
	err = l.Do(site, func() error { ln, err = net.Listen(network, addr); return err })
	return ln, err
}

// ListenPacket is net.ListenPacket in the site's namespace.
func (l *Lab) ListenPacket(site, network, addr string) (pc net.PacketConn, err error) {
	err = l.Do(site, func() error { pc, err = net.ListenPacket(network, addr); return err })
	return pc, err
}

// Dial is net.Dialer.DialContext in the site's namespace. The address must have no name in it.
func (l *Lab) Dial(ctx context.Context, site, network, addr string) (c net.Conn, err error) {
	err = l.Do(site, func() error { c, err = new(net.Dialer).DialContext(ctx, network, addr); return err })
	return c, err
}

// Client returns an HTTP client in the site's namespace, for URLs without names. The caller ends with its CloseIdleConnections.
func (l *Lab) Client(site string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return l.Dial(ctx, site, network, addr)
		},
		MaxIdleConnsPerHost: 64, DisableCompression: true,
	}}
}

// Cut drops all packets from and to these sites from now on, also those under way: connections stay, and hear nothing. Without a site it cuts all.
func (l *Lab) Cut(sites ...string) error { return l.each("cut", sites) }

// Heal ends Cut.
func (l *Lab) Heal(sites ...string) error { return l.each("heal", sites) }

func (l *Lab) each(op string, sites []string) error {
	if len(sites) == 0 {
		_, err := l.ask(request{Op: op, Site: -1})
		return err
	}
	for _, s := range sites {
		i, err := l.site(s)
		if err != nil {
			return err
		}
		if _, err := l.ask(request{Op: op, Site: i}); err != nil {
			return err
		}
	}
	return nil
}

// SetLoss changes the fraction of packets that are lost.
func (l *Lab) SetLoss(fraction float64) error {
	_, err := l.ask(request{Op: "loss", Site: -1, Value: fraction})
	return err
}

// Rebind makes the site's NAT forget all its mappings, as one does that was restarted: what comes for the old ports is dropped, and what leaves gets
// new ones. TCP connections are dead after it, and hear nothing. A valid addr becomes the NAT's new outer address.
func (l *Lab) Rebind(site string, addr netip.Addr) error {
	i, err := l.site(site)
	if err != nil {
		return err
	}
	if _, err = l.ask(request{Op: "rebind", Site: i, Addr: addr}); err == nil && addr.IsValid() {
		l.mu.Lock()
		l.sites[i].Addr = addr
		l.mu.Unlock()
	}
	return err
}

// Stats returns what the link did with the packets of a site.
func (l *Lab) Stats(site string) (Stats, error) {
	i, err := l.site(site)
	if err != nil {
		return Stats{}, err
	}
	r, err := l.ask(request{Op: "stats", Site: i})
	return r.Stats, err
}
