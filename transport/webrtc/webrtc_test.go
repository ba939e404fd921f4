package webrtc_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport/webrtc"
)

// certificates are made once: it takes time, and only their difference matters.
var certificates = sync.OnceValue(func() [2]tls.Certificate {
	var out [2]tls.Certificate
	for i := range out {
		c, err := webrtc.NewCertificate()
		if err != nil {
			panic(err)
		}
		out[i] = c
	}
	return out
})

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// noLeaks checks at the end of a test, after what was registered later, that no goroutine of it runs any more.
func noLeaks(t testing.TB) {
	t.Helper()
	before := stacks()
	t.Cleanup(func() {
		var left []string
		for start := time.Now(); time.Since(start) < 5*time.Second; time.Sleep(5 * time.Millisecond) {
			left = left[:0]
			for id, s := range stacks() {
				if _, ok := before[id]; !ok {
					left = append(left, s)
				}
			}
			if len(left) == 0 {
				return
			}
		}
		t.Errorf("%d goroutines still run:\n%s", len(left), strings.Join(left, "\n"))
	})
}

func stacks() map[string]string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	out := make(map[string]string)
	for _, s := range strings.Split(string(buf), "\n\n")[1:] { // the first is this one
		if strings.Contains(s, "testing.(*T).") && !strings.Contains(s, "webrtc") || strings.Contains(s, "testing.tRunner.func") || strings.Contains(s, "testing.runFuzz") {
			continue
		}
		id, _, _ := strings.Cut(s, " [")
		out[id] = s
	}
	return out
}

type pair struct{ offerer, answerer *webrtc.Agent }

// agents makes two Agents. change may change the offerer's (0) and the answerer's (1) Config.
func agents(t testing.TB, change func(i int, c *webrtc.Config)) pair {
	t.Helper()
	var p pair
	for i, a := range []**webrtc.Agent{&p.offerer, &p.answerer} {
		c := webrtc.Config{Loopback: true, Certificate: certificates()[i]}
		if change != nil {
			change(i, &c)
		}
		var err error
		if *a, err = webrtc.NewAgent(c); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { (*a).Close() })
	}
	return p
}

// signal exchanges offer and answer, as JSON.
func (p pair) signal(t testing.TB, o webrtc.AnswerOptions) {
	t.Helper()
	ctx := testContext(t)
	offer, err := p.offerer.Offer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if offer, err = webrtc.ParseDescription(offer.String()); err != nil {
		t.Fatal(err)
	}
	answer, err := p.answerer.Answer(ctx, offer, o)
	if err != nil {
		t.Fatal(err)
	}
	if answer, err = webrtc.ParseDescription(answer.String()); err != nil {
		t.Fatal(err)
	}
	if err := p.offerer.Accept(answer); err != nil {
		t.Fatal(err)
	}
}

func both[T any](t testing.TB, p pair, f func(*webrtc.Agent) (T, error)) (a, b T) {
	t.Helper()
	var errs [2]error
	var wg sync.WaitGroup
	wg.Go(func() { a, errs[0] = f(p.offerer) })
	wg.Go(func() { b, errs[1] = f(p.answerer) })
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("%s: %v", []string{"offerer", "answerer"}[i], err)
		}
	}
	return a, b
}

func (p pair) connect(t testing.TB) (a, b webrtc.Pair) {
	t.Helper()
	ctx := testContext(t)
	return both(t, p, func(a *webrtc.Agent) (webrtc.Pair, error) { return a.Connect(ctx) })
}

func (p pair) channels(t testing.TB) (a, b *webrtc.Channels) {
	t.Helper()
	ctx := testContext(t)
	return both(t, p, func(a *webrtc.Agent) (*webrtc.Channels, error) { return a.Channels(ctx) })
}

// connected returns the channels of two connected Agents.
func connected(t testing.TB, o webrtc.AnswerOptions, change func(i int, c *webrtc.Config)) (pair, *webrtc.Channels, *webrtc.Channels) {
	t.Helper()
	p := agents(t, change)
	p.signal(t, o)
	p.connect(t)
	a, b := p.channels(t)
	return p, a, b
}

// channel opens one from a to b.
func channel(t testing.TB, a, b *webrtc.Channels, label string, ordered bool) (x, y *webrtc.Channel) {
	t.Helper()
	ctx := testContext(t)
	x, err := a.Open(ctx, label, ordered)
	if err != nil {
		t.Fatal(err)
	}
	if y, err = b.Accept(ctx); err != nil {
		t.Fatal(err)
	}
	if y.Label() != label || y.Ordered() != ordered {
		t.Fatalf("channel %q, ordered %v came as %q, %v", label, ordered, y.Label(), y.Ordered())
	}
	return x, y
}

func TestMessages(t *testing.T) {
	for _, passive := range []bool{false, true} {
		for _, ordered := range []bool{false, true} {
			t.Run(fmt.Sprintf("passive=%v/ordered=%v", passive, ordered), func(t *testing.T) {
				noLeaks(t)
				_, a, b := connected(t, webrtc.AnswerOptions{Passive: passive}, nil)
				x, y := channel(t, a, b, "one", ordered)
				buf := make([]byte, 256<<10)
				for _, size := range []int{1, 0, 100, 1164, 1165, 32 << 10, 256 << 10} {
					msg := bytes.Repeat([]byte{byte(size)}, size)
					for _, d := range [][2]*webrtc.Channel{{x, y}, {y, x}} {
						if _, err := d[0].Write(msg); err != nil {
							t.Fatal(err)
						}
						n, err := d[1].Read(buf)
						if err != nil || !bytes.Equal(buf[:n], msg) {
							t.Fatalf("%d bytes came as %d: %v", size, n, err)
						}
						if err := d[0].WriteSlices(msg[:size/2], nil, msg[size/2:]); err != nil {
							t.Fatal(err)
						}
						if n, err := d[1].Read(buf); err != nil || !bytes.Equal(buf[:n], msg) {
							t.Fatalf("%d bytes in parts came as %d: %v", size, n, err)
						}
					}
				}
				if err := x.Close(); err != nil {
					t.Fatal(err)
				}
				if _, err := y.Read(buf); err != io.EOF {
					t.Fatalf("after the peer's Close: %v", err)
				}
				if a.RTT() <= 0 {
					t.Error("no round-trip time was measured")
				}
			})
		}
	}
}
