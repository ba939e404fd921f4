package webrtc

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/stun/v3"
	"github.com/proxyplane/proxyplane/transport"
)

const (
	defaultGather    = 2 * time.Second
	defaultKeepalive = 2 * time.Second
	// defaultConsent is longer than four keepalives, of which some may be lost, and than the pauses of a Python program whose event loop is busy.
	defaultConsent = 9 * time.Second
	// checkTime is how long a path is looked for at least before pion gives up: the answer may take long to the other side, which cannot begin earlier.
	checkTime = 30 * time.Second
	// maxChecks is how often one pair is tried before the other side does: for most of checkTime, at 5 per second.
	maxChecks = 100
	// How long better paths are waited for before one of these kinds is taken.
	srflxPatience = 300 * time.Millisecond
	prflxPatience = 500 * time.Millisecond
	relayPatience = 1500 * time.Millisecond
)

// A Server helps to find a path: it tells which address it sees (STUN), or relays packets where there is no other path (TURN).
type Server struct {
	// URLs are of the forms stun:HOST[:PORT], turn:HOST[:PORT][?transport=udp|tcp] and turns:HOST[:PORT] (RFC 7064, 7065): TURN over UDP, TCP, TLS, and
	// DTLS (turns with transport=udp).
	URLs []string
	// Username and Credential are needed for TURN.
	Username, Credential string
}

// Config of an Agent. Only Certificate is needed.
type Config struct {
	// Mux has the socket. nil: sockets of its own, one per address of the machine.
	Mux *Mux
	// Servers are asked in parallel. None: only peers that can be reached directly, or can reach us.
	Servers []Server
	// Certificate proves this side to the peer, which learns its fingerprint from the description. See [NewCertificate].
	Certificate tls.Certificate
	// Attributes are added to the session part of what Offer and Answer make; peers that do not know them ignore them. Names are tokens of up to 64
	// bytes, values printable ASCII of up to 16 KiB.
	Attributes map[string]string
	// Loopback offers and accepts loopback addresses, too: for tests, and for several endpoints on a host without a network.
	Loopback bool
	// RelayOnly uses TURN servers only, so that the peer learns no address of this machine.
	RelayOnly bool
	// GatherTimeout is how long Offer and Answer wait for Servers; they go out with the candidates that came by then. Default: 2 s.
	GatherTimeout time.Duration
	// Keepalive is the time between two packets that ask the peer whether it still agrees. Default: 2 s.
	Keepalive time.Duration
	// ConsentTimeout is how long nothing may come from the peer before it counts as gone. Default: 9 s.
	ConsentTimeout time.Duration
	// Tuning is of data channels.
	Tuning Tuning
	// Logger gets what pion reports, at debug level. Default: none.
	Logger *slog.Logger
}

// An Agent is this side of one attempt to reach one peer: it offers or answers, finds a path, and carries packets or data channels over it. It is made
// for one exchange; a new attempt needs a new Agent. All methods may be called concurrently.
type Agent struct {
	c           Config
	log         *slog.Logger
	fingerprint string
	net         *network
	ice         *ice.Agent
	stun        []*stun.URI // those that we ask ourselves, through the Mux
	relays      bool
	view        view

	// ctx ends when the peer is lost or the Agent closed. Its cause says why.
	ctx    context.Context
	cancel context.CancelCauseFunc

	connected     chan struct{}
	connectedOnce sync.Once
	dtls          atomic.Pointer[port]     // packets of DTLS
	other         atomic.Pointer[port]     // all others
	conn          atomic.Pointer[ice.Conn] // nil until checks began
	addr          atomic.Pointer[net.UDPAddr]
	route         atomic.Pointer[netip.AddrPort] // where the selected pair leads to, if from the Mux's socket

	mu          sync.Mutex
	used        bool // Offer or Answer was called
	offer       *local
	controlling bool
	client      bool // our role in DTLS
	remote      *remote
	busy        bool // Channels is at work
	channels    *Channels
	closed      bool

	wg   sync.WaitGroup // our goroutines
	done chan struct{}  // closed when Close is through
}

// NewAgent checks the Config and makes an Agent, which must be closed.
func NewAgent(c Config) (*Agent, error) {
	a, err := newAgent(c)
	if err != nil {
		return nil, fmt.Errorf("webrtc.NewAgent: %w", err)
	}
	return a, nil
}

// Tune replaces the Tuning that Config gave, once the answer has shown who the peer is. It must not be called at the same time as Channels, and has no
// effect after it.
func (a *Agent) Tune(t Tuning) error {
	if err := t.fill(); err != nil {
		return fmt.Errorf("webrtc.Tune: %w", err)
	}
	a.c.Tuning = t
	return nil
}

func newAgent(c Config) (*Agent, error) {
	c.GatherTimeout = cmp.Or(c.GatherTimeout, defaultGather)
	c.Keepalive = cmp.Or(c.Keepalive, defaultKeepalive)
	c.ConsentTimeout = cmp.Or(c.ConsentTimeout, defaultConsent)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.GatherTimeout < 0 || c.Keepalive < 0 || c.ConsentTimeout < 0 {
		return nil, errors.New("a negative time")
	}
	if err := c.Tuning.fill(); err != nil {
		return nil, err
	}
	if len(c.Certificate.Certificate) == 0 || c.Certificate.PrivateKey == nil {
		return nil, errors.New("no certificate: make one with NewCertificate")
	}
	if err := checkAttributes(c.Attributes); err != nil {
		return nil, err
	}
	urls, err := parseServers(c.Servers)
	if err != nil {
		return nil, err
	}
	relays := slices.ContainsFunc(urls, isTURN)
	if c.RelayOnly && !relays {
		return nil, errors.New("relays only, but no TURN server: configure one, or allow direct paths")
	}
	a := &Agent{
		c: c, log: c.Logger, fingerprint: Fingerprint(c.Certificate.Certificate[0]), relays: relays,
		connected: make(chan struct{}), done: make(chan struct{}),
	}
	a.ctx, a.cancel = context.WithCancelCause(context.Background())
	a.dtls.Store(newPort(a, &a.dtls))
	a.other.Store(newPort(a, &a.other))
	context.AfterFunc(a.ctx, a.closePorts)
	if a.net, err = newNetwork(a.ctx); err != nil {
		a.cancel(err)
		return nil, err
	}
	types := []ice.CandidateType{ice.CandidateTypeHost}
	switch {
	case c.RelayOnly:
		types = []ice.CandidateType{ice.CandidateTypeRelay}
	case c.Mux != nil:
		if relays {
			types = append(types, ice.CandidateTypeRelay)
		}
	case len(urls) > 0:
		types = append(types, ice.CandidateTypeServerReflexive, ice.CandidateTypeRelay)
	}
	o := []ice.AgentOption{
		ice.WithLoggerFactory(logs{c.Logger}),
		ice.WithNet(a.net),
		ice.WithNetworkTypes([]ice.NetworkType{ice.NetworkTypeUDP4, ice.NetworkTypeUDP6}),
		ice.WithCandidateTypes(types),
		ice.WithMulticastDNSMode(ice.MulticastDNSModeDisabled),
		ice.WithDisableActiveTCP(),
		ice.WithSTUNGatherTimeout(c.GatherTimeout),
		ice.WithKeepaliveInterval(c.Keepalive),
		ice.WithMaxBindingRequests(maxChecks),
		ice.WithSrflxAcceptanceMinWait(srflxPatience),
		ice.WithPrflxAcceptanceMinWait(prflxPatience),
		// Pion adds these two up to the time it looks for a path, too. So we watch over consent ourselves (see watch), which is a shorter time.
		ice.WithDisconnectedTimeout(max(checkTime, 2*c.ConsentTimeout) / 2), ice.WithFailedTimeout(max(checkTime, 2*c.ConsentTimeout) / 2),
		ice.WithRemoteIPFilter(func(b net.IP) bool {
			ip, ok := netip.AddrFromSlice(b)
			return ok && usable(ip.Unmap(), c.Loopback)
		}),
	}
	if c.RelayOnly {
		o = append(o, ice.WithRelayAcceptanceMinWait(0))
	} else {
		o = append(o, ice.WithRelayAcceptanceMinWait(relayPatience))
	}
	if c.Loopback {
		o = append(o, ice.WithIncludeLoopback())
	}
	if c.Mux != nil && !c.RelayOnly {
		if a.view, err = c.Mux.view(c.Loopback); err != nil {
			a.cancel(err)
			return nil, err
		}
		o = append(o, ice.WithUDPMux(a.view))
		// What a STUN server sees of the shared socket is found out once, by us. For pion such a candidate would be one more to send the same packets
		// from: RFC 8445, section 6.1.2.4 has them pruned.
		a.stun = slices.DeleteFunc(slices.Clone(urls), func(u *stun.URI) bool {
			return u.Proto == stun.ProtoTypeTCP || u.Scheme != stun.SchemeTypeSTUN && u.Scheme != stun.SchemeTypeTURN
		})
	}
	if len(types) > 1 || types[0] == ice.CandidateTypeRelay {
		o = append(o, ice.WithUrls(urls))
	}
	if a.ice, err = ice.NewAgentWithOptions(o...); err != nil {
		a.cancel(err)
		return nil, fmt.Errorf("making an ICE agent: %w", err)
	}
	if err := cmp.Or(a.ice.OnConnectionStateChange(a.stateChanged), a.ice.OnSelectedCandidatePairChange(a.selected)); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

func isTURN(u *stun.URI) bool {
	return u.Scheme == stun.SchemeTypeTURN || u.Scheme == stun.SchemeTypeTURNS
}

func parseServers(servers []Server) ([]*stun.URI, error) {
	var urls []*stun.URI
	for _, s := range servers {
		for _, raw := range s.URLs {
			u, err := stun.ParseURI(raw)
			if err != nil {
				return nil, fmt.Errorf("ICE server %q: %w; write stun:HOST:PORT, turn:HOST:PORT or turns:HOST:PORT", raw, err)
			}
			if u.Scheme == stun.SchemeTypeSTUNS {
				return nil, fmt.Errorf("ICE server %q: STUN over TLS cannot tell the address of a UDP socket; write stun:", raw)
			}
			if isTURN(u) {
				if s.Username == "" || s.Credential == "" {
					return nil, fmt.Errorf("ICE server %q: TURN servers need a user name and a credential", raw)
				}
				u.Username, u.Password = s.Username, s.Credential
			}
			urls = append(urls, u)
		}
	}
	return urls, nil
}

func (a *Agent) stateChanged(s ice.ConnectionState) {
	a.log.Debug("ice", "state", s.String())
	switch s {
	case ice.ConnectionStateConnected, ice.ConnectionStateCompleted:
		a.connectedOnce.Do(func() { close(a.connected) })
	case ice.ConnectionStateFailed:
		select {
		case <-a.connected:
			a.cancel(fmt.Errorf("%w: the peer does not answer any more", transport.ErrUnavailable))
		default:
			hint := "a TURN server would help where both sides are behind NATs"
			if a.relays {
				hint = "neither directly nor by way of the TURN server"
			}
			a.cancel(fmt.Errorf("%w: no path to the peer was found (%s)", transport.ErrUnavailable, hint))
		}
	}
}

// selected is called, in order, when another pair of candidates was selected. If its packets go over the Mux's socket those of DTLS take a short cut: between
// that socket and a port there are three queues and goroutines of pion's, the shortest of 1 MB, which loses packets at 1 Gbit/s.
func (a *Agent) selected(local, remote ice.Candidate) {
	if a.c.Mux == nil {
		return
	}
	ip, err := netip.ParseAddr(remote.Address())
	a.mu.Lock()
	defer a.mu.Unlock()
	a.unroute()
	if a.closed || local.Type() == ice.CandidateTypeRelay || err != nil {
		return
	}
	to := netip.AddrPortFrom(ip.Unmap(), uint16(remote.Port()))
	a.route.Store(&to)
	a.c.Mux.pc.routes.Store(to, a)
}

// unroute ends the short cut.
func (a *Agent) unroute() {
	if old := a.route.Swap(nil); old != nil {
		a.c.Mux.pc.routes.CompareAndDelete(*old, a)
	}
}

var errClosed = fmt.Errorf("%w: the WebRTC agent is closed", transport.ErrClosed)

// begin is the first step of Offer and Answer.
func (a *Agent) begin() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return errClosed
	}
	if a.used {
		return errors.New("an Agent makes one offer or one answer; make a new Agent")
	}
	a.used = true
	return nil
}

// Offer makes an offer with all candidates that come within Config.GatherTimeout. ctx bounds the wait, too. Without any candidate the error matches
// transport.ErrUnavailable.
func (a *Agent) Offer(ctx context.Context) (Description, error) {
	d, err := a.makeOffer(ctx)
	if err != nil {
		return Description{}, fmt.Errorf("making an offer: %w", err)
	}
	return d, nil
}

func (a *Agent) makeOffer(ctx context.Context) (Description, error) {
	if err := a.begin(); err != nil {
		return Description{}, err
	}
	l, err := a.gather(ctx)
	if err != nil {
		return Description{}, err
	}
	l.mid, l.bundle, l.setup = "0", true, actpass
	d, err := l.description(typeOffer)
	if err != nil {
		return Description{}, err
	}
	a.mu.Lock()
	a.offer, a.controlling = l, true
	a.mu.Unlock()
	return d, nil
}

// AnswerOptions of an answer.
type AnswerOptions struct {
	// Passive waits for the peer to begin DTLS; otherwise this side does. Where the offer leaves no choice this has no effect.
	Passive bool
}

// Answer reads the peer's offer and makes an answer, as Offer does. An error matches transport.ErrCorrupt if the offer is not to be understood, or asks
// for what is not supported.
func (a *Agent) Answer(ctx context.Context, offer Description, o AnswerOptions) (Description, error) {
	d, err := a.makeAnswer(ctx, offer, o)
	if err != nil {
		return Description{}, fmt.Errorf("answering an offer: %w", err)
	}
	return d, nil
}

func (a *Agent) makeAnswer(ctx context.Context, offer Description, o AnswerOptions) (Description, error) {
	r, err := parseRemote(offer, typeOffer)
	if err != nil {
		return Description{}, err
	}
	if r.fingerprint == a.fingerprint {
		return Description{}, errSelf
	}
	if err := a.begin(); err != nil {
		return Description{}, err
	}
	l, err := a.gather(ctx)
	if err != nil {
		return Description{}, err
	}
	l.mid, l.bundle, l.setup = r.mid, r.bundled, active
	if r.setup == active || r.setup == actpass && o.Passive {
		l.setup = passive
	}
	d, err := l.description(typeAnswer)
	if err != nil {
		return Description{}, err
	}
	a.mu.Lock()
	a.remote, a.client = r, l.setup == active
	a.mu.Unlock()
	return d, nil
}

var errSelf = fmt.Errorf("%w: the peer has the same certificate: this program speaks with itself", transport.ErrDenied)

// Accept reads the peer's answer to the offer.
func (a *Agent) Accept(answer Description) error {
	r, err := parseRemote(answer, typeAnswer)
	if err != nil {
		return fmt.Errorf("accepting an answer: %w", err)
	}
	if r.fingerprint == a.fingerprint {
		return fmt.Errorf("accepting an answer: %w", errSelf)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closed:
		return errClosed
	case a.offer == nil:
		return errors.New("accepting an answer: there was no offer")
	case a.remote != nil:
		return errors.New("accepting an answer: there was one already")
	case r.mid != "" && r.mid != a.offer.mid:
		return fmt.Errorf("accepting an answer: %w", corrupt("mid %q is not the offer's", r.mid))
	}
	a.remote, a.client = r, r.setup == passive
	return nil
}

// gather collects candidates.
func (a *Agent) gather(ctx context.Context) (*local, error) {
	ctx, stop := context.WithTimeout(ctx, a.c.GatherTimeout)
	defer stop()
	defer context.AfterFunc(a.ctx, stop)()
	complete := make(chan struct{})
	if err := a.ice.OnCandidate(func(c ice.Candidate) {
		if c == nil {
			close(complete)
		}
	}); err != nil {
		return nil, err
	}
	if err := a.ice.GatherCandidates(); err != nil {
		return nil, a.closedOr(err)
	}
	seen := a.reflexive(ctx)
	select {
	case <-complete:
	case <-ctx.Done():
		if a.ctx.Err() != nil {
			return nil, errClosed
		}
		a.log.Debug("some ICE servers did not answer in time", "timeout", a.c.GatherTimeout)
	}
	l := &local{fingerprint: a.fingerprint, attributes: a.c.Attributes}
	var err error
	if l.ufrag, l.pwd, err = a.ice.GetLocalUserCredentials(); err != nil {
		return nil, a.closedOr(err)
	}
	found, err := a.ice.GetLocalCandidates()
	if err != nil {
		return nil, a.closedOr(err)
	}
	for addr := range seen { // closed when ctx has ended or all have answered
		kind := "0.0.0.0"
		if addr.Addr().Is6() {
			kind = "::"
		}
		c, err := ice.NewCandidateServerReflexive(&ice.CandidateServerReflexiveConfig{
			Network: "udp", Address: addr.Addr().String(), Port: int(addr.Port()), Component: ice.ComponentRTP, RelAddr: kind, RelPort: int(a.c.Mux.up.Port()),
		})
		if err == nil && !slices.ContainsFunc(found, func(o ice.Candidate) bool { return o.Address() == c.Address() && o.Port() == c.Port() }) {
			found = append(found, c)
		}
	}
	slices.SortStableFunc(found, func(x, y ice.Candidate) int { return cmp.Compare(y.Priority(), x.Priority()) })
	for _, c := range found {
		ip, err := netip.ParseAddr(c.Address())
		if err != nil || ip.Is6() && ip.IsLinkLocalUnicast() || !usable(ip, a.c.Loopback || c.Type() != ice.CandidateTypeHost) || len(l.candidates) == maxLocal {
			continue
		}
		if !l.first.IsValid() {
			l.first = netip.AddrPortFrom(ip, uint16(c.Port()))
		}
		l.candidates = append(l.candidates, c.Marshal())
	}
	if len(l.candidates) == 0 {
		if a.c.RelayOnly {
			return nil, fmt.Errorf("%w: no TURN server answered within %v: check their addresses, user name and credential", transport.ErrUnavailable, a.c.GatherTimeout)
		}
		return nil, fmt.Errorf("%w: this machine has no network interface that a peer could reach", transport.ErrUnavailable)
	}
	var id [8]byte
	rand.Read(id[:])
	l.session = binary.BigEndian.Uint64(id[:]) >> 2 // RFC 9429, section 5.2.1
	return l, nil
}

// reflexive asks all STUN servers through the Mux's socket. What comes is closed when ctx has ended, or all are through.
func (a *Agent) reflexive(ctx context.Context) <-chan netip.AddrPort {
	var wg sync.WaitGroup
	out := make(chan netip.AddrPort, 2*len(a.stun))
	for _, u := range a.stun {
		for _, family := range []string{"udp4", "udp6"} {
			if !slices.ContainsFunc(a.view.addrs, func(l net.Addr) bool {
				return (l.(*net.UDPAddr).IP.To4() != nil) == (family == "udp4")
			}) {
				continue
			}
			wg.Go(func() {
				server, err := resolve(ctx, family, net.JoinHostPort(u.Host, fmt.Sprint(u.Port)))
				if err == nil {
					var addr netip.AddrPort
					if addr, err = a.c.Mux.reflexive(ctx, server); err == nil {
						out <- addr
						return
					}
				}
				a.log.Debug("STUN server", "url", u.String(), "network", family, "error", err)
			})
		}
	}
	a.wg.Go(func() {
		wg.Wait()
		close(out)
	})
	return out
}

func (a *Agent) closedOr(err error) error {
	if a.ctx.Err() != nil {
		return context.Cause(a.ctx)
	}
	return err
}

// A Pair is a path: two addresses between which packets go, as this side sees them.
type Pair struct {
	Local, Remote netip.AddrPort
	// LocalType and RemoteType are "host", "srflx" (seen by a STUN server), "prflx" (seen by the peer) or "relay" (of a TURN server).
	LocalType, RemoteType string
	// Relayed is true if a TURN server is on the path. Where LocalType is "relay" Local is that server's address, and packets go by way of Agent.Conn
	// only; otherwise they come to and go from this side's own socket, as on any other path.
	Relayed bool
}

func (p Pair) String() string {
	return fmt.Sprintf("%v (%s) - %v (%s)", p.Local, p.LocalType, p.Remote, p.RemoteType)
}

// Connect looks for a path until one is found or ctx ends; then it may be called again to wait on. Offer and Accept, or Answer, must have succeeded
// before. An error matches transport.ErrUnavailable if there is no path.
func (a *Agent) Connect(ctx context.Context) (Pair, error) {
	if err := a.start(); err != nil {
		return Pair{}, fmt.Errorf("looking for a path to the peer: %w", err)
	}
	select {
	case <-a.connected:
	case <-a.ctx.Done():
		return Pair{}, context.Cause(a.ctx)
	case <-ctx.Done():
		return Pair{}, fmt.Errorf("looking for a path to the peer: %w", ctx.Err())
	}
	p, ok := a.Pair()
	if !ok {
		return Pair{}, a.closedOr(fmt.Errorf("%w: the path to the peer was lost at once", transport.ErrUnavailable))
	}
	return p, nil
}

func (a *Agent) start() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closed:
		return errClosed
	case a.conn.Load() != nil:
		return nil
	case a.remote == nil:
		return errors.New("the peer is not known yet: call Accept or Answer first")
	}
	begin := a.ice.StartAccept
	if a.controlling {
		begin = a.ice.StartDial
	}
	conn, err := begin(a.remote.ufrag, a.remote.pwd)
	if err != nil {
		return a.closedOr(err)
	}
	for _, c := range a.remote.candidates {
		if err := a.ice.AddRemoteCandidate(c); err != nil {
			a.log.Debug("a candidate of the peer", "candidate", c.String(), "error", err)
		}
	}
	a.conn.Store(conn)
	a.wg.Go(func() { a.receive(conn) })
	a.wg.Go(a.watch)
	return nil
}

// watch ends the Agent when nothing came from the peer for too long. Consent is asked for by pion's keepalive, which is answered by every ICE agent.
func (a *Agent) watch() {
	select {
	case <-a.connected:
	case <-a.ctx.Done():
		return
	}
	since := time.Now() // a candidate may be selected before anything came from exactly there
	tick := time.NewTicker(min(a.c.ConsentTimeout/8, time.Second) + 1)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-a.ctx.Done():
			return
		}
		// The selected pair that pion gives out is a copy without times.
		p, err := a.ice.GetSelectedCandidatePair()
		if err != nil || p == nil {
			continue
		}
		all, err := a.ice.GetRemoteCandidates()
		if err != nil {
			continue
		}
		last := since
		for _, c := range all {
			if t := c.LastReceived(); t.After(last) && c.Address() == p.Remote.Address() && c.Port() == p.Remote.Port() {
				last = t
			}
		}
		if quiet := time.Since(last); quiet > a.c.ConsentTimeout {
			a.cancel(fmt.Errorf("%w: nothing came from the peer for %v", transport.ErrUnavailable, quiet.Round(100*time.Millisecond)))
			return
		}
	}
}

// Pair returns the path in use. It may change as long as the two sides agree on a better one, and is gone when Failed is closed.
func (a *Agent) Pair() (Pair, bool) {
	p, err := a.ice.GetSelectedCandidatePair()
	if err != nil || p == nil {
		return Pair{}, false
	}
	addr := func(c ice.Candidate) netip.AddrPort {
		ip, _ := netip.ParseAddr(c.Address())
		return netip.AddrPortFrom(ip.Unmap(), uint16(c.Port()))
	}
	return Pair{
		Local: addr(p.Local), Remote: addr(p.Remote), LocalType: p.Local.Type().String(), RemoteType: p.Remote.Type().String(),
		Relayed: p.Local.Type() == ice.CandidateTypeRelay || p.Remote.Type() == ice.CandidateTypeRelay,
	}, true
}

// Failed is closed when the peer has not answered for Config.ConsentTimeout, no path was found, or the Agent was closed.
func (a *Agent) Failed() <-chan struct{} { return a.ctx.Done() }

// Err says why Failed is closed, and is nil before.
func (a *Agent) Err() error {
	if a.ctx.Err() == nil {
		return nil
	}
	return context.Cause(a.ctx)
}

// PeerFingerprint returns what the peer's certificate must have, for whoever makes connections to it in other ways; "" before it is known.
func (a *Agent) PeerFingerprint() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.remote == nil {
		return ""
	}
	return a.remote.fingerprint
}

// PeerAttribute returns a session-level attribute of the peer's description.
func (a *Agent) PeerAttribute(name string) (string, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.remote == nil {
		return "", false
	}
	v, ok := a.remote.attributes[name]
	return v, ok
}

// Conn returns what carries packets other than STUN and DTLS over the path (RFC 9443: those that begin with 64 or more, such as QUIC's), unencrypted.
// A packet must not begin with less. The Conn has one reader at a time: Close ends it, and a later Conn is for the next. Write drops packets while there is no path.
func (a *Agent) Conn() net.Conn {
	return open(&a.other)
}

func (a *Agent) closePorts() {
	a.dtls.Load().Close()
	a.other.Load().Close()
}

// peer returns where packets go to. It stays the same where the path changes: nobody above needs to know.
func (a *Agent) peer() *net.UDPAddr {
	if addr := a.addr.Load(); addr != nil {
		return addr
	}
	p, ok := a.Pair()
	if !ok {
		return new(net.UDPAddr)
	}
	addr := net.UDPAddrFromAddrPort(p.Remote)
	a.addr.CompareAndSwap(nil, addr)
	return addr
}

// Close ends everything that the Agent began, says good-bye to the peer if there are data channels, and waits for its goroutines. The Mux stays.
func (a *Agent) Close() error {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		<-a.done
		return nil
	}
	a.closed = true
	channels := a.channels
	a.mu.Unlock()
	defer close(a.done)
	if channels != nil {
		channels.Close()
	}
	a.cancel(errClosed)
	a.unroute()
	a.net.close()
	err := a.ice.GracefulClose()
	a.closePorts()
	a.wg.Wait()
	return err
}

// errorText cuts what a peer may have put into an error's text.
func errorText(err error) string {
	return strings.ToValidUTF8(fmt.Sprintf("%.200v", err), "?")
}
