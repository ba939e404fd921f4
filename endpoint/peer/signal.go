package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/endpoint/relay"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/webrtc"
)

const (
	// maxDescription bounds a description that is read, in bytes. Python's have some 2 KiB with the candidates of a few interfaces.
	maxDescription = 64 << 10
	// answerTime is how long an answer may take to leave. A Python endpoint that has given up its offer would not survive a later one.
	answerTime = 10 * time.Second
	// crossed is how long a Python endpoint may take whose offer has crossed ours.
	crossed = 5 * time.Second
	// resend is how often it is looked whether the relay was lost since an offer left.
	resend = 500 * time.Millisecond
)

// refusal is the relay's answer that it could not pass a message on.
type refusal struct{ text string }

func (r *refusal) Error() string {
	hint := ""
	if r.transient() {
		hint = " (is the peer's endpoint running, and does it use the same relay?)"
	}
	return "the relay refused: " + r.text + hint
}

func (r *refusal) Unwrap() error {
	if r.transient() {
		return transport.ErrUnavailable
	}
	return transport.ErrDenied
}

// transient reports whether the peer may be there in a while. The texts are those of proxystore.p2p.relay.server.
func (r *refusal) transient() bool { return strings.Contains(r.text, "not registered") }

// receive handles what comes from the relay, until the Manager closes. It never waits for anything but the next message.
func (m *Manager) receive() {
	pause := firstBackoff
	for {
		msg, err := m.o.Relay.Receive(m.ctx)
		if m.ctx.Err() != nil {
			return
		}
		if err != nil {
			// The Relay connects again by itself, unless it has given up. Then peers that are connected stay so, but no others come.
			if state := m.o.Relay.State(); state.Final {
				m.log.Error("the relay is lost for good: no new peers until the endpoint is restarted", "error", err)
				m.wakeAll()
				return
			}
			if errors.Is(err, transport.ErrClosed) {
				return
			}
			m.log.Warn("receiving from the relay", "error", err)
			if !m.sleep(m.ctx, pause) {
				return
			}
			pause = min(2*pause, lastBackoff)
			continue
		}
		pause = firstBackoff
		if err := m.handle(msg); err != nil {
			level := slog.LevelDebug
			if m.refused.Add(1); m.loud.Allow() {
				level = slog.LevelWarn
			}
			m.log.Log(m.ctx, level, "a message of a peer was ignored", "peer", msg.SourceUUID, "type", printable(msg.DescriptionType, 16), "error", err)
		}
	}
}

func (m *Manager) wakeAll() {
	m.mu.Lock()
	peers := m.list()
	m.mu.Unlock()
	for _, p := range peers {
		p.wake()
	}
}

func (m *Manager) sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// handle handles one message. Everything in it is another's word, even the source, which Python's relay does not check.
func (m *Manager) handle(msg relay.PeerConnection) error {
	if len(msg.Description) > maxDescription {
		return fmt.Errorf("peer: %w: a description of %d bytes", transport.ErrTooLarge, len(msg.Description))
	}
	if msg.Error != "" {
		return m.returned(msg)
	}
	if msg.PeerUUID != m.o.UUID || msg.SourceUUID == m.o.UUID {
		return fmt.Errorf("peer: %w: a message from %s for %s", transport.ErrCorrupt, msg.SourceUUID, msg.PeerUUID)
	}
	switch msg.DescriptionType {
	case "offer":
		return m.offered(msg)
	case "answer":
		p := m.find(msg.SourceUUID)
		if p == nil {
			return fmt.Errorf("peer: %w: an answer to no offer", transport.ErrCorrupt)
		}
		return p.answered(msg)
	}
	return fmt.Errorf("peer: %w: neither an offer nor an answer", transport.ErrCorrupt)
}

func (m *Manager) find(id uuid.UUID) *peer {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.peers[id]
}

// returned handles a message with an error: one of ours that the relay could not pass on. It is ours only if it says word by word what we sent, which
// nobody but the relay and the peer can know.
func (m *Manager) returned(msg relay.PeerConnection) error {
	p := m.find(msg.PeerUUID)
	if msg.SourceUUID != m.o.UUID || p == nil {
		return fmt.Errorf("peer: %w: an error for nothing that was sent", transport.ErrCorrupt)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if g := p.next; g != nil && g.sent && g.local.String() == msg.Description {
		g.stop(fmt.Errorf("peer: %s: %w", p.id, &refusal{printable(msg.Error, 300)}))
	}
	return nil
}

// printable returns a text of somebody else for a log or an error.
func printable(s string, n int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "") + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// offered begins the answer to an offer, unless it is to be ignored.
func (m *Manager) offered(msg relay.PeerConnection) error {
	p, err := m.acquire(msg.SourceUUID)
	if err != nil {
		return err
	}
	defer m.letGo(p)
	if !p.offers.Allow() {
		return fmt.Errorf("peer: %w: too many offers", transport.ErrDenied)
	}
	r, err := m.read(msg, "offer")
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return fmt.Errorf("peer: %w", transport.ErrClosed)
	}
	switch g := p.next; {
	case g == nil:
	case g.offerer && g.sent && g.remote == nil && g.ctx.Err() == nil && r.ours && m.o.UUID.String() < p.id.String():
		// One of ours that the relay has just refused, since the peer was not registered yet, is ended though still there: no glare.
		// Glare, and ours wins. Had it not arrived, as after a restart of the peer, both sides would wait in vain. An offer that comes after the answer
		// is another matter: the relay keeps the order of messages, so the peer has given up ours.
		g.sendAgain()
		return nil
	case !g.offerer && g.remote.desc.SDP == r.desc.SDP:
		g.sendAgain()
		return nil
	}
	if g := p.cur; g != nil && !g.offerer && g.remote.desc.SDP == r.desc.SDP {
		g.sendAgain()
		return nil
	} else if g != nil && g.isUp() && g.ours && r.ours && r.ann.Instance < g.remote.ann.Instance {
		return fmt.Errorf("peer: an offer of an earlier instance, %s; connected is %s", printable(r.ann.Instance, maxInstance), printable(g.remote.ann.Instance, maxInstance))
	}
	select {
	case m.busy <- struct{}{}:
	default:
		return fmt.Errorf("peer: %w: %d negotiations are under way", transport.ErrFull, maxBusy)
	}
	if p.next != nil {
		p.next.stop(fmt.Errorf("peer: %w: the peer's own offer came first", errAnew))
	}
	p.name = printable(msg.SourceName, 200)
	g := newPeering(p, r)
	if g.before = p.next; !r.ours && g.before != nil && g.before.offerer && g.before.sent {
		// The two offers have crossed, so that the Python process has ended by now, if ours did arrive.
		g.timeout = min(g.timeout, crossed)
	}
	p.next = g
	m.wg.Go(func() {
		defer g.settle()
		g.run()
	})
	p.broadcast()
	return nil
}

// answered gives an answer to the offer that waits for it.
func (p *peer) answered(msg relay.PeerConnection) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.next
	if g == nil || !g.offerer || !g.sent {
		return fmt.Errorf("peer: %w: an answer to no offer", transport.ErrCorrupt)
	}
	select {
	case g.answers <- msg:
	default: // the first one counts
	}
	return nil
}

// remote is what a description of a peer says.
type remote struct {
	desc  webrtc.Description
	fp    string // the certificate's fingerprint
	ours  bool
	ann   announcement
	addrs []string // of ann, those that may be dialed
}

// read reads a description. One with an announcement that makes no sense is refused, rather than taken for a Python endpoint's.
func (m *Manager) read(msg relay.PeerConnection, typ string) (*remote, error) {
	desc, err := webrtc.ParseDescription(msg.Description)
	if err != nil {
		return nil, fmt.Errorf("peer: the peer's %s: %w", typ, err)
	}
	if desc.Type != typ {
		return nil, fmt.Errorf("peer: %w: the peer's %s is called %q inside", transport.ErrCorrupt, typ, printable(desc.Type, 16))
	}
	r := &remote{desc: desc}
	if r.fp, err = desc.Fingerprint(); err != nil {
		return nil, fmt.Errorf("peer: the peer's %s: %w", typ, err)
	}
	if a, ok := desc.Attribute(attribute); ok {
		r.ours = true
		if r.ann, r.addrs, err = parseAnnouncement(a, m.o.Loopback); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// signal exchanges descriptions with the peer. It returns once both are known.
func (g *peering) signal(ctx context.Context) error {
	m := g.p.m
	ann := announcement{V: 1, QUIC: m.o.Paths&QUIC != 0, Instance: m.instance}
	if m.tls != nil {
		ann.TLS = m.announced(ctx)
	}
	g.at("gathering addresses")
	agent, err := webrtc.NewAgent(webrtc.Config{Mux: m.mux, Servers: m.o.Servers, Certificate: m.cert, Attributes: map[string]string{attribute: ann.encode()},
		Loopback: m.o.Loopback, RelayOnly: m.o.RelayOnly, Logger: m.o.Logger})
	if err != nil {
		return fmt.Errorf("peer: %w", err)
	}
	g.agent = agent
	if g.offerer {
		return g.offer(ctx)
	}
	return g.answer(ctx)
}

func (g *peering) answer(ctx context.Context) error {
	actx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	if err := g.expect(g.remote); err != nil {
		return err
	}
	local, err := g.agent.Answer(actx, g.remote.desc, webrtc.AnswerOptions{Passive: g.ours})
	if err != nil {
		return fmt.Errorf("peer: answering the offer of %s: %w", g.p.id, err)
	}
	if err := g.leave(local); err != nil {
		return err
	}
	g.at("sending the answer")
	if err := g.send(actx); err != nil {
		return fmt.Errorf("peer: sending an answer to %s: %w", g.p.id, g.p.m.relayError(err))
	}
	return nil
}

func (g *peering) offer(ctx context.Context) error {
	m := g.p.m
	local, err := g.agent.Offer(ctx)
	if err != nil {
		return fmt.Errorf("peer: preparing an offer to %s: %w", g.p.id, err)
	}
	if err := g.leave(local); err != nil {
		return err
	}
	g.at("waiting for the relay")
	via := m.relayState() // what the offer went through, or what came after if there was nothing
	if err := g.send(ctx); err != nil {
		return fmt.Errorf("peer: sending an offer to %s: %w", g.p.id, m.relayError(err))
	}
	if !via.Connected {
		via = m.relayState()
	}
	g.at("waiting for the peer's answer to our offer")
	tick := time.NewTicker(resend)
	defer tick.Stop()
	for {
		select {
		case msg := <-g.answers:
			r, err := m.read(msg, "answer")
			if err != nil {
				return err
			}
			if err := g.expect(r); err != nil {
				return err
			}
			g.name(msg.SourceName)
			if err := g.agent.Accept(r.desc); err != nil {
				return fmt.Errorf("peer: the answer of %s: %w", g.p.id, err)
			}
			return nil
		case <-tick.C:
			// What was under way when the relay was lost is lost. A peer that got it answers the same offer the same way.
			if s := m.relayState(); s.Connected && !s.Since.Equal(via.Since) {
				via = s
				if err := g.send(ctx); err != nil {
					return fmt.Errorf("peer: sending an offer to %s: %w", g.p.id, m.relayError(err))
				}
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// leave sets our description, from now on with the world. An offer does not leave once one of the peer has come.
func (g *peering) leave(local webrtc.Description) error {
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	if g.p.next != g || g.ctx.Err() != nil {
		return errAnew
	}
	g.local, g.sent = local, true
	return nil
}

// expect notes what the peer has said, and lets its certificate in.
func (g *peering) expect(r *remote) error {
	g.p.mu.Lock()
	g.remote, g.ours = r, r.ours
	g.p.mu.Unlock()
	if err := g.p.m.certs.add(r.fp, g); err != nil { // whoever finds it there finds the rest
		return err
	}
	g.p.mu.Lock()
	g.expected = true
	g.p.mu.Unlock()
	return nil
}

func (g *peering) name(s string) {
	g.p.mu.Lock()
	g.p.name = printable(s, 200)
	g.p.mu.Unlock()
}

// send sends our description.
func (g *peering) send(ctx context.Context) error {
	m := g.p.m
	return m.o.Relay.Send(ctx, relay.PeerConnection{SourceUUID: m.o.UUID, SourceName: m.o.Name, PeerUUID: g.p.id, DescriptionType: g.local.Type,
		Description: g.local.String()})
}

// sendAgain sends our description again to a peer of our kind, which takes it for what it is. p.mu is held.
func (g *peering) sendAgain() {
	if !g.sent || !g.offerer && !g.ours {
		return
	}
	g.p.m.wg.Go(func() {
		ctx, cancel := context.WithTimeout(g.ctx, answerTime)
		defer cancel()
		if err := g.send(ctx); err != nil && g.ctx.Err() == nil {
			g.p.m.log.Debug("sending a description again", "peer", g.p.id, "error", err)
		}
	})
}

// relayState returns how the relay stands, and notes since when, to tell the first connection from later ones.
func (m *Manager) relayState() relay.ClientState {
	s := m.o.Relay.State()
	if s.Connected {
		m.relayFirst.CompareAndSwap(0, s.Since.UnixNano())
	}
	return s
}

// relayCameBack reports whether the relay was lost and found again within the last d.
func (m *Manager) relayCameBack(d time.Duration) bool {
	s := m.relayState()
	return s.Connected && s.Since.UnixNano() != m.relayFirst.Load() && time.Since(s.Since) < d
}

// relayError says how the relay stands, where that is why something did not leave.
func (m *Manager) relayError(err error) error {
	s := m.o.Relay.State()
	switch {
	case s.Connected:
		return err
	case s.Final:
		return fmt.Errorf("%w: the relay has turned this endpoint away for good: %v", transport.ErrDenied, cause(s.Err, err))
	}
	return fmt.Errorf("%w: relay not connected: %v", transport.ErrUnavailable, cause(s.Err, err))
}

func cause(err, other error) error {
	if err != nil {
		return err
	}
	return other
}
