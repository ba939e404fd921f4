package native

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/proxyplane/proxyplane/transport"
)

const haveMemfiles = true

// sharedCopy returns a sealed memory file that holds obj.
func sharedCopy(obj transport.Slices, size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate("proxyplane", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w: %w", errors.ErrUnsupported, err)
	}
	f := os.NewFile(uintptr(fd), "proxyplane")
	if n, err := obj.WriteTo(f); err != nil || n != size {
		f.Close()
		return nil, fmt.Errorf("memory file of %d bytes: %w: %w", size, errors.ErrUnsupported, err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE|unix.F_SEAL_SEAL); err != nil {
		f.Close()
		return nil, fmt.Errorf("seal a memory file: %w: %w", errors.ErrUnsupported, err)
	}
	return f, nil
}

// mapShared maps what a peer shares. A file that could still shrink is refused: touching a page past its end kills the process.
func mapShared(f *os.File, size int64) (*transport.Buffer, error) {
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil || seals&unix.F_SEAL_SHRINK == 0 {
		return nil, fmt.Errorf("%w: the server shares memory that could shrink under a mapping", transport.ErrDenied)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil || uint32(fs.Type) == unix.HUGETLBFS_MAGIC {
		return nil, fmt.Errorf("%w: the server shares memory of reserved huge pages, which can run out under a mapping", transport.ErrDenied)
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() < size {
		return nil, fmt.Errorf("%w: the server shares %d bytes of memory for an object of %d", transport.ErrCorrupt, st.Size(), size)
	}
	return transport.Map(f, 0, size)
}
