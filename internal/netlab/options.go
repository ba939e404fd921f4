package netlab

import (
	"fmt"
	"net/netip"
	"time"
)

// Options are a network. The zero value is two sites, A (10.77.0.1) and B (10.77.0.2), without delay or limit.
type Options struct {
	// Sites are the namespaces. Default: A and B as above.
	Sites []Site
	// Delay is that of a packet from any site to any other, one way.
	Delay time.Duration
	// Rate is what each site can send, in bits per second of Ethernet: at 1e9 one TCP connection carries 941e6. 0: no limit.
	Rate float64
	// Queue is how many bytes may wait for Rate before packets are dropped. Default: what Rate carries in one round trip, at least 256 KiB.
	Queue int
	// Loss is the fraction of packets that are lost, each by chance. Lab.SetLoss changes it.
	Loss float64
	// MTU of the devices. Default 1500.
	MTU int
	// Direct joins two sites by a kernel's veth pair and nothing else: the fastest there is. Delay, Rate, Loss, NAT, Cut, SetLoss and Stats need the emulator.
	Direct bool
	// Seed of the losses. Default 1: the same each time, as far as packets come in the same order.
	Seed uint64
	// Life is when the network ends whatever happens. Default 10 minutes.
	Life time.Duration
}

// Site is one namespace.
type Site struct {
	// Name is how the methods of Lab call it.
	Name string
	// Addr is the IPv4 address under which other sites reach it. Default: 10.77.0.1 for the first site, 10.77.0.2 for the second, and so on.
	Addr netip.Addr
	// NAT stands between the site and the others. Default: none.
	NAT NAT
	// Inner is the site's own address behind a NAT. Default: 192.168.1.2 for the first site, 192.168.2.2 for the second, and so on; two sites may have
	// the same. Without a NAT it is Addr.
	Inner netip.Addr
}

// NAT is how an address translator maps and filters.
type NAT int

// The kinds of NAT by their old names (RFC 3489).
const (
	NoNAT          NAT = iota
	FullCone           // one outer port per inner port; anyone may send to it
	Restricted         // the same; only addresses that the inner side has sent to
	PortRestricted     // the same; only addresses and ports that it has sent to. What most homes and offices have
	Symmetric          // an outer port for each destination, only for it: no direct path between two of them
)

// Stats count packets since the start; a large packet of segmentation offload counts as one.
type Stats struct {
	Packets uint64 // that came from the site
	Bytes   uint64 // of IP
	Full    uint64 // dropped: the queue was full
	Lost    uint64 // dropped by Loss
	Cut     uint64 // dropped by Cut
	NAT     uint64 // dropped by the site's NAT, in both directions
	Unknown uint64 // to an address that no site has
}

// defaults fills o in and checks it.
func (o Options) defaults() (Options, error) {
	if o.Sites == nil {
		o.Sites = []Site{{Name: "A"}, {Name: "B"}}
	}
	sites := make([]Site, len(o.Sites))
	seen := map[string]bool{}
	for i, s := range o.Sites {
		if !s.Addr.IsValid() {
			s.Addr = netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 1)})
		}
		if s.NAT == NoNAT {
			s.Inner = s.Addr
		} else if !s.Inner.IsValid() {
			s.Inner = netip.AddrFrom4([4]byte{192, 168, byte(i + 1), 2})
		}
		switch {
		case s.Name == "" || seen[s.Name] || seen[s.Addr.String()]:
			return o, fmt.Errorf("netlab: site %d: name %q and address %v must be there, and only once", i, s.Name, s.Addr)
		case !s.Addr.Is4() || !s.Inner.Is4():
			return o, fmt.Errorf("netlab: site %s: %v: only IPv4", s.Name, s.Addr)
		case s.NAT < NoNAT || s.NAT > Symmetric:
			return o, fmt.Errorf("netlab: site %s: no such NAT: %d", s.Name, s.NAT)
		}
		seen[s.Name], seen[s.Addr.String()] = true, true
		sites[i] = s
	}
	o.Sites = sites
	if o.MTU == 0 {
		o.MTU = 1500
	}
	if o.Queue == 0 {
		o.Queue = max(256<<10, int(o.Rate/8*2*o.Delay.Seconds()))
	}
	if o.Seed == 0 {
		o.Seed = 1
	}
	if o.Life == 0 {
		o.Life = 10 * time.Minute
	}
	switch {
	case len(o.Sites) > maxSites:
		return o, fmt.Errorf("netlab: %d sites: at most %d", len(o.Sites), maxSites)
	case o.Delay < 0 || o.Rate < 0 || o.Queue < 0 || o.Loss < 0 || o.Loss > 1 || o.Life < 0:
		return o, fmt.Errorf("netlab: %+v: negative, or a loss above 1", o)
	case o.MTU < 576 || o.MTU > 65535:
		return o, fmt.Errorf("netlab: MTU %d: want 576 to 65535", o.MTU)
	case o.Direct && (len(o.Sites) != 2 || o.Delay != 0 || o.Rate != 0 || o.Loss != 0 || sites[0].NAT != NoNAT || sites[1].NAT != NoNAT):
		return o, fmt.Errorf("netlab: Direct joins two sites, without delay, rate, loss or NAT")
	}
	return o, nil
}

const maxSites = 16

// request and reply are the lines between a Lab and its emulator. The first request has Options.
type request struct {
	Options *Options
	Op      string  // "cut", "heal", "loss", "rebind", "stats", "close"
	Site    int     // -1: all
	Value   float64 // of "loss"
	Addr    netip.Addr
}

type reply struct {
	Error string
	FDs   []int // of the namespaces in the emulator, the answer to Options
	Stats Stats
}
