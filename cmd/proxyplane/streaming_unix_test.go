//go:build unix

package main

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// TestStreaming moves an object that is much larger than the memory it may take.
func TestStreaming(t *testing.T) {
	e := newEnv(t)
	const size = 192 << 20
	f, err := os.Create(filepath.Join(e.dir, "big"))
	if err != nil {
		t.Fatal(err)
	}
	random := make([]byte, 1<<20)
	rand.Read(random)
	if _, err := f.WriteAt(random, size-int64(len(random))); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	measured := func(stdin string, args ...string) (string, int64) {
		cmd := e.command(args...)
		if stdin != "" {
			in, err := os.Open(filepath.Join(e.dir, stdin))
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			r, w, err := os.Pipe() // of unknown length
			if err != nil {
				t.Fatal(err)
			}
			go func() { w.ReadFrom(in); w.Close() }()
			defer r.Close()
			cmd.Stdin = r
		}
		var errOut strings.Builder
		cmd.Stderr = &errOut
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%q: %v %s", args, err, errOut.String())
		}
		kb := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss
		if runtime.GOOS == "darwin" {
			kb /= 1024
		}
		return string(out), kb << 10
	}
	_, base := measured("", "version")
	bounded := func(what string, rss int64) {
		if rss-base > 64<<20 {
			t.Errorf("%s: %d MB more than doing nothing", what, (rss-base)>>20)
		}
	}
	key, rss := measured("", "put", "big")
	bounded("put of a file", rss)
	_, rss = measured("", "get", "--key", key, "-o", "copy")
	bounded("get", rss)
	same := func() {
		a, err1 := os.Open(filepath.Join(e.dir, "big"))
		b, err2 := os.Open(filepath.Join(e.dir, "copy"))
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		defer a.Close()
		defer b.Close()
		x, y := make([]byte, 1<<20), make([]byte, 1<<20)
		st, _ := b.Stat()
		if st.Size() != size {
			t.Fatalf("%d bytes", st.Size())
		}
		for off := int64(0); off < size; off += 1 << 20 {
			if _, err := a.ReadAt(x, off); err != nil {
				t.Fatal(err)
			}
			if _, err := b.ReadAt(y, off); err != nil {
				t.Fatal(err)
			}
			if string(x) != string(y) {
				t.Fatalf("differs in the MiB at %d", off)
			}
		}
	}
	same()
	e.ok("", "evict", "--key", key)
	_, rss = measured("big", "proxy", "-", "-o", "p", "--evict")
	bounded("proxy of standard input", rss)
	_, rss = measured("", "resolve", "p", "-o", "copy")
	bounded("resolve", rss)
	same()
	if left := e.stored(); len(left) > 0 {
		t.Errorf("not evicted: %v", left)
	}
}
