package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"github.com/proxyplane/proxyplane/internal/netlab"
)

// Operations: an object that is in site B comes to A, or one that is in A goes to B.
const (
	get = "get"
	put = "put"
)

// Systems.
const (
	sysTCP        = "tcp"
	sysOurs       = "ours"
	sysTLS        = "ours-tls"
	sysQUIC       = "ours-quic"
	sysWebRTC     = "ours-webrtc"
	sysPython     = "python"
	sysOursPython = "ours-python" // A is ours, B is Python's, over our relay
	sysPythonOurs = "python-ours" // and the reverse, over Python's relay
)

func systemNames() []string {
	return []string{sysTCP, sysOurs, sysTLS, sysQUIC, sysWebRTC, sysPython, sysOursPython, sysPythonOurs}
}

// system is one way from A to B that is up.
type system interface {
	name() string
	// do gets or puts one object of that size, and returns how long that took. It checks how much came, with verify also what.
	do(op string, size int, verify bool) (time.Duration, error)
	// note is what to say about the system below the table, "" for nothing.
	note() string
}

// patience is how long one operation may take.
const patience = 5 * time.Minute

// payload returns bytes that do not compress; every size is a prefix of the largest.
func payload(size int) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}

// receive reads r to its end, checks that it has as many bytes as want, and with verify that they are the same.
func receive(r io.Reader, want []byte, verify bool, buf []byte) error {
	n := 0
	for {
		m, err := r.Read(buf)
		if n+m > len(want) || verify && !bytes.Equal(buf[:m], want[n:n+m]) {
			return fmt.Errorf("wrong bytes at %d of %d", n, len(want))
		}
		n += m
		switch {
		case errors.Is(err, io.EOF) && n == len(want):
			return nil
		case err != nil:
			return fmt.Errorf("after %d of %d bytes: %w", n, len(want), err)
		}
	}
}

// plain is one TCP connection: the client writes the operation and the size, and then the object goes one way and, for a put, a byte the other.
type plain struct {
	ln      net.Listener
	c       net.Conn
	data    []byte
	buf     []byte
	inbound []byte
}

func newPlain(lab *netlab.Lab, data []byte) (*plain, error) {
	ln, err := lab.Listen("B", "tcp4", netip.AddrPortFrom(lab.Addr("B"), 9700).String())
	if err != nil {
		return nil, err
	}
	p := &plain{ln: ln, data: data, buf: make([]byte, 1<<20), inbound: make([]byte, 1<<20)}
	go p.serve()
	p.c, err = lab.Dial(context.Background(), "A", "tcp4", ln.Addr().String())
	if err != nil {
		ln.Close()
		return nil, err
	}
	return p, nil
}

func (p *plain) name() string { return sysTCP }
func (p *plain) note() string { return "" }

func (p *plain) close() {
	p.ln.Close()
	p.c.Close() // at which serve's connection ends
}

func (p *plain) serve() {
	c, err := p.ln.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	var h [16]byte
	for {
		if _, err := io.ReadFull(c, h[:]); err != nil {
			return
		}
		size := int(binary.BigEndian.Uint64(h[8:]))
		if h[0] == 'g' {
			_, err = c.Write(p.data[:size])
		} else if err = receive(io.LimitReader(c, int64(size)), p.data[:size], false, p.inbound); err == nil {
			_, err = c.Write(h[:1])
		}
		if err != nil {
			return
		}
	}
}

func (p *plain) do(op string, size int, verify bool) (time.Duration, error) {
	begin := time.Now()
	p.c.SetDeadline(begin.Add(patience))
	h := make([]byte, 16)
	h[0] = op[0]
	binary.BigEndian.PutUint64(h[8:], uint64(size))
	var err error
	if op == get {
		if _, err = p.c.Write(h); err == nil {
			err = receive(io.LimitReader(p.c, int64(size)), p.data[:size], verify, p.buf)
		}
	} else {
		v := net.Buffers{h, p.data[:size]}
		if _, err = v.WriteTo(p.c); err == nil {
			_, err = io.ReadFull(p.c, h[:1])
		}
	}
	return time.Since(begin), err
}

// pair is an endpoint in A, which is asked, and one in B, which holds.
type pair struct {
	label  string
	a, b   *daemon
	client *http.Client // in A
	there  *http.Client // in B, for preparing
	data   []byte
	buf    []byte
	made   map[int]bool // objects of that size are at B
	puts   int
}

func (p *pair) name() string { return p.label }

func (p *pair) note() string { return p.a.path(p.client, p.b.uuid) }

func (p *pair) do(op string, size int, verify bool) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if op == get {
		k := "get-" + strconv.Itoa(size)
		if !p.made[size] {
			if err := p.post(ctx, p.there, query(p.b.base, "set", k, ""), p.data[:size]); err != nil {
				return 0, fmt.Errorf("preparing: %w", err)
			}
			p.made[size] = true
		}
		begin := time.Now()
		err := p.fetch(ctx, p.client, query(p.a.base, "get", k, p.b.uuid), size, verify)
		return time.Since(begin), err
	}
	p.puts++
	k := p.label + "-put-" + strconv.Itoa(p.puts)
	begin := time.Now()
	if err := p.post(ctx, p.client, query(p.a.base, "set", k, p.b.uuid), p.data[:size]); err != nil {
		return 0, err
	}
	d := time.Since(begin)
	if verify {
		if err := p.fetch(ctx, p.there, query(p.b.base, "get", k, ""), size, true); err != nil {
			return 0, fmt.Errorf("what was put: %w", err)
		}
	}
	return d, p.post(ctx, p.there, query(p.b.base, "evict", k, ""), nil)
}

func (p *pair) fetch(ctx context.Context, c *http.Client, from string, size int, verify bool) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return failure(resp)
	}
	return receive(resp.Body, p.data[:size], verify, p.buf)
}

func (p *pair) post(ctx context.Context, c *http.Client, to string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return failure(resp)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

func failure(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
	return fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(text))
}

// query is the URL of an operation on an endpoint, for an object at another one ("": its own).
func query(base, op, key, endpoint string) string {
	q := url.Values{"key": {key}}
	if endpoint != "" {
		q.Set("endpoint", endpoint)
	}
	return base + "/" + op + "?" + q.Encode()
}
