//go:build !linux

package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

// Where there is no mapping the transport package reads, so Map must say that it cannot.
const canMap = runtime.GOOS != "windows" && runtime.GOOS != "plan9" && runtime.GOOS != "js" && runtime.GOOS != "wasip1"

var (
	errQuota = errors.New("over quota") // has no portable name
	errStale = errors.New("stale handle")
)

// dir is an open directory, through os.Root.
type dir struct {
	path    string
	root    atomic.Pointer[os.Root]
	faults  faults
	confirm func(real string) error // says whether a directory may be used; nil: any may
	refs    atomic.Int32
	mu      sync.Mutex // reopen
}

func openDir(path string) (*dir, error) {
	r, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	d := &dir{path: path}
	d.root.Store(r)
	d.refs.Store(1)
	return d, nil
}

func (d *dir) retain() *dir { d.refs.Add(1); return d }

// release closes the directory when nobody uses it any more.
func (d *dir) release() {
	if d.refs.Add(-1) == 0 {
		d.root.Load().Close()
	}
}

// lost reports whether err means that the directory behind d is not the one at its path any more.
func (d *dir) lost(err error) bool {
	if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrClosed) {
		return false
	}
	return !d.current()
}

func (d *dir) current() bool {
	mine, err1 := d.root.Load().Stat(".")
	there, err2 := os.Stat(d.path)
	return err1 == nil && err2 == nil && os.SameFile(mine, there)
}

// reopen opens the path anew. Calls in flight end on the old directory.
func (d *dir) reopen() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current() {
		return nil
	}
	r, err := os.OpenRoot(d.path)
	if err != nil {
		return err
	}
	if err := d.confirmRoot(r); err != nil {
		r.Close()
		return err
	}
	d.root.Swap(r).Close()
	return nil
}

// confirmed asks d.confirm about the open directory.
func (d *dir) confirmed() error { return d.confirmRoot(d.root.Load()) }

// confirmRoot asks about where the path leads, once it is certain that this is the directory that is open.
func (d *dir) confirmRoot(r *os.Root) error {
	if d.confirm == nil {
		return nil
	}
	real, err := filepath.EvalSymlinks(d.path)
	var mine, there os.FileInfo
	if err == nil {
		mine, err = r.Stat(".")
	}
	if err == nil {
		there, err = os.Lstat(real)
	}
	if err == nil && !os.SameFile(mine, there) {
		err = errors.New("it was replaced while it was opened")
	}
	if err != nil {
		return fmt.Errorf("%w: which directory store_dir %s leads to cannot be told, and so not whether it may be used: %w",
			connectors.ErrUnavailable, d.path, err)
	}
	return d.confirm(real)
}

func (d *dir) openFile(name string, flags int) (handle, error) {
	if err := d.faults.at("open"); err != nil {
		return handle{}, &os.PathError{Op: "open", Path: name, Err: err}
	}
	f, err := d.root.Load().OpenFile(name, flags, 0o666)
	return handle{d, f}, err
}

// create makes a file that must not exist yet, for writing.
func (d *dir) create(name string) (handle, error) {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	h, err := d.openFile(name, flags)
	if err != nil && d.lost(err) && d.reopen() == nil {
		return d.openFile(name, flags)
	}
	return h, err
}

// open opens a file for reading. Links and special files are refused before that; a link that comes in between cannot leave the directory.
func (d *dir) open(name string) (handle, error) {
	st, err := d.lstat(name)
	if err == nil {
		err = st.check()
	}
	if err != nil {
		return handle{}, err
	}
	return d.openFile(name, os.O_RDONLY)
}

// anonymous fails: files always have names here.
func (d *dir) anonymous() (handle, error) { return handle{}, errors.ErrUnsupported }

// plain does nothing: d has no finesse that tests would turn off.
func (d *dir) plain() {}

func (d *dir) link(handle, string) error { return errors.ErrUnsupported }

// touch makes the time of a file's last write now.
func (d *dir) touch(_ handle, name string) error {
	if err := d.faults.at("touch"); err != nil {
		return &os.PathError{Op: "touch", Path: name, Err: err}
	}
	now := time.Now()
	return d.root.Load().Chtimes(name, now, now)
}

// lstat tells about a file or link.
func (d *dir) lstat(name string) (info, error) {
	if err := d.faults.at("stat"); err != nil {
		return info{}, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	st, err := d.root.Load().Lstat(name)
	if err != nil {
		return info{}, err
	}
	return infoOf(st), nil
}

func infoOf(st os.FileInfo) info {
	return info{size: st.Size(), mtime: st.ModTime().UnixNano(), mode: st.Mode()}
}

// mark makes an empty file, which may exist already.
func (d *dir) mark(name string) error {
	if err := d.faults.at("mark"); err != nil {
		return &os.PathError{Op: "create", Path: name, Err: err}
	}
	h, err := d.openFile(name, os.O_WRONLY|os.O_CREATE)
	if err != nil {
		return err
	}
	return h.close()
}

// remove removes a file or link.
func (d *dir) remove(name string) error {
	if err := d.faults.at("unlink"); err != nil {
		return &os.PathError{Op: "unlink", Path: name, Err: err}
	}
	return d.root.Load().Remove(name)
}

func (d *dir) rename(from, to string) error {
	if err := d.faults.at("rename"); err != nil {
		return &os.PathError{Op: "rename", Path: to, Err: err}
	}
	return d.root.Load().Rename(from, to)
}

// sync makes the directory's entries durable, where a directory can be synced at all.
func (d *dir) sync() error {
	if err := d.faults.at("fsync"); err != nil {
		return err
	}
	if runtime.GOOS == "windows" {
		return nil
	}
	f, err := d.root.Load().Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// names calls f with every name in the directory until f fails.
func (d *dir) names(f func(name string) error) error {
	h, err := d.openFile(".", os.O_RDONLY)
	if err != nil {
		return err
	}
	return eachName(h.f, f)
}

// handle is an open file.
type handle struct {
	d *dir
	f *os.File
}

// write writes all parts.
func (h handle) write(ctx context.Context, obj transport.Slices) error {
	if err := h.d.faults.at("write"); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := obj.WriteTo(h.f)
	return err
}

// readAt fills p.
func (h handle) readAt(ctx context.Context, p []byte, off int64) error {
	if err := h.d.faults.at("read"); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	n, err := h.f.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (h handle) stat() (info, error) {
	if err := h.d.faults.at("stat"); err != nil {
		return info{}, err
	}
	st, err := h.f.Stat()
	if err != nil {
		return info{}, err
	}
	return infoOf(st), nil
}

// sync makes the bytes durable.
func (h handle) sync() error {
	if err := h.d.faults.at("fdatasync"); err != nil {
		return err
	}
	return h.f.Sync()
}

// close closes the file, on error too.
func (h handle) close() error {
	fault := h.d.faults.at("close")
	err := h.f.Close()
	if fault != nil {
		return fault
	}
	return err
}

// file returns the handle as an *os.File, which takes it.
func (h handle) file() *os.File { return h.f }

// sendFile fails: no system here can be told how much to send.
func sendFile(*net.UnixConn, *os.File, int64) (int64, error) { return 0, errors.ErrUnsupported }

// noMappings reports whether a mapping failed for the want of room for it.
func noMappings(err error) bool { return errors.Is(err, syscall.ENOMEM) }
