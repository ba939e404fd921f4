package link

import (
	"bytes"
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestWidth tells a wire what lands on it, and looks how many lanes it uses in the end.
func TestWidth(t *testing.T) {
	const each = 1e6
	slow := func(n int, _ time.Duration) float64 { return float64(n) * each }
	for _, c := range []struct {
		name   string
		rate   func(lanes int, at time.Duration) float64 // bytes per second that so many lanes carry
		idle   bool                                      // the lanes have room for all there is
		took   time.Duration
		lanes  int // Options.Lanes
		want   int
		trials int // in which more lanes were used for a while
	}{
		{"each lane is slow", slow, false, 5 * time.Second, 0, maxLanes, 2},
		{"each lane is slow, half as many would do", func(n int, _ time.Duration) float64 { return min(float64(n), 8) * each }, false, 5 * time.Second, 0, 8, 2},
		{"the wire is full", func(int, time.Duration) float64 { return each }, false, 5 * time.Minute, 0, DefaultLanes, 1},
		{"more are slower", func(n int, _ time.Duration) float64 { return each / float64(n) }, false, 5 * time.Second, 0, DefaultLanes, 1},
		{"lanes become faster by themselves", func(n int, at time.Duration) float64 { return each * (1 + at.Seconds()) }, false, 2 * time.Second, 0, DefaultLanes, 0},
		{"something changes before the next trial", func(n int, at time.Duration) float64 {
			if at < 10*time.Second {
				return each
			}
			return float64(n) * each
		}, false, 25 * time.Second, 0, DefaultLanes, 1},
		{"something changes", func(n int, at time.Duration) float64 {
			if at < 10*time.Second {
				return each
			}
			return float64(n) * each
		}, false, 45 * time.Second, 0, maxLanes, 3},
		{"there is little to do", slow, true, 5 * time.Second, 0, DefaultLanes, 0},
		{"a number is given", slow, false, 5 * time.Second, 3, 3, 0},
		{"a great number is given", slow, false, 5 * time.Second, 99, maxLanes, 0},
	} {
		for dir, name := range []string{get: "get", put: "put"} {
			t.Run(c.name+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newPair(t, pairOptions{link: Options{Lanes: c.lanes}, dial: overPipe})
					if _, err := p.link.Ping(context.Background()); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					l := p.link
					w := l.wire
					trials, before := 0, 0
					const step = 10 * time.Millisecond
					for at := time.Duration(0); at < c.took; at += step {
						l.mu.Lock()
						if !c.idle {
							l.rings[dir] = []*transfer{{ended: true}}
						}
						w.gauge(dir, int64(c.rate(len(w.using(dir)), at)*step.Seconds()))
						l.rings[dir] = nil
						if from := w.widths[dir].from; from != before {
							if before = from; from > 0 {
								trials++
							}
						}
						l.mu.Unlock()
						time.Sleep(step)
					}
					l.mu.Lock()
					defer l.mu.Unlock()
					if n := len(w.using(dir)); n != c.want {
						t.Errorf("%d lanes, want %d; %+v", n, c.want, w.widths[dir])
					}
					if trials != c.trials {
						t.Errorf("%d trials, want %d", trials, c.trials)
					}
					for i, ln := range w.using(dir) {
						if ln.c == nil {
							t.Errorf("lane %d is not open", i)
						}
					}
					if n := len(w.using(1 - dir)); n != l.o.Lanes {
						t.Errorf("%d lanes the other way", n)
					}
				})
			})
		}
	}
}

// throttled is a connection whose writes take their time.
type throttled struct {
	net.Conn
	mu   sync.Mutex
	free time.Time
}

const throttledRate = 512 << 10 // bytes per second

func (c *throttled) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		piece := p[:min(len(p), 4<<10)]
		c.mu.Lock()
		if now := time.Now(); c.free.Before(now) {
			c.free = now
		}
		c.free = c.free.Add(time.Duration(len(piece)) * time.Second / throttledRate)
		until := c.free
		c.mu.Unlock()
		time.Sleep(time.Until(until))
		k, err := c.Conn.Write(piece)
		n += k
		if err != nil {
			return n, err
		}
		p = p[k:]
	}
	return n, nil
}

// TestWidthTransfer moves an object over streams that are slow, each by itself: more of them come into use while it is on its way, which it survives. Where the
// machine is busy with other things a trial may be found to be in vain; not every time.
func TestWidthTransfer(t *testing.T) {
	leaks(t)
	data := payload(5<<20, 1)
	var wide [2]bool
	for try := 0; try < 5 && wide != [2]bool{true, true}; try++ {
		p := newPair(t, pairOptions{dial: func(n int) (net.Conn, net.Conn, error) {
			a, b, err := overTCP(n)
			return &throttled{Conn: a}, &throttled{Conn: b}, err
		}})
		ctx := testContext(t)
		if err := p.link.Put(ctx, "k", int64(len(data)), bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		got, err := p.copyOut(ctx, "k", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "got", got, data)
		p.link.mu.Lock()
		for dir := range wide {
			n := len(p.link.wire.using(dir))
			t.Logf("try %d, direction %d: %d lanes", try, dir, n)
			wide[dir] = wide[dir] || n > DefaultLanes
		}
		p.link.mu.Unlock()
		p.close()
	}
	if wide != [2]bool{true, true} {
		t.Error("the lanes stay as many as they were")
	}
}
