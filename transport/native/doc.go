// Package native is proxyplane's own protocol between object servers and clients: framed, multiplexed requests and chunk streams. It runs over any
// [Carrier]: package tcp has one for TCP, unix sockets and TLS, package zmq for ZeroMQ messages, package ucx for active messages. docs/protocol.md
// specifies it byte by byte.
package native
