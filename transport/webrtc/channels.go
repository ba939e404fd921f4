package webrtc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/datachannel"
	"github.com/pion/dtls/v3"
	"github.com/pion/sctp"
	"github.com/proxyplane/proxyplane/transport"
)

const (
	// packetMTU is the size of SCTP packets: with DTLS (37 bytes), UDP and IPv6 they fit into the 1280 bytes that every IPv6 link carries, and that
	// nearly every IPv4 path does. aiortc's packets are as long. Longer ones need Tuning.ProbeMTU.
	packetMTU = 1192
	// maxMTU is what fits into packetSize.
	maxMTU = 8000
	// flight is how long DTLS waits for an answer at first. Pion's default of 1 s is long for paths that lose packets.
	flight = 500 * time.Millisecond
	// rtoMax bounds the pauses between SCTP's retransmissions, in ms: the usual 60 s would outlast the peer's consent after an outage of seconds.
	rtoMax = 2000
	// replayWindow is how far DTLS packets may overtake each other. Pion's default of 64 is 5 ms at 150 Mbit/s.
	replayWindow = 1024
	// maxChunks bounds the packets of a channel that wait for their reader, beside Tuning.ReceiveBuffer, which does not count what each of them costs.
	maxChunks = 64 << 10
	// maxLabel is the longest label of a channel.
	maxLabel = 256
	// maxOpening is how many channels may be about to open: their first packet came, their opening message did not.
	maxOpening = 64
	// drain is how long Close waits for what was written last to arrive.
	drain = 500 * time.Millisecond
)

// Tuning of data channels. The zero value means the defaults.
type Tuning struct {
	// MTU is the size of SCTP packets without DTLS, UDP and IP, which add 65 or 85 bytes. Default: 1192, at most 8000.
	MTU int
	// ProbeMTU is the size of SCTP packets that is used instead of MTU if the path turns out to carry it, which Channels asks for while DTLS shakes hands;
	// where there is no answer that takes half a second. Only paths from a Mux's socket without a TURN server are asked. To tell what the path carries in
	// one piece the socket must not let the system cut packets up; those that QUIC shares do not. 0: no probe. From MTU to 8000.
	ProbeMTU int
	// ReceiveBuffer is how many bytes may wait for readers, over all channels; the peer learns it, and sends no more per round trip: 1.6 Gbit/s
	// at 20 ms. More than the 4 MiB that wait for DTLS at most is for long paths only; on short ones it is lost and sent again. Default: 4 MiB.
	ReceiveBuffer int
	// SendBuffer is how many bytes of one channel may wait for the peer's acknowledgement before Write blocks. A path is only filled if this is more
	// than its rate times its round-trip time. Default: 4 MiB.
	SendBuffer int
	// MinWindow is the least congestion window, in bytes: what is sent per round trip at the beginning, and after losses however many. Default: 32 KiB.
	MinWindow int
	// WindowStep is what the congestion window grows by per round trip when losses have shown that the path is nearly full, in bytes. Default: 32 KiB.
	WindowStep int
	// PeerBuffer is how many bytes the peer's socket holds at least. If it is given, no more than that is kept waiting there: what is in flight follows
	// the rate and the round-trip time. Default: 0, not known; the congestion window alone decides, which grows until packets are lost.
	PeerBuffer int
	// MaxChannels is how many channels the peer may have open. Default: 256.
	MaxChannels int
}

func (t *Tuning) fill() error {
	for _, f := range []struct {
		name           string
		p              *int
		def, low, high int
	}{
		{"MTU", &t.MTU, packetMTU, 512, maxMTU},
		{"ReceiveBuffer", &t.ReceiveBuffer, 4 << 20, 64 << 10, 1 << 30},
		{"SendBuffer", &t.SendBuffer, 4 << 20, 64 << 10, 1 << 30},
		{"MinWindow", &t.MinWindow, 32 << 10, 1, 1 << 30},
		{"WindowStep", &t.WindowStep, 32 << 10, 1, 1 << 30},
		{"PeerBuffer", &t.PeerBuffer, 0, 0, maxInFlight},
		{"MaxChannels", &t.MaxChannels, 256, 1, maxStreams / 2},
	} {
		if *f.p == 0 {
			*f.p = f.def
		}
		if *f.p < f.low || *f.p > f.high {
			return fmt.Errorf("Tuning.%s: %d is not from %d to %d", f.name, *f.p, f.low, f.high)
		}
	}
	if t.ProbeMTU != 0 && (t.ProbeMTU < t.MTU || t.ProbeMTU > maxMTU) {
		return fmt.Errorf("Tuning.ProbeMTU: %d is not from MTU, which is %d, to %d", t.ProbeMTU, t.MTU, maxMTU)
	}
	return nil
}

// maxStreams is how many streams an association has: numbers 0 to 65534 (RFC 8831, section 6.2).
const maxStreams = 65535

// Channels are the data channels of one peer: an SCTP association over DTLS. All methods may be called concurrently.
type Channels struct {
	a     *Agent
	conn  *sender
	assoc *sctp.Association
	max   int // the longest message that the peer takes
	// probed is where the path led to that carries the packets of Tuning.ProbeMTU; not valid if those of Tuning.MTU are used.
	probed netip.AddrPort

	mu       sync.Mutex
	open     map[uint16]*Channel // by stream
	next     uint16              // the next stream that we open
	accepted []*Channel
	arrived  chan struct{} // has an element if accepted may have one
	err      error
	closing  bool

	opening chan struct{} // one element per channel that is about to open
	done    chan struct{}
	scratch sync.Pool // *[]byte, for messages in parts
	wg      sync.WaitGroup
	once    sync.Once
	closed  chan struct{} // Close is through
}

// Channels makes DTLS and SCTP over the path, which Connect must have found. As the passive side it waits for the peer to begin, as long as ctx lets it.
// The peer must prove that it has the certificate that its description named; if it does not, the error matches transport.ErrDenied. There is one set
// of Channels per Agent, which may try again after an error.
func (a *Agent) Channels(ctx context.Context) (*Channels, error) {
	c, err := a.makeChannels(ctx)
	if err != nil {
		return nil, fmt.Errorf("making data channels: %w", err)
	}
	return c, nil
}

func (a *Agent) makeChannels(ctx context.Context) (*Channels, error) {
	select {
	case <-a.connected:
	default:
		return nil, a.closedOr(errors.New("there is no path to the peer yet: call Connect first"))
	}
	a.mu.Lock()
	switch {
	case a.closed || a.ctx.Err() != nil:
		a.mu.Unlock()
		return nil, a.closedOr(errClosed)
	case a.busy || a.channels != nil:
		a.mu.Unlock()
		return nil, errors.New("this Agent has data channels already, or makes them")
	}
	a.busy = true
	r, client := a.remote, a.client
	a.wg.Add(1) // so that Close waits for what follows
	a.mu.Unlock()
	defer a.wg.Done()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(a.ctx, func() { cancel(context.Cause(a.ctx)) })
	defer stop()
	c, err := a.handshake(ctx, r, client)
	a.mu.Lock()
	a.busy = false
	gone := a.closed || a.ctx.Err() != nil
	if err == nil && !gone {
		a.channels = c
	}
	a.mu.Unlock()
	if err != nil {
		return nil, err
	}
	c.start()
	if gone {
		c.Close()
		return nil, a.closedOr(errClosed)
	}
	return c, nil
}

func (a *Agent) handshake(ctx context.Context, r *remote, client bool) (*Channels, error) {
	p := open(&a.dtls)
	t := a.c.Tuning
	wide := make(chan netip.AddrPort, 1) // where the path leads to if it carries ProbeMTU
	if t.ProbeMTU > t.MTU {
		a.wg.Go(func() { wide <- a.probe(ctx, t.ProbeMTU, probeTries) }) // ctx ends when makeChannels returns
	} else {
		close(wide)
	}
	var denied error
	verify := func(raw [][]byte, _ [][]*x509.Certificate) error {
		if len(raw) == 0 || Fingerprint(raw[0]) != r.fingerprint {
			denied = fmt.Errorf("%w: the peer's certificate is not the one that its session description names", transport.ErrDenied)
			return denied
		}
		return nil
	}
	shared := []dtls.Option{
		dtls.WithCertificates(tls.Certificate{Certificate: a.c.Certificate.Certificate[:1], PrivateKey: a.c.Certificate.PrivateKey}),
		// No authority signs these certificates; verify decides.
		dtls.WithInsecureSkipVerify(true),
		dtls.WithVerifyPeerCertificate(verify),
		dtls.WithExtendedMasterSecret(dtls.RequireExtendedMasterSecret),
		// aiortc gives up if no profile for media is agreed on, though it has none.
		dtls.WithSRTPProtectionProfiles(dtls.SRTP_AEAD_AES_256_GCM, dtls.SRTP_AEAD_AES_128_GCM, dtls.SRTP_AES128_CM_HMAC_SHA1_80),
		dtls.WithFlightInterval(flight),
		dtls.WithReplayProtectionWindow(replayWindow),
		dtls.WithLoggerFactory(logs{a.c.Logger}),
	}
	var conn *dtls.Conn
	var err error
	if client {
		var o []dtls.ClientOption
		for _, s := range shared {
			o = append(o, s)
		}
		conn, err = dtls.ClientWithOptions(p, p.RemoteAddr(), o...)
	} else {
		o := []dtls.ServerOption{dtls.WithClientAuth(dtls.RequireAnyClientCert), dtls.WithInsecureSkipVerifyHello(true)}
		for _, s := range shared {
			o = append(o, s)
		}
		conn, err = dtls.ServerWithOptions(p, p.RemoteAddr(), o...)
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("DTLS: %w", err)
	}
	if err := conn.HandshakeContext(ctx); err != nil {
		conn.Close()
		p.Close()
		switch {
		case denied != nil:
			return nil, denied
		case a.ctx.Err() != nil:
			return nil, context.Cause(a.ctx)
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("%w: DTLS: %s", transport.ErrUnavailable, errorText(err))
	}
	// Once more, in case that there is a way through the handshake without the call above.
	s, ok := conn.ConnectionState()
	if !ok || len(s.PeerCertificates) == 0 || Fingerprint(s.PeerCertificates[0]) != r.fingerprint {
		conn.Close()
		return nil, fmt.Errorf("%w: the peer did not show the certificate that its session description names", transport.ErrDenied)
	}
	out := newSender(conn, p, t)
	stop := context.AfterFunc(ctx, func() { out.Close() })
	mtu := t.MTU
	probed := <-wide
	if now, _ := a.direct(); now == probed && now.IsValid() && aead(s.CipherSuiteID) {
		mtu = t.ProbeMTU
	} else {
		probed = netip.AddrPort{}
	}
	assoc, err := sctp.ClientWithOptions( // both sides are clients: RFC 8841, section 9.3
		sctp.WithNetConn(out),
		sctp.WithLoggerFactory(logs{a.c.Logger}),
		sctp.WithMTU(uint32(mtu)),
		sctp.WithMaxReceiveBufferSize(uint32(t.ReceiveBuffer)),
		sctp.WithMaxMessageSize(uint32(r.maxMessage)),
		sctp.WithMaxReassemblyQueueEntries(maxChunks),
		sctp.WithMinCwnd(uint32(t.MinWindow)),
		sctp.WithCwndCAStep(uint32(t.WindowStep)),
		sctp.WithRTOMax(rtoMax),
		sctp.WithEnableZeroChecksum(true), // DTLS checks already; with peers that know of it (RFC 9653)
	)
	if !stop() && err == nil {
		assoc.Close()
		err = ctx.Err()
	}
	if err != nil {
		out.Close()
		if a.ctx.Err() != nil {
			return nil, context.Cause(a.ctx)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("%w: SCTP: %s", transport.ErrUnavailable, errorText(err))
	}
	c := &Channels{
		a: a, conn: out, assoc: assoc, max: r.maxMessage, probed: probed, open: make(map[uint16]*Channel), arrived: make(chan struct{}, 1),
		opening: make(chan struct{}, maxOpening), done: make(chan struct{}), closed: make(chan struct{}),
	}
	if !client {
		c.next = 1 // RFC 8832, section 6: the DTLS client has the even streams
	}
	c.scratch.New = func() any { b := make([]byte, 0, 64<<10); return &b }
	return c, nil
}

func (c *Channels) start() {
	ctx, cancel := context.WithCancel(c.a.ctx)
	if c.probed.IsValid() {
		c.wg.Go(func() { c.a.watchPath(ctx, c.probed) })
	}
	c.wg.Go(c.acceptStreams)
	c.wg.Go(func() {
		defer cancel()
		select {
		case <-c.a.ctx.Done():
			c.conn.Close() // ends the association
		case <-c.done:
		}
	})
}

// acceptStreams runs as long as the association.
func (c *Channels) acceptStreams() {
	for {
		s, err := c.assoc.AcceptStream()
		if err != nil {
			break
		}
		c.opening <- struct{}{}
		c.wg.Go(func() {
			c.acceptChannel(s)
			<-c.opening
		})
	}
	c.conn.Close()
	c.mu.Lock()
	switch {
	case c.closing:
		c.err = errChannelsClosed
	case c.a.ctx.Err() != nil:
		c.err = context.Cause(c.a.ctx)
	default:
		c.err = fmt.Errorf("%w: the peer closed the data channels", transport.ErrUnavailable)
	}
	all := make([]*Channel, 0, len(c.open))
	for _, ch := range c.open {
		all = append(all, ch)
	}
	close(c.done) // under c.mu: see drain
	c.mu.Unlock()
	for _, ch := range all {
		ch.wake()
	}
}

var errChannelsClosed = fmt.Errorf("%w: the data channels are closed", transport.ErrClosed)

// acceptChannel waits for the opening message of a stream that began.
func (c *Channels) acceptChannel(s *sctp.Stream) {
	id := s.StreamIdentifier()
	dc, err := datachannel.Server(s, &datachannel.Config{LoggerFactory: logs{c.a.c.Logger}})
	if err != nil {
		c.a.log.Debug("the peer began a stream that is no data channel", "stream", id, "error", errorText(err))
		s.Close()
		return
	}
	ch := newChannel(c, dc)
	c.mu.Lock()
	why := ""
	switch {
	case c.open[id] != nil:
		why = "the stream is in use"
	case len(c.open) >= c.a.c.Tuning.MaxChannels:
		why = "too many"
	case len(dc.Label) > maxLabel:
		why = "label too long"
	case dc.ChannelType != datachannel.ChannelTypeReliable && dc.ChannelType != datachannel.ChannelTypeReliableUnordered:
		why = "unreliable"
	case c.closing:
		why = "closing"
	}
	if why == "" {
		c.open[id] = ch
		c.accepted = append(c.accepted, ch)
		c.signal()
	}
	c.mu.Unlock()
	if why != "" {
		c.a.log.Debug("a channel of the peer was refused", "stream", id, "why", why)
		ch.Close()
	}
}

// signal says that accepted has an element. c.mu is held.
func (c *Channels) signal() {
	select {
	case c.arrived <- struct{}{}:
	default:
	}
}

// Accept returns the next channel that the peer opened. Channels that lose messages are refused.
func (c *Channels) Accept(ctx context.Context) (*Channel, error) {
	for {
		c.mu.Lock()
		if len(c.accepted) > 0 {
			ch := c.accepted[0]
			c.accepted[0] = nil
			c.accepted = c.accepted[1:]
			if len(c.accepted) > 0 {
				c.signal()
			}
			c.mu.Unlock()
			return ch, nil
		}
		c.mu.Unlock()
		select {
		case <-c.arrived:
		case <-c.done:
			return nil, c.Err()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Open opens a channel: a reliable one, whose messages arrive in order or as they come. It does not wait for the peer, which may refuse by closing it.
// Until the peer has acknowledged the channel, which is noticed when it is read from, messages arrive in order in any case.
func (c *Channels) Open(ctx context.Context, label string, ordered bool) (*Channel, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(label) > maxLabel {
		return nil, fmt.Errorf("%w: the label of a data channel has %d bytes, the limit is %d", transport.ErrTooLarge, len(label), maxLabel)
	}
	kind := datachannel.ChannelTypeReliableUnordered
	if ordered {
		kind = datachannel.ChannelTypeReliable
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil, errChannelsClosed
	}
	select {
	case <-c.done:
		return nil, c.err
	default:
	}
	id, ok := c.stream()
	if !ok {
		return nil, fmt.Errorf("%w: all %d streams of the data channels are in use: close some", transport.ErrFull, maxStreams/2)
	}
	dc, err := datachannel.Dial(c.assoc, id, &datachannel.Config{ChannelType: kind, Label: label, LoggerFactory: logs{c.a.c.Logger}})
	if err != nil {
		return nil, fmt.Errorf("%w: opening data channel %q: %s", transport.ErrUnavailable, label, errorText(err))
	}
	ch := newChannel(c, dc)
	c.open[id] = ch
	return ch, nil
}

// stream finds the next free stream of our parity, those that were never used first. c.mu is held.
func (c *Channels) stream() (uint16, bool) {
	for range (maxStreams + 1) / 2 {
		id := c.next
		if c.next += 2; c.next >= math.MaxUint16 { // 65535 is no stream
			c.next %= 2
		}
		if c.open[id] == nil && id < maxStreams {
			return id, true
		}
	}
	return 0, false
}

// forget is called when a channel is closed in both directions, after which its stream may be used again.
func (c *Channels) forget(ch *Channel) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id := ch.dc.StreamIdentifier(); c.open[id] == ch {
		delete(c.open, id)
	}
}

// MaxMessage returns the longest message that the peer takes, in bytes.
func (c *Channels) MaxMessage() int { return c.max }

// Done is closed when the channels have ended, by Close, by the peer, or because it is gone.
func (c *Channels) Done() <-chan struct{} { return c.done }

// Err says why Done is closed, and is nil before.
func (c *Channels) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// RTT returns the smoothed round-trip time, or 0 before anything was measured.
func (c *Channels) RTT() time.Duration {
	return time.Duration(c.assoc.SRTT() * float64(time.Millisecond))
}

// Stats of Channels.
type Stats struct {
	// BytesSent and BytesReceived count SCTP packets, retransmissions included.
	BytesSent, BytesReceived uint64
	// Buffered is how many bytes wait for acknowledgement.
	Buffered int
	// Window is the congestion window, and PeerWindow what the peer still has room for, in bytes.
	Window, PeerWindow uint32
	// Open is the number of channels.
	Open int
}

// Stats returns what there is to count now.
func (c *Channels) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Stats{
		BytesSent: c.assoc.BytesSent(), BytesReceived: c.assoc.BytesReceived(), Window: c.assoc.CWND(), PeerWindow: c.assoc.RWND(), Open: len(c.open),
	}
	for _, ch := range c.open {
		s.Buffered += int(ch.dc.BufferedAmount())
	}
	return s
}

// Close waits a moment for what was written last to arrive, tells the peer, and ends all channels. The path stays.
func (c *Channels) Close() error {
	c.once.Do(func() {
		defer close(c.closed)
		c.mu.Lock()
		c.closing = true
		c.mu.Unlock()
		select {
		case <-c.done:
			c.assoc.Close()
		default:
			c.flush()
			// The DTLS connection's good-bye follows: aiortc looks at either.
			c.assoc.Abort("closed")
		}
		c.conn.Close()
		<-c.done
		c.mu.Lock()
		rest := make([]*Channel, 0, len(c.open))
		for _, ch := range c.open {
			rest = append(rest, ch)
		}
		c.mu.Unlock()
		for _, ch := range rest {
			ch.wake()
		}
		c.assoc.Close()
		c.wg.Wait()
	})
	<-c.closed
	return nil
}

func (c *Channels) flush() {
	limit := time.NewTimer(drain)
	defer limit.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for c.Stats().Buffered > 0 {
		select {
		case <-tick.C:
		case <-limit.C:
			return
		case <-c.done:
			return
		}
	}
}
