//go:build cgo && zmq

package main

import "github.com/proxyplane/proxyplane/cgo/zmq"

// zmqNote says which ZeroMQ this is.
func zmqNote() string {
	_, loaded := zmq.Versions()
	return "ZMTP 3.1 in Go, or with option libzmq by libzmq " + loaded.String()
}
