package peer

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/proxyplane/proxyplane/transport"
)

// attribute is the name of the SDP attribute that says what a peer of our kind can do beyond ProxyStore's protocol.
const attribute = "proxyplane"

const (
	maxAnnouncement = 4 << 10 // bytes of the attribute's value
	maxAddrs        = 16      // TLS addresses in it
	maxInstance     = 64      // bytes
)

// announcement is the attribute's content. Unknown fields are for later versions, which keep v as long as this one understands the rest.
type announcement struct {
	V        int      `json:"v"`
	TLS      []string `json:"tls"`      // "ip:port"
	QUIC     bool     `json:"quic"`     // it accepts and dials QUIC over ICE's pair
	Instance string   `json:"instance"` // of the process
}

// newInstance returns a name for this process. Names of a later start are greater as strings; the rest is random.
func newInstance(now time.Time) string {
	return fmt.Sprintf("%016x-%s", now.UnixNano(), rand.Text()[:12])
}

func (a announcement) encode() string {
	if a.TLS == nil {
		a.TLS = []string{}
	}
	b, err := json.Marshal(a)
	if err != nil {
		panic(err) // it has nothing that JSON cannot say
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// parseAnnouncement reads the attribute of a peer. Addresses that cannot be meant for us are left out: see plausible.
func parseAnnouncement(s string, loopback bool) (announcement, []string, error) {
	var a announcement
	if len(s) > maxAnnouncement {
		return a, nil, fmt.Errorf("peer: %w: an announcement of %d bytes; at most %d are read", transport.ErrCorrupt, len(s), maxAnnouncement)
	}
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
	if err == nil {
		err = json.Unmarshal(b, &a)
	}
	switch {
	case err != nil:
	case a.V != 1:
		err = fmt.Errorf("version %d; this endpoint knows 1: update the older one", a.V)
	case len(a.TLS) > maxAddrs:
		err = fmt.Errorf("%d addresses; at most %d", len(a.TLS), maxAddrs)
	case a.Instance == "" || len(a.Instance) > maxInstance || strings.ContainsFunc(a.Instance, func(r rune) bool { return r <= ' ' || r > '~' }):
		err = fmt.Errorf("no usable instance")
	}
	if err != nil {
		return announcement{}, nil, fmt.Errorf("peer: %w: the peer's announcement: %v", transport.ErrCorrupt, err)
	}
	var addrs []string
	for _, t := range a.TLS {
		ap, err := netip.ParseAddrPort(t)
		if err != nil {
			return announcement{}, nil, fmt.Errorf("peer: %w: the peer's announcement: %.60q is no address", transport.ErrCorrupt, t)
		}
		if plausible(ap, loopback) {
			addrs = append(addrs, netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()).String())
		}
	}
	return a, addrs, nil
}

// plausible reports whether a peer may be dialed there. A description is another's word: it must not make us talk to ourselves, to everybody, or to what
// is there for this machine alone, as metadata services at link-local addresses are.
func plausible(ap netip.AddrPort, loopback bool) bool {
	a := ap.Addr().Unmap()
	switch {
	case !a.IsValid(), ap.Port() == 0, a.Zone() != "", a.IsUnspecified(), a.IsMulticast(), a.IsLinkLocalUnicast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return false
	case a.IsLoopback():
		return loopback
	}
	return true
}

// announced returns the addresses for our own announcement: what was configured, then what the listener has. Names are looked up each time, since they
// are configured where addresses change.
func (m *Manager) announced(ctx context.Context) []string {
	if m.tls == nil {
		return nil
	}
	var out []string
	add := func(ap netip.AddrPort) {
		s := netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()).String()
		for _, o := range out {
			if o == s {
				return
			}
		}
		if len(out) < maxAddrs && plausible(ap, m.o.Loopback) {
			out = append(out, s)
		}
	}
	for _, s := range m.o.Advertise {
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			host, port = strings.Trim(s, "[]"), m.tlsPort
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			continue // New has refused it
		}
		if ip, err := netip.ParseAddr(host); err == nil {
			add(netip.AddrPortFrom(ip, uint16(n)))
			continue
		}
		lctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		ips, err := net.DefaultResolver.LookupNetIP(lctx, "ip", host)
		cancel()
		if err != nil {
			m.log.Warn("an advertised name was not found", "name", host, "error", err)
		}
		for _, ip := range ips {
			add(netip.AddrPortFrom(ip, uint16(n)))
		}
	}
	for _, s := range m.tls.Addrs() {
		if ap, err := netip.ParseAddrPort(s); err == nil {
			add(ap)
		}
	}
	return out
}
