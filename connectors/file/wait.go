package file

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
)

// How often a waiter looks by itself. With a watch that is only for what the kernel does not report: writers on other nodes.
const (
	pollFirst     = 50 * time.Millisecond
	pollLimit     = time.Second
	pollFirstOnly = 2 * time.Millisecond // without a watch
	pollLimitOnly = 100 * time.Millisecond
)

// Wait returns nil as soon as the object exists. All waiters of a connector share one watch on the directory, which is there only while
// somebody waits. It ends with ctx or with Close ([connectors.ErrClosed]).
func (c *Connector) Wait(ctx context.Context, key connectors.Key) error {
	name, err := c.beginKey(ctx, key)
	if err != nil {
		return c.fail("wait", key, err)
	}
	defer c.gate.Leave()
	return c.fail("wait", key, c.wait(ctx, name))
}

func (c *Connector) wait(ctx context.Context, name string) error {
	var w *waiter
	defer func() { c.waits.drop(name, w) }()
	var timer *time.Timer
	var pause time.Duration
	for {
		_, err := c.stat(name)
		if !errors.Is(err, connectors.ErrNotFound) {
			return err
		}
		if w == nil {
			// Registered now, and looked after that once more: what comes in between is seen by one of the two.
			w = c.waits.add(c.opts.StoreDir, name)
			continue
		}
		first, limit := pollFirstOnly, pollLimitOnly
		if c.waits.watching() {
			first, limit = pollFirst, pollLimit
		}
		pause = min(max(2*pause, first), limit)
		if timer == nil {
			timer = time.NewTimer(pause)
			defer timer.Stop()
		} else {
			timer.Reset(pause)
		}
		select {
		case <-w.woken:
			w = nil // who wakes a waiter also forgets it
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.closing:
			return connectors.ErrClosed
		}
	}
}

// waitSet is who waits for which name.
type waitSet struct {
	mu      sync.Mutex
	waiters map[string]*waiter
	watch   *watch // nil until somebody waits
	closed  bool
}

// waiter is one name that somebody waits for.
type waiter struct {
	woken chan struct{} // closed when the name may have appeared
	n     int
}

// add registers a waiter for a name. The caller drops it in the end, unless it was woken.
func (s *waitSet) add(dir, name string) *waiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.waiters[name]
	if w == nil {
		w = &waiter{woken: make(chan struct{})}
		if s.waiters == nil {
			s.waiters = map[string]*waiter{}
		}
		s.waiters[name] = w
	}
	w.n++
	if s.watch == nil && !s.closed {
		s.watch = newWatch(dir, s.wake) // nil if the system has none to give
	}
	if s.watch != nil {
		s.watch.on()
	}
	return w
}

// watching reports whether the kernel watches the directory. It tries again if it did not: the directory may be back.
func (s *waitSet) watching() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watch != nil && s.watch.on()
}

// drop takes back an add. w may be nil.
func (s *waitSet) drop(name string, w *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w != nil {
		if w.n--; w.n == 0 && s.waiters[name] == w {
			delete(s.waiters, name)
		}
	}
	if len(s.waiters) == 0 && s.watch != nil {
		s.watch.off() // or every put would cost an event that nobody wants
	}
}

// wake wakes who waits for the object of a file that has appeared, and everybody if name is empty.
func (s *waitSet) wake(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name == "" {
		for n, w := range s.waiters {
			delete(s.waiters, n)
			close(w.woken)
		}
		return
	}
	name, ok := strings.CutSuffix(name, ready)
	if w := s.waiters[name]; ok && w != nil {
		delete(s.waiters, name)
		close(w.woken)
	}
}

// close ends the watch. Nobody waits any more.
func (s *waitSet) close() {
	s.mu.Lock()
	w := s.watch
	s.watch, s.closed = nil, true
	s.mu.Unlock()
	if w != nil {
		w.close()
	}
}
