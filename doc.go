// Package proxyplane passes large objects between Go services and Python workers by reference. A [Store] puts objects into a connector (local
// memory, files, Redis, several at once, ...) and makes a [Proxy] of each: a few hundred bytes that travel anywhere and fetch the object when,
// and only if, somebody needs it. Stores, keys, objects and proxies are those of Python's ProxyStore 1.1.0 (0.6.5 is read too, and written on
// request), so that a Go service is a full member of a Parsl or Globus Compute deployment.
//
//	store, err := proxyplane.Open(ctx, proxyplane.Config{Connector: proxyplane.FileConnector("/scratch/objects")})
//	p, err := proxyplane.NewProxy(ctx, store, payload)     // stored now
//	wire, err := p.Pickle()                                // to Python; or json.Marshal(p), gob, text
//	...
//	q, err := proxyplane.ParseProxy[[]byte](wire)          // elsewhere: nothing is contacted yet
//	data, err := q.Resolve(ctx)                            // now it is
//
// # Values
//
// An object is a tag and a body (package serialize). T in Get[T], Proxy[T] and Future[T] says what to make of it. Two families:
//
//   - Values (everything but the next three): []byte, string, numbers, slices, maps, structs, any. They live in memory that the garbage
//     collector owns, and resolvers of one key may share one value: treat it as read-only.
//   - Views: *transport.Buffer, *serialize.Array, *serialize.Opaque. They stand on the connector's own memory (a file mapping, a receive
//     buffer) and no byte is copied. Each call returns a reference of its own, which the caller must Release.
//
// # What belongs here
//
// The few types that users hold, and nothing about one connector, codec or transport. store.go: Store, opening and closing it; object.go: put, get,
// streams and ranges; proxy.go and its forms in wire.go (JSON, text, binary) and python.go (pickle); future.go, ref.go (ownership), lifetime.go;
// stores.go: stores by name; policy.go: what a received proxy may open; config.go: StoreConfig and TOML.
package proxyplane
