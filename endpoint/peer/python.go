package peer

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/proxyplane/proxyplane/endpoint/p2p"
	"github.com/proxyplane/proxyplane/endpoint/path"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/webrtc"
)

// maxChannels bounds the data channels of one peer.
const maxChannels = 256

// pythonStep is what SCTP's window grows by per round trip to a Python endpoint, in bytes. That has the system's usual socket buffer, for some 90 packets,
// and works much longer on packets that come out of order: with webrtc's default, which overruns the buffer again and again, it took up to 30 % more of
// the processor, which is what limits it.
const pythonStep = 2 << 10

// pythonBuffer is what such a buffer holds of packets of either size: 90 times 1160 bytes, and less of the kernel's memory if they are longer.
const pythonBuffer = 96 << 10

// pythonMTU4 and pythonMTU6 are the sizes of SCTP packets that fit into Ethernet's 1500 bytes over IPv4 and IPv6, with UDP and DTLS: a Python endpoint's
// processor works per packet, and aiortc itself sends packets of 1188 bytes (older versions: 1228). Where the path does not carry them they have
// webrtc's default, which fits into the 1280 bytes that VPNs often have; 1228 does not.
const (
	pythonMTU4 = 1432
	pythonMTU6 = 1412
)

// label is how proxystore.p2p.connection.PeerConnection.send_offer names its channels: index and number.
var label = regexp.MustCompile(`^p2p-([0-9]{1,4})-([0-9]{1,4})$`)

// python connects to a Python endpoint, and returns when that is over. ctx ends with the time for it.
func (g *peering) python(ctx context.Context) error {
	m := g.p.m
	g.note("ice", nil)
	found, err := g.agent.Connect(ctx)
	if err != nil {
		g.note("ice", err)
		return g.noPath(time.Since(g.began))
	}
	g.unnote("ice")
	g.note(path.KindWebRTC, nil)
	tuning := webrtc.Tuning{WindowStep: pythonStep, PeerBuffer: pythonBuffer, ProbeMTU: pythonMTU6}
	if found.Remote.Addr().Is4() {
		tuning.ProbeMTU = pythonMTU4
	}
	if err := g.agent.Tune(tuning); err != nil {
		return fmt.Errorf("peer: %w", err)
	}
	conn, err := g.agent.Channels(ctx)
	if err != nil {
		g.note(path.KindWebRTC, err)
		return g.noPath(time.Since(g.began))
	}
	defer conn.Close()
	var channels []p2p.Channel
	if g.offerer {
		channels, err = openAll(ctx, conn, m.o.Channels)
	} else {
		channels, err = acceptAll(ctx, conn)
	}
	if err != nil {
		g.note(path.KindWebRTC, err)
		return g.noPath(time.Since(g.began))
	}
	s := p2p.New(channels, m.o.Store, p2p.Options{MaxObject: m.o.MaxObject, Logger: m.o.Logger, Pool: m.o.Pool})
	g.mu.Lock()
	g.session, g.conn, g.live, g.step, g.lostAt = s, conn, true, "connected", time.Time{}
	clear(g.tried)
	pair, _ := g.agent.Pair()
	g.pair = &pair
	g.mu.Unlock()
	m.log.Info("connected to a Python endpoint", "peer", g.p.id, "offerer", g.offerer, "channels", len(channels), "remote", pair.Remote)
	if !g.p.promote(g) {
		return fmt.Errorf("peer: %w: another connection came first", errAnew)
	}
	g.settle()
	select {
	case <-s.Done():
		err = s.Err()
	case <-conn.Done():
		err = conn.Err()
	case <-g.agent.Failed():
		err = fmt.Errorf("peer: %w: the peer does not answer any more", transport.ErrUnavailable)
	case <-g.ctx.Done():
		return context.Cause(g.ctx)
	}
	if err == nil {
		err = fmt.Errorf("peer: %w: the peer closed the connection", transport.ErrUnavailable)
	}
	return err
}

// openAll opens n channels as Python's offerer does.
func openAll(ctx context.Context, conn *webrtc.Channels, n int) ([]p2p.Channel, error) {
	var out []p2p.Channel
	for i := range n {
		c, err := conn.Open(ctx, fmt.Sprintf("p2p-%d-%d", i, n), false)
		if err != nil {
			return nil, err // conn.Close closes those before
		}
		out = append(out, c)
	}
	return out, nil
}

// acceptAll waits for all channels that Python's offerer opens. Their order is kept by index, though nothing depends on it.
func acceptAll(ctx context.Context, conn *webrtc.Channels) ([]p2p.Channel, error) {
	var out []p2p.Channel
	for have := 0; len(out) == 0 || have < len(out); have++ {
		c, err := conn.Accept(ctx)
		if err != nil {
			return nil, err
		}
		match := label.FindStringSubmatch(c.Label())
		if match == nil {
			return nil, fmt.Errorf("%w: a data channel called %q", transport.ErrCorrupt, printable(c.Label(), 60))
		}
		i, _ := strconv.Atoi(match[1])
		n, _ := strconv.Atoi(match[2])
		if len(out) == 0 && n > 0 && n <= maxChannels {
			out = make([]p2p.Channel, n)
		}
		if n != len(out) || i >= n || out[i] != nil {
			return nil, fmt.Errorf("%w: data channel %d of %d, of which %d are there; at most %d are possible", transport.ErrCorrupt, i, n, have, maxChannels)
		}
		out[i] = c
	}
	return out, nil
}
