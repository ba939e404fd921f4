//go:build !linux

package tcp

import (
	"errors"
	"net"
	"os"
	"time"

	"github.com/proxyplane/proxyplane/transport/native"
)

// Elsewhere the net package does the system calls, nothing polls, and files are not passed.

var errWouldBlock = errors.New("would block")

type rawIO struct{ files *fileQueue }

func newRawIO(net.Conn, time.Duration) *rawIO { return nil }

func (x *rawIO) read(p []byte, wait bool) (int, error) { return 0, errors.ErrUnsupported }
func (x *rawIO) write(parts [][]byte, f *os.File, wait bool) (int, error) {
	return 0, errors.ErrUnsupported
}

func (c *carrier) carrier() native.Carrier { return c }

func polling(nc net.Conn, _ time.Duration) net.Conn { return nc }

type fileQueue struct{}

func (*fileQueue) arrived(uint64)       {}
func (*fileQueue) begin(uint64, uint64) {}
func (*fileQueue) drop()                {}
func (*fileQueue) close()               {}
