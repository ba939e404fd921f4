package fuzz

import (
	"io/fs"
	"syscall"
)

// accessed returns when a file was last read.
func accessed(info fs.FileInfo) int64 {
	st := info.Sys().(*syscall.Stat_t)
	return st.Atim.Nano()
}
