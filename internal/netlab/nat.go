package netlab

import (
	"encoding/binary"
	"sync"
)

// nat is a network address translator with one address on each side. Mappings last until flush.
type nat struct {
	kind NAT
	mu   sync.Mutex
	next uint16
	out4 map[flow]*mapping // by the inner side
	in4  map[flow]*mapping // by the outer port; only proto and port are set
}

// flow is one side of a mapping. peer and peerPort are those of the destination for a Symmetric NAT, else 0.
type flow struct {
	proto    byte
	port     uint16 // of ICMP echo: the identifier
	peer     uint32
	peerPort uint16
}

type mapping struct {
	inner, outer uint16
	sentTo       map[flow]bool // by peer, and by peerPort except where any port may answer
}

func newNAT(kind NAT) *nat {
	n := &nat{kind: kind, next: 40000}
	n.flush()
	return n
}

// flush forgets all mappings; ports are not given again soon.
func (n *nat) flush() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.out4, n.in4 = map[flow]*mapping{}, map[flow]*mapping{}
	n.next += 1000
}

// peer returns what a mapping remembers of whom it was used for.
func (n *nat) peer(addr uint32, port uint16) flow {
	switch n.kind {
	case FullCone:
		return flow{}
	case Restricted:
		return flow{peer: addr}
	}
	return flow{peer: addr, peerPort: port}
}

// ports returns the port fields of a packet: where its source and its destination are. For ICMP echo both are the identifier, which stands for the
// sender's port in a request and for the receiver's in a reply, and no peer has a port.
func ports(packet []byte, h header) (src, dst []byte, ok bool) {
	t := packet[h.l4:]
	switch {
	case h.frag:
		return nil, nil, false
	case h.proto == tcp, h.proto == udp:
		return t[0:2], t[2:4], true
	case h.proto == icmp && (t[0] == 8 || t[0] == 0):
		return t[4:6], t[4:6], true
	}
	return nil, nil, false
}

// out translates a packet that leaves: its source becomes addr with the mapping's port. false: it is dropped.
func (n *nat) out(vnet, packet []byte, h header, addr uint32) bool {
	src, dst, ok := ports(packet, h)
	if !ok {
		return false
	}
	peer, peerPort := binary.BigEndian.Uint32(packet[16:]), binary.BigEndian.Uint16(dst)
	if h.proto == icmp {
		peerPort = 0
	}
	f := flow{proto: h.proto, port: binary.BigEndian.Uint16(src)}
	if n.kind == Symmetric {
		f.peer, f.peerPort = peer, peerPort
	}
	n.mu.Lock()
	m := n.out4[f]
	if m == nil {
		// A connection that the NAT does not know cannot begin in its middle (RFC 5382); nor can an answer to a ping.
		if h.proto == tcp && packet[h.l4+13]&0x12 != 0x02 || h.proto == icmp && packet[h.l4] != 8 {
			n.mu.Unlock()
			return false
		}
		for n.in4[flow{proto: h.proto, port: n.next}] != nil || n.next < 1024 {
			n.next++
		}
		m = &mapping{inner: f.port, outer: n.next, sentTo: map[flow]bool{}}
		n.next++
		n.out4[f], n.in4[flow{proto: h.proto, port: m.outer}] = m, m
	}
	m.sentTo[n.peer(peer, peerPort)] = true
	n.mu.Unlock()
	translate(vnet, packet, h, packet[12:16], addr, src, m.outer)
	return true
}

// in translates a packet that comes: its destination becomes addr with the mapping's inner port. false: it is dropped.
func (n *nat) in(vnet, packet []byte, h header, addr uint32) bool {
	src, dst, ok := ports(packet, h)
	if !ok {
		return false
	}
	peer, peerPort := binary.BigEndian.Uint32(packet[12:]), binary.BigEndian.Uint16(src)
	if h.proto == icmp {
		peerPort = 0
	}
	n.mu.Lock()
	m := n.in4[flow{proto: h.proto, port: binary.BigEndian.Uint16(dst)}]
	ok = m != nil && m.sentTo[n.peer(peer, peerPort)]
	n.mu.Unlock()
	if !ok {
		return false
	}
	translate(vnet, packet, h, packet[16:20], addr, dst, m.inner)
	return true
}

// translate replaces an address and its port, with the checksums that cover them.
func translate(vnet, packet []byte, h header, addr []byte, to uint32, port []byte, toPort uint16) {
	t := packet[h.l4:]
	partial := vnet[0]&1 != 0 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	var sum []byte
	switch h.proto {
	case tcp:
		sum = t[16:18]
	case udp:
		sum = t[6:8]
		if !partial && sum[0] == 0 && sum[1] == 0 {
			sum = nil // none
		}
	case icmp:
		sum = t[2:4]
	}
	for i, w := range []uint16{uint16(to >> 16), uint16(to)} {
		field := addr[2*i : 2*i+2]
		if sum != nil && h.proto != icmp { // the pseudo header; ICMP has none
			adjust(sum, binary.BigEndian.Uint16(field), w, partial)
		}
		replace(field, packet[10:12], w, false)
	}
	switch {
	case sum != nil && !partial:
		replace(port, sum, toPort, false)
		if h.proto == udp && sum[0] == 0 && sum[1] == 0 {
			sum[0], sum[1] = 0xff, 0xff // zero would say: no checksum
		}
	default: // a partial sum does not cover the ports yet
		binary.BigEndian.PutUint16(port, toPort)
	}
}
