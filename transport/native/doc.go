// Package native is proxyplane's own protocol between object servers and clients: framed, multiplexed requests and chunk streams. It runs over any
// [Carrier]: package tcp has one for TCP, unix sockets and TLS, package zmq for ZeroMQ messages, package ucx for active messages. docs/protocol.md
// specifies it byte by byte.
//
// [NewClient] and [Server.ServeCarrier] open the two ends of a session. [NewResumer] reads an object to its end over as many connections as that
// takes.
//
// A short call costs a system call to send and one to receive on either side, and hands nothing to another goroutine; a long one allocates nothing
// per chunk. BenchmarkNative compares both with the bare socket.
package native
