// Package zmq keeps objects in the memory of the nodes that made them and moves them over ZeroMQ: Python's
// proxystore_ex.connectors.dim.zmq.ZeroMQConnector, class and keys alike. It is package connectors/dim over package transport/zmq.
//
// # Wire format
//
// ZMTP 3.1, plain or CURVE. Among programs of this module the native protocol (docs/protocol.md) in ZeroMQ frames; with Python, in either direction,
// the pickled RPCs of proxystore_ex.connectors.dim.models (package connectors/dim/rpc). A connector finds out by itself which of both a server is.
//
// # Keys
//
// [connectors.DIMKey] with dim_type "zmq": any object has the same key in Go and in Python.
//
// # Servers
//
// As package connectors/dim says: the server at address and port is used, whoever started it, or one is started in this process, which serves Python too.
// Without option address or interface it is this machine's own address, as in Python. That is seldom loopback, and a server that others can reach needs
// option token or curve_server_secret_file, neither of which Python's connector has, or option insecure, which is what Python's servers are.
//
// # Capabilities
//
// All but Tagger and ClearCloser; Mapper only for a server in this process. Against a server of Python the functions of package connectors fall back:
// objects are whole in memory on both sides, and Wait polls.
//
// # Close
//
// As package connectors/dim says: a server in this process ends, with its objects, when the last connector that uses it is closed. Python's
// close(kill_server=True), its default, ends the server with the connector that started it, whoever else uses it.
//
// # Buffers
//
// Get reads from the socket into pooled memory of the object's size; from a server of Python the Buffer is a view into its answer.
//
// # Build tags
//
// None needed. With tag zmq (and cgo) option libzmq has libzmq carry the same wire. The form in Go is faster, and so the default even then.
package zmq
