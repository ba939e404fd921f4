//go:build !linux

package tcp

import (
	"net"
	"syscall"
	"time"
)

func userTimeout(*net.TCPConn, time.Duration) {}

func chmodSocket(syscall.RawConn, uint32) error { return nil }
