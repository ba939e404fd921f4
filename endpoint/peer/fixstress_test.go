package peer

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"bytes"
	"math/rand/v2"
	"sync"

	"github.com/google/uuid"
)

func TestFixStress(t *testing.T) {
	secs, _ := strconv.Atoi(os.Getenv("FIX_SECS"))
	end := time.Now().Add(time.Duration(secs) * time.Second)
	for round := 0; time.Now().Before(end); round++ {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			ch := round%4 + 1
			offerer := round/4%2 == 0
			r := startRelay(t, nil)
			id := uuid.New()
			n := newNode(t, r.client(id), id, func(o *Options) {
				o.Channels = ch
				o.Listen = ":0"
				if round%3 == 0 {
					o.Listen = "127.0.0.1:0"
				}
			})
			py := startPython(t, r.addr, uuid.New(), ch)
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
			defer cancel()
			size := 1_000_000 + rand.IntN(9_000_000)
			py.do(request{Op: "set", Key: "p", Size: size})
			data := n.put(t, "g", size)
			py.do(request{Op: "exists", Key: "p"})
			if offerer {
				n.Exists(ctx, py.id, "p")
			} else {
				py.do(request{Op: "exists", Key: "p", Endpoint: n.id.String()})
			}
			var wg sync.WaitGroup
			run := func(what string, f func() error) {
				wg.Go(func() {
					began := time.Now()
					if err := f(); err != nil {
						t.Errorf("%s: %v", what, err)
					}
					if d := time.Since(began); d > 10*time.Second {
						t.Logf("%s %d bytes %d ch took %v", what, size, ch, d)
					}
				})
			}
			for i := range 3 {
				run("get", func() error {
					b, err := tryGet(ctx, n, py.id, "p", 0, -1)
					if err == nil && len(b) != size {
						err = fmt.Errorf("%d bytes", len(b))
					}
					return err
				})
				run("put", func() error { return n.Put(ctx, py.id, fmt.Sprint("u", i), int64(size), bytes.NewReader(data)) })
				run("pyget", func() error {
					a := py.do(request{Op: "get", Key: "g", Endpoint: n.id.String()})
					if a.Size != size {
						return fmt.Errorf("%+v", a)
					}
					return nil
				})
				run("pyset", func() error {
					a := py.do(request{Op: "set", Key: fmt.Sprint("s", i), Size: size, Endpoint: n.id.String()})
					if a.Error != "" {
						return fmt.Errorf("%+v", a)
					}
					return nil
				})
				if round%2 == 0 {
					wg.Wait()
				}
			}
			wg.Wait()
			if t.Failed() {
				g := n.find(py.id)
				g.mu.Lock()
				cur := g.cur
				g.mu.Unlock()
				if cur != nil && cur.conn != nil {
					t.Logf("%+v %+v", cur.conn.Stats(), cur.session.Stats())
				}
			}
		})
	}
}
