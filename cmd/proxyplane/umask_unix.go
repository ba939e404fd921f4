//go:build unix

package main

import (
	"os"
	"syscall"
)

// umask returns the permissions that new files must lack. There is no call that only reads it, so this must not run beside the making of files.
func umask() os.FileMode {
	m := syscall.Umask(0o077)
	syscall.Umask(m)
	return os.FileMode(m)
}
