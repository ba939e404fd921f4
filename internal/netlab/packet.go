package netlab

import "encoding/binary"

// vnetHeader is the size of struct virtio_net_hdr before each packet: flags u8, gso_type u8, hdr_len, gso_size, csum_start, csum_offset u16.
const vnetHeader = 10

// Protocols that are translated and answered.
const (
	icmp = 1
	tcp  = 6
	udp  = 17
)

// header is what is needed of an IPv4 packet.
type header struct {
	proto byte
	l4    int // where the transport's header begins
	frag  bool
}

// parse checks that a packet is IPv4 with as much of the transport's header as it takes to translate it.
func parse(b []byte) (header, bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return header{}, false
	}
	h := header{proto: b[9], l4: int(b[0]&15) * 4, frag: binary.BigEndian.Uint16(b[6:])&0x3fff != 0} // more fragments, or an offset
	need := map[byte]int{tcp: 20, udp: 8, icmp: 8}[h.proto]
	return h, h.l4 >= 20 && len(b) >= h.l4+need
}

// checksum is that of RFC 1071 over b, added to sum.
func checksum(sum uint32, b []byte) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// unreachable makes the ICMP answer "network unreachable" to a packet, with a vnet header before it. nil: there is none, as to ICMP itself.
func unreachable(packet []byte, h header) []byte {
	if h.proto == icmp && packet[h.l4] != 8 {
		return nil
	}
	quote := packet[:min(len(packet), h.l4+8)]
	b := make([]byte, vnetHeader+28+len(quote))
	ip := b[vnetHeader:]
	ip[0], ip[8], ip[9] = 0x45, 64, icmp
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:16], packet[16:20]) // as if it came from there
	copy(ip[16:20], packet[12:16])
	binary.BigEndian.PutUint16(ip[10:], checksum(0, ip[:20]))
	ip[20] = 3 // destination unreachable, network
	copy(ip[28:], quote)
	binary.BigEndian.PutUint16(ip[22:], checksum(0, ip[20:]))
	return b
}

// replace changes a 16-bit word that a checksum covers, and the checksum with it (RFC 1624). partial: the checksum field holds the sum of the pseudo
// header alone, not complemented, since a device will do the rest.
func replace(field, sum []byte, to uint16, partial bool) {
	from := binary.BigEndian.Uint16(field)
	binary.BigEndian.PutUint16(field, to)
	adjust(sum, from, to, partial)
}

func adjust(sum []byte, from, to uint16, partial bool) {
	s := binary.BigEndian.Uint16(sum)
	if !partial {
		s = ^s
	}
	x := uint32(s) + uint32(^from) + uint32(to)
	for x > 0xffff {
		x = x>>16 + x&0xffff
	}
	s = uint16(x)
	if !partial {
		s = ^s
	}
	binary.BigEndian.PutUint16(sum, s)
}
