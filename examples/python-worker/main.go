// Python-worker stores an array, hands its proxy to a Python process that uses the real ProxyStore, and resolves the proxy that comes back. Only
// the two proxies go through the pipes; the arrays go through the store, and are never copied on this side.
package main

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"log"
	"math"
	"os"
	"os/exec"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/serialize"
)

//go:embed worker.py
var worker string

func main() {
	dir, err := os.MkdirTemp("", "proxyplane-example-")
	if err != nil {
		log.Fatal(err)
	}
	frequency, err := loudest(context.Background(), cmp.Or(os.Getenv("PYTHON"), ".venv-1.1/bin/python"), dir)
	os.RemoveAll(dir)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("the loudest frequency is %d Hz\n", frequency)
}

// loudest makes one second of sound and has Python find its loudest frequency.
func loudest(ctx context.Context, python, dir string) (frequency int, err error) {
	store, err := proxyplane.Open(ctx, proxyplane.NewConfig("", proxyplane.FileConnector(dir)))
	if err != nil {
		return 0, err
	}
	defer store.Close(ctx)

	const rate = 48_000
	sound := make([]float64, rate)
	for i := range sound {
		at := 2 * math.Pi * float64(i) / rate
		sound[i] = math.Sin(440*at) + 0.3*math.Sin(1000*at)
	}
	samples, err := serialize.NewArray(sound) // a numpy.ndarray, not a list
	if err != nil {
		return 0, err
	}
	p, err := proxyplane.NewProxy(ctx, store, samples)
	if err != nil {
		return 0, err
	}
	task, err := p.Pickle()
	if err != nil {
		return 0, err
	}

	cmd := exec.CommandContext(ctx, python, "-c", worker)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(task), os.Stderr
	answer, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("worker: %w", err)
	}

	q, err := proxyplane.ParseProxy[*serialize.Array](answer) // decoded, never executed
	if err != nil {
		return 0, err
	}
	spectrum, err := q.Resolve(ctx)
	if err != nil {
		return 0, err
	}
	defer spectrum.Release()
	loudness, err := serialize.View[float64](spectrum) // the file's own memory
	if err != nil {
		return 0, err
	}
	for f := range loudness {
		if loudness[f] > loudness[frequency] {
			frequency = f
		}
	}
	return frequency, nil
}
