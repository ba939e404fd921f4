package webrtc_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/internal/testenv"
	"github.com/proxyplane/proxyplane/transport/webrtc"
)

// python is testdata/peer.py.
type python struct {
	t     testing.TB
	in    io.WriteCloser
	lines chan string
}

func startPython(t testing.TB, args ...string) *python {
	t.Helper()
	cmd := exec.Command(testenv.Python(t, testenv.ProxyStore11), append([]string{"-W", "ignore", "testdata/peer.py"}, args...)...)
	p := &python{t: t, lines: make(chan string, 16)}
	var err error
	if p.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(p.lines)
		s := bufio.NewScanner(out)
		s.Buffer(nil, 1<<20)
		for s.Scan() {
			p.lines <- s.Text()
		}
	})
	t.Cleanup(func() {
		p.in.Close()
		kill := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
		defer kill.Stop()
		for range p.lines {
		}
		wg.Wait()
		if err := cmd.Wait(); err != nil {
			t.Errorf("python: %v\n%s", err, stderr.Bytes())
		} else if t.Failed() && stderr.Len() > 0 {
			t.Logf("python said:\n%s", stderr.Bytes())
		}
	})
	return p
}

func (p *python) tell(s string) {
	p.t.Helper()
	if _, err := io.WriteString(p.in, s+"\n"); err != nil {
		p.t.Fatal(err)
	}
}

func (p *python) line() string {
	p.t.Helper()
	limit := time.NewTimer(60 * time.Second)
	defer limit.Stop()
	select {
	case l, ok := <-p.lines:
		if !ok {
			p.t.Fatal("python has ended")
		}
		return l
	case <-limit.C:
		p.t.Fatal("no word from python")
	}
	return ""
}

func (p *python) description() webrtc.Description {
	p.t.Helper()
	l := p.line()
	d, err := webrtc.ParseDescription(l)
	if err != nil {
		p.t.Fatal(err)
	}
	if d.String() != l {
		p.t.Errorf("aiortc writes %s, we %s", l, d)
	}
	return d
}

// withPython returns n channels between an Agent, on a Mux if one is given, and Python.
func withPython(t testing.TB, offers bool, n int, tuning webrtc.Tuning, mux *webrtc.Mux) (*webrtc.Channels, []*webrtc.Channel, *python) {
	t.Helper()
	ctx := testContext(t)
	a, err := webrtc.NewAgent(webrtc.Config{Mux: mux, Certificate: certificates()[0], Attributes: map[string]string{"proxyplane": "eyJ2IjoxfQ"}, Tuning: tuning})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	var p *python
	if offers {
		p = startPython(t, "offer", fmt.Sprint(n))
		answer, err := a.Answer(ctx, p.description(), webrtc.AnswerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p.tell(answer.String())
	} else {
		p = startPython(t, "answer")
		offer, err := a.Offer(ctx)
		if err != nil {
			t.Fatal(err)
		}
		p.tell(offer.String())
		answer := p.description()
		if _, ours := answer.Attribute("proxyplane"); ours {
			t.Error("aiortc's answer has our attribute")
		}
		if err := a.Accept(answer); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	c, err := a.Channels(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var channels []*webrtc.Channel
	for i := range n {
		var ch *webrtc.Channel
		label := fmt.Sprintf("p2p-%d-%d", i, n)
		if offers {
			if ch, err = c.Accept(ctx); err == nil && !strings.HasPrefix(ch.Label(), "p2p-") {
				t.Errorf("label %q", ch.Label())
			}
		} else {
			ch, err = c.Open(ctx, label, false)
		}
		if err != nil {
			t.Fatal(err)
		}
		if ch.Ordered() {
			t.Error("the channel is ordered")
		}
		channels = append(channels, ch)
	}
	if l := p.line(); l != "open" {
		t.Fatalf("python says %q", l)
	}
	return c, channels, p
}

func TestPython(t *testing.T) {
	for _, offers := range []bool{false, true} {
		for _, n := range []int{1, 4} {
			t.Run(fmt.Sprintf("offers=%v/channels=%d", offers, n), func(t *testing.T) {
				noLeaks(t)
				c, channels, p := withPython(t, offers, n, webrtc.Tuning{}, nil)
				wholeThereAndBack(t, channels, uint64(n))
				if err := c.Close(); err != nil {
					t.Error(err)
				}
				if l := p.line(); l != "closed" {
					t.Errorf("after Close python says %q", l)
				}
			})
		}
	}
}

// TestPythonBuffer has all of Python's acknowledgements looked at.
func TestPythonBuffer(t *testing.T) {
	for _, offers := range []bool{false, true} {
		t.Run(fmt.Sprintf("offers=%v", offers), func(t *testing.T) {
			noLeaks(t)
			_, channels, _ := withPython(t, offers, 4, webrtc.Tuning{PeerBuffer: 80 << 10}, nil)
			wholeThereAndBack(t, channels, 5)
			transfer(t, channels, 8<<20, 32<<10)
		})
	}
}

// wholeThereAndBack sends objects of 1 B to 1 MiB, cut into parts as ProxyStore does, there and back.
func wholeThereAndBack(t *testing.T, channels []*webrtc.Channel, seed uint64) {
	t.Helper()
	n := len(channels)
	rng := rand.New(rand.NewPCG(1, seed))
	const part = 32 << 10
	for _, size := range []int{1, 100, 1159, 1160, 1161, part - 1, part, part + 1, 1 << 20} {
		want := map[string]int{}
		var parts [][]byte
		for left := size; left > 0; {
			k := min(left, part)
			msg := make([]byte, 1+k)
			for i := range msg {
				msg[i] = byte(rng.Uint32())
			}
			msg[0] = 'E'
			parts = append(parts, msg)
			want[string(msg)]++
			left -= k
		}
		var wg sync.WaitGroup
		for i, ch := range channels {
			wg.Go(func() {
				for j := i; j < len(parts); j += n {
					if err := ch.WriteSlices(parts[j][:1], parts[j][1:]); err != nil {
						t.Error(err)
					}
				}
			})
		}
		var mu sync.Mutex
		for i, ch := range channels {
			wg.Go(func() {
				buf := make([]byte, part+1)
				for j := i; j < len(parts); j += n {
					k, err := ch.Read(buf)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					want[string(buf[:k])]--
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		for _, k := range want {
			if k != 0 {
				t.Fatalf("%d bytes came back otherwise", size)
			}
		}
	}
}

// TestPythonCloses ends the Python side.
func TestPythonCloses(t *testing.T) {
	noLeaks(t)
	c, channels, p := withPython(t, true, 1, webrtc.Tuning{}, nil)
	p.in.Close()
	if n, err := channels[0].Read(make([]byte, 10)); err == nil {
		t.Fatalf("%d bytes came", n)
	}
	<-c.Done()
	t.Log(c.Err())
}

// transfer sends total bytes to Python and asks for as many, in messages of size bytes. It returns the rates in Mbit/s.
func transfer(t testing.TB, channels []*webrtc.Channel, total, size int) (sent, received float64) {
	t.Helper()
	n := len(channels)
	frame := make([]byte, 9)
	frame[0] = 'F'
	binary.BigEndian.PutUint64(frame[1:], uint64(total))
	start := time.Now()
	if _, err := channels[0].Write(frame); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i, ch := range channels {
		wg.Go(func() {
			msg := make([]byte, size)
			msg[0] = 'R'
			for j := i; j < total/size; j += n {
				if _, err := ch.Write(msg); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	buf := make([]byte, 256<<10)
	if k, err := channels[0].Read(buf); err != nil || buf[0] != 'D' || k != 9 {
		t.Fatal(err, buf[:k])
	}
	sent = float64(total) * 8e-6 / time.Since(start).Seconds()
	if true {
		return sent, 0
	}
	frame = append(frame, 0, 0, 0, 0)
	frame[0] = 'S'
	binary.BigEndian.PutUint32(frame[9:], uint32(size))
	start = time.Now()
	if _, err := channels[0].Write(frame); err != nil {
		t.Fatal(err)
	}
	var count atomic.Int64
	for i, ch := range channels {
		wg.Go(func() {
			buf := make([]byte, 256<<10)
			for j := i; j < total/size; j += n {
				k, err := ch.Read(buf)
				if err != nil {
					t.Error(err)
					return
				}
				count.Add(int64(k))
			}
		})
	}
	wg.Wait()
	if count.Load() != int64(total) {
		t.Fatalf("%d of %d bytes came", count.Load(), total)
	}
	return sent, float64(total) * 8e-6 / time.Since(start).Seconds()
}

// BenchmarkPython compares data channels between us and Python with those between two Pythons: Mbit/s both ways, in ProxyStore's messages of 32 KiB.
func BenchmarkPython(b *testing.B) {
	const total, size = 32 << 20, 32 << 10
	tunings := []struct {
		name string
		webrtc.Tuning
	}{{"default", webrtc.Tuning{}}, {"step=2KiB", webrtc.Tuning{WindowStep: 2 << 10}}, {"buffer=96KiB", webrtc.Tuning{PeerBuffer: 96 << 10}}, {"buffer=128KiB", webrtc.Tuning{PeerBuffer: 128 << 10}}, {"buffer=160KiB", webrtc.Tuning{PeerBuffer: 160 << 10}}, {"buffer=64KiB", webrtc.Tuning{PeerBuffer: 64 << 10}}, {"buffer=96KiB,step=2", webrtc.Tuning{PeerBuffer: 96 << 10, WindowStep: 2 << 10}}}
	for _, n := range []int{1, 4} {
		b.Run(fmt.Sprintf("peer=python/channels=%d", n), func(b *testing.B) {
			x, y := startPython(b, "offer", fmt.Sprint(n)), startPython(b, "answer")
			y.tell(x.description().String())
			x.tell(y.description().String())
			for _, p := range []*python{x, y} {
				if l := p.line(); l != "open" {
					b.Fatal(l)
				}
			}
			var sent, received float64
			for b.Loop() {
				x.tell(fmt.Sprintf("drive %d %d", total, size))
				var s, r float64
				if _, err := fmt.Sscanf(x.line(), "drive %g %g", &s, &r); err != nil {
					b.Fatal(err)
				}
				sent += total * 8e-6 / s
				received += total * 8e-6 / r
			}
			b.ReportMetric(sent/float64(b.N), "sentMbit/s")
			b.ReportMetric(received/float64(b.N), "receivedMbit/s")
		})
		for _, offers := range []bool{false, true} {
			for _, tuning := range tunings {
				b.Run(fmt.Sprintf("peer=ours/channels=%d/offers=%v/tuning=%s", n, !offers, tuning.name), func(b *testing.B) {
					_, channels, _ := withPython(b, offers, n, tuning.Tuning, nil)
					var sent, received float64
					for b.Loop() {
						s, r := transfer(b, channels, total, size)
						sent += s
						received += r
					}
					b.ReportMetric(sent/float64(b.N), "sentMbit/s")
					b.ReportMetric(received/float64(b.N), "receivedMbit/s")
				})
			}
		}
	}
}
