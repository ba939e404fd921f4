// Memory is a Go service that keeps its results in memory, and a second process on the same machine that uses them without a copy: it gets the proxy of a
// result, some hundred bytes, and maps the result's memory.
//
//	go run ./examples/memory
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math"
	"os"
	"os/exec"
	"time"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

func main() {
	n := flag.Int("values", 32<<20, "float64 values in the result")
	reader := flag.Bool("reader", false, "be the second process: read a proxy from standard input")
	flag.Parse()
	ctx := context.Background()
	var err error
	if *reader {
		err = read(ctx, os.Stdin, os.Stdout)
	} else {
		err = serve(ctx, *n, os.Stdout)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// serve computes a result, keeps it in memory, and hands its proxy to a second process.
func serve(ctx context.Context, n int, out io.Writer) (err error) {
	// Kind tcp without an address: an object server within this process, on loopback. With option address others reach it over the network,
	// and with kind zmq Python does.
	cfg := proxyplane.NewConfig("", connectors.Config{Kind: "tcp", Options: map[string]any{"memory": int64(3 * 8 * n)}})
	store, err := proxyplane.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close(ctx)) }()

	result := make([]byte, 8*n)
	for i := range n {
		binary.LittleEndian.PutUint64(result[8*i:], math.Float64bits(math.Sqrt(float64(i))))
	}
	p, err := proxyplane.NewProxy(ctx, store, result)
	if err != nil {
		return err
	}
	text, err := p.MarshalText()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "service: a result of %d bytes is in memory, its proxy has %d\n", len(result), len(text))

	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, exe, "-reader")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	_, err = stdin.Write(text)
	return errors.Join(err, stdin.Close(), cmd.Wait())
}

// read maps the result of a proxy and looks at some of its values.
func read(ctx context.Context, in io.Reader, out io.Writer) error {
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	p, err := proxyplane.ParseProxy[[]byte](text) // contacts nothing
	if err != nil {
		return err
	}
	store, err := p.Store(ctx) // loopback, so that the default policy allows it
	if err != nil {
		return err
	}
	// The first time the service moves the object to memory that can be shared. That is once, for all readers.
	var object *transport.Buffer
	var took [2]time.Duration
	for i := range took {
		start := time.Now()
		if object, err = connectors.Map(ctx, store.Connector(), p.Key()); err != nil {
			return err
		}
		defer object.Release() // the bytes are valid until then
		took[i] = time.Since(start).Round(time.Microsecond)
	}

	const tag = 3 // ProxyStore's mark of a bytes object
	values := object.Bytes()[tag:]
	last := len(values)/8 - 1
	v := math.Float64frombits(binary.LittleEndian.Uint64(values[8*last:]))
	if math.Abs(v*v-float64(last)) > 1e-3 {
		return fmt.Errorf("value %d is %v", last, v)
	}
	how := "mapped"
	if object.Backing() != transport.Mapped {
		how = "copied" // not on Linux, or the processes share no unix socket
	}
	fmt.Fprintf(out, "reader: %s %d bytes in %v, and again in %v; the last value is %.3f\n", how, object.Len(), took[0], took[1], v)
	return nil
}
