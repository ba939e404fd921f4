package file

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
	"golang.org/x/sys/unix"
)

const (
	canMap   = true
	errQuota = unix.EDQUOT
	errStale = unix.ESTALE
)

// dir is an open directory. It uses raw descriptors and not os.Root: a name that checkName has passed is one component, and openat with
// O_NOFOLLOW confines one component just as well. Measured on tmpfs at 1 KiB: put 14.8 instead of 19.4 µs, get 4.8 instead of 8.5, and 3
// allocations instead of 10. Making the marker by mknod instead of open and close brings put to 12.8.
type dir struct {
	path    string
	fd      int // stays the same number for life: reopen puts another directory behind it
	faults  faults
	confirm func(real string) error // says whether a directory may be used; nil: any may
	refs    atomic.Int32
	mu      sync.Mutex  // reopen
	noTemp  atomic.Bool // the file system has no O_TMPFILE
	procFD  atomic.Bool // linkat needs the way through /proc
	noMknod atomic.Bool
}

func openDir(path string) (*dir, error) {
	fd, err := openRetry(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	d := &dir{path: path, fd: fd}
	d.refs.Store(1)
	return d, nil
}

func (d *dir) retain() *dir { d.refs.Add(1); return d }

// release closes the directory when nobody uses it any more.
func (d *dir) release() {
	if d.refs.Add(-1) == 0 {
		unix.Close(d.fd)
	}
}

// lost reports whether err means that the directory behind d is not in the file system any more.
func (d *dir) lost(err error) bool {
	if errors.Is(err, unix.ESTALE) {
		return true
	}
	if !errors.Is(err, unix.ENOENT) {
		return false
	}
	return d.gone()
}

// gone reports whether the directory has been removed.
func (d *dir) gone() bool {
	var st unix.Stat_t
	return unix.Fstat(d.fd, &st) == nil && st.Nlink == 0
}

// reopen opens the path anew, in case it is a directory again, behind the same descriptor number: calls in flight in other goroutines see
// the old directory or the new one.
func (d *dir) reopen() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var st unix.Stat_t
	if unix.Fstat(d.fd, &st) == nil && st.Nlink > 0 {
		return nil // another goroutine was faster
	}
	fd, err := openRetry(unix.AT_FDCWD, d.path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return d.error("open", d.path, err)
	}
	defer unix.Close(fd)
	if err := d.confirmFD(fd); err != nil {
		return err
	}
	return d.error("dup", d.path, again(func() error { return unix.Dup3(fd, d.fd, unix.O_CLOEXEC) }))
}

// confirmed asks d.confirm about the open directory.
func (d *dir) confirmed() error { return d.confirmFD(d.fd) }

// confirmFD asks about what a descriptor stands for, and not about a path, which may lead elsewhere a moment later.
func (d *dir) confirmFD(fd int) error {
	if d.confirm == nil {
		return nil
	}
	real, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err == nil && !filepath.IsAbs(real) {
		err = fmt.Errorf("it is out of this process's reach (%s)", real)
	}
	if err != nil {
		return fmt.Errorf("%w: which directory store_dir %s leads to cannot be told, and so not whether it may be used; is /proc mounted? %w",
			connectors.ErrUnavailable, d.path, err)
	}
	return d.confirm(real)
}

// error adds what failed on what file to an error number.
func (d *dir) error(call, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: call, Path: name, Err: err}
}

// again repeats a call that a signal interrupted, which happens on network and user-space file systems.
func again(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

func openRetry(dirfd int, name string, flags int, mode uint32) (fd int, err error) {
	for {
		fd, err = unix.Openat(dirfd, name, flags|unix.O_CLOEXEC, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func (d *dir) openat(name string, flags int) (handle, error) {
	err := d.faults.at("open")
	if err == nil {
		var fd int
		if fd, err = openRetry(d.fd, name, flags|unix.O_NOFOLLOW, 0o666); err == nil {
			return handle{d, fd}, nil
		}
	}
	return handle{}, d.error("open", name, err)
}

// create makes a file that must not exist yet, for writing.
func (d *dir) create(name string) (handle, error) {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL
	h, err := d.openat(name, flags)
	if err != nil && d.lost(err) && d.reopen() == nil {
		return d.openat(name, flags)
	}
	return h, err
}

// open opens a file for reading. It does not wait for the writer of a FIFO.
func (d *dir) open(name string) (handle, error) { return d.openat(name, unix.O_RDONLY|unix.O_NONBLOCK) }

// anonymous makes a file without a name, or fails with errors.ErrUnsupported.
func (d *dir) anonymous() (handle, error) {
	if d.noTemp.Load() {
		return handle{}, errors.ErrUnsupported
	}
	err := d.faults.at("open")
	if err == nil {
		var fd int
		if fd, err = openRetry(d.fd, ".", unix.O_WRONLY|unix.O_TMPFILE, 0o666); err == nil {
			if !d.gone() { // a removed directory takes such files too, but never their names
				return handle{d, fd}, nil
			}
			unix.Close(fd)
			err = unix.ENOENT
		}
	}
	if err == unix.EOPNOTSUPP || err == unix.EISDIR || err == unix.EINVAL {
		d.noTemp.Store(true)
		return handle{}, errors.ErrUnsupported
	}
	return handle{}, d.error("open", d.path, err)
}

// plain makes d do without what only some file systems have. For tests.
func (d *dir) plain() { d.noTemp.Store(true); d.noMknod.Store(true) }

// link gives an anonymous file a name that must not exist yet.
func (d *dir) link(h handle, name string) error {
	if err := d.faults.at("link"); err != nil {
		return d.error("link", name, err)
	}
	if !d.procFD.Load() {
		err := unix.Linkat(h.fd, "", d.fd, name, unix.AT_EMPTY_PATH)
		if err != unix.ENOENT && err != unix.EPERM {
			return d.error("link", name, err)
		}
		// Linux before 6.10 wants a capability for that. The other way needs /proc, and 3 µs more.
	}
	proc := "/proc/self/fd/" + strconv.Itoa(h.fd)
	err := unix.Linkat(unix.AT_FDCWD, proc, d.fd, name, unix.AT_SYMLINK_FOLLOW)
	if err == nil {
		d.procFD.Store(true)
	}
	return d.error("link", name, err)
}

// touch makes the time of a file's last write now.
func (d *dir) touch(h handle, _ string) error {
	err := d.faults.at("touch")
	if err == nil {
		// futimens(fd, NULL), which package unix lacks.
		err = again(func() error {
			if _, _, e := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(h.fd), 0, 0, 0, 0, 0); e != 0 {
				return e
			}
			return nil
		})
	}
	return d.error("touch", d.path, err)
}

// lstat tells about a file or link.
func (d *dir) lstat(name string) (info, error) {
	err := d.faults.at("stat")
	if err == nil {
		var st unix.Stat_t
		if err = again(func() error { return unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) }); err == nil {
			return infoOf(&st), nil
		}
	}
	if err == unix.ENOENT {
		return info{}, err // the usual answer: spare it the PathError
	}
	return info{}, d.error("stat", name, err)
}

func infoOf(st *unix.Stat_t) info {
	i := info{size: st.Size, mtime: st.Mtim.Nano()}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		i.mode = os.ModeDir
	case unix.S_IFLNK:
		i.mode = os.ModeSymlink
	case unix.S_IFIFO:
		i.mode = os.ModeNamedPipe
	case unix.S_IFSOCK:
		i.mode = os.ModeSocket
	case unix.S_IFCHR:
		i.mode = os.ModeDevice | os.ModeCharDevice
	case unix.S_IFBLK:
		i.mode = os.ModeDevice
	default:
		i.mode = os.ModeIrregular
	}
	return i
}

// mark makes an empty file, which may exist already.
func (d *dir) mark(name string) error {
	if err := d.faults.at("mark"); err != nil {
		return d.error("mknod", name, err)
	}
	if !d.noMknod.Load() {
		err := again(func() error { return unix.Mknodat(d.fd, name, unix.S_IFREG|0o666, 0) })
		switch err {
		case nil, unix.EEXIST:
			return nil
		case unix.EPERM, unix.ENOSYS, unix.EOPNOTSUPP, unix.EINVAL:
			d.noMknod.Store(true) // some user-space file systems have no mknod
		default:
			return d.error("mknod", name, err)
		}
	}
	h, err := d.openat(name, unix.O_WRONLY|unix.O_CREAT)
	if err != nil {
		return err
	}
	return h.close()
}

// remove removes a file or link.
func (d *dir) remove(name string) error {
	err := d.faults.at("unlink")
	if err == nil {
		err = again(func() error { return unix.Unlinkat(d.fd, name, 0) })
	}
	return d.error("unlink", name, err)
}

func (d *dir) rename(from, to string) error {
	err := d.faults.at("rename")
	if err == nil {
		err = again(func() error { return unix.Renameat(d.fd, from, d.fd, to) })
	}
	return d.error("rename", to, err)
}

// sync makes the directory's entries durable.
func (d *dir) sync() error {
	err := d.faults.at("fsync")
	if err == nil {
		err = again(func() error { return unix.Fsync(d.fd) })
	}
	return d.error("fsync", d.path, err)
}

// names calls f with every name in the directory until f fails.
func (d *dir) names(f func(name string) error) error {
	h, err := d.openat(".", unix.O_RDONLY|unix.O_DIRECTORY) // a position of its own
	if err != nil {
		return err
	}
	return eachName(h.file(), f)
}

// handle is an open file.
type handle struct {
	d  *dir
	fd int
}

// ioChunk is how many bytes one system call moves at most: between two of them a cancelled context is seen.
const ioChunk = 32 << 20

// write writes all parts.
func (h handle) write(ctx context.Context, obj transport.Slices) error {
	var iov [8][]byte // on the stack: a tag and a body are two
	rest := append(iov[:0], obj...)
	var st stage
	defer st.release()
	var off int64
	for first := true; ; first = false {
		for len(rest) > 0 && len(rest[0]) == 0 {
			rest = rest[1:]
		}
		if len(rest) == 0 {
			return nil
		}
		if !first {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		some := rest
		if anySlow(rest, off) {
			some = [][]byte{st.gather(rest, off)}
		}
		n, err := h.writeSome(some)
		if err != nil {
			return h.d.error("write", h.d.path, err)
		}
		off += int64(n)
		for n > 0 {
			if n < len(rest[0]) {
				rest[0] = rest[0][n:]
				break
			}
			n -= len(rest[0])
			rest = rest[1:]
		}
	}
}

// anySlow reports whether one of the parts that the next system call would write is slow to copy from where it is.
func anySlow(parts [][]byte, off int64) bool {
	end := off + ioChunk
	for _, p := range parts {
		if off >= end {
			break
		}
		if slowCopy(p, off) {
			return true
		}
		off += int64(len(p))
	}
	return false
}

// writeSome makes one system call. rest has at least one part, and its first is not empty.
func (h handle) writeSome(rest [][]byte) (n int, err error) {
	if err := h.d.faults.at("write"); err != nil {
		return 0, err
	}
	// Whole parts up to the chunk, or one part cut to it.
	k, size := 0, 0
	for k < len(rest) && k < 1024 && size+len(rest[k]) <= ioChunk {
		size += len(rest[k])
		k++
	}
	for {
		if k <= 1 {
			n, err = unix.Write(h.fd, rest[0][:min(len(rest[0]), ioChunk)])
		} else {
			n, err = unix.Writev(h.fd, rest[:k])
		}
		if err == nil && n == 0 {
			return 0, io.ErrShortWrite
		}
		if err != unix.EINTR {
			return n, err
		}
	}
}

// readAt fills p.
func (h handle) readAt(ctx context.Context, p []byte, off int64) error {
	for first := true; len(p) > 0; first = false {
		if !first {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		if err := h.d.faults.at("read"); err != nil {
			return h.d.error("read", h.d.path, err)
		}
		n, err := unix.Pread(h.fd, p[:min(len(p), ioChunk)], off)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return h.d.error("read", h.d.path, err)
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		p = p[n:]
		off += int64(n)
	}
	return nil
}

func (h handle) stat() (info, error) {
	err := h.d.faults.at("stat")
	if err == nil {
		var st unix.Stat_t
		if err = again(func() error { return unix.Fstat(h.fd, &st) }); err == nil {
			return infoOf(&st), nil
		}
	}
	return info{}, h.d.error("stat", h.d.path, err)
}

// sync makes the bytes durable.
func (h handle) sync() error {
	err := h.d.faults.at("fdatasync")
	if err == nil {
		err = again(func() error { return unix.Fdatasync(h.fd) })
	}
	return h.d.error("fdatasync", h.d.path, err)
}

// close closes the file, on error too: Linux has closed it even when it says EINTR.
func (h handle) close() error {
	fault := h.d.faults.at("close")
	err := unix.Close(h.fd)
	if fault != nil {
		err = fault
	}
	if err == unix.EINTR {
		err = nil
	}
	return h.d.error("close", h.d.path, err)
}

// file returns the handle as an *os.File, which takes the descriptor. h works on until it is closed.
func (h handle) file() *os.File { return os.NewFile(uintptr(h.fd), filepath.Join(h.d.path, "object")) }

// sendFile has the kernel move n bytes from where f stands to a stream socket; fewer if f ends. It is errors.ErrUnsupported if the kernel cannot.
// (os.File.WriteTo does the same, but to the end of the file.)
func sendFile(w *net.UnixConn, f *os.File, n int64) (int64, error) {
	if w.LocalAddr().Network() != "unix" {
		return 0, errors.ErrUnsupported // a datagram must be one write
	}
	dst, err := w.SyscallConn()
	if err != nil {
		return 0, err
	}
	src, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var sent int64
	var failed error
	// try reports whether there is nothing to wait for.
	try := func(to, from uintptr) bool {
		for sent < n {
			k, err := unix.Sendfile(int(to), int(from), nil, int(min(n-sent, ioChunk)))
			switch {
			case err == unix.EINTR:
				continue
			case err == unix.EAGAIN:
				return false
			case (err == unix.EINVAL || err == unix.ENOSYS) && sent == 0:
				failed = errors.ErrUnsupported
				return true
			case err != nil:
				failed = os.NewSyscallError("sendfile", err)
				return true
			case k == 0:
				return true
			}
			sent += int64(k)
		}
		return true
	}
	var closed error
	err = dst.Write(func(to uintptr) (done bool) {
		done = true
		closed = src.Control(func(from uintptr) { done = try(to, from) })
		return done
	})
	return sent, cmp.Or(failed, closed, err)
}

// noMappings reports whether a mapping failed for the want of room for it.
func noMappings(err error) bool { return errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ENODEV) }
