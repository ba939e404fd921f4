package storage

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// isFull reports whether the disk, or the user's quota on it, is full.
func isFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) || errors.Is(err, windows.ERROR_DISK_QUOTA_EXCEEDED)
}

// syncNames does nothing: a directory cannot be flushed, and NTFS logs its names itself.
func syncNames(*os.File) error { return nil }
