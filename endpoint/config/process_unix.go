//go:build unix

package config

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// processExists is psutil.pid_exists, but that a process which has ended and waits for its parent to notice does not count.
func processExists(pid int) bool {
	if pid <= 0 {
		return false
	}
	if err := syscall.Kill(pid, 0); err != nil && !errors.Is(err, syscall.EPERM) {
		return false
	}
	return !isZombieOrThread(pid)
}

// terminate ends a process: SIGTERM, after grace SIGKILL.
func terminate(ctx context.Context, pid int, grace time.Duration) error {
	for _, step := range []struct {
		sig  syscall.Signal
		wait time.Duration
	}{{syscall.SIGTERM, grace}, {syscall.SIGKILL, 5 * time.Second}} {
		if err := syscall.Kill(pid, step.sig); errors.Is(err, syscall.ESRCH) {
			return nil
		} else if err != nil {
			return fmt.Errorf("signal process %d: %w", pid, err)
		}
		gone, err := waitGone(ctx, pid, step.wait)
		if gone || err != nil {
			return err
		}
	}
	return fmt.Errorf("process %d does not end, even when killed: it hangs in the system, perhaps in a file system that does not answer", pid)
}

func waitGone(ctx context.Context, pid int, limit time.Duration) (bool, error) {
	end := time.NewTimer(limit)
	defer end.Stop()
	tick := time.NewTicker(10 * time.Millisecond) // nothing portable tells of the end of a process that is not a child
	defer tick.Stop()
	for {
		if !processExists(pid) {
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-end.C:
			return false, nil
		case <-tick.C:
		}
	}
}

// lockDir keeps other processes out that lock the same directory. Where the file system has no such locks (some network ones) it locks nothing.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			return func() { f.Close() }, nil
		}
	}
}
