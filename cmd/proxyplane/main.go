// Command proxyplane stores objects, hands out proxies of them and resolves proxies, from the command line and for scripts. `proxyplane demo`
// shows all of it on real files in a few seconds; docs/cli.md is the reference.
//
// One file per command: store objects (put.go, get.go), proxies (proxy.go, resolve.go, inspect.go), operations (config.go, doctor.go, serve.go,
// ping.go), sites (endpoint.go, endpoint_start.go with the daemon, endpoint_try.go, which is `endpoint test`, relay.go), the demonstration (demo.go,
// with its second process in demo_worker.go). What they share: exit.go (exit codes), app.go (flags, streams, stores), object.go (an object to and from a
// stream), jsonvalue.go (JSON to and from Python's values).
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

func main() { os.Exit(run()) }

// errSignal is the cause of a context that a signal ended.
type errSignal struct{ sig syscall.Signal }

func (e errSignal) Error() string { return "stopped by " + e.sig.String() }

// grace is how long a command may take to clean up after a signal, unless it asks for more. It ends at once with the second one.
const grace = 10 * time.Second

// run runs the command line and returns the exit code. It returns, rather than exits, so that every deferred clean-up has run.
func run() int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	var got atomic.Int32
	a := newApp()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	// Otherwise a write to a pipe whose reader has gone would end the process on the spot, without its clean-up. Not signal.Ignore, which
	// child processes would inherit.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	go func() {
		sig := (<-signals).(syscall.Signal)
		got.Store(int32(sig))
		cancel(errSignal{sig})
		select {
		case <-signals:
		case <-time.After(grace + time.Duration(a.moreGrace.Load())): // blocked where no context reaches, such as in a write to a pipe that nobody reads
		}
		os.Exit(128 + int(sig))
	}()

	cmd, err := a.root().ExecuteContextC(ctx)
	a.named = cmd.CommandPath()
	if sig := got.Load(); sig != 0 && err != nil {
		fmt.Fprintf(a.err, "proxyplane: stopped by signal %d; nothing half-written is left behind\n", sig)
		return 128 + int(sig)
	}
	return a.report(err)
}
