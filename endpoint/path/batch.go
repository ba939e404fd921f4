package path

import (
	"net"
	"sync"
)

const (
	// readAhead and writeBehind are what a batchConn gathers at most. It begins to read with little, as most connections are idle ones.
	readAhead   = 128 << 10
	firstAhead  = 2 << 10
	writeBehind = 128 << 10
)

// batchConn is what lies below crypto/tls, which makes one system call for each record of 16 KiB that it sends, and up to two for each that it receives. It
// reads ahead, and gathers the records of one Write of the TLS connection. That saved 19 % of the processor time of 64 MiB over loopback, 9 % of that of a
// native get.
type batchConn struct {
	net.Conn

	r, w int // in[r:w] was not read yet; in is nil where nothing was
	in   []byte

	mu   sync.Mutex
	cork bool // gather
	out  []byte
	err  error // of an earlier write: part of what crypto/tls believes sent was not
}

// Read is called by one goroutine at a time: crypto/tls sees to it.
func (c *batchConn) Read(p []byte) (int, error) {
	if c.r == c.w {
		if len(p) >= readAhead {
			return c.Conn.Read(p)
		}
		if c.w == len(c.in) && len(c.in) < readAhead { // the last read filled it, or there was none
			c.in = make([]byte, min(max(firstAhead, 8*len(c.in)), readAhead))
		}
		c.r, c.w = 0, 0
		n, err := c.Conn.Read(c.in)
		if n <= 0 {
			return 0, err
		}
		c.w = n // an error comes again
	}
	n := copy(p, c.in[c.r:c.w])
	c.r += n
	return n, nil
}

func (c *batchConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if !c.cork {
		return c.Conn.Write(p)
	}
	if len(c.out)+len(p) > writeBehind {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	if c.out == nil {
		c.out = make([]byte, 0, writeBehind)
	}
	c.out = append(c.out, p...)
	return len(p), nil
}

func (c *batchConn) flush() error {
	if c.err == nil && len(c.out) > 0 {
		_, c.err = c.Conn.Write(c.out)
	}
	c.out = c.out[:0]
	return c.err
}

// hold gathers what is written until release.
func (c *batchConn) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cork = true
}

func (c *batchConn) release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cork = false
	return c.flush()
}
