package tcp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
)

// descriptors returns how many this program has open.
func descriptors(t testing.TB) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// noDescriptorsLeft fails the test if it leaves any open. Call it before anything else is opened.
func noDescriptorsLeft(t testing.TB) {
	t.Helper()
	f, err := os.Open(os.DevNull) // what the runtime opens once for all is open now
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	before := descriptors(t)
	t.Cleanup(func() {
		if after := descriptors(t); after > before {
			t.Errorf("%d descriptors are open, %d were", after, before)
		}
	})
}

// memfile returns an open file with that content.
func memfile(t testing.TB, content string) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "memfile")
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func content(t testing.TB, f *os.File) string {
	t.Helper()
	if f == nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// Each file comes with the frame that it was sent with, however the frames around it are cut, and is close-on-exec.
func TestFiles(t *testing.T) {
	noDescriptorsLeft(t)
	x, y := kinds["unix"](t, CarrierOptions{})
	a, b := fileCarrier{x}, fileCarrier{y}
	const n = 600
	rnd := rand.New(rand.NewPCG(3, 4))
	kind := make([]int, n)
	for i := range kind {
		kind[i] = rnd.IntN(5)
	}
	go func() {
		f := memfile(t, "")
		defer f.Close()
		for i, k := range kind {
			h := native.Header{ID: uint32(i)}
			var err error
			switch k {
			case 0, 1: // a file
				g := memfile(t, fmt.Sprint(i))
				err = a.WriteFrameFile(&h, pattern(i, i%3*20), g)
				g.Close()
			case 2: // much metadata with it
				g := memfile(t, fmt.Sprint(i))
				err = a.WriteFrameFile(&h, pattern(i, native.MaxMeta-i), g)
				g.Close()
			case 3:
				err = a.WriteFrame(&h, pattern(i, i), transport.Slices{pattern(i, i*50)})
			default:
				err = a.WriteFrame(&h, nil, nil)
			}
			if err != nil {
				t.Error(err)
			}
		}
	}()
	for i, k := range kind {
		var h native.Header
		meta, _, _, err := readAll(b, &h)
		if err != nil || h.ID != uint32(i) {
			t.Fatalf("frame %d: %+v, %v", i, h, err)
		}
		if !bytes.Equal(meta, pattern(i, len(meta))) {
			t.Errorf("frame %d: other metadata", i)
		}
		if rnd.IntN(4) == 0 {
			continue // nobody takes it
		}
		f := b.TakeFile()
		if (f != nil) != (k <= 2) {
			t.Fatalf("frame %d of kind %d: file %v", i, k, f)
		}
		if f == nil {
			continue
		}
		if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("flags %#x, %v: it would go to children", flags, err)
		}
		if got := content(t, f); got != fmt.Sprint(i) {
			t.Errorf("frame %d came with the file %q", i, got)
		}
		if b.TakeFile() != nil {
			t.Error("one file was taken twice")
		}
	}
	a.Close()
	b.Close()
}

// sendFiles sends p with files, as no honest peer would.
func sendFiles(t *testing.T, c net.Conn, p []byte, files ...*os.File) {
	t.Helper()
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	rc, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var serr error
	if err := rc.Write(func(fd uintptr) bool {
		serr = unix.Sendmsg(int(fd), p, unix.UnixRights(fds...), nil, 0)
		return !errors.Is(serr, unix.EAGAIN)
	}); err != nil || serr != nil {
		t.Fatal(err, serr)
	}
}

// A peer that sends files where none belong, and many of them, costs no more than it takes to close them.
func TestHostileFiles(t *testing.T) {
	frame := func(body int) []byte {
		h := native.Header{Body: uint32(body)}
		return h.Append(nil)
	}
	many := func(t *testing.T, n int) (fs []*os.File) {
		for i := range n {
			fs = append(fs, memfile(t, fmt.Sprint(i)))
		}
		return fs
	}
	cases := map[string]func(t *testing.T, c net.Conn){
		"many/one message": func(t *testing.T, c net.Conn) { sendFiles(t, c, append(frame(0), frame(0)...), many(t, 200)...) },
		"many/each byte": func(t *testing.T, c net.Conn) {
			f := memfile(t, "x")
			for _, b := range append(frame(10), make([]byte, 10)...) {
				sendFiles(t, c, []byte{b}, f, f, f)
			}
			c.Write(frame(0))
		},
		"body": func(t *testing.T, c net.Conn) {
			c.Write(frame(3000))
			for range 30 {
				sendFiles(t, c, make([]byte, 100), memfile(t, "x"))
			}
			c.Write(frame(0))
		},
		"never taken": func(t *testing.T, c net.Conn) {
			for range 2 {
				sendFiles(t, c, frame(0), memfile(t, "x"))
			}
		},
		"header in part": func(t *testing.T, c net.Conn) {
			c.Write(frame(0))
			sendFiles(t, c, frame(0)[:7], memfile(t, "x"))
		},
		"not read at all": func(t *testing.T, c net.Conn) {
			for range 100 {
				sendFiles(t, c, frame(0), memfile(t, "x"))
			}
		},
	}
	for name, attack := range cases {
		t.Run("files="+name, func(t *testing.T) {
			noDescriptorsLeft(t)
			x, y := connect(t, "unix", filepath.Join(t.TempDir(), "s"))
			c := fileCarrier{newCarrier(y, CarrierOptions{})}
			sent := make(chan bool)
			go func() {
				defer close(sent)
				defer x.Close()
				attack(t, x)
			}()
			for i := range 2 {
				var h native.Header
				if _, _, _, err := readAll(c, &h); err != nil {
					if i == 0 || !errors.Is(err, transport.ErrUnavailable) && err != io.EOF {
						t.Errorf("frame %d: %v", i, err)
					}
				}
				c.files.mu.Lock()
				if n := len(c.files.waiting); n > maxWaiting {
					t.Errorf("%d files wait", n)
				}
				c.files.mu.Unlock()
			}
			<-sent
			if name == "many/each byte" || name == "body" {
				if f := c.TakeFile(); f != nil {
					t.Error("a file that came inside one frame went to the next")
				}
			}
			c.Close()
			if c.TakeFile() != nil {
				t.Error("a file after Close")
			}
		})
	}
}

// A frame with a file that waits behind a full socket, or that nobody will ever read, leaks nothing and leaves the sender's file alone.
func TestFileBlockedAndClosed(t *testing.T) {
	noDescriptorsLeft(t)
	x, y := kinds["unix"](t, CarrierOptions{})
	a, b := fileCarrier{x}, fileCarrier{y}
	big := make(chan error, 1)
	go func() { big <- a.WriteFrame(&native.Header{}, nil, transport.Slices{make([]byte, 4<<20)}) }()
	for a.turn.TryLock() {
		a.turn.Unlock()
	}
	f := memfile(t, "late")
	second := make(chan error, 1)
	go func() { second <- a.WriteFrameFile(&native.Header{ID: 2}, nil, f) }()
	var h native.Header
	if _, _, _, err := readAll(b, &h); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := readAll(b, &h); err != nil || h.ID != 2 {
		t.Fatal(h, err)
	}
	if got := content(t, b.TakeFile()); got != "late" {
		t.Errorf("the file is %q", got)
	}
	if err := errors.Join(<-big, <-second); err != nil {
		t.Error(err)
	}
	if err := a.WriteFrameFile(&h, make([]byte, native.MaxMeta+1), f); !errors.Is(err, transport.ErrTooLarge) {
		t.Error(err)
	}
	for range 100 { // in flight when both ends close
		if err := a.WriteFrameFile(&h, nil, f); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.ReadFrame(&h); err != nil {
		t.Error(err)
	}
	b.Close()
	var err error
	for err == nil {
		err = a.WriteFrameFile(&h, nil, f)
	}
	if !errors.Is(err, transport.ErrUnavailable) {
		t.Error(err)
	}
	a.Close()
	if err := a.WriteFrameFile(&h, nil, f); !errors.Is(err, transport.ErrUnavailable) {
		t.Error(err)
	}
	if got := content(t, f); got != "late" {
		t.Errorf("the sender's file is %q", got)
	}
	closed := memfile(t, "")
	closed.Close()
	p, q := kinds["unix"](t, CarrierOptions{})
	if err := (fileCarrier{p}).WriteFrameFile(&h, nil, closed); err == nil {
		t.Error("a closed file was sent")
	}
	if err := p.WriteFrame(&native.Header{ID: 7}, nil, nil); err != nil {
		t.Errorf("after a file that could not be sent: %v", err)
	}
	if _, err := q.ReadFrame(&h); err != nil || h.ID != 7 {
		t.Errorf("%+v, %v", h, err)
	}
	p.Close()
	q.Close()
}

// Only a unix socket passes files.
func TestFilePasser(t *testing.T) {
	for kind, open := range kinds {
		a, _ := open(t, CarrierOptions{})
		if _, ok := a.carrier().(native.FilePasser); ok != (kind == "unix") {
			t.Errorf("over=%s: FilePasser = %v", kind, ok)
		}
	}
}
