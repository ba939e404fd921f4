package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
)

const (
	// recheck is how often a waiting call asks again although no event came: a cluster may have moved the slot, or the connection died unsaid.
	recheck = 2 * time.Second
	// pollFirst and pollLast bound the pauses of polling, for servers that send no events.
	pollFirst = time.Millisecond
	pollLast  = 100 * time.Millisecond
)

// watches are the connector's watchers, one per server that somebody waits on.
type watches struct {
	mu      sync.Mutex
	byAddr  map[string]*post
	wg      sync.WaitGroup
	without atomic.Bool // the server has no tracking, or does not let us
}

func (ws *watches) wait() { ws.wg.Wait() }

// post is the place of a server's watcher: there is one and not many, and who comes while it is dialed waits.
type post struct {
	ready chan struct{} // closed when the rest is set
	w     *watcher
	err   error
}

// watcher is a connection on which the server tells of keys that change: CLIENT TRACKING, which works for any key that was asked for on the
// connection, whether it existed or not, whoever sets it, and without any configuration of the server.
type watcher struct {
	cn *conn

	mu    sync.Mutex
	waits map[string][]chan error // by id; each has room for one answer
	asked []string                // ids whose EXISTS is not answered, in order
	since time.Time               // when the server last owed and gave us something
	err   error                   // why the connection is dead
}

// Wait implements [connectors.Waiter]: by event where the server has CLIENT TRACKING (Redis 6), else by polling.
func (c *Connector) Wait(ctx context.Context, key connectors.Key) error {
	id, err := c.start(ctx, "wait", key)
	if err != nil {
		return err
	}
	defer c.gate.Leave()
	for tries := 0; ; tries++ {
		if c.watches.without.Load() {
			return wrap("wait", key, c.poll(ctx, id))
		}
		w, err := c.watcher(ctx, id, tries == 0)
		if err != nil {
			select {
			case <-c.gone:
				err = connectors.ErrClosed
			default:
			}
			if e := ended(ctx); e != nil {
				err = e
			}
			if errors.Is(err, errNoTracking) {
				continue
			}
			return wrap("wait", key, err)
		}
		err = w.wait(ctx, id, c)
		var se *serverError
		switch {
		case err == nil, ctx.Err() != nil, errors.Is(err, connectors.ErrClosed):
			return wrap("wait", key, err)
		case errors.As(err, &se):
			if _, _, ok := redirect(se, w.cn.addr); !ok || !c.opts.Cluster {
				return wrap("wait", key, explain(err, w.cn.addr))
			}
		}
		// The key is elsewhere now, or the connection died: look again, and fail only if that fails.
		c.router.doubt(ctx, w.cn.addr)
		pause := time.NewTimer(min(pollLast, pollFirst<<min(tries, 10)))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		case <-c.gone:
			pause.Stop()
			return closedError("wait", key)
		}
	}
}

var errNoTracking = errors.New("the server has no CLIENT TRACKING")

// watcher returns the watcher on id's server, a new one if there is none alive. If again is true and that server fails it tries the one that has
// taken its place.
func (c *Connector) watcher(ctx context.Context, id string, again bool) (*watcher, error) {
	addr, err := c.router.addr(ctx, id)
	if err != nil {
		return nil, explain(err, "")
	}
	w, err := c.watcherAt(ctx, addr)
	if err == nil || errors.Is(err, errNoTracking) {
		return w, err
	}
	c.router.doubt(ctx, addr)
	if to, e := c.router.addr(ctx, id); again && e == nil && to != addr && ctx.Err() == nil {
		addr = to
		w, err = c.watcherAt(ctx, addr)
	}
	if err != nil {
		return nil, explain(err, addr)
	}
	return w, nil
}

// watcherAt returns the watcher on a server. Dialing it is nobody's own, so that who gives up does not end it for the others.
func (c *Connector) watcherAt(ctx context.Context, addr string) (*watcher, error) {
	ws := &c.watches
	ws.mu.Lock()
	p := ws.byAddr[addr]
	if p == nil || p.w != nil && p.w.dead() {
		p = &post{ready: make(chan struct{})}
		ws.byAddr[addr] = p
		ws.wg.Go(func() { c.watch(context.WithoutCancel(ctx), addr, p) })
	}
	ws.mu.Unlock()
	select {
	case <-p.ready:
		return p.w, p.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-c.gone:
		return nil, connectors.ErrClosed
	}
}

// watch dials p's watcher and listens on it until its end.
func (c *Connector) watch(ctx context.Context, addr string, p *post) {
	ws := &c.watches
	ctx, cancel := context.WithCancel(ctx)
	ws.wg.Go(func() {
		select {
		case <-c.gone:
			cancel()
		case <-ctx.Done():
		}
	})
	cn, err := c.pool.dial(ctx, addr, true)
	cancel()
	var se *serverError
	if errors.As(err, &se) && !slices.Contains([]string{"NOAUTH", "WRONGPASS", "LOADING", "DENIED", "MASTERDOWN", "BUSY"}, se.code()) {
		ws.without.Store(true)
		err = errNoTracking
	}
	ws.mu.Lock()
	if err != nil {
		p.err = err
		delete(ws.byAddr, addr)
	} else {
		cn.timeout = 0                     // it waits for as long as nothing changes
		cn.nc.SetReadDeadline(time.Time{}) // of the login
		p.w = &watcher{cn: cn, waits: map[string][]chan error{}}
	}
	ws.mu.Unlock()
	close(p.ready)
	if err == nil {
		p.w.fail(p.w.listen())
		c.pool.discard(cn)
	}
}

func (w *watcher) dead() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err != nil
}

// fail ends the watcher and everybody who waits on it.
func (w *watcher) fail(err error) {
	w.cn.abort()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = fmt.Errorf("the connection that tells of changes broke: %w", err)
	}
	for id := range w.waits {
		w.answer(id, w.err)
	}
}

// answer tells everybody who waits for id. The caller holds mu.
func (w *watcher) answer(id string, err error) {
	for _, ch := range w.waits[id] {
		ch <- err
	}
	delete(w.waits, id)
}

// ask sends EXISTS, which has the server remember that we care for the key. The caller holds mu.
func (w *watcher) ask(id string, timeout time.Duration) {
	if w.err != nil {
		return
	}
	if len(w.asked) == 0 {
		w.since = time.Now()
	}
	w.asked = append(w.asked, id)
	w.cn.command(2, "EXISTS")
	w.cn.arg(id)
	out := w.cn.out
	w.cn.out = out[:0]
	w.cn.nc.SetWriteDeadline(time.Now().Add(timeout))
	if _, err := w.cn.nc.Write(out); err != nil {
		w.cn.abort() // listen tells everybody
	}
}

// wait waits until id exists.
func (w *watcher) wait(ctx context.Context, id string, c *Connector) error {
	ch := make(chan error, 1)
	w.mu.Lock()
	if w.err != nil {
		w.mu.Unlock()
		return w.err
	}
	w.waits[id] = append(w.waits[id], ch)
	w.ask(id, c.opts.Timeout)
	w.mu.Unlock()
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	var err error
	for {
		select {
		case err := <-ch:
			return err
		case <-ctx.Done():
			err = ctx.Err()
		case <-c.gone:
			err = connectors.ErrClosed
		case <-tick.C:
			w.mu.Lock()
			late := len(w.asked) > 0 && time.Since(w.since) > c.opts.Timeout
			if !late && len(w.asked) == 0 {
				w.ask(id, c.opts.Timeout)
			}
			w.mu.Unlock()
			if late {
				w.cn.abort()
			}
			continue
		}
		break
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waits[id] = slices.DeleteFunc(w.waits[id], func(e chan error) bool { return e == ch }); len(w.waits[id]) == 0 {
		delete(w.waits, id)
	}
	return err
}

// listen reads answers and events until the connection ends.
func (w *watcher) listen() error {
	for {
		mark, n, _, err := w.cn.reply()
		var se *serverError
		switch {
		case err != nil && !errors.As(err, &se):
			return err
		case mark == '>':
			if err := w.event(n); err != nil {
				return err
			}
		case mark == ':' || se != nil:
			w.mu.Lock()
			if len(w.asked) == 0 {
				w.mu.Unlock()
				return w.cn.strange("an answer to nothing")
			}
			id := w.asked[0]
			w.asked = w.asked[1:]
			w.since = time.Now()
			if se != nil {
				w.answer(id, se)
			} else if n > 0 {
				w.answer(id, nil)
			}
			w.mu.Unlock()
		default:
			return w.cn.strange("%q on a connection for events", mark)
		}
	}
}

// event reads a push message of n parts.
func (w *watcher) event(n int64) error {
	name, _, err := w.cn.bytes(readBuffer)
	if err != nil {
		return err
	}
	if string(name) != "invalidate" || n != 2 {
		for range n - 1 {
			if err := w.cn.skip(0); err != nil {
				return err
			}
		}
		return nil
	}
	mark, keys, _, err := w.cn.reply()
	if err != nil {
		return err
	}
	if mark != '*' && !(mark == '$' && keys == -1) {
		return w.cn.strange("%q in an event", mark)
	}
	if keys < 0 { // everything was deleted, and with it the server's memory of what we asked for
		w.mu.Lock()
		defer w.mu.Unlock()
		for id := range w.waits {
			w.ask(id, recheck)
		}
		return nil
	}
	for range keys {
		id, _, err := w.cn.bytes(1 << 20)
		if err != nil {
			return err
		}
		w.mu.Lock()
		if len(w.waits[string(id)]) > 0 {
			w.ask(string(id), recheck)
		}
		w.mu.Unlock()
	}
	return nil
}

// poll asks again and again.
func (c *Connector) poll(ctx context.Context, id string) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for pause := pollFirst; ; pause = min(pollLast, pause*3/2) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.gone:
			return connectors.ErrClosed
		case <-timer.C:
		}
		var n int64
		err := c.query(ctx, "EXISTS", id, func(cn *conn) (err error) {
			n, err = cn.int()
			return err
		})
		if n > 0 || err != nil {
			return err
		}
		timer.Reset(pause)
	}
}
