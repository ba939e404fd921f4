//go:build unix

package ucx

import (
	"errors"

	"golang.org/x/sys/unix"
)

// sleep waits until the descriptor is ready. It blocks a thread and not only a goroutine, which comes back faster.
func sleep(fd int) error {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(p, -1)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
