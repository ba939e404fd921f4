//go:build unix && cgo && ucx

package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/internal/testenv"
	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/ucx"
)

// Which devices UCX takes is for UCX_TLS and UCX_NET_DEVICES to say; all rivals see the same environment.
func init() {
	carriers["ucx"] = carrier{func(ctx context.Context, store objects.Store) (objects.Server, error) {
		return ucx.Listen(ctx, "127.0.0.1:0", store, ucx.ListenOptions{BusyPoll: *pollFlag})
	}, func(ctx context.Context, addr string) (objects.Client, error) {
		return ucx.Dial(ctx, addr, ucx.DialOptions{BusyPoll: *pollFlag})
	}}
	nets = append(nets, netCase{name: "ucx", ops: []string{"put", "get"}, flight: 16, rivals: []rivalOf{{ours, openOurs("ucx")}, {rivalRaw, openRaw("raw-tcp")},
		{rivalNative, openPerftest}, {rivalPython, openPythonUCX}}})
}

func openPythonUCX(_ *testing.B, obj []byte) (rival, error) {
	interpreter, ok := testenv.FindPythonUCX()
	if !ok {
		return nil, nil
	}
	return &pythonRival{interpreter, "ucx", len(obj)}, nil
}

// perftestLimit is for one test of ucx_perftest, which takes some hundred milliseconds.
const perftestLimit = 30 * time.Second

// perftest is ucx_perftest, UCX's own measure, which reports means only. It sleeps while it waits, as we do, unless -poll is given. A request and its
// answer are the sum of a small message one way and a large one the other; with many in flight it is the one way that counts.
type perftest struct {
	program string
	size    int
	perOp   map[int]time.Duration // of the last test, by size: how many will go into a turn
}

func openPerftest(_ *testing.B, obj []byte) (rival, error) {
	program, err := exec.LookPath("ucx_perftest")
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: no ucx_perftest (install ucx-utils to see it)")
		return nil, nil
	}
	return &perftest{program, len(obj), map[int]time.Duration{}}, nil
}

func (p *perftest) round(_ string, flight int, until time.Duration) (sample, error) {
	if flight > 1 {
		t, n, err := p.run("tag_bw", p.size, until, "-O", strconv.Itoa(flight))
		return sample{[]time.Duration{t}, t * time.Duration(n), n}, err
	}
	small, _, err := p.run("tag_lat", 8, until/4)
	if err != nil {
		return sample{}, err
	}
	large, n, err := p.run("tag_lat", p.size, until)
	t := small + large
	return sample{[]time.Duration{t}, t * time.Duration(n), n}, err
}

// run does one test between two new processes and returns the time per message and their number.
func (p *perftest) run(test string, size int, until time.Duration, more ...string) (time.Duration, int, error) {
	n := max(3, min(1000, (64<<20)/size)) // the first time
	if last := p.perOp[size]; last > 0 {
		n = max(3, min(100_000, int(until/last)))
	}
	wait := "sleep"
	if *pollFlag > 0 {
		wait = "poll"
	}
	args := append([]string{"-t", test, "-s", strconv.Itoa(size), "-n", strconv.Itoa(n), "-w", strconv.Itoa(max(2, n/10)), "-E", wait, "-f", "-v"}, more...)
	var out []byte
	var err error
	for range 3 { // a machine that is very busy may take long; and two processes that sleep for each other never end
		if out, err = p.pair(args, wait); err == nil || !errors.Is(err, context.DeadlineExceeded) {
			break
		}
	}
	if err != nil {
		return 0, 0, fmt.Errorf("ucx_perftest: %w", err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	fields := strings.Split(lines[len(lines)-1], ",") // iterations, percentile, average and overall time, ...
	if len(fields) < 4 {
		return 0, 0, fmt.Errorf("ucx_perftest says %q", out)
	}
	us, err := strconv.ParseFloat(strings.TrimSpace(fields[3]), 64)
	if err != nil {
		return 0, 0, err
	}
	t := time.Duration(us * float64(time.Microsecond))
	p.perOp[size] = t
	return t, n, nil
}

// pair runs a server and a client, and returns what the client says.
func (p *perftest) pair(args []string, wait string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), perftestLimit)
	defer cancel()
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	server := exec.CommandContext(ctx, p.program, "-p", port, "-E", wait)
	if err := server.Start(); err != nil {
		return nil, err
	}
	defer server.Wait()
	defer server.Process.Kill()
	var out []byte
	for range 100 { // until the server listens
		if out, err = exec.CommandContext(ctx, p.program, append([]string{"127.0.0.1", "-p", port}, args...)...).Output(); err == nil {
			return out, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("no end within %v: %w", perftestLimit, ctx.Err())
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil, err
}

func (p *perftest) close() {}
