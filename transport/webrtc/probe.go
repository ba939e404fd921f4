package webrtc

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/ice/v4"
	"github.com/pion/stun/v3"
	"github.com/proxyplane/proxyplane/transport"
)

// A probe asks whether the path carries packets of some length, as RFC 8899 has it for protocols over datagrams: it sends one, and waits for the answer.
// Here it is a Binding request, such as ICE sends all the time (RFC 8445, section 7.2.2), made long. So every peer that speaks ICE answers, shortly. It asks
// for nothing: there is no USE-CANDIDATE in it, and the peer knows the pair already.

const (
	// dtlsOverhead is what DTLS 1.2 adds to a packet at most: a header of 13 bytes, and with AES-GCM a nonce of 8 and a tag of 16 (see aead).
	dtlsOverhead = 37
	// attrPadding is PADDING of RFC 5780, section 7.6, with the bit that lets those who do not know an attribute ignore it: aioice and pion do not.
	attrPadding stun.AttrType = 0x8026
	// A probe is sent probeTries times, with a pause of two round-trip times, but at least probePause. The last answer is waited for at least probeRest.
	probeTries = 3
	probePause = 100 * time.Millisecond
	probeRest  = 300 * time.Millisecond
	// probeRTT bounds the round-trip time that pauses are made from.
	probeRTT = time.Second
	// moveTick is how often channels look whether ICE has changed to another path, and moveTries how often that is asked before they give up: packets of
	// their length keep the peer busy meanwhile if they do arrive.
	moveTick  = time.Second
	moveTries = 30
)

// pending is a probe that waits for its answer.
type pending struct {
	to       netip.AddrPort
	key      stun.MessageIntegrity // of request and answer (RFC 8489, section 9.1.4)
	answered chan struct{}
	once     sync.Once
}

// answer takes the answer to a probe out of what is ICE's, and reports whether b was meant as one.
func (p *packets) answer(b []byte, from netip.AddrPort) bool {
	if len(b) < 20 || b[0] != 1 || b[1] != 1 { // no Binding success response
		return false
	}
	v, ok := p.probes.Load([stun.TransactionIDSize]byte(b[8:]))
	if !ok {
		return false
	}
	w := v.(*pending)
	m := stun.Message{Raw: slices.Clone(b)}
	if from == w.to && m.Decode() == nil && w.key.Check(&m) == nil {
		w.once.Do(func() { close(w.answered) })
	}
	return true
}

// direct returns where the selected pair leads to, and the round-trip time that ICE measured. The address is not valid if packets do not go from the Mux's
// socket, or by way of a TURN server, which puts more around them.
func (a *Agent) direct() (to netip.AddrPort, rtt time.Duration) {
	p, ok := a.Pair()
	if !ok || a.c.Mux == nil || p.Relayed {
		return netip.AddrPort{}, 0
	}
	s, _ := a.ice.GetSelectedCandidatePairStats()
	return p.Remote, min(time.Duration(s.CurrentRoundTripTime*float64(time.Second)), probeRTT)
}

// probe asks whether an SCTP packet of mtu bytes arrives at the peer, a number of times, until ctx ends. It returns the address that such packets arrive
// at, which is not valid if they do not.
func (a *Agent) probe(ctx context.Context, mtu, tries int) netip.AddrPort {
	to, rtt := a.direct()
	if !to.IsValid() {
		return netip.AddrPort{}
	}
	request, key, err := a.probeRequest(mtu + dtlsOverhead)
	if err != nil {
		a.log.Debug("asking the path for longer packets", "error", err)
		return netip.AddrPort{}
	}
	pc, id := a.c.Mux.pc, request.TransactionID
	w := &pending{to: to, key: key, answered: make(chan struct{})}
	pc.probes.Store(id, w)
	defer pc.probes.Delete(id)
	pause := max(2*rtt, probePause)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for i := range tries {
		// The socket tells at once if the packet is too long for the network device. Other errors may be of this packet only, but a "no" is safe.
		if _, err := pc.WriteTo(request.Raw, net.UDPAddrFromAddrPort(to)); err != nil {
			a.log.Debug("asking the path for longer packets", "bytes", len(request.Raw), "error", err)
			break
		}
		if i == tries-1 {
			pause = max(pause, probeRest)
		}
		timer.Reset(pause)
		select {
		case <-w.answered:
			return to
		case <-timer.C:
		case <-ctx.Done():
			return netip.AddrPort{}
		}
	}
	return netip.AddrPort{}
}

// probeRequest makes a Binding request of size bytes, or up to 3 more, since such messages are of whole words.
func (a *Agent) probeRequest(size int) (*stun.Message, stun.MessageIntegrity, error) {
	ufrag, _, err := a.ice.GetLocalUserCredentials()
	if err != nil {
		return nil, nil, err
	}
	a.mu.Lock()
	r, controlling := a.remote, a.controlling
	a.mu.Unlock()
	// With these tie-breakers a peer that believes to have the same role as this side refuses the request, and does not change its role.
	var role stun.Setter = ice.AttrControlled(math.MaxUint64)
	if controlling {
		role = ice.AttrControlling(0)
	}
	key := stun.NewShortTermIntegrity(r.pwd)
	build := func(padding int) (*stun.Message, error) {
		return stun.Build(stun.TransactionID, stun.BindingRequest, stun.NewUsername(r.ufrag+":"+ufrag), role,
			ice.PriorityAttr(110<<24|math.MaxUint16<<8|255), // of a peer-reflexive candidate (RFC 8445, sections 5.1.2 and 7.1.1)
			stun.RawAttribute{Type: attrPadding, Value: make([]byte, padding)}, key, stun.Fingerprint)
	}
	m, err := build(0)
	if err != nil {
		return nil, nil, err
	}
	padding := (size+3)/4*4 - len(m.Raw)
	if padding < 0 {
		return nil, nil, fmt.Errorf("a Binding request has %d bytes already", len(m.Raw))
	}
	m, err = build(padding)
	return m, key, err
}

// aead reports whether DTLS adds at most dtlsOverhead bytes; with CBC it would be up to 65. All of these peers prefer an AEAD.
func aead(id dtls.CipherSuiteID) bool {
	switch id {
	case dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, dtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		dtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, dtls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		dtls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, dtls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:
		return true
	}
	return false
}

// watchPath ends the Agent if ICE changes from the path that was probed to a narrower one, where long packets would be lost for ever: SCTP cannot make
// them shorter any more. Most such changes come in the first seconds, while checks of other pairs are still under way.
func (a *Agent) watchPath(ctx context.Context, probed netip.AddrPort) {
	tick := time.NewTicker(moveTick)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if p, ok := a.Pair(); !ok || p.Remote == probed {
			continue
		}
		probed = a.probe(ctx, a.c.Tuning.ProbeMTU, moveTries)
		if ctx.Err() != nil {
			return
		}
		if !probed.IsValid() {
			a.cancel(fmt.Errorf("%w: the path to the peer has changed to one that does not carry packets as long as before", transport.ErrUnavailable))
			return
		}
	}
}
