// Package relay speaks ProxyStore's relay protocol: small JSON messages over WebSockets by which two endpoints, both behind NATs, hand each other the
// session descriptions of a peer connection. The bytes of objects never go through a relay.
//
// What belongs here: the messages ([Encode], [Decode]), the [Client] of an endpoint, the [Server] that sites run, who may use it ([Authenticator]), what clients
// show it ([TokenFile], [GlobusTokens]), and its configuration file ([Config]). Package prom exports a Server's counters, package turn is a STUN/TURN server
// for sites where no direct path exists. How a session description looks and what it leads to is not known here.
//
// # Wire format
//
// One JSON object per WebSocket text message, as proxystore.p2p.relay.messages encodes its dataclasses. `message_type` is one of relay_registration,
// relay_response and peer_connection; fields that are absent have the dataclass's default; unknown fields are errors. See proxystore/p2p/relay/messages.py.
//
// A client connects (any path; credentials in the Authorization header of the handshake), sends a registration and gets a response. From then on every
// peer_connection message that it sends is passed to the client that is registered under peer_uuid, or comes back with `error` set.
//
// # Close codes
//
// Those of proxystore/p2p/relay/server.py, with its reasons:
//
//	4000  a message that cannot be decoded, or of a type that only servers send
//	4001  UnauthorizedError: credentials are missing or malformed
//	4002  ForbiddenError: credentials are refused, the UUID is another user's, or a message was sent before the registration
//	4003  a message longer than the limit. Python compares sys.getsizeof(str), which is the length and 49 bytes for ASCII; we compare the length
//	4004  the same user registered the same UUID from somewhere else
//
// and those of RFC 6455: 1001 when the server shuts down, 1008 for a client that does not register in time, 1011 when the authentication service cannot be
// reached, 1013 when a limit on the number of clients is reached. A Python client reconnects after these, and gives up after 4001, 4002 and 4004.
//
// # Isolation
//
// A client reaches only clients of its own [User]. As in Python, a registered UUID belongs to its user until the client is gone. Beyond Python, the
// source_uuid of a message must be the one that its sender has registered, so that no client can speak in another's name.
package relay
