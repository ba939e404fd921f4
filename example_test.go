package proxyplane_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/transport"
)

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}

// tempStore opens a file store in a directory that the returned function removes.
func tempStore() (*proxyplane.Store, func()) {
	dir := must(os.MkdirTemp("", "example"))
	s := must(proxyplane.Open(context.Background(), proxyplane.NewConfig("", proxyplane.FileConnector(dir))))
	return s, func() {
		s.Close(context.Background())
		os.RemoveAll(dir)
	}
}

// An object is stored once and passed as a proxy of a few hundred bytes.
func Example() {
	ctx := context.Background()
	store, done := tempStore()
	defer done()

	p := must(proxyplane.NewProxy(ctx, store, strings.Repeat("large ", 1<<20)))
	wire := must(json.Marshal(p)) // or p.Pickle() for a Python worker

	// Elsewhere: decoding contacts nothing.
	q := must(proxyplane.ParseProxy[string](wire))
	fmt.Println("resolved on arrival:", q.Resolved())
	text := must(q.Resolve(ctx))
	fmt.Println(len(text), "bytes behind a proxy of less than 1 kB:", len(wire) < 1000)
	// Output:
	// resolved on arrival: false
	// 6291456 bytes behind a proxy of less than 1 kB: true
}

// A view is the connector's own memory: no byte is copied, whatever the size.
func ExampleGet_view() {
	ctx := context.Background()
	store, done := tempStore()
	defer done()

	key := must(store.Put(ctx, make([]byte, 64<<20)))
	view := must(proxyplane.Get[*transport.Buffer](ctx, store, key))
	defer view.Release()
	fmt.Println(view.Len(), "bytes of", view.Backing(), "memory")
	// Output: 67108864 bytes of mmap memory
}

// NumPy arrays keep their type and shape, and Python reads them as such.
func ExampleNewProxy_array() {
	ctx := context.Background()
	store, done := tempStore()
	defer done()

	a := must(serialize.NewArray([]float64{1, 2, 3, 4, 5, 6}, 2, 3))
	p := must(proxyplane.NewProxy(ctx, store, a))
	back := must(p.Resolve(ctx))
	defer back.Release()
	fmt.Println(back, must(serialize.View[float64](back)))
	// Output: ndarray(dtype <f8, shape [2 3]) [1 2 3 4 5 6]
}

// A future's proxy can be handed out before its value exists.
func ExampleNewFuture() {
	ctx := context.Background()
	store, done := tempStore()
	defer done()

	f := must(proxyplane.NewFuture[string](ctx, store, proxyplane.Polling{Timeout: time.Minute}))
	p := f.Proxy()
	go func() { f.Set(ctx, "here it is") }()
	fmt.Println(must(p.Resolve(ctx))) // waits by event
	// Output: here it is
}

// An owner takes its object along, and lends it by Rust's rules.
func ExampleNewOwned() {
	ctx := context.Background()
	store, done := tempStore()
	defer done()

	o := must(proxyplane.NewOwned(ctx, store, "mine"))
	r := must(o.Borrow())
	_, err := o.MutBorrow()
	fmt.Println(err)
	r.Release()
	fmt.Println(o.Close(ctx), must(store.Exists(ctx, o.Key())))
	// Output:
	// object is borrowed: by 1 Refs
	// <nil> false
}

// Part of an object can be read without the rest.
func ExampleProxy_ReadRange() {
	ctx := context.Background()
	store, done := tempStore()
	defer done()

	p := must(proxyplane.NewProxy(ctx, store, []byte("0123456789"), proxyplane.Populate(false)))
	part := must(p.ReadRange(ctx, 3, 4))
	defer part.Release()
	fmt.Println(string(part.Bytes()), p.Resolved())
	// Output: 3456 false
}

// A lifetime evicts what was put in it.
func ExampleContextLifetime() {
	store, done := tempStore()
	defer done()

	ctx := context.Background()
	l := proxyplane.ContextLifetime(ctx)
	key := must(store.Put(ctx, "short-lived", proxyplane.InLifetime(l)))
	l.Close(ctx)
	fmt.Println(must(store.Exists(ctx, key)))
	// Output: false
}

// What a received proxy may open is a policy. The default allows loopback hosts and directories of one's own.
func ExampleWithPolicy() {
	ctx := context.Background()
	stores := proxyplane.NewStores(proxyplane.WithPolicy(proxyplane.Policy{Hosts: []string{"*.cluster.example"}}))
	defer stores.Close(ctx)

	received := []byte(`{"proxyplane":1,"flavour":"Proxy","evict":false,"key":{"kind":"redis","key":["k"]},
		"store":{"name":"s","connector":{"kind":"redis","options":{"hostname":"elsewhere.example","port":6379}}}}`)
	p := must(proxyplane.ParseProxy[[]byte](received))
	p.Bind(stores)
	_, err := p.Resolve(ctx)
	fmt.Println(err)
	// Output: proxy of RedisKey(redis_key="k"): denied by policy: the proxy's redis connector is at host "elsewhere.example"; allow it with Policy.Hosts or --allow-host if you trust it
}
