package file

import (
	"bytes"
	"encoding/binary"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// watch is an inotify instance on one directory, and the goroutine that reads it. The module fsnotify would do, but it passes every event
// through two channels and watches for removals and writes that nobody here wants.
type watch struct {
	dir  string
	wake func(name string)
	f    *os.File
	fd   int
	done chan struct{}

	mu sync.Mutex
	wd int // -1: off
}

// newWatch returns a watch that is off. It is nil if the system has no more to give (fs.inotify.max_user_instances); the waiters poll then.
func newWatch(dir string, wake func(name string)) *watch {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil
	}
	// Non-blocking, so that the runtime's poller waits for it and not a thread.
	w := &watch{dir: dir, wake: wake, f: os.NewFile(uintptr(fd), "inotify"), fd: fd, done: make(chan struct{}), wd: -1}
	go w.run()
	return w
}

// on starts watching, if it is not on already, and reports whether it is on. It is not if the directory is gone.
func (w *watch) on() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wd < 0 {
		wd, err := unix.InotifyAddWatch(w.fd, w.dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_ONLYDIR)
		if err != nil {
			return false
		}
		w.wd = wd
	}
	return true
}

// off stops watching until on.
func (w *watch) off() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wd >= 0 {
		unix.InotifyRmWatch(w.fd, uint32(w.wd)) // fails only if the directory, and so the watch, is gone
		w.wd = -1
	}
}

// gone turns the watch off if wd is the one that is on.
func (w *watch) gone(wd int32) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wd != int(wd) {
		return false
	}
	unix.InotifyRmWatch(w.fd, uint32(wd)) // a moved directory is still watched
	w.wd = -1
	return true
}

// close ends the goroutine.
func (w *watch) close() {
	w.f.Close()
	<-w.done
}

func (w *watch) run() {
	defer close(w.done)
	buf := make([]byte, 16<<10)
	for {
		n, err := w.f.Read(buf)
		if err != nil {
			return // closed
		}
		w.events(buf[:n])
	}
}

// events handles the events of one read: struct inotify_event of inotify(7), 16 bytes and a name padded with NUL.
func (w *watch) events(b []byte) {
	for len(b) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(b))
		mask := binary.NativeEndian.Uint32(b[4:])
		n := int(binary.NativeEndian.Uint32(b[12:]))
		b = b[unix.SizeofInotifyEvent:]
		if n > len(b) {
			return
		}
		name, _, _ := bytes.Cut(b[:n], []byte{0})
		b = b[n:]
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0:
			w.wake("")
		case mask&(unix.IN_IGNORED|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF) != 0:
			if w.gone(wd) {
				w.wake("") // they look, and then poll until the directory is back
			}
		case len(name) > 0:
			w.wake(string(name))
		}
	}
}
