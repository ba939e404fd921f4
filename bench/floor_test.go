//go:build unix

package bench

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/proxyplane/proxyplane/internal/redistest"
)

// memcpy copies the object into memory that is warm already.
func memcpy(b *testing.B, _ string, obj []byte) time.Duration {
	dst := make([]byte, len(obj))
	copy(dst, obj)
	start := time.Now()
	for range b.N {
		copy(dst, obj)
	}
	return time.Since(start)
}

// mapLookup is what it takes to find an object in this process by its key.
func mapLookup(b *testing.B, _ string, obj []byte) time.Duration {
	m := map[string][]byte{}
	var keys []string
	for i := range 64 {
		keys = append(keys, "5e1f0d52-2a5c-4b7c-8f3e-"+strconv.Itoa(100000000000+i))
		m[keys[i]] = obj
	}
	var mu sync.RWMutex
	start := time.Now()
	n := 0
	for i := range b.N {
		mu.RLock()
		n += len(m[keys[i&63]])
		mu.RUnlock()
	}
	took := time.Since(start)
	sink += byte(n)
	return took
}

// writeFile is a create, one write and a close, without the marker file.
func writeFile(b *testing.B, dir string, obj []byte) time.Duration {
	path := filepath.Join(dir, "floor")
	return timed(b, func() (time.Duration, error) {
		start := time.Now()
		fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return 0, err
		}
		for rest := obj; len(rest) > 0; {
			n, err := unix.Write(fd, rest)
			if err != nil {
				return 0, err
			}
			rest = rest[n:]
		}
		unix.Close(fd)
		took := time.Since(start)
		return took, os.Remove(path)
	})
}

// mapAndTouch maps a file, reads a byte of every page and unmaps it.
func mapAndTouch(b *testing.B, dir string, obj []byte) time.Duration {
	path := filepath.Join(dir, "floor")
	if err := os.WriteFile(path, obj, 0o600); err != nil {
		b.Fatal(err)
	}
	defer os.Remove(path)
	return timed(b, func() (time.Duration, error) {
		start := time.Now()
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, err
		}
		m, err := unix.Mmap(fd, 0, len(obj), unix.PROT_READ, unix.MAP_PRIVATE)
		if err != nil {
			return 0, err
		}
		touch(m)
		unix.Close(fd)
		err = unix.Munmap(m)
		return time.Since(start), err
	})
}

// redisAddr starts a server of the benchmark's own.
func redisAddr(b *testing.B) string { return redistest.Start(b).Addr() }

func splitAddr(addr string) (string, int) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		panic(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		panic(err)
	}
	return host, n
}

// rawRedis is one connection that speaks just enough of the protocol, with one write per request and a receive buffer that is used again.
type rawRedis struct {
	c net.Conn
	r *bufio.Reader
}

func dialRaw(b *testing.B, addr string) *rawRedis {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return &rawRedis{c, bufio.NewReaderSize(c, 4096)}
}

func (r *rawRedis) set(key string, obj []byte) error {
	head := fmt.Appendf(nil, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n", len(key), key, len(obj))
	if _, err := (&net.Buffers{head, obj, []byte("\r\n")}).WriteTo(r.c); err != nil {
		return err
	}
	line, err := r.r.ReadSlice('\n')
	if err == nil && string(line) != "+OK\r\n" {
		err = fmt.Errorf("SET: %q", line)
	}
	return err
}

func (r *rawRedis) get(key string, dst []byte) error {
	if _, err := fmt.Fprintf(r.c, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", len(key), key); err != nil {
		return err
	}
	line, err := r.r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("$%d\r\n", len(dst)); string(line) != want {
		return fmt.Errorf("GET: %q, want %q", line, want)
	}
	if _, err := io.ReadFull(r.r, dst); err != nil {
		return err
	}
	_, err = r.r.Discard(2)
	return err
}

func rawSet(b *testing.B, addr string, obj []byte) time.Duration {
	r := dialRaw(b, addr)
	return timed(b, func() (time.Duration, error) {
		start := time.Now()
		err := r.set("floor", obj)
		return time.Since(start), err
	})
}

func rawGet(b *testing.B, addr string, obj []byte) time.Duration {
	r := dialRaw(b, addr)
	if err := r.set("floor", obj); err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, len(obj))
	return timed(b, func() (time.Duration, error) {
		start := time.Now()
		err := r.get("floor", dst)
		return time.Since(start), err
	})
}
