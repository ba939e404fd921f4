package ucx

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/proxyplane/proxyplane/cgo/ucx"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// ListenOptions of a Server. The zero value is useful.
type ListenOptions struct {
	// ServerOptions are those of the protocol.
	native.ServerOptions

	// Insecure serves everybody who can reach a host that is not loopback. Without it such a host needs a Token.
	Insecure bool
	// BusyPoll is how long a read looks for messages before it waits to be woken. 0: not at all.
	BusyPoll time.Duration
	// Config are settings of UCX over those of the environment, without their prefix UCX_: "TLS": "tcp". ucx_info -cf lists all. See Options of
	// package cgo/ucx for settings of single transports.
	Config map[string]string
	// Keepalive is how often an idle peer is asked whether it lives. Default: 10 s.
	Keepalive time.Duration
	// NoSharedMemory keeps clients of this host on the network.
	NoSharedMemory bool
	// MaxConns is how many connections there may be at a time. Default: 4096.
	MaxConns int
	// Workers is how many connections have a UCX worker of their own, which is faster and what shared memory needs; the others share the
	// listener's. Default: none, for a client that goes while it is being accepted can crash a process that has them: see the package comment.
	Workers int

	// Python answers the messages of Python's UCXConnector. Default: such clients are refused. They show no token, so it must not be there with one.
	Python objects.Handler
	// MaxMessage is the longest message of theirs, in bytes. Default: 1 GiB.
	MaxMessage int64
}

// DialOptions of a Client. The zero value is useful.
type DialOptions struct {
	native.ClientOptions

	BusyPoll       time.Duration     // as in ListenOptions
	Config         map[string]string // as in ListenOptions
	Keepalive      time.Duration     // as in ListenOptions
	NoSharedMemory bool              // as in ListenOptions
	ConnectTimeout time.Duration     // bounds Dial, beside its ctx. Default: 10 s
	MaxMessage     int64             // of a reply, for DialExchanger. Default: 1 GiB
}

const (
	defaultConns     = 4096
	defaultKeepalive = 10 * time.Second
	defaultConnect   = 10 * time.Second
	defaultMessage   = 1 << 30

	features = ucx.Tag | ucx.RMA | ucx.Stream | ucx.AM | ucx.Wakeup // as ucx-py has them: both sides should agree
)

func (o ListenOptions) withDefaults() ListenOptions {
	o.MaxConns = defaulted(o.MaxConns, defaultConns)
	o.Keepalive = defaulted(o.Keepalive, defaultKeepalive)
	o.MaxMessage = defaulted(o.MaxMessage, defaultMessage)
	o.HandshakeTimeout = defaulted(o.HandshakeTimeout, 10*time.Second)
	return o
}

func (o DialOptions) withDefaults() DialOptions {
	o.Keepalive = defaulted(o.Keepalive, defaultKeepalive)
	o.ConnectTimeout = defaulted(o.ConnectTimeout, defaultConnect)
	o.MaxMessage = defaulted(o.MaxMessage, defaultMessage)
	if o.Pool == nil {
		o.Pool = transport.DefaultPool
	}
	return o
}

func defaulted[T ~int | ~int64](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

// parseAddress splits "host:port", with or without "ucx://" before it.
func parseAddress(addr string) (host string, port uint16, err error) {
	host, p, err := net.SplitHostPort(strings.TrimSuffix(strings.TrimPrefix(addr, "ucx://"), "/"))
	if err == nil {
		var n uint64
		n, err = strconv.ParseUint(p, 10, 16)
		port = uint16(n)
	}
	if err != nil {
		return "", 0, fmt.Errorf(`address %q: want "host:port": %w`, addr, err)
	}
	return host, port, nil
}

// resolve returns the addresses of a host; none is loopback.
func resolve(ctx context.Context, addr string) ([]netip.AddrPort, error) {
	host, port, err := parseAddress(addr)
	if err != nil {
		return nil, err
	}
	if host == "" {
		return []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)}, nil
	}
	ips := []netip.Addr{}
	if ip, err := netip.ParseAddr(host); err == nil {
		ips = append(ips, ip)
	} else if ips, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	var out []netip.AddrPort
	for _, four := range []bool{true, false} { // IPv4 first: UCX's TCP does not have all of IPv6
		for _, ip := range ips {
			if ip = ip.Unmap(); ip.Is4() == four && ip.WithZone("") != netip.IPv6Loopback() {
				out = append(out, netip.AddrPortFrom(ip, port))
			}
		}
	}
	if len(out) == 0 && len(ips) > 0 {
		// It would do worse than fail: UCX 1.13 has the peer connect to ::1, and writes that address over the end of what it keeps one in.
		return nil, fmt.Errorf("%w: UCX has no connections at ::1: use 127.0.0.1, or another IPv6 address of this host", transport.ErrUnavailable)
	}
	return out, nil
}

// openContext opens UCX for one address with the settings that it needs, over which the caller's win.
func openContext(addr netip.AddrPort, own map[string]string, keepalive time.Duration, peers int) (*ucx.Context, error) {
	config := map[string]string{}
	set := func(name, value string) {
		if _, ok := os.LookupEnv("UCX_" + name); !ok {
			config[strings.TrimPrefix(name, "TCP_")] = value // see ucx.Options
		}
	}
	seconds := strconv.FormatInt(max(int64(keepalive.Seconds()), 1), 10) + "s"
	set("KEEPALIVE_INTERVAL", seconds)
	set("TCP_KEEPIDLE", seconds)
	set("TCP_KEEPINTVL", strconv.FormatInt(max(int64(keepalive.Seconds()/5), 1), 10)+"s")
	if addr.Addr().IsLoopback() {
		set("NET_DEVICES", loopbackDevice()) // who listens at loopback does not want UCX to listen elsewhere
	}
	if addr.Addr().Is6() {
		set("TCP_AF_PRIO", "inet6,inet")
	}
	for name, value := range own {
		config[strings.TrimPrefix(name, "UCX_")] = value
	}
	c, err := ucx.Open(ucx.Options{Name: "proxyplane", Features: features, Peers: peers, Config: maps.Clone(config)})
	if errors.Is(err, ucx.ErrNotBuilt) {
		return nil, fmt.Errorf("%w: %w", transport.ErrNotBuilt, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	return c, nil
}

var loopbackDevice = sync.OnceValue(func() string {
	all, _ := net.Interfaces()
	for _, i := range all {
		if i.Flags&net.FlagLoopback != 0 {
			return i.Name
		}
	}
	return "all"
})

// bootID names this run of this host's kernel, and the memory that its processes can share.
var bootID = sync.OnceValue(func() []byte {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil
	}
	id := strings.TrimSpace(string(b))
	for _, ns := range []string{"ipc", "pid"} { // containers of one host may not share either
		link, _ := os.Readlink("/proc/self/ns/" + ns)
		id += " " + link
	}
	return []byte(id[:min(len(id), maxHost)])
})

// sharesMemory reports whether a context may use shared memory. It may not where UCX was told that senders write into the memory of receivers: those
// could not take it back from a sender that stands still. By itself UCX has receivers read.
func sharesMemory(c *ucx.Context) bool {
	if strings.Contains(c.Config(), "RNDV_SCHEME=put") {
		return false
	}
	info := c.Info()
	for _, name := range []string{"posix", "sysv", "xpmem"} {
		if strings.Contains(info, name) {
			return true
		}
	}
	return false
}

// accessesMemory reports whether some of the transports belong to devices that access registered memory by themselves.
func accessesMemory(transports []string) bool {
	for _, t := range transports {
		switch name, _, _ := strings.Cut(t, "/"); name {
		case "tcp", "self", "posix", "sysv", "xpmem", "cma", "knem", "cm":
		default:
			return true
		}
	}
	return false
}
