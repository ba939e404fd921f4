package path

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/webrtc"
)

// channelLabel begins the labels of the channels that are streams. Those of ProxyStore's endpoints begin with "p2p-".
const channelLabel = "proxyplane-"

// WebRTC returns a Path over c, which it takes: nobody else may open or accept channels. Each side has at most 64 streams open at once.
func WebRTC(c *webrtc.Channels, d Details) Path {
	return newChannelPath[*webrtc.Channel](c, d)
}

// dataChannel and channelSet are what a Path needs of package webrtc.
type dataChannel interface {
	Label() string
	Stream() net.Conn
	Close() error
}

type channelSet[C dataChannel] interface {
	Open(ctx context.Context, label string, ordered bool) (C, error)
	Accept(ctx context.Context) (C, error)
	Done() <-chan struct{}
	Err() error
	RTT() time.Duration
	Close() error
}

type channelPath[C dataChannel] struct {
	c        channelSet[C]
	d        Details
	since    time.Time
	n        atomic.Int64
	opened   chan struct{} // slots
	accepted chan struct{}
	closed   atomic.Bool
}

func newChannelPath[C dataChannel](c channelSet[C], d Details) *channelPath[C] {
	return &channelPath[C]{c: c, d: d, since: time.Now(), opened: make(chan struct{}, DefaultStreams), accepted: make(chan struct{}, DefaultStreams)}
}

func (p *channelPath[C]) Open(ctx context.Context) (net.Conn, error) {
	select {
	case <-p.c.Done():
		return nil, p.Err()
	default:
	}
	select {
	case p.opened <- struct{}{}:
	case <-p.c.Done():
		return nil, p.Err()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	ch, err := p.c.Open(ctx, channelLabel+strconv.FormatInt(p.n.Add(1), 10), true)
	if err != nil {
		<-p.opened
		return nil, p.failure(ctx, err)
	}
	return &channelStream{Conn: ch.Stream(), slots: p.opened}, nil
}

func (p *channelPath[C]) Accept(ctx context.Context) (net.Conn, error) {
	for {
		ch, err := p.c.Accept(ctx)
		if err != nil {
			return nil, p.failure(ctx, err)
		}
		if !strings.HasPrefix(ch.Label(), channelLabel) {
			ch.Close() // not of ours
			continue
		}
		select {
		case p.accepted <- struct{}{}:
			return &channelStream{Conn: ch.Stream(), slots: p.accepted}, nil
		default:
			ch.Close() // more than the peer may open
		}
	}
}

func (p *channelPath[C]) failure(ctx context.Context, err error) error {
	if e := p.Err(); e != nil {
		return e
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return fmt.Errorf("path: %w: data channel: %w", transport.ErrUnavailable, err)
}

// Widen is Path's: all channels share SCTP's one window.
func (p *channelPath[C]) Widen(context.Context, int) error {
	return fmt.Errorf("path: more associations: %w", errors.ErrUnsupported)
}

func (p *channelPath[C]) Info() Info {
	return Info{Kind: KindWebRTC, Conns: 1, Local: p.d.Local, Remote: p.d.Remote, Relayed: p.d.Relayed, RTT: p.c.RTT(), Since: p.since}
}

func (p *channelPath[C]) Done() <-chan struct{} { return p.c.Done() }

func (p *channelPath[C]) Err() error {
	select {
	case <-p.c.Done():
	default:
		return nil
	}
	if p.closed.Load() {
		return errClosed
	}
	if err := p.c.Err(); err != nil {
		return fmt.Errorf("path: %w: the data channels' connection ended: %w", transport.ErrUnavailable, err)
	}
	return fmt.Errorf("path: %w: the data channels' connection ended", transport.ErrUnavailable)
}

func (p *channelPath[C]) Close() error {
	p.closed.Store(true)
	return p.c.Close()
}

// channelStream gives its slot back when it is closed.
type channelStream struct {
	net.Conn
	slots chan struct{}
	once  sync.Once
	err   error
}

func (s *channelStream) Close() error {
	s.once.Do(func() {
		s.err = s.Conn.Close()
		<-s.slots
	})
	return s.err
}
