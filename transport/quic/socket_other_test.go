//go:build !linux

package quic

import (
	"math"
	"net"
	"testing"
)

const gsoExpected = false

func receiveBuffer(testing.TB, *net.UDPConn) int { return math.MaxInt }
