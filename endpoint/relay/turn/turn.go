// Package turn is a STUN and TURN server beside a relay, for pairs of endpoints between which no direct path exists: ICE then sends packets through it (RFC 8656).
// Any STUN client learns its address from it; allocations need a user and password (long-term credentials). It is pion/turn with safe settings.
//
// Peers on private, loopback and other special addresses are refused unless a network is allowed: who has a password must not get at what only the server's host can
// reach.
package turn

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"github.com/pion/logging"
	"github.com/pion/turn/v5"
)

// Options configure a [Server]. Address, RelayAddress and Users are needed.
type Options struct {
	Address      string            // UDP address to listen on: host:port; the usual port is 3478
	RelayAddress string            // IP address under which peers reach the sockets of allocations, which are on all interfaces unless it is a loopback address
	Realm        string            // default "proxyplane"
	Users        map[string]string // passwords by name. It is copied
	AllowPeers   []netip.Prefix    // networks of special addresses that may be peers nevertheless

	MinPort, MaxPort uint16 // of allocations' sockets; default: any
	MaxAllocations   int    // per user; default 100

	Logger *slog.Logger // default: none
}

// Server is a running TURN server. Its methods may be called concurrently.
type Server struct {
	server *turn.Server
	addr   net.Addr
	once   sync.Once
	err    error
}

// special are networks whose addresses mean something else elsewhere, or are not hosts: RFC 6890.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2002::/16"),
	netip.MustParsePrefix("2001::/32"),
}

// New starts a server. Close must be called.
func New(o Options) (*Server, error) {
	relayIP, err := netip.ParseAddr(o.RelayAddress)
	if err != nil {
		return nil, fmt.Errorf("turn: relay address %q: it must be the IP address under which peers reach this host", o.RelayAddress)
	}
	relayIP = relayIP.Unmap()
	if len(o.Users) == 0 {
		return nil, errors.New("turn: no users; name at least one with a password")
	}
	realm := cmp.Or(o.Realm, "proxyplane")
	keys := map[string][]byte{}
	for name, password := range o.Users {
		if name == "" || password == "" {
			return nil, errors.New("turn: a user has no name or no password")
		}
		keys[name] = turn.GenerateAuthKey(name, realm, password)
	}
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	host := "0.0.0.0"
	switch {
	case relayIP.IsLoopback():
		host = relayIP.String()
	case relayIP.Is6():
		host = "::"
	}
	generator := turn.RelayAddressGenerator(&turn.RelayAddressGeneratorStatic{RelayAddress: net.IP(relayIP.AsSlice()), Address: host})
	if o.MinPort != 0 || o.MaxPort != 0 {
		if o.MinPort == 0 || o.MaxPort < o.MinPort {
			return nil, fmt.Errorf("turn: ports %d to %d are no range", o.MinPort, o.MaxPort)
		}
		generator = &turn.RelayAddressGeneratorPortRange{RelayAddress: net.IP(relayIP.AsSlice()), Address: host, MinPort: o.MinPort, MaxPort: o.MaxPort}
	}
	conn, err := net.ListenPacket("udp", o.Address)
	if err != nil {
		return nil, fmt.Errorf("turn: %w", err)
	}
	q := &quota{limit: cmp.Or(o.MaxAllocations, 100), used: map[string]int{}}
	allowed := append([]netip.Prefix(nil), o.AllowPeers...)
	server, err := turn.NewServer(turn.ServerConfig{
		Realm:         realm,
		LoggerFactory: factory{log},
		AuthHandler: func(a *turn.RequestAttributes) (string, []byte, bool) {
			key, ok := keys[a.Username]
			return a.Username, key, ok
		},
		QuotaHandler: q.admit,
		EventHandler: turn.EventHandler{
			OnAllocationCreated: func(_, _ net.Addr, _, user, _ string, _ net.Addr, _ int) { q.add(user, 1) },
			OnAllocationDeleted: func(_, _ net.Addr, _, user, _ string) { q.add(user, -1) },
		},
		PacketConnConfigs: []turn.PacketConnConfig{{
			PacketConn: conn, RelayAddressGenerator: generator,
			PermissionHandler: func(client net.Addr, peer net.IP) bool {
				ok := Permitted(peer, allowed)
				if !ok {
					log.Warn("refused a peer on a private address; allow_peers could allow it", "client", client, "peer", peer)
				}
				return ok
			},
		}},
	})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("turn: %w", err)
	}
	log.Info("turn server is listening", "address", conn.LocalAddr().String(), "relay_address", relayIP)
	return &Server{server: server, addr: conn.LocalAddr()}, nil
}

// Permitted reports whether ip may be a peer: it is a public unicast address, or one of an allowed network.
func Permitted(ip net.IP, allowed []netip.Prefix) bool {
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return false
	}
	addr = addr.Unmap()
	for _, p := range allowed {
		if p.Contains(addr) {
			return true
		}
	}
	for _, p := range special {
		if p.Contains(addr) {
			return false
		}
	}
	return addr.IsGlobalUnicast() && !addr.IsPrivate()
}

// Addr returns the address that the server listens on.
func (s *Server) Addr() net.Addr { return s.addr }

// Close ends all allocations and the server. It may be called again.
func (s *Server) Close() error {
	s.once.Do(func() { s.err = s.server.Close() })
	return s.err
}

// quota counts allocations by user.
type quota struct {
	limit int
	mu    sync.Mutex
	used  map[string]int
}

func (q *quota) admit(user, _ string, _ net.Addr) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.used[user] < q.limit
}

func (q *quota) add(user string, n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.used[user] += n; q.used[user] <= 0 {
		delete(q.used, user)
	}
}

// factory passes pion's logs on.
type factory struct{ log *slog.Logger }

func (f factory) NewLogger(scope string) logging.LeveledLogger {
	return logger{f.log.With("scope", scope)}
}

type logger struct{ log *slog.Logger }

func (l logger) Trace(string)                   {}
func (l logger) Tracef(string, ...any)          {}
func (l logger) Debug(msg string)               { l.log.Debug(msg) }
func (l logger) Debugf(format string, a ...any) { l.log.Debug(fmt.Sprintf(format, a...)) }
func (l logger) Info(msg string)                { l.log.Debug(msg) } // a record per packet that is odd
func (l logger) Infof(format string, a ...any)  { l.log.Debug(fmt.Sprintf(format, a...)) }
func (l logger) Warn(msg string)                { l.log.Warn(msg) }
func (l logger) Warnf(format string, a ...any)  { l.log.Warn(fmt.Sprintf(format, a...)) }
func (l logger) Error(msg string)               { l.log.Warn(msg) }
func (l logger) Errorf(format string, a ...any) { l.log.Warn(fmt.Sprintf(format, a...)) }
