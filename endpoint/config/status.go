package config

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Errors of the commands, besides ErrInvalid, fs.ErrNotExist and fs.ErrExist.
var (
	ErrUnknown   = errors.New("a valid endpoint of that name does not exist; list those that do")
	ErrRunning   = errors.New("the endpoint is running")
	ErrOtherHost = errors.New("the endpoint seems to run on another host")
)

// Status of an endpoint.
type Status int

// The statuses of proxystore.endpoint.commands.EndpointStatus.
const (
	Unknown Status = iota // no such directory, or its configuration is missing or invalid
	Running               // on this host
	Stopped
	Hanging // there is a pid file without its process, which died or is on another host
)

// String returns ProxyStore's name of it.
func (s Status) String() string {
	switch s {
	case Running:
		return "RUNNING"
	case Stopped:
		return "STOPPED"
	case Hanging:
		return "HANGING"
	}
	return "UNKNOWN"
}

// GetStatus returns the status of an endpoint. A pid file that holds no number is one without its process.
// Source: proxystore.endpoint.commands.get_status.
func GetStatus(home, name string) Status {
	s, _ := status(filepath.Join(home, name))
	return s
}

// status also returns the process, if it runs.
func status(dir string) (Status, int) {
	if _, err := readMain(dir); err != nil {
		return Unknown, 0
	}
	return process(dir)
}

// process is status by the pid file alone.
func process(dir string) (Status, int) {
	path := filepath.Join(dir, PIDFile)
	fi, err := os.Stat(path)
	if err != nil || !fi.Mode().IsRegular() {
		return Stopped, 0
	}
	pid, err := readPID(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Stopped, 0
	}
	if err != nil || !runsSince(pid, fi.ModTime()) {
		return Hanging, 0
	}
	return Running, pid
}

// clockSkew is by how much a process may seem younger than its pid file and still have written it: the file's time may be another machine's.
const clockSkew = time.Minute

// runsSince reports whether there is a process of that number that may have written a file at that time.
func runsSince(pid int, written time.Time) bool {
	if !processExists(pid) {
		return false
	}
	started, ok := processStart(pid)
	return !ok || started.Before(written.Add(clockSkew))
}

func readPID(path string) (int, error) {
	data, err := readBounded(path)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 0 {
		return 0, fmt.Errorf("%s holds no process number; delete it if the endpoint does not run", path)
	}
	return pid, nil
}

// WritePID makes dir's pid file for this process and returns what removes it. If there is one already it fails with ErrRunning, unless its process is
// gone. The file appears with its content, so that nobody reads half of it.
func WritePID(dir string) (remove func() error, err error) {
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := removeStale(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, PIDFile)
	if err := createExclusive(path, strconv.Itoa(os.Getpid())); errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w: another process has just written %s", ErrRunning, path)
	} else if err != nil {
		return nil, err
	}
	return func() error {
		unlock, err := lockDir(dir)
		if err != nil {
			return err
		}
		defer unlock()
		if pid, err := readPID(path); err != nil || pid != os.Getpid() {
			return nil // somebody cleaned up already, and perhaps somebody else started
		}
		return os.Remove(path)
	}, nil
}

// removeStale removes dir's pid file if its process is gone, and is ErrRunning if it is not. The caller holds dir's lock, since between looking and
// removing another could do the same and put its own file there.
func removeStale(dir string) error {
	switch s, pid := status(dir); s {
	case Running:
		return fmt.Errorf("%w: process %d", ErrRunning, pid)
	case Hanging:
		if err := os.Remove(filepath.Join(dir, PIDFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// createExclusive makes a file that must not exist.
func createExclusive(path, content string) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(content)
	if err := errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	if err = os.Link(tmp.Name(), path); err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644) // a file system without links
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}

// Prepare does what comes before serving: it checks the status, finds the address to listen on, refuses if the pid file seems to be of
// another host's process, and writes the address to config.toml, where clients look for it. [WritePID] comes next: it cleans up after an endpoint that
// died on this host, and wins against others. Errors are ErrRunning,
// ErrUnknown, ErrOtherHost and those of ResolveHost.
// Source: proxystore.endpoint.commands.start_endpoint.
func Prepare(ctx context.Context, home, name string) (dir string, c Config, err error) {
	if !ValidName(name) {
		return "", Config{}, fmt.Errorf("endpoint %q: %w", name, ErrUnknown)
	}
	dir = filepath.Join(home, name)
	s, pid := status(dir)
	switch s {
	case Running:
		return "", Config{}, fmt.Errorf("endpoint %s: %w: process %d", name, ErrRunning, pid)
	case Unknown:
		if _, err := Read(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", Config{}, fmt.Errorf("endpoint %s: %w: %w", name, ErrUnknown, err)
		}
		return "", Config{}, fmt.Errorf("endpoint %s: %w", name, ErrUnknown)
	}
	if c, err = Read(dir); err != nil {
		return "", Config{}, err
	}
	host, err := c.ResolveHost(ctx)
	if err != nil {
		return "", Config{}, fmt.Errorf("%s: %w", filepath.Join(dir, ConfigFile), err)
	}
	if s == Hanging && c.Host != "" && host != c.Host {
		return "", Config{}, otherHost(dir, c.Host)
	}
	if c.Host != host { // else nothing would change but comments and layout
		c.Host = host
		err = c.writeMain(dir)
	}
	return dir, c, err
}

func otherHost(dir, host string) error {
	return fmt.Errorf("%w: a PID file exists for the endpoint, but the config indicates the endpoint is running on a host named %s. Try stopping the "+
		"endpoint on %s. Otherwise, delete the PID file at %s and try again", ErrOtherHost, host, host, filepath.Join(dir, PIDFile))
}

// Remove deletes an endpoint's directory with all its objects. It must not run, here or elsewhere (ErrRunning).
// Source: proxystore.endpoint.commands.remove_endpoint.
func Remove(home, name string) error {
	dir := filepath.Join(home, name)
	if _, err := os.Stat(dir); err != nil || !ValidName(name) {
		return fmt.Errorf("an endpoint named %s does not exist: %w", name, fs.ErrNotExist)
	}
	s, _ := status(dir)
	if p, _ := process(dir); p == Running || s == Hanging { // running with a configuration that has become invalid counts, too
		return fmt.Errorf("%w: endpoint %s must be stopped before removing", ErrRunning, name)
	}
	return os.RemoveAll(dir)
}

// DefaultGrace is how long Stop waits for an endpoint to end by itself. Python waits one second; ours lets transfers end.
const DefaultGrace = 10 * time.Second

// Stop ends an endpoint that runs on this host: SIGTERM, then after grace (0: DefaultGrace) SIGKILL, and the pid file is removed. stopped is false
// if it did not run, which is no error. One that runs is ended even if its configuration has become invalid meanwhile. On Windows, which has no such
// signals, it is errors.ErrUnsupported.
// Source: proxystore.endpoint.commands.stop_endpoint.
func Stop(ctx context.Context, home, name string, grace time.Duration) (stopped bool, err error) {
	if grace <= 0 {
		grace = DefaultGrace
	}
	dir := filepath.Join(home, name)
	path := filepath.Join(dir, PIDFile)
	s, pid := process(dir)
	if _, err := readMain(dir); !ValidName(name) || err != nil && s != Running {
		s = Unknown
	}
	switch s {
	case Unknown:
		return false, fmt.Errorf("endpoint %s: %w", name, ErrUnknown)
	case Stopped:
		return false, nil
	case Hanging:
		c, err := readMain(dir)
		if err != nil {
			return false, err
		}
		if c.Host != "" && !isThisHost(ctx, c) {
			return false, otherHost(dir, c.Host)
		}
		unlock, err := lockDir(dir)
		if err != nil {
			return false, err
		}
		defer unlock()
		return false, removeStale(dir)
	}
	if err := terminate(ctx, pid, grace); err != nil {
		return false, fmt.Errorf("endpoint %s: %w", name, err)
	}
	if now, err := readPID(path); err == nil && now == pid {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return true, err
		}
	}
	return true, nil
}

// isThisHost reports whether the address in a configuration is this host's: what start would write there, its name, or an address of it.
func isThisHost(ctx context.Context, c Config) bool {
	if name, err := os.Hostname(); err == nil && name == c.Host {
		return true
	}
	if c.HostType != HostStatic {
		if host, err := c.ResolveHost(ctx); err == nil && host == c.Host {
			return true
		}
	}
	if c.Host == "0.0.0.0" || c.Host == "::" {
		return true // says nothing; the pid file is all there is
	}
	ips, err := net.DefaultResolver.LookupIPAddr(ctx, c.Host)
	if err != nil {
		return false
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			for _, ip := range ips {
				if n.IP.Equal(ip.IP) {
					return true
				}
			}
		}
	}
	return false
}
