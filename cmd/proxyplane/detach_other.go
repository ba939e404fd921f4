//go:build !unix

package main

import (
	"errors"
	"fmt"
	"os/exec"
)

func detached(*exec.Cmd) error {
	return fmt.Errorf("%w: this system has no daemons of that kind; use --no-detach", errors.ErrUnsupported)
}
