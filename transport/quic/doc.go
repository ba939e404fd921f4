// Package quic carries streams of bytes between two endpoints over QUIC (RFC 9000), on a UDP socket that it shares with ICE.
//
// NewSocket and Listen make a Socket, which can dial and accept at once. What arrives there and is no QUIC packet comes out of [Socket.Packets], where
// pion's mux for ICE reads it: the first byte of a QUIC packet has the bit 0x40 or 0x80, that of STUN (0 to 3) and DTLS (20 to 63) neither (RFC 9443
// section 2 has the table; TURN's channels, 64 to 79, are not told from QUIC, so a TURN client needs a socket of its own).
//
// # Who is there
//
// TLS 1.3 with a certificate on both sides. There is no authority: Options.Verify sees the other side's certificate in DER and says whether it is the
// expected one, in both roles, before a byte of any stream is read. Both sides prove that they have its key. Nothing is resumed, and no data goes early.
// A dialer of TLS 1.3 is done before the server has looked at its certificate, so the side that accepts says that it did: one unidirectional stream,
// empty but for its end, for which Dial waits. After that there are bidirectional streams only.
//
// # Streams
//
// A stream that was opened is invisible to the other side until something is written to it, since QUIC tells it by its first frame. Open returns
// at once for that reason, and who opens must speak first: package native's client does. Streams are net.Conns: a deadline in the past ends a
// blocked Read or Write, which loses nothing, and Close ends both directions. What was written before Close arrives; the other side's writes fail from then
// on, as they do on a TCP connection that was closed with bytes unread.
//
// # When an address changes
//
// quic-go 0.65 as server notices that the client's packets come from another address (a NAT has forgotten its binding), validates it by a challenge,
// and goes on there after one more round trip: connections and streams live on. RFC 9000 section 9 lets clients alone migrate. So if it is the server's
// address that changes, the client takes what comes from there, but goes on sending to the old address. Where that leads nowhere the idle timeout
// ends the connection, by default after 10 s, and whoever holds it dials again.
//
// # Windows and memory
//
// A stream may be up to StreamWindow ahead of its reader, all streams of a connection together up to ConnWindow, both of which are reached only
// while the reader keeps up. That bounds what a peer can make this side hold. The kernel's buffers of a UDP socket are not grown by themselves as TCP's
// are: 7 MiB are asked for, and what the system grants (net.core.rmem_max, wmem_max) is taken without a word. Too small ones lose packets in bursts.
//
// # Speed
//
// Over 1 Gbit/s and 20 ms (package internal/netlab, new connections) one connection needs for 1, 10 and 100 MB 0.78, 1.0 and 1.05 of the time of one TCP
// connection (CUBIC), since quic-go begins with 32 packets and TCP with 10; two connections with half of the bytes each 0.65, 0.9 and 1.0. Streams of one
// connection share its congestion window, which losses reduce for all: where 0.1 % are lost by chance, at 200 Mbit/s, one connection got 1.0 of what
// one of TCP does, with four streams no more, four connections 2.3 times and eight 3.7 times as much. TCP with BBR fills that link; quic-go has CUBIC only.
// Packets leave the shared socket in batches, too (UDP_SEGMENT): 7 per system call on average.
package quic
