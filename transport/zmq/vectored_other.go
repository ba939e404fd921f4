//go:build !linux

package zmq

import "net"

// vectored does nothing here: frames are read with one more system call each.
type vectored struct{}

func (v *vectored) init(net.Conn) {}

func (v *vectored) ready() bool { return false }

func (v *vectored) read(a, b []byte) (int, error) { panic("zmq: no vectored read here") }

func (v *vectored) dead() bool { return false }
