// Package redistest starts real Redis servers for tests and benchmarks: alone, as a cluster, with sentinels, with TLS. A test that needs them fails
// where redis-server is not installed, since a test that skips proves nothing.
package redistest

import (
	"bufio"
	"bytes"
	"fmt"
	"github.com/proxyplane/proxyplane/internal/testenv"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Server is one redis-server process. Its methods belong to the test's goroutine, but for Do, Try, Kill and Restart, which any goroutine may call, one
// at a time.
type Server struct {
	Host   string // 127.0.0.1
	Port   int    // speaks TLS if TLS is set
	Socket string // a unix socket, beside the port; never TLS

	TLS *Certificates // of a server started by StartTLS
	// Password is what Do logs in with.
	Password string

	t    testing.TB
	dir  string
	args []string

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd is gone
}

// Addr returns host:port.
func (s *Server) Addr() string { return net.JoinHostPort(s.Host, strconv.Itoa(s.Port)) }

// Start starts a server without persistence on a free loopback port and a unix socket, and stops it when the test ends. args are added to its
// command line. It fails the test if redis-server is not on PATH.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	return start(t, nil, args)
}

// StartTLS starts a server that speaks TLS on its port, with certificates made for it.
func StartTLS(t testing.TB, args ...string) *Server {
	t.Helper()
	return start(t, NewCertificates(t), args)
}

// Binary returns the path of redis-server. What happens if there is none is testenv's to say.
func Binary(t testing.TB) string {
	t.Helper()
	return testenv.Redis(t)
}

func start(t testing.TB, certs *Certificates, args []string) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "redis") // not t.TempDir: a unix socket's path may have 107 bytes only
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Host: "127.0.0.1", Socket: filepath.Join(dir, "s"), TLS: certs, t: t, dir: dir, args: args}
	t.Cleanup(func() {
		s.Kill()
		os.RemoveAll(dir)
	})
	for try := 1; ; try++ {
		s.Port = freePort(t)
		err := s.launch()
		if err == nil {
			return s
		}
		if try == 5 { // somebody else may have taken the port meanwhile, but hardly five times
			t.Fatalf("starting redis-server: %v", err)
		}
	}
}

// freePort returns a port nobody listens on, one whose cluster bus port (10,000 above) exists too.
func freePort(t testing.TB) int {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		if port < 55_000 {
			return port
		}
	}
}

// launch starts the process and waits until it answers.
func (s *Server) launch() error {
	port := []string{"--port", strconv.Itoa(s.Port)}
	if s.TLS != nil {
		port = []string{"--port", "0", "--tls-port", strconv.Itoa(s.Port), "--tls-ca-cert-file", s.TLS.CA, "--tls-cert-file", s.TLS.Cert,
			"--tls-key-file", s.TLS.Key, "--tls-auth-clients", "optional"}
	}
	args := append(port, "--bind", s.Host, "--unixsocket", s.Socket, "--save", "", "--appendonly", "no", "--dir", s.dir, "--loglevel", "warning")
	cmd := exec.Command(Binary(s.t), append(args, s.args...)...)
	return s.run(cmd)
}

func (s *Server) run(cmd *exec.Cmd) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	log := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		cmd.Wait()
		close(exited)
	}()
	s.cmd, s.exited = cmd, exited
	for {
		if c, err := net.Dial("unix", s.Socket); err == nil {
			_, err := roundTrip(c, "PING")
			c.Close()
			if err == nil || strings.Contains(err.Error(), "NOAUTH") {
				return nil
			}
		}
		select {
		case <-exited:
			return fmt.Errorf("it ended: %s", log.String())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Kill ends the server as a crash would, and returns when its port is free again. Killing a dead one does nothing.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Kill()
	<-s.exited
	s.cmd = nil
}

// Restart starts a killed server again, empty, on the same port and socket.
func (s *Server) Restart() {
	s.t.Helper()
	os.Remove(s.Socket)
	if err := s.launch(); err != nil {
		s.t.Errorf("restarting redis-server: %v", err)
	}
}

// Do runs one command, on a connection of its own, and returns its reply: the text of a value, else the reply's first line as it came (":1", "+OK"). An
// error fails the test.
func (s *Server) Do(args ...string) string {
	s.t.Helper()
	reply, err := s.Try(args...)
	if err != nil {
		s.t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	return reply
}

// Try is Do for a command that may fail.
func (s *Server) Try(args ...string) (string, error) {
	c, err := net.Dial("unix", s.Socket)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if s.Password != "" {
		if _, err := roundTrip(c, "AUTH", s.Password); err != nil {
			return "", err
		}
	}
	return roundTrip(c, args...)
}

// roundTrip sends a command and reads its reply: a line, or a bulk string's text.
func roundTrip(c net.Conn, args ...string) (string, error) {
	c.SetDeadline(time.Now().Add(30 * time.Second))
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := c.Write([]byte(b.String())); err != nil {
		return "", err
	}
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSuffix(line, "\r\n")
	switch {
	case line[0] == '-':
		return "", fmt.Errorf("%s", line[1:])
	case line[0] == '$' && line != "$-1":
		n, err := strconv.Atoi(line[1:])
		if err != nil {
			return "", err
		}
		text := make([]byte, n)
		for i := range text {
			if text[i], err = r.ReadByte(); err != nil {
				return "", err
			}
		}
		return string(text), nil
	}
	return line, nil
}

// StartCluster starts a cluster of n masters without replicas.
func StartCluster(t testing.TB, n int, args ...string) []*Server {
	t.Helper()
	nodes := make([]*Server, n)
	for i := range nodes {
		nodes[i] = Start(t, append([]string{"--cluster-enabled", "yes", "--cluster-node-timeout", "5000"}, args...)...)
	}
	const slots = 16384
	for i, s := range nodes {
		s.Do("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*slots/n), strconv.Itoa((i+1)*slots/n-1))
		s.Do("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
	}
	for _, s := range nodes[1:] {
		s.Do("CLUSTER", "MEET", nodes[0].Host, strconv.Itoa(nodes[0].Port))
	}
	for _, s := range nodes {
		for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			info := s.Do("CLUSTER", "INFO")
			if strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", n)) {
				break
			}
			if time.Since(start) > 30*time.Second {
				t.Fatalf("the cluster does not come up: %s", info)
			}
		}
	}
	return nodes
}

// StartReplica starts a server that copies master, and waits until it does.
func StartReplica(t testing.TB, master *Server) *Server {
	t.Helper()
	s := Start(t, "--replicaof", master.Host, strconv.Itoa(master.Port), "--repl-diskless-sync-delay", "0")
	for start := time.Now(); !strings.Contains(s.Do("INFO", "replication"), "master_link_status:up"); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > 30*time.Second {
			t.Fatal("the replica does not find its master")
		}
	}
	return s
}

// StartSentinel starts a sentinel that watches master by the given name, and that alone decides on a failover.
func StartSentinel(t testing.TB, name string, master *Server) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "redis")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Host: "127.0.0.1", Port: freePort(t), Socket: filepath.Join(dir, "s"), t: t, dir: dir}
	t.Cleanup(func() {
		s.Kill()
		os.RemoveAll(dir)
	})
	conf := filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("port %d\nbind %s\nunixsocket %s\ndir %s\nsentinel monitor %s %s %d 1\nsentinel down-after-milliseconds %s 300\n"+
		"sentinel failover-timeout %s 3000\n", s.Port, s.Host, s.Socket, dir, name, master.Host, master.Port, name, name)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.run(exec.Command(Binary(t), conf, "--sentinel")); err != nil {
		t.Fatalf("starting a sentinel: %v", err)
	}
	return s
}
