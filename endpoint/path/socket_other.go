//go:build !linux

package path

import "net"

// setUserTimeout does nothing: keep-alives and the control connection's pings have to do.
func setUserTimeout(*net.TCPConn) {}
