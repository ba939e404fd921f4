//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// detached makes cmd a session of its own, so that neither the terminal's end nor ctrl-C reaches it.
func detached(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return nil
}
