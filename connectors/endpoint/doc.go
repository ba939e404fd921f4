// Package endpoint reaches objects through an endpoint on the local network, which asks endpoints of other sites on behalf of its clients: Python's
// proxystore.connectors.endpoint.EndpointConnector. The endpoint is proxyplane's or ProxyStore's.
//
// # Wire format
//
// ProxyStore's HTTP API, as proxystore.endpoint.client uses and proxystore.endpoint.serve serves it: GET /endpoint, /exists and /get, POST /set and /evict,
// with the query parameters key and endpoint. An endpoint of ours says so in its answer to GET /endpoint; then ranges, batches, HEAD and waiting are used too.
// The endpoint is found as Python finds it: of the configurations below the ProxyStore home, the first with one of the UUIDs that answers with it. Where
// proxyplane.toml beside it names a unix socket, a certificate or a token file, those are used.
//
// # Keys
//
// [connectors.EndpointKey]: a random UUID (version 4) and the UUID of the endpoint that has the object, which is the local one for what is put here.
//
// # Capabilities
//
// With an endpoint of ours: Deferrer, BatchPutter, BatchGetter, BatchEvicter, RangeGetter, BytesGetter, StreamPutter, StreamGetter, Stater, Waiter. With one of
// ProxyStore's, GetBatch, PutBatch and EvictBatch do one after the other, GetRange and GetStream fetch the object whole, Wait asks again and again
// (there is no event), and Stat is errors.ErrUnsupported. ProxyStore's endpoints refuse objects of no bytes.
//
// # Close
//
// Close gives the connections back. Objects stay in their endpoint, as with Python.
//
// # Buffers
//
// Get reads from the socket into pooled memory of the size that the endpoint announces; only ProxyStore's endpoints announce none, which costs copies
// while the memory grows. Put sends the caller's memory.
//
// # Build tags
//
// None.
package endpoint
