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
// Pion's SCTP is Reno with a window step of one packet, which after a loss at 1 Gbit/s and 20 ms takes 20 s to be back: data channels got a tenth of the link
// there with pion's defaults, a third with sockets of 4 MiB, half with writes that do not wait for an empty queue and larger steps of the window. So sockets
// ask for 4 MiB; a channel takes Tuning.SendBuffer bytes before Write blocks; the congestion window begins at and never falls below Tuning.MinWindow
// (32 KiB: 27 packets; TCP begins with 10, and this is less than the 90 that fit into a Python peer's socket buffer; more would be too much for an uplink of a
// few Mbit/s); and it grows by Tuning.WindowStep (32 KiB) per round trip when it is near what the path holds. Losses still halve it. Measured with package
// internal/netlab, beside one TCP connection (CUBIC): where 0.1 % of the packets are lost by chance, at 200 Mbit/s and 20 ms, channels are at least as fast as
// TCP alone, 1.3 times as fast as with steps of 16 KiB; where both fill that link they get 0.3 to 0.4 of TCP's part, whether the step is 16 or 32 KiB.
//
// SCTP's packets fit into 1280 bytes with all that is around them, and are longer only if Tuning.ProbeMTU asks for that and the peer answered to a STUN
// message of that length (RFC 8899's idea), which aiortc does, too. It is asked once, as SCTP cannot change its mind. If ICE changes to another path that
// does not carry as much the Agent fails, so that the caller makes a new one.
//
// What is left is the processor, some 20 to 25 ns per byte for both ends together, most of it in pion, with a dozen allocations for each packet. Two
// things took a fifth off. SCTP's packets are queued for a goroutine that encrypts and sends what has gathered, on Linux with one system call for
// many packets (UDP_SEGMENT; see sender), 13 on average. And DTLS packets between a Mux's socket and a connected Agent go around the three queues in pion's
// ICE, of which one of 1 MB overflowed in each transfer at 1 Gbit/s, which halved the window. Neither happens without a Mux.
//
// With aiortc its processor is the limit: over 1 Gbit/s and 20 ms, on two busy processors, messages of 32 KiB went to it 1.3 times as fast from us as from
// another aiortc, and came 3 times as fast; over loopback 1.2 to 2 and 1.5 to 3 times (BenchmarkPython).
//
// Its sockets have the system's usual buffer, which holds some 90 packets; the congestion window alone would overrun it several times per second. With
// Tuning.PeerBuffer the window that the peer advertises is lowered on its way to pion, so that half of that buffer waits there, as TCP Vegas does it: what
// is in flight is the rate times the least round trip of the last 30 s, and that half. It grows by that much per round trip and begins anew after each
// pause, because all of it would arrive at once. A path that has become shorter shows after a pause or a loss only. Losses still halve pion's own window.
// At 20 ms and 1 Gbit/s that was 1.5 times as fast as the congestion window alone (bench/intersite, python-ours, 100 MB). Below 5 ms nothing is held back.
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
