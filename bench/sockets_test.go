//go:build unix

package bench

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"
)

// The floor of every transport: a socket, a request of nine bytes (what and how long), and memory that is used again. No ids, no frames, no checks, no
// table: what the machine takes to move these bytes between two Go processes.
const (
	opGet = 'g' // answered with that many bytes
	opPut = 'p' // followed by that many bytes, answered with one
)

func init() {
	servers["raw-tcp"] = func(_ string, ready func(string), stdin io.Reader) error {
		return serveRaw("tcp", "127.0.0.1:0", ready, stdin)
	}
	servers["raw-unix"] = func(_ string, ready func(string), stdin io.Reader) error {
		dir, err := os.MkdirTemp("", "proxyplane-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		return serveRaw("unix", filepath.Join(dir, "raw"), ready, stdin)
	}
}

func serveRaw(network, addr string, ready func(string), stdin io.Reader) error {
	l, err := net.Listen(network, addr)
	if err != nil {
		return err
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go rawSession(c)
		}
	}()
	ready(network + " " + l.Addr().String())
	untilEOF(stdin)
	return nil
}

// rawSession answers in order. Small requests are read many at once, and small answers leave together, so that who has many in flight pays few
// system calls.
func rawSession(c net.Conn) {
	defer c.Close()
	r, w := bufio.NewReaderSize(c, 16<<10), bufio.NewWriterSize(c, 16<<10)
	var mem []byte
	head := make([]byte, 9)
	for {
		if _, err := io.ReadFull(r, head); err != nil {
			return
		}
		n := int(binary.LittleEndian.Uint64(head[1:]))
		if len(mem) < n {
			mem = payload(n)
		}
		var err error
		if head[0] == opGet {
			_, err = w.Write(mem[:n])
		} else if _, err = io.ReadFull(r, mem[:n]); err == nil {
			err = w.WriteByte(head[0])
		}
		if err == nil && r.Buffered() < len(head) {
			err = w.Flush()
		}
		if err != nil {
			return
		}
	}
}

// raw is the client: one connection, on which flight requests are under way.
type raw struct {
	c    net.Conn
	r    *bufio.Reader
	obj  []byte
	into []byte
}

func dialSocket(addr string, obj []byte) (*raw, error) {
	var network, at string
	if _, err := fmt.Sscan(addr, &network, &at); err != nil {
		return nil, err
	}
	c, err := net.Dial(network, at)
	if err != nil {
		return nil, err
	}
	return &raw{c: c, r: bufio.NewReaderSize(c, 16<<10), obj: obj, into: make([]byte, len(obj))}, nil
}

func (r *raw) send(op byte) error {
	head := binary.LittleEndian.AppendUint64([]byte{op}, uint64(len(r.obj)))
	if op == opGet {
		_, err := r.c.Write(head)
		return err
	}
	_, err := (&net.Buffers{head, r.obj}).WriteTo(r.c)
	return err
}

func (r *raw) receive(op byte) error {
	into := r.into
	if op == opPut {
		into = into[:1]
	}
	_, err := io.ReadFull(r.r, into)
	return err
}

func (r *raw) exchange(op byte) error {
	if err := r.send(op); err != nil {
		return err
	}
	return r.receive(op)
}

func (r *raw) round(op string, flight int, until time.Duration) (sample, error) {
	code := byte(opGet)
	if op == "put" {
		code = opPut
	}
	if flight == 1 {
		return sequential(until, func() error { return r.exchange(code) })
	}
	// One goroutine asks and one listens, with flight requests between them.
	var s sample
	begun := make(chan time.Time, flight-1)
	sent := make(chan error, 1)
	start := time.Now()
	go func() {
		defer close(begun)
		for n := 0; n < flight || time.Since(start) < until; n++ {
			begun <- time.Now()
			if err := r.send(code); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for t := range begun {
		if err := r.receive(code); err != nil {
			return s, err
		}
		s.add(time.Since(t))
	}
	s.elapsed = time.Since(start)
	return s, <-sent
}

func (r *raw) close() { r.c.Close() }

// freePort returns a port that nobody has now.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}
