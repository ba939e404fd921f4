//go:build !linux

package testenv

import (
	"errors"
	"testing"
)

// Netns tells that this process can make network namespaces, which are Linux's.
func Netns(t testing.TB) {
	t.Helper()
	missing(t, "network namespaces need Linux")
}

// FindNetns is Netns for who can do without.
func FindNetns() error { return errors.New("network namespaces need Linux") }
