//go:build !windows

package dim

import (
	"errors"
	"syscall"
)

// AddressInUse reports whether a server could not be started because its address is taken.
func AddressInUse(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }

// AddressForeign reports whether a server could not be started because its address is none of this machine.
func AddressForeign(err error) bool { return errors.Is(err, syscall.EADDRNOTAVAIL) }

func addressForbidden(err error) bool { return errors.Is(err, syscall.EACCES) }
