package dim

import (
	"errors"

	"golang.org/x/sys/windows"
)

// AddressInUse reports whether a server could not be started because its address is taken.
func AddressInUse(err error) bool { return errors.Is(err, windows.WSAEADDRINUSE) }

// AddressForeign reports whether a server could not be started because its address is none of this machine.
func AddressForeign(err error) bool { return errors.Is(err, windows.WSAEADDRNOTAVAIL) }

func addressForbidden(err error) bool { return errors.Is(err, windows.WSAEACCES) }
