//go:build cgo && zmq

package main

import "github.com/proxyplane/proxyplane/cgo/zmq"

// zmqNote says which ZeroMQ this is.
func zmqNote() string {
	_, loaded := zmq.Versions()
	return "libzmq " + loaded.String()
}
