//go:build !linux

package native

import (
	"errors"
	"fmt"
	"os"

	"github.com/proxyplane/proxyplane/transport"
)

// Sealed memory files exist on Linux only. Elsewhere no session agrees on passing files, so that none of this is called.
const haveMemfiles = false

func sharedCopy(transport.Slices, int64) (*os.File, error) {
	return nil, fmt.Errorf("put by descriptor: %w on this system", errors.ErrUnsupported)
}

func mapShared(*os.File, int64) (*transport.Buffer, error) {
	return nil, fmt.Errorf("map: %w on this system", errors.ErrUnsupported)
}
