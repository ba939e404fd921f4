//go:build !unix

package main

import "os"

// umask returns the permissions that new files must lack.
func umask() os.FileMode { return 0 }
