//go:build !unix

package config

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// processExists asks for a handle, which FindProcess does here.
func processExists(pid int) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	p.Release()
	return true
}

func processStart(int) (time.Time, bool) { return time.Time{}, false }

// terminate cannot: there is no signal that lets a process without a console end in order.
func terminate(_ context.Context, pid int, _ time.Duration) error {
	return fmt.Errorf("%w: stop the process %d where it was started (Ctrl-C)", errors.ErrUnsupported, pid)
}

// lockDir locks nothing here: of two starts at the same instant, the pid file is the one's that made it first.
func lockDir(string) (unlock func(), err error) { return func() {}, nil }
