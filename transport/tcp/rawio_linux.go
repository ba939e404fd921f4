package tcp

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/proxyplane/proxyplane/transport/native"
)

// maxIovecs is IOV_MAX, the most parts that one writev takes.
const maxIovecs = 1024

// maxFiles is how many files of one message are received. One is right; the kernel closes those beyond.
const maxFiles = 4

// errWouldBlock is what reads and writes that shall not wait return instead.
var errWouldBlock = errors.New("would block")

// rawIO does the system calls of a socket itself: writes from many places, files along with bytes, and polling. It allocates nothing.
// One goroutine may read while another one writes.
type rawIO struct {
	rc    syscall.RawConn
	unix  bool
	spin  time.Duration
	files *fileQueue

	rd struct {
		call func(uintptr) bool // made once, since a method value would be made for each read
		iov  unix.Iovec
		msg  unix.Msghdr
		oob  [64]byte // a control message of maxFiles files
		wait bool
		n    int
		err  error
		// polled says that polling has just been in vain.
		polled bool
	}
	wr struct {
		call func(uintptr) bool
		iov  []unix.Iovec
		msg  unix.Msghdr
		oob  [32]byte
		file int // the descriptor to pass, or -1
		wait bool
		n    int
		err  error
	}
}

func newRawIO(nc net.Conn, spin time.Duration) *rawIO {
	x := &rawIO{spin: spin}
	var err error
	switch nc := nc.(type) {
	case *net.TCPConn:
		x.rc, err = nc.SyscallConn()
	case *net.UnixConn:
		x.unix, x.files = true, &fileQueue{}
		x.rc, err = nc.SyscallConn()
	default:
		return nil
	}
	if err != nil {
		return nil // closed already: nc's own errors tell
	}
	x.rd.call, x.wr.call = x.readCall, x.writeCall
	return x
}

// carrier returns c as the Carrier it can be.
func (c *carrier) carrier() native.Carrier {
	if c.files != nil {
		return fileCarrier{c}
	}
	return c
}

// read reads at least one byte into p, which is not empty. At the end of the stream it returns io.EOF. If there is nothing it polls for a while,
// if it shall; then, if wait is set, it waits as net.Conn.Read does, else it returns errWouldBlock.
func (x *rawIO) read(p []byte, wait bool) (int, error) {
	r := &x.rd
	r.iov.Base = &p[0]
	r.iov.SetLen(len(p))
	var n int
	err := errWouldBlock
	if x.spin > 0 && !r.polled {
		n, err = x.poll()
	}
	if err == errWouldBlock {
		r.wait = wait
		n, err = x.readOnce()
	}
	r.polled = err == errWouldBlock // the caller comes again at once, to wait
	r.iov.Base = nil                // it would keep the caller's memory alive
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	return n, err
}

func (x *rawIO) readOnce() (int, error) {
	if err := x.rc.Read(x.rd.call); err != nil {
		return 0, err
	}
	return x.rd.n, x.rd.err
}

// pollers is how many goroutines of this program spin.
var pollers atomic.Int32

const (
	// spinSlice is how long others may wait for the processor while we spin. Yielding after each try would cost more than it is worth: it wakes the
	// scheduler's idle threads.
	spinSlice = 10 * time.Microsecond
	// crowded is how long yielding takes at least if others wanted the processor.
	crowded = 5 * time.Microsecond
)

// poll tries to read again and again, for as long as nobody else needs the processor.
func (x *rawIO) poll() (int, error) {
	x.rd.wait = false
	n, err := x.readOnce()
	if err != errWouldBlock {
		return n, err
	}
	defer pollers.Add(-1)
	if int(pollers.Add(1)) > runtime.GOMAXPROCS(0)/2 {
		return n, err
	}
	now := time.Now()
	for end, slice := now.Add(x.spin), now.Add(spinSlice); now.Before(end); {
		unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) // the peer may be waiting for this very processor
		if n, err = x.readOnce(); err != errWouldBlock {
			return n, err
		}
		before := now
		if now = time.Now(); now.Sub(before) > crowded {
			break
		}
		if now.After(slice) {
			runtime.Gosched()
			before = now
			if now = time.Now(); now.Sub(before) > crowded {
				break
			}
			slice = now.Add(spinSlice)
		}
	}
	return 0, errWouldBlock
}

// readCall does the system call. It returns false if there is nothing and the caller wants to wait.
func (x *rawIO) readCall(fd uintptr) bool {
	r := &x.rd
	for {
		var n uintptr
		var errno syscall.Errno
		if x.unix {
			r.msg.Iov = &r.iov
			r.msg.SetIovlen(1)
			r.msg.Control = &r.oob[0]
			r.msg.SetControllen(len(r.oob))
			n, _, errno = unix.Syscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&r.msg)), unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
			if errno == 0 && r.msg.Controllen > 0 {
				x.files.received(r.oob[:r.msg.Controllen])
			}
		} else {
			n, _, errno = unix.Syscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(r.iov.Base)), uintptr(r.iov.Len))
		}
		switch errno {
		case 0:
			r.n, r.err = int(n), nil
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			r.n, r.err = 0, errWouldBlock
			return !r.wait
		default:
			r.n, r.err = 0, os.NewSyscallError("read", errno)
		}
		return true
	}
}

// write writes some of parts, of which the first is not empty, and f along with the first byte if it is not nil. It returns errWouldBlock if the
// socket is full and wait is not set.
func (x *rawIO) write(parts [][]byte, f *os.File, wait bool) (int, error) {
	w := &x.wr
	w.iov = w.iov[:0]
	for _, p := range parts {
		if len(p) == 0 {
			continue
		}
		v := unix.Iovec{Base: &p[0]}
		v.SetLen(len(p))
		if w.iov = append(w.iov, v); len(w.iov) == maxIovecs {
			break
		}
	}
	w.wait, w.file = wait, -1
	var err error
	if f == nil {
		err = x.rc.Write(w.call)
	} else {
		err = x.writeFile(f)
	}
	clear(w.iov)
	w.msg = unix.Msghdr{}
	if err != nil {
		return 0, err
	}
	return w.n, w.err
}

// writeFile writes with f, whose descriptor it keeps from being closed meanwhile.
func (x *rawIO) writeFile(f *os.File) error {
	fc, err := f.SyscallConn()
	if err != nil {
		return notSentError{err}
	}
	var werr error
	if err := fc.Control(func(fd uintptr) {
		x.wr.file = int(fd)
		werr = x.rc.Write(x.wr.call)
	}); err != nil {
		return notSentError{err} // the file is closed
	}
	return werr
}

func (x *rawIO) writeCall(fd uintptr) bool {
	w := &x.wr
	for {
		var n uintptr
		var errno syscall.Errno
		switch {
		case w.file >= 0:
			w.msg.Iov = &w.iov[0]
			w.msg.SetIovlen(len(w.iov))
			oob := w.oob[:unix.CmsgSpace(4)]
			h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
			h.Level, h.Type = unix.SOL_SOCKET, unix.SCM_RIGHTS
			h.SetLen(unix.CmsgLen(4))
			*(*int32)(unsafe.Pointer(&oob[unix.CmsgLen(0)])) = int32(w.file)
			w.msg.Control = &oob[0]
			w.msg.SetControllen(len(oob))
			n, _, errno = unix.Syscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&w.msg)), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		case len(w.iov) == 1:
			n, _, errno = unix.Syscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(w.iov[0].Base)), uintptr(w.iov[0].Len))
		default:
			n, _, errno = unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&w.iov[0])), uintptr(len(w.iov)))
		}
		switch errno {
		case 0:
			w.n, w.err = int(n), nil
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			w.n, w.err = 0, errWouldBlock
			return !w.wait
		default:
			w.n, w.err = 0, os.NewSyscallError("write", errno)
		}
		return true
	}
}

// fileCarrier is a carrier over a unix socket, which passes files.
type fileCarrier struct{ *carrier }

// WriteFrameFile implements native.FilePasser.
func (c fileCarrier) WriteFrameFile(h *native.Header, meta []byte, f *os.File) error {
	if _, err := frameSize(h, meta, nil); err != nil {
		return err
	}
	c.turn.Lock()
	if c.werr != nil {
		return c.pass(c.werr)
	}
	// The file goes with its own frame's first byte: what is queued leaves before.
	c.takeQueue()
	if err := c.send(nil); err != nil {
		return c.pass(err)
	}
	c.out = append(h.Append(c.out[:0]), meta...)
	c.parts = append(c.parts, c.out)
	return c.pass(c.send(f))
}

// TakeFile implements native.FilePasser.
func (c fileCarrier) TakeFile() *os.File {
	fd := c.files.take()
	if fd < 0 {
		return nil
	}
	return os.NewFile(uintptr(fd), "object from "+peerName(c.nc))
}

// pollConn is what is under TLS: its reads poll.
type pollConn struct {
	net.Conn
	io *rawIO
}

// polling returns nc, or a connection over it whose reads poll for a while before they wait.
func polling(nc net.Conn, spin time.Duration) net.Conn {
	if spin > 0 {
		if x := newRawIO(nc, spin); x != nil && !x.unix {
			return &pollConn{nc, x}
		}
	}
	return nc
}

func (c *pollConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return c.io.read(p, true)
}

var _ native.FilePasser = fileCarrier{}
