package peer

import (
	"context"
	"net"

	"github.com/proxyplane/proxyplane/endpoint/path"
)

// route is a Path whose bytes are counted for its peer.
type route struct {
	path.Path
	p    *peer
	kind string
	rank int // the better, the smaller
}

// rank orders paths: direct ones before relayed ones, then TLS (one TCP connection per stream, the kernel does the work), QUIC, data channels.
func rank(i path.Info) int {
	r := 3
	switch i.Kind {
	case path.KindTLS:
		r = 0
	case path.KindQUIC:
		r = 1
	case path.KindWebRTC:
		r = 2
	}
	if i.Relayed {
		r += 10
	}
	return r
}

func (r *route) over() bool {
	select {
	case <-r.Done():
		return true
	default:
		return false
	}
}

func (r *route) Open(ctx context.Context) (net.Conn, error) {
	c, err := r.Path.Open(ctx)
	if err != nil {
		return nil, err
	}
	return &counted{c, r.p}, nil
}

func (r *route) Accept(ctx context.Context) (net.Conn, error) {
	c, err := r.Path.Accept(ctx)
	if err != nil {
		return nil, err
	}
	return &counted{c, r.p}, nil
}

// counted is a stream whose bytes are counted.
type counted struct {
	net.Conn
	p *peer
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.p.in.Add(int64(n))
	return n, err
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.p.out.Add(int64(n))
	return n, err
}
