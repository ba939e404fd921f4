package peer

import (
	"cmp"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/endpoint/path"
)

// Dialects of peers.
const (
	DialectProxyStore = "proxystore" // a Python endpoint
	DialectProxyplane = "proxyplane"
)

// States of peers.
const (
	StateConnected  = "connected"
	StateConnecting = "connecting"
	StateLost       = "lost" // was connected; the next request connects again
	StateIdle       = "idle"
	StateFailed     = "failed" // as idle, and the last attempt to connect failed
)

// Status is what a user sees of a Manager.
type Status struct {
	Instance string       `json:"instance"` // of this process, as peers are told
	Listen   []string     `json:"listen"`   // addresses for TLS, as the listener has them
	UDP      string       `json:"udp"`      // the socket of ICE and QUIC
	Kinds    []string     `json:"kinds"`    // of paths that may be used
	Relay    RelayStatus  `json:"relay"`
	Refused  int64        `json:"refused"` // messages of peers that were ignored
	Peers    []PeerStatus `json:"peers"`   // by UUID
}

// RelayStatus is how the relay connection stands.
type RelayStatus struct {
	Connected bool      `json:"connected"`
	Final     bool      `json:"final"` // it has given up
	Since     time.Time `json:"since"`
	Error     string    `json:"error,omitempty"`
}

// PathStatus is one way to a peer.
type PathStatus struct {
	Kind    string        `json:"kind"` // "tls", "quic" or "webrtc"
	Local   string        `json:"local"`
	Remote  string        `json:"remote"`
	Relayed bool          `json:"relayed"` // through a TURN server
	Conns   int           `json:"conns"`   // of TCP or QUIC that it consists of
	RTT     time.Duration `json:"rtt"`     // nanoseconds; 0: unknown
	Since   time.Time     `json:"since"`
}

// PeerStatus is what is known of one peer.
type PeerStatus struct {
	UUID     uuid.UUID    `json:"uuid"`
	Name     string       `json:"name"`
	Dialect  string       `json:"dialect,omitempty"` // "": not known yet
	Instance string       `json:"instance,omitempty"`
	State    string       `json:"state"`
	Detail   string       `json:"detail,omitempty"` // how far connecting has come
	Paths    []PathStatus `json:"paths"`            // the one in use first
	BytesIn  int64        `json:"bytes_in"`
	BytesOut int64        `json:"bytes_out"`
	RateIn   float64      `json:"rate_in"` // bytes per second, over the last seconds
	RateOut  float64      `json:"rate_out"`
	Asking   int64        `json:"asking"` // requests to the peer under way
	Used     time.Time    `json:"used"`
	Error    string       `json:"error,omitempty"` // the last one
	ErrorAt  time.Time    `json:"error_at,omitzero"`
}

// Status returns how things stand now.
func (m *Manager) Status() Status {
	rs := m.o.Relay.State()
	s := Status{UDP: m.sock.Addr().String(), Refused: m.refused.Load(), Instance: m.instance,
		Relay: RelayStatus{Connected: rs.Connected, Final: rs.Final, Since: rs.Since}}
	if rs.Err != nil {
		s.Relay.Error = rs.Err.Error()
	}
	if m.tls != nil {
		s.Listen = m.tls.Addrs()
	}
	for _, k := range []struct {
		kind Kinds
		name string
	}{{TLS, path.KindTLS}, {QUIC, path.KindQUIC}, {WebRTC, path.KindWebRTC}} {
		if m.o.Paths&k.kind != 0 {
			s.Kinds = append(s.Kinds, k.name)
		}
	}
	m.mu.Lock()
	peers := m.list()
	m.mu.Unlock()
	for _, p := range peers {
		s.Peers = append(s.Peers, p.status())
	}
	slices.SortFunc(s.Peers, func(a, b PeerStatus) int { return cmp.Compare(a.UUID.String(), b.UUID.String()) })
	return s
}

func (p *peer) status() PeerStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := PeerStatus{UUID: p.id, Name: p.name, Asking: p.asking.Load(), Used: p.used, State: StateIdle}
	s.BytesIn, s.BytesOut = p.bytes()
	s.RateIn, s.RateOut = p.rate.rates()
	if p.known {
		s.Dialect = DialectProxyplane
		if p.python {
			s.Dialect = DialectProxyStore
		}
	}
	if p.err != nil {
		s.Error, s.ErrorAt = p.err.Error(), p.errAt
	}
	switch {
	case p.cur != nil && p.cur.isUp():
		s.State = StateConnected
		s.Paths = p.cur.paths()
		s.Instance = p.cur.remote.ann.Instance
	case p.next != nil:
		s.State, s.Detail = StateConnecting, p.next.progress()
	case p.cur != nil:
		s.State, s.Detail = StateLost, p.cur.progress()
	case p.fails > 0:
		s.State = StateFailed
	}
	return s
}

func (g *peering) paths() []PathStatus {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.session != nil {
		s := PathStatus{Kind: path.KindWebRTC, Conns: 1, Since: g.began, RTT: g.conn.RTT()}
		if g.pair != nil {
			s.Local, s.Remote, s.Relayed = g.pair.Local.String(), g.pair.Remote.String(), g.pair.Relayed
		}
		return []PathStatus{s}
	}
	var out []PathStatus
	for _, r := range g.routes {
		i := r.Info()
		out = append(out, PathStatus{i.Kind, i.Local, i.Remote, i.Relayed, i.Conns, i.RTT, i.Since})
	}
	return out
}

// bytes returns what went from and to the peer so far. p.mu is held.
func (p *peer) bytes() (in, out int64) {
	in, out = p.in.Load(), p.out.Load()
	if p.cur != nil && p.cur.session != nil { // set before it was cur
		s := p.cur.session.Stats()
		in, out = in+s.BytesIn, out+s.BytesOut
	}
	return in, out
}

// meter knows how many bytes went lately: a ring of what it was told, once a second.
type meter struct {
	at      [6]time.Time
	in, out [6]int64
	n       int
}

func (r *meter) tell(now time.Time, in, out int64) {
	i := r.n % len(r.at)
	r.at[i], r.in[i], r.out[i] = now, in, out
	r.n++
}

// rates returns bytes per second from the oldest to the latest.
func (r *meter) rates() (in, out float64) {
	if r.n < 2 {
		return 0, 0
	}
	last := (r.n - 1) % len(r.at)
	first := max(0, r.n-len(r.at)) % len(r.at)
	d := r.at[last].Sub(r.at[first]).Seconds()
	if d <= 0 {
		return 0, 0
	}
	return float64(r.in[last]-r.in[first]) / d, float64(r.out[last]-r.out[first]) / d
}

// tend looks after all peers once a second: rates, and what is to be closed.
func (m *Manager) tend() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	look := max(min(m.o.Idle/4, time.Minute), time.Second/2)
	if m.o.Idle < 0 {
		look = time.Minute
	}
	var looked time.Time
	for {
		select {
		case <-m.ctx.Done():
			return
		case now := <-tick.C:
			m.relayState()
			m.mu.Lock()
			peers := m.list()
			m.mu.Unlock()
			due := now.Sub(looked) >= look
			if due {
				looked = now
			}
			for _, p := range peers {
				p.mu.Lock()
				in, out := p.bytes()
				p.rate.tell(now, in, out)
				p.mu.Unlock()
				if due {
					p.stopIdle(now, m.o.Idle)
				}
			}
		}
	}
}
