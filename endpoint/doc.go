// Package endpoint is an endpoint: an object store that clients on the local network reach by HTTP, and that forwards requests for objects of other
// endpoints to them. What belongs here: [Endpoint] (which request goes where), the HTTP API on it, its metrics, and [Run], which puts an endpoint
// together from its directory and serves it. How objects are kept is package storage's matter, how peers are reached that of package peer, and what the
// files in the directory mean that of package config.
//
// # HTTP API of ProxyStore
//
// Source: proxystore/endpoint/serve.py and client.py, 1.1.0. Parameters are in the query: key, and endpoint, the UUID of the endpoint that has the object
// (none, or our own: this one; without a relay every one is this one).
//
//	GET  /          200, empty
//	GET  /endpoint  {"uuid": "...", "proxyplane": 1}
//	GET  /exists    {"exists": true}
//	GET  /get       the object; 404 only if there is none: "no data associated with request key"
//	POST /set       the body is the object
//	POST /evict
//
// 400 says what is wrong with a request in ProxyStore's words ("request missing key", "x is not a valid UUID4", "received empty payload"); 500 is a peer
// that could not do it, with the reason as text. Keys have at most objects.MaxID bytes.
//
// # Beyond it
//
//	GET /get        has Content-Length, ETag and Last-Modified; Range with one range (206, 416; several are answered by the whole), If-Match (412),
//	                If-None-Match, If-Modified-Since (304), If-Unmodified-Since, If-Range. RFC 9110. HEAD likewise: what is known of the object
//	POST /set       If-None-Match: * stores only what is not there (412); Proxyplane-Empty: 1 allows an empty object
//	GET /exists     wait=SECONDS answers as soon as the object exists, or false after that time (at most 300)
//	POST /batch/exists, /batch/evict   {"keys": [...], "endpoint": "..."} gives {"exists": [...]} and {}
//	POST /batch/get                    the same gives, per key, its length as 8 bytes, big-endian, and the bytes; 2^64-1 and nothing if there is none
//	POST /batch/set                    8 bytes of length, that JSON, and then per key 8 bytes of length and the object; {"stored": n}
//	GET /health                        {"status": "ok"}, or 503 while it ends
//	GET /status                        what there is to know, as JSON: storage, relay, peers
//	GET /metrics                       for Prometheus
//
// 401 a token is wanted (Authorization: Bearer), 403 refused, 408 a body that does not come, 413 longer than objects may be, 503 too many requests, 507
// no room. Requests by web pages (with Origin, or a Sec-Fetch-Site other than none) are refused: a page anywhere could otherwise read and write objects
// through its visitor's browser. An answer that breaks off in the middle means that the rest of the object could not be had.
//
// # Bytes
//
// Bodies are streamed both ways. What comes goes from the socket into the memory, or to the file, where the object is going to stay; what goes is sent
// from there: by sendfile if it is a file. No time limit holds for a transfer as a whole, only for each of its steps (Options.Stall).
//
// # Metrics
//
//	proxyplane_endpoint_requests_total{op,status}      answered requests
//	proxyplane_endpoint_request_seconds{op}            histogram
//	proxyplane_endpoint_body_bytes_total{direction}    in, out
//	proxyplane_endpoint_requests_in_flight
//	proxyplane_endpoint_objects, _object_bytes         what is stored here
//	proxyplane_endpoint_relay_connected                1 or 0
//	proxyplane_endpoint_peers                          connected peers
package endpoint
