package storage

import (
	"os"

	"golang.org/x/sys/windows"
)

// lockFile locks f against other openings of it until it is closed, which the death of the process does too. It does not wait.
func lockFile(f *os.File) error {
	const how = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	return windows.LockFileEx(windows.Handle(f.Fd()), how, 0, 1, 0, new(windows.Overlapped))
}
