//go:build !linux

package main

// freeBytes returns the space that a directory's file system has for this user, if that is known.
func freeBytes(string) (int64, bool) { return 0, false }

// hostFacts returns what matters for objects in files; nothing is known to matter outside of Linux.
func hostFacts() []fact { return nil }
