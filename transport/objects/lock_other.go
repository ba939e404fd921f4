//go:build !unix || solaris || illumos || aix

package objects

import "os"

// canLock says that a lock is gone when its process dies, so that leftovers of dead servers can be told from the files of others.
const canLock = false

func lockFile(*os.File, bool) error { return nil }
