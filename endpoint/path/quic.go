package path

import (
	"context"
	"net"
	"time"

	"github.com/proxyplane/proxyplane/transport/quic"
)

// QUIC returns a Path over c, which it takes. Streams are bounded by quic.Options.Streams.
func QUIC(c *quic.Conn, d Details) Path {
	p := &quicPath{c: c, since: time.Now(), d: d}
	return p
}

type quicPath struct {
	c     *quic.Conn
	since time.Time
	d     Details
}

func (p *quicPath) Open(ctx context.Context) (net.Conn, error)   { return p.c.Open(ctx) }
func (p *quicPath) Accept(ctx context.Context) (net.Conn, error) { return p.c.Accept(ctx) }
func (p *quicPath) Done() <-chan struct{}                        { return p.c.Done() }
func (p *quicPath) Err() error                                   { return p.c.Err() }
func (p *quicPath) Close() error                                 { return p.c.Close() }

func (p *quicPath) Info() Info {
	i := Info{Kind: KindQUIC, Local: p.d.Local, Remote: p.d.Remote, Relayed: p.d.Relayed, RTT: p.c.RTT(), Since: p.since}
	if i.Local == "" {
		i.Local = p.c.LocalAddr().String()
	}
	if i.Remote == "" || !i.Relayed { // where it is now, if the peer's address has changed
		i.Remote = p.c.RemoteAddr().String()
	}
	return i
}
