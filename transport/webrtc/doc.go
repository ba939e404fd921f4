// Package webrtc is one side of a WebRTC data-channel peering, made of pion's parts: ICE, SDP, DTLS, SCTP and DCEP. It is not pion/webrtc, because one ICE
// agent serves two ends here: data channels, which are what ProxyStore's endpoints (aiortc) speak, or only a UDP path between two addresses, on which
// the same socket then runs something else, such as QUIC. Signalling is the caller's: descriptions are strings.
//
// # Order of calls
//
// The one side: NewAgent, Offer, (the offer goes out, the answer comes in) Accept, Connect. The other: NewAgent, (an offer comes) Answer, (the answer goes
// out) Connect. Then either Channels on both sides, or Conn, or nothing where a Mux's socket is used. The offerer controls ICE. The peer is as authentic
// as the way its description came: DTLS takes only the certificate whose SHA-256 is in it.
//
// # Wire formats
//
// Descriptions: SDP of one application section (RFC 8841, 9429) with all candidates (no trickle), in the JSON of aiortc.contrib.signaling. ICE: RFC 8445,
// full agents, no mDNS names, UDP only. DTLS 1.2 (RFC 8827), SCTP over it (RFC 8261), channels opened by DCEP (RFC 8832): the DTLS client has the even
// streams. Two of ours leave SCTP's checksum out (RFC 9653) and interleave messages (RFC 8260); aiortc does neither.
//
// # What a peer can do to us
//
// Descriptions are at most 64 KiB, of which 32 candidates are used; none of loopback (but for tests), multicast or by name. Received data that nobody reads
// is bounded by Tuning.ReceiveBuffer over all channels, and in number of packets; channels by Tuning.MaxChannels. Channels that may lose messages are
// refused, as are ICE lite, media, and other SCTP ports, each with an error that says so.
//
// # Speed
//
// Pion's SCTP is Reno with a window step of one packet, which after a loss at 1 Gbit/s and 20 ms takes 20 s to be back: data channels got 94 Mbit/s there
// with pion's defaults, 300 with sockets of 4 MiB, 450 to 500 with writes that do not wait for an empty queue and larger steps of the window. So sockets
// ask for 4 MiB; a channel takes Tuning.SendBuffer bytes before Write blocks; the congestion window begins at and never falls below Tuning.MinWindow
// (32 KiB: 27 packets; TCP begins with 10, and this is less than the 90 that fit into a Python peer's socket buffer); and it grows by Tuning.WindowStep
// (16 KiB) per round trip when it is near what the path holds, about as fast as CUBIC at such rates, and like a dozen plain TCP connections at lower
// ones. Losses still halve it. With aiortc the peer's window of 1 MiB and its processor are the limits: over loopback, on two busy processors, messages of
// 32 KiB went to it 1.2 to 2 times as fast from us as from another aiortc, and came 1.5 to 3 times as fast (BenchmarkPython).
//
// # Close
//
// Closing an Agent closes what it made, tells the peer, and waits for all goroutines. Closing Channels waits up to half a second for what was written to
// be acknowledged. A peer that is gone is noticed after Config.ConsentTimeout (9 s), a closed one at once.
//
// # Buffers
//
// Write and WriteSlices borrow; SCTP copies what it keeps for retransmission. Read copies into the caller's memory.
package webrtc
