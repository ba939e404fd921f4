// Package peer has the [Manager], which finds, keeps and replaces the connections of an endpoint to all its peers, and asks and serves over them.
//
// What belongs here: who sends which session description when, what becomes of a description that comes, which way of reaching a peer is tried when,
// which of several paths is used, when a connection counts as lost and what happens then, and what of all that a user sees in a status. How messages
// pass a relay is package relay's matter, how a way carries bytes those of packages path, transport/webrtc and transport/quic, and what is said over it
// those of packages link (our endpoints) and p2p (ProxyStore's).
//
// # Sources
//
// proxystore.p2p.manager (PeerManager) and proxystore.p2p.connection (PeerConnection), version 1.1.0; aiortc for what a description may look like. The
// announcement is ours.
//
// # Signalling
//
// The side that wants something sends an offer through the relay, the other an answer; both are SDP with all candidates, as aiortc writes and reads it.
// An endpoint of ours adds one session attribute, which aiortc ignores:
//
//	a=proxyplane:<base64url, unpadded, of {"v":1,"tls":["ip:port",...],"quic":true,"instance":"..."}>
//
// tls is where its TLS listener may be reached, instance names the process: the time it began, so that instances have an order, and something random.
// The certificate of the description's fingerprint serves DTLS, TLS and QUIC alike, so that each of them proves to speak with whom the relay has named.
//
// A peer without the attribute is a Python endpoint: DTLS, SCTP and data channels p2p-<i>-<n>, as ProxyStore opens them. With one that has it, every
// way is tried at once: each side dials the other's TLS addresses (that of the greater UUID a little later, so that one connection is made and not two),
// ICE looks for a pair of UDP addresses, over which the offerer dials QUIC, and where neither came about within 3 s, data channels. QUIC is four connections, or
// one if a TURN server is on the way, dialed at once, of which those that come within a second after the first are one path; the other side groups
// them likewise, and asks on the path when it has four or 300 ms after the first. Either side serves each from the start, and may add others later, up to
// 16, where they make transfers faster (see link's "Lanes"); with a TURN server there are none. The best one there
// is takes new requests: TLS before QUIC before data channels, direct before relayed.
//
// Offers that cross: between our endpoints that of the smaller UUID wins. The winner sends it again, should it not have arrived, and the other answers.
//
// # What Python does not survive
//
// PeerManager handles relay messages in a task whose exceptions end the process. Seen with 1.1.0 and aiortc 1.16: an offer that comes while its own is
// unanswered; an answer that comes twice, or after its timeout of 30 s; a message whose error is set once it is connected; and a request of ours whose
// response it cannot deliver within 30 s. Therefore, here: before an offer leaves, it is looked whether one came; answers go out once, and not after a
// few seconds; errors are never sent; after a connection that broke with requests on it Python's offer gets a moment to come first; Close waits for
// Python's responses. Offers that cross on the way still end a stock Python endpoint, as they do between two of its kind: only a relay could hold one back.
//
// A Python endpoint that still holds an old connection (it notices a dead peer after some 30 s) answers a new offer with the old connection's parameters,
// which lead nowhere. Such an attempt fails and a later one succeeds.
//
// # Losing a peer
//
// When the last path of a peer ends and somebody waits, the known TLS addresses are dialed again, and QUIC where ICE still holds: that needs no relay. When
// that took a second, a new offer goes out as well. Without anybody waiting nothing happens until the next request. Peers without requests for
// Options.Idle are closed.
//
// # Bounds
//
// Descriptions, announcements, addresses in them, offers per peer and time, negotiations under way and known peers are all bounded, before anything is
// done for them. A connection is accepted only if its certificate is that of a current negotiation.
package peer
