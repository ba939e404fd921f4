//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// maxInherited bounds the descriptors that are looked at. Shells and scripts number theirs from 3 on.
const maxInherited = 1024

// detached makes cmd a session of its own, so that neither the terminal's end nor ctrl-C reaches it. It does not inherit what this process did beside its
// standard streams: who waits for the end of such a pipe, or for such a lock, would wait for the daemon.
func detached(cmd *exec.Cmd) error {
	for fd := 3; fd < maxInherited; fd++ {
		syscall.CloseOnExec(fd) // those of this process are so already, and those of cmd are copies
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return nil
}
