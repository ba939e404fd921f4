package main

import (
	"bytes"
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
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/internal/netlab"
	"github.com/proxyplane/proxyplane/internal/testenv"
)

// programs are what the daemons are.
type programs struct {
	python string // the directory of proxystore-endpoint and proxystore-relay; "": there is none
	self   string
}

func find() (*programs, error) {
	p := &programs{}
	if interpreter, ok := testenv.FindPython(testenv.ProxyStore11); ok {
		p.python = filepath.Dir(interpreter)
	}
	var err error
	p.self, err = os.Executable()
	return p, err
}

// errNoPython leaves a system out.
var errNoPython = errors.New("no Python environment (run ./scripts/setup)")

// daemon is one process that serves HTTP, or a relay.
type daemon struct {
	cmd  *exec.Cmd
	log  string
	base string // "http://address:port"
	uuid string // of an endpoint
	gone chan struct{}
}

// bed is what runs over one link. Relays and endpoints are started when a system needs them, and shared.
type bed struct {
	lab      *netlab.Lab
	programs *programs
	dir      string
	a, b     *http.Client
	daemons  map[string]*daemon
	plain    *plain
	data     []byte
	port     int
}

func newBed(lab *netlab.Lab, programs *programs, dir, profile string) (*bed, error) {
	dir = filepath.Join(dir, profile)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return &bed{lab: lab, programs: programs, dir: dir, a: lab.Client("A"), b: lab.Client("B"), daemons: map[string]*daemon{}, port: 9800}, nil
}

func (b *bed) close() {
	if b.plain != nil {
		b.plain.close()
	}
	b.a.CloseIdleConnections()
	b.b.CloseIdleConnections()
	for _, d := range b.daemons {
		d.cmd.Process.Signal(syscall.SIGTERM)
	}
	timer := time.NewTimer(5 * time.Second)
	defer timer.Stop()
	for _, d := range b.daemons {
		select {
		case <-d.gone:
		case <-timer.C:
			timer.Reset(0)
			d.cmd.Process.Kill()
			<-d.gone
		}
	}
}

// start brings a system up.
func (b *bed) start(name string, largest int) (system, error) {
	if b.data == nil {
		b.data = payload(largest)
	}
	if name == sysTCP {
		p, err := newPlain(b.lab, b.data)
		b.plain = p
		if err != nil {
			return nil, err
		}
		return p, nil
	}
	var da, db *daemon
	var err error
	start := func(site, impl, relay, paths string) *daemon {
		if err != nil {
			return nil
		}
		var d *daemon
		d, err = b.endpoint(site, impl, relay, paths)
		return d
	}
	switch name {
	case sysOurs:
		da, db = start("A", "ours", "ours", "any"), start("B", "ours", "ours", "any")
	case sysTLS, sysQUIC, sysWebRTC:
		paths := strings.TrimPrefix(name, "ours-")
		da, db = start("A", "ours", "ours", paths), start("B", "ours", "ours", paths)
	case sysPython:
		da, db = start("A", "python", "python", "any"), start("B", "python", "python", "any")
	case sysOursPython:
		da, db = start("A", "ours", "ours", "any"), start("B", "python", "ours", "any")
	case sysPythonOurs:
		da, db = start("A", "python", "python", "any"), start("B", "ours", "python", "any")
	}
	if err != nil {
		return nil, err
	}
	return &pair{label: name, a: da, b: db, client: b.a, there: b.b, data: b.data, buf: make([]byte, 1<<20), made: map[int]bool{}}, nil
}

// relay starts the relay of that kind in site A, once.
func (b *bed) relay(impl string) (address string, err error) {
	name := impl + "-relay"
	b.port++
	addr := netip.AddrPortFrom(b.lab.Addr("A"), uint16(b.port)).String()
	d := b.daemons[name]
	if d == nil {
		cmd := b.lab.Command("A", b.programs.self, role, "relay", addr)
		if impl == "python" {
			if b.programs.python == "" {
				return "", errNoPython
			}
			host, port, _ := net.SplitHostPort(addr)
			cmd = b.lab.Command("A", filepath.Join(b.programs.python, "proxystore-relay"), "--host", host, "--port", port)
		}
		if d, err = b.run(name, cmd); err != nil {
			return "", err
		}
		d.base = addr
		err = d.await(func() error {
			c, err := b.lab.Dial(context.Background(), "A", "tcp4", addr)
			if err == nil {
				c.Close()
			}
			return err
		})
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
	}
	return "ws://" + d.base, nil
}

// endpoint starts an endpoint of that kind, once.
func (b *bed) endpoint(site, impl, relay, paths string) (*daemon, error) {
	name := strings.Join([]string{impl, site, "at", relay, paths}, "-")
	if d := b.daemons[name]; d != nil {
		return d, nil
	}
	address, err := b.relay(relay)
	if err != nil {
		return nil, err
	}
	b.port++
	host, id := b.lab.Addr(site).String(), uuid.NewString()
	home := filepath.Join(b.dir, "home", name)
	if err := os.MkdirAll(filepath.Join(home, name), 0o755); err != nil {
		return nil, err
	}
	config := fmt.Sprintf("name = %q\nuuid = %q\nport = %d\nhost = %q\nhost_type = \"static\"\n\n[relay]\naddress = %q\nice_servers = []\npeer_channels = 1\nverify_certificate = false\n\n"+
		"[relay.auth]\nkwargs = {}\n\n[storage]\nmax_object_size = 1000000000\n", name, id, b.port, host, address)
	if err := os.WriteFile(filepath.Join(home, name, "config.toml"), []byte(config), 0o644); err != nil {
		return nil, err
	}
	cmd := b.lab.Command(site, b.programs.self, role, "endpoint", paths, filepath.Join(home, name))
	if impl == "python" {
		if b.programs.python == "" {
			return nil, errNoPython
		}
		cmd = b.lab.Command(site, filepath.Join(b.programs.python, "proxystore-endpoint"), "start", "--no-detach", name)
	}
	cmd.Env = append(os.Environ(), "PROXYSTORE_HOME="+home)
	d, err := b.run(name, cmd)
	if err != nil {
		return nil, err
	}
	d.base, d.uuid = "http://"+net.JoinHostPort(host, strconv.Itoa(b.port)), id
	client := b.a
	if site == "B" {
		client = b.b
	}
	err = d.await(func() error {
		path := "/status" // ours serves before it is registered at the relay, ProxyStore's does not
		if impl == "python" {
			path = "/endpoint"
		}
		resp, err := client.Get(d.base + path)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var s struct{ Relay *struct{ Connected bool } }
		switch err := json.NewDecoder(resp.Body).Decode(&s); {
		case resp.StatusCode != http.StatusOK:
			return errors.New(resp.Status)
		case err != nil:
			return err
		case s.Relay != nil && !s.Relay.Connected:
			return errors.New("not registered at the relay")
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return d, nil
}

// run starts a process whose output goes to a file.
func (b *bed) run(name string, cmd *exec.Cmd) (*daemon, error) {
	d := &daemon{cmd: cmd, log: filepath.Join(b.dir, name+".log"), gone: make(chan struct{})}
	f, err := os.Create(d.log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	b.daemons[name] = d
	go func() {
		cmd.Wait()
		close(d.gone)
	}()
	return d, nil
}

// await polls until the daemon is ready; a failed one stays in the bed, so that close ends it.
func (d *daemon) await(ready func() error) error {
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = ready(); err == nil {
			return nil
		}
		select {
		case <-d.gone:
			return fmt.Errorf("it ended: %s", d.tail())
		default:
		}
	}
	return fmt.Errorf("not ready after a minute: %w: %s", err, d.tail())
}

// tail is the end of a daemon's log.
func (d *daemon) tail() string {
	text, err := os.ReadFile(d.log)
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(text[max(0, len(text)-1000):]))
}

// path tells which path our endpoint has to a peer, from its status; "" where it does not tell.
func (d *daemon) path(c *http.Client, to string) string {
	resp, err := c.Get(d.base + "/status")
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	var status struct {
		Peers struct {
			Peers []struct {
				UUID  string
				Paths []struct {
					Kind, Remote string
					Relayed      bool
				}
			}
		}
	}
	if resp.StatusCode != http.StatusOK || json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&status) != nil {
		return "" // Python's has none
	}
	for _, p := range status.Peers.Peers {
		if p.UUID == to && len(p.Paths) > 0 {
			return fmt.Sprintf("by %s to %s, relayed: %v", p.Paths[0].Kind, p.Paths[0].Remote, p.Paths[0].Relayed)
		}
	}
	return ""
}
