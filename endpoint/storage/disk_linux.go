package storage

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// allocate takes room for a file that will have that size, so that a full disk is known before the first byte. File systems that cannot do that
// do without.
func allocate(f *os.File, size int64) error {
	err := control(f, func(fd int) error { return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, size) })
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
		return nil
	case errors.Is(err, unix.EFBIG): // more than the file system could ever hold
		return &os.PathError{Op: "fallocate", Path: f.Name(), Err: unix.ENOSPC}
	case err != nil:
		return &os.PathError{Op: "fallocate", Path: f.Name(), Err: err}
	}
	return nil
}

// startWriteback tells the kernel to begin writing, so that little is left for fsync.
func startWriteback(f *os.File, off, n int64) {
	_ = control(f, func(fd int) error { return unix.SyncFileRange(fd, off, n, unix.SYNC_FILE_RANGE_WRITE) }) // fsync reports what fails
}

func control(f *os.File, do func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := conn.Control(func(fd uintptr) {
		for {
			if err = do(int(fd)); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	return errors.Join(err, cerr)
}
