package file

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
)

// fail returns an error of an operation in the form that callers of every connector know.
func (c *Connector) fail(op string, key connectors.Key, err error) error {
	if err == nil {
		return nil
	}
	var oe *connectors.OpError // not above: it goes to the heap
	if errors.As(err, &oe) {
		return err // explained already, by a Writer's earlier call
	}
	return connectors.WrapError(op, kind, key, c.explain(err))
}

// explain says what a system's error means here and what to do, and adds the sentinel that fits.
func (c *Connector) explain(err error) error {
	dir := c.opts.StoreDir
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	switch {
	case is(connectors.ErrNotFound, connectors.ErrInvalidKey, connectors.ErrClosed, connectors.ErrCorrupt, connectors.ErrUnavailable):
		return err
	case is(syscall.ENOSPC, errQuota):
		return fmt.Errorf("%s is full; evict objects or make room: %w", dir, err)
	case is(syscall.EROFS):
		return fmt.Errorf("%s is on a read-only file system; mount it read-write or choose another store_dir: %w", dir, err)
	case is(os.ErrPermission):
		return fmt.Errorf("no permission in %s; this process needs to read, write and search that directory: %w", dir, err)
	case is(syscall.EMFILE, syscall.ENFILE):
		return fmt.Errorf("%w: out of file descriptors; raise the limit (ulimit -n) or close streams: %w", connectors.ErrUnavailable, err)
	case is(syscall.ENAMETOOLONG):
		return fmt.Errorf("%w: the file system of %s takes no name this long: %w", connectors.ErrInvalidKey, dir, err)
	case is(syscall.EFBIG):
		return fmt.Errorf("%w: the file system of %s or this process's limit (ulimit -f) takes no file this large: %w", connectors.ErrTooLarge, dir, err)
	case is(os.ErrNotExist) || c.dir.lost(err):
		return fmt.Errorf("%w: directory %s was removed; a Python store closing with clear=True does that; make it again: %w",
			connectors.ErrUnavailable, dir, err)
	case is(syscall.EIO, syscall.ETIMEDOUT, syscall.ENODEV, errStale):
		return fmt.Errorf("%w: the file system of %s does not answer: %w", connectors.ErrUnavailable, dir, err)
	}
	return err
}

// also returns the error of a call and that of cleaning up after it, as it is if there is only one.
func also(err, cleanup error) error {
	switch {
	case cleanup == nil:
		return err
	case err == nil:
		return cleanup
	}
	return errors.Join(err, cleanup)
}

// openError says why a directory cannot be opened.
func openError(path string, err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: store_dir %s does not exist on this machine, and a received proxy may not make it; is the file system mounted here? %w",
			connectors.ErrUnavailable, path, err)
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, os.ErrExist):
		return fmt.Errorf("%w: store_dir %s is not a directory: %w", connectors.ErrConfig, path, err)
	}
	return fmt.Errorf("%w: store_dir %s cannot be opened: %w", connectors.ErrUnavailable, path, err)
}

// missing is the error where a file that makes up an object is not there, or is a link.
func missing(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, errStale):
		return connectors.ErrNotFound
	case errors.Is(err, syscall.ELOOP):
		return fmt.Errorf("%w: a symbolic link in the object's place is not followed: %w", connectors.ErrCorrupt, err)
	case errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENODEV):
		return fmt.Errorf("%w: a special file in the object's place: %w", connectors.ErrCorrupt, err)
	}
	return err
}

// shrunk is the error of a read that must be complete.
func shrunk(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || err == io.EOF {
		// Without the EOF in the chain: this is nothing that a plain retry of a broken connection would mend.
		return fmt.Errorf("%w: the object shrank while it was read; a Python writer has set its key again", connectors.ErrCorrupt)
	}
	return err
}

func tooLarge(n int64) error {
	return fmt.Errorf("%w: an object of %d bytes does not fit this process's memory; use GetStream", connectors.ErrTooLarge, n)
}

// info is what is known of a file.
type info struct {
	size  int64
	mtime int64 // ns since 1970
	mode  os.FileMode
}

func (i info) modTime() time.Time { return time.Unix(0, i.mtime) }

// check refuses everything but regular files.
func (i info) check() error {
	if !i.mode.IsRegular() {
		return fmt.Errorf("%w: not a regular file (%v) in the object's or its marker's place", connectors.ErrCorrupt, i.mode.Type())
	}
	return nil
}
