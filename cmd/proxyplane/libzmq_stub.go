//go:build !cgo || !zmq

package main

// zmqNote says which ZeroMQ this is.
func zmqNote() string {
	return "ZMTP 3.1 in Go; for option libzmq build with -tags zmq (Debian: libzmq3-dev)"
}
