// Package path has the ways by which two of our endpoints reach each other: TLS over TCP, QUIC, and WebRTC data channels. Each is a [Path], on which both sides
// open streams of bytes; package transport/native runs on the streams. Choosing among paths, and agreeing on addresses and certificates by way of the
// relay, is for package endpoint/peer.
//
// # TLS over TCP
//
// One side listens ([ListenTLS]), the other dials ([DialTLS]) the addresses that the listener announced through the relay. Both show a certificate (TLS 1.3,
// no authority), and the only one that is accepted is the one that came through the relay: the callbacks say so before a byte of ours is read.
//
// A path is a group of TCP connections, all dialed by the same side, each with a TLS handshake of its own. After it the dialer sends 24 bytes:
//
//	offset  size  field
//	0       7     "PPLANE1"
//	7       1     the connection's role: 'P', 'C' or 'S'
//	8       16    the path's id, random, chosen by the dialer
//
//	'P'  the control connection, the first of each path. The listener answers with "PPLANE1" and 'P', which says that it took the path, and refuses an id
//	     that the same certificate uses already. From then on either side sends frames of 9 bytes: a kind and 8 bytes.
//	       'p'  ping, sent every 3 s
//	       'q'  the answer, with the ping's 8 bytes
//	     A frame of another kind is skipped. Nothing for 12 s, or the end of this connection, is the end of the path and of all its streams.
//	'C'  a stream on which the dialer asks (is the native client). The stream's bytes follow.
//	'S'  a spare stream, which the listener's side takes when it wants to ask. It does so by sending the byte 'T'; then the stream's bytes follow. The
//	     dialer keeps two spares that are not taken, so that this costs no round trip.
//
// 'C' and 'S' belong to a path whose control connection is there, by the same certificate and id; the listener hangs up on others. A path has at most
// 64 streams in either direction, by default, counting spares: Open waits where there are as many.
//
// Sockets have TCP_NODELAY, keep-alives (5 s, then 3 times 3 s) and on Linux TCP_USER_TIMEOUT (15 s), so that a peer that has vanished ends a write as it does the
// control connection. Their buffers are left to the system, which adapts them to the path only as long as nobody sets them.
//
// # QUIC and data channels
//
// [QUIC] and [WebRTC] are thin: a stream is a QUIC stream, or a data channel, ordered, reliable, labelled "proxyplane-<n>". Done is the connection's.
//
// A QUIC path is a [Group], which may have several connections to the peer, since quic-go has one congestion window for all streams of a connection, and with
// losses by chance (0.1 % at 200 Mbit/s and 20 ms) one window fills a small part of the link. A stream is opened on the connection that has the fewest. A
// connection that ends takes its streams along and is passed over from then on; the path goes on over the others, and has ended when all have. Either side
// may add connections (Widen), which tell by their ALPN that they are no path of their own (quic.ALPNMore). Nothing else on the wire says which connections
// belong together: each side groups them as it likes, and need not do as the other does.
package path
