//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package tcp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/proxyplane/proxyplane/transport"
)

const (
	// lockWait is how long a start waits for others that start in the same directory. Whoever may read that can lock it, and keep it locked.
	lockWait  = 5 * time.Second
	lockRetry = 10 * time.Millisecond
)

// lockDir keeps others that use it out of a directory until unlock is called.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	retry := time.NewTicker(lockRetry)
	defer retry.Stop()
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, &os.PathError{Op: "flock", Path: dir, Err: err}
		}
		select {
		case <-retry.C:
			continue
		case <-wait.Done():
		}
		f.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: somebody has kept %s locked for %v: try again, or take a path in another directory", transport.ErrUnavailable, dir, lockWait)
	}
}
