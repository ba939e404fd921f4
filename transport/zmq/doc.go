// Package zmq carries objects over ZeroMQ: the native protocol between our own servers and clients, and the multipart messages of ProxyStore's
// Python ZeroMQConnector and its server, told apart by the first message of a connection. One listening address serves both.
//
// # No libzmq
//
// The package speaks ZMTP 3.1 (RFC 23/37, and 3.0 with older peers) with the NULL and CURVE mechanisms itself, on Go's own sockets. That is not for
// want of libraries. libzmq moves each message through a queue to an I/O thread and back, go-zeromq/zmq4 through goroutines and channels, and each
// copies what it sends and what it receives. A request and its answer of 1 kB take 91 µs with pebbe/zmq4 where plain Go TCP takes 55; at 1 MB it is
// 302 to 133. Here the goroutine that wants an answer reads the socket itself, a message leaves in one writev whatever the number of its frames, and
// the body of a frame is read straight into the memory where the object stays.
//
// With build tag zmq (and cgo) the options Libzmq choose libzmq for the same wire, with zero-copy sends and receives; the tests run over both, and
// BenchmarkForms compares them. It is not the default even then: the form in Go is faster below 1 MiB and no slower above, and bounds what an unknown peer
// can make it hold (libzmq keeps a message whole, however many parts it has, before anybody hears of it).
//
// What is not here: PUB, SUB, PUSH, PULL and the rest of ZeroMQ's patterns, reconnecting in the background, and queues. A server accepts REQ,
// DEALER and ROUTER peers and calls itself a ROUTER; a client is a DEALER.
//
// # Security
//
// Without [CurveServer] or a token a server listens on loopback only, unless [ListenOptions].Insecure allows more. A token binds native clients;
// Python's connector can present none and cannot speak CURVE, so that a server with a token serves Python only if Insecure is set too. CURVE encrypts
// and authenticates every frame. It has to copy: a box is opened only when all of it is there, and is made in memory of its own.
//
// # Heartbeats
//
// A PING is answered by whoever reads the connection. A server always reads, but while it works on a request of Python's; a client reads while one of
// its calls waits, so that a server which sets heartbeats loses idle clients. This package sends no PING: TCP's keepalive finds hosts that are gone, and
// StallTimeout peers that hang.
package zmq
