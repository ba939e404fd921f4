//go:build !unix

package ucx

import "errors"

func sleep(int) error { return errors.ErrUnsupported }
