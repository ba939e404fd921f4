//go:build !linux

package file

// watch does not exist here: waiters poll.
type watch struct{}

func newWatch(string, func(string)) *watch { return nil }

func (*watch) on() bool { return false }
func (*watch) off()     {}
func (*watch) close()   {}
