package dim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// lingering is a server that others can still reach while it ends.
type lingering struct {
	objects.Server
	ending, end chan struct{}
	once        sync.Once
}

func (s *lingering) Shutdown(ctx context.Context) error {
	s.once.Do(func() { close(s.ending) })
	<-s.end
	return s.Server.Shutdown(ctx)
}

// TestOpenWhileClosing: who opens while the last one closes does not get the server that is about to end, but one of its own.
func TestOpenWhileClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		tr := n.transport()
		slow := &lingering{ending: make(chan struct{}), end: make(chan struct{})}
		tr.Listen = func(ctx context.Context, host string, port int, store objects.Store) (objects.Server, error) {
			s, err := n.listen(ctx, host, port, store)
			if err == nil && slow.Server == nil {
				slow.Server = s
				return slow, nil
			}
			return s, err
		}
		opts := Options{Address: "127.0.0.1", Port: 5060}
		first, err := New(t.Context(), tr, opts, nil, config)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := first.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
		<-slow.ending
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := New(impatient, tr, opts, nil, config); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("open without the patience to wait for the end of the server that was there: %v", err)
		}
		wg.Go(func() {
			c, err := New(t.Context(), tr, opts, nil, config)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close(t.Context())
			if _, inside := c.Address(); !inside {
				t.Error("the connector uses the server that was ending")
			}
			holds(t, c, put(t, c, "x"), "x")
		})
		synctest.Wait()
		close(slow.end)
		wg.Wait()
		if len(n.servers) > 0 {
			t.Errorf("%d servers are left", len(n.servers))
		}
	})
}

// TestListenTimesOut: a start that took too long of itself, as a name server may, is no other connector's cancelled start, and not repeated.
func TestListenTimesOut(t *testing.T) {
	n := newNetwork()
	tr := n.transport()
	starts := 0
	tr.Listen = func(context.Context, string, int, objects.Store) (objects.Server, error) {
		if starts++; starts > 3 {
			return nil, errors.New("started again and again")
		}
		return nil, fmt.Errorf("lookup: %w", context.DeadlineExceeded)
	}
	_, err := New(t.Context(), tr, Options{Address: "127.0.0.1", Port: 5061}, nil, config)
	if !errors.Is(err, context.DeadlineExceeded) || starts != 1 {
		t.Errorf("after %d starts: %v", starts, err)
	}
}

// TestNothingBuilt: where no dialer is built in, that is what a put says.
func TestNothingBuilt(t *testing.T) {
	n := newNetwork()
	tr := n.transport()
	tr.Dialers = tr.Dialers[1:]
	c, err := New(t.Context(), tr, Options{Address: "127.0.0.1", Port: 5062, ConnectOnly: true}, nil, config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	_, err = c.Put(t.Context(), nil)
	fails(t, err, connectors.ErrNotBuilt, "-tags none")
}

// TestHosts: a key's host means a host, or an absolute path, and nothing else.
func TestHosts(t *testing.T) {
	n := newNetwork()
	tr := n.transport()
	tr.Dialers[1].Dial = n.dial
	c, err := New(t.Context(), tr, Options{Address: "127.0.0.1", ConnectOnly: true}, nil, config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	for _, host := range []string{"", " ", "a b", "a/b", "a:1", "[::1]", "::1%x]:1/", "::1%", "fe80::1%e th0", "::1%\x00", "::1%a@b", strings.Repeat("a", 254), "ä",
		"127.0.0.1:1", "unix://", "unix://s", "unix://@s", "unix://../s", "UNIX:///s", "unix:///\x00"} {
		port := int64(1)
		if strings.HasPrefix(host, unixScheme) {
			port = 0
		}
		if k, err := c.Get(t.Context(), connectors.DIMKey{DIMType: "tcp", ObjID: "x", PeerHost: host, PeerPort: port}); !errors.Is(err, connectors.ErrInvalidKey) {
			t.Errorf("%q: %v, %v", host, k, err)
		}
	}
	for _, host := range []string{"localhost", "127.0.0.1", "::1", "fe80::1%eth0.5", "fe80::1%wlp0s20f3", "a-b_c.example.", "unix:///run/s"} {
		if !validHost(host) && !validSocket(host) {
			t.Errorf("%q is refused", host)
		}
	}
	if dials := n.dials.Load(); dials != 0 {
		t.Errorf("%d hosts were dialed", dials)
	}
}

// TestLookIsNobodysHold: while one put looks for the server another one's context counts.
func TestLookIsNobodysHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		n.servers["127.0.0.1:5063"] = &server{} // silent
		c := n.open(t, Options{Port: 5063, Timeout: time.Hour, ConnectOnly: true})
		var wg sync.WaitGroup
		long, stop := context.WithCancel(t.Context())
		wg.Go(func() {
			if _, err := c.Put(long, nil); !errors.Is(err, context.Canceled) {
				t.Errorf("the one that looks: %v", err)
			}
		})
		synctest.Wait()
		start := time.Now()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Put(short, nil); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("the other one: %v after %v", err, time.Since(start))
		}
		stop()
		wg.Wait()
		c.Close(t.Context())
	})
}

// TestLimits: connectors share a server of this process if they ask for one address, and then the first one's limits hold, which is said. Where each asks
// for a server of its own they share one only if they want the same.
func TestLimits(t *testing.T) {
	n := newNetwork()
	var log bytes.Buffer
	env := &connectors.Env{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	open := func(opts Options) *Connector {
		t.Helper()
		opts.Address = "127.0.0.1"
		c, err := New(t.Context(), n.transport(), opts, env, config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close(context.Background()) })
		return c
	}
	small, large, same := open(Options{Memory: 1 << 20}), open(Options{Memory: 1 << 30}), open(Options{Memory: 1 << 20})
	if small.node == large.node || small.node != same.node {
		t.Error("port 0: who shares a server has not asked for the same, or who has does not")
	}
	if strings.Contains(log.String(), "WARN") {
		t.Errorf("log: %s", &log)
	}
	port := small.opts.Port
	if other := open(Options{Port: port}); other.node != small.node || strings.Contains(log.String(), "WARN") {
		t.Errorf("one that asks for nothing: %s", &log)
	}
	if other := open(Options{Port: port, Memory: 1 << 30, SpillDir: t.TempDir()}); other.node != small.node || !strings.Contains(log.String(), "spill_dir") {
		t.Errorf("one that asks for other limits gets no warning: %s", &log)
	}
}

// TestKeptByOne: a server that one of its connectors wants to keep stays, whoever started it; and one at a port of its own is shared only by those of one mind.
func TestKeptByOne(t *testing.T) {
	n := newNetwork()
	keeping := n.transport()
	keeping.KeepServer = true
	opts := Options{Address: "127.0.0.1"}
	open := func(tr *Transport, opts Options) *Connector {
		t.Helper()
		c, err := New(t.Context(), tr, opts, nil, config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close(context.Background()) })
		return c
	}
	a, b := open(n.transport(), opts), open(keeping, opts)
	if a.node == b.node {
		t.Error("port 0: one that keeps its server shares it with one that does not")
	}
	opts.Port = a.opts.Port
	c := open(keeping, opts)
	key := put(t, a, "x")
	c.Close(t.Context())
	a.Close(t.Context())
	holds(t, open(n.transport(), opts), key, "x")
	if err := StopServers(t.Context()); err != nil {
		t.Error(err)
	}
}
