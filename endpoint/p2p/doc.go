// Package p2p is ProxyStore's protocol between two endpoints: requests and responses, pickled, cut into chunks, over any number of channels that keep
// neither order among each other nor within themselves. It has both ends in one [Session], as every endpoint asks and answers on the same channels. How
// the channels come about is package peer's and package webrtc's matter.
//
// # Sources
//
// proxystore.p2p.chunks (Chunk, chunkify, reconstruct), proxystore.p2p.connection (PeerConnection.send, _on_message, MAX_CHUNK_SIZE_BYTES),
// proxystore.endpoint.messages (EndpointRequest), proxystore.endpoint.endpoint (Endpoint._handle_peer_requests, _request_from_peer), proxystore.serialize
// (the tag before the pickle).
//
// # Wire format
//
// A channel carries messages of one chunk each: a header of 18 bytes, big-endian (!HLLLL), and up to 32 KiB of data.
//
//	2 bytes  type: 1 bytes, 2 str (nobody sends that between endpoints)
//	4 bytes  length of the chunk, header included
//	4 bytes  stream: numbers the sender's messages
//	4 bytes  index of the chunk in its message
//	4 bytes  count of the message's chunks
//
// Chunk i of a message goes to channel i modulo their number. All chunks of a message but the last are equally long; Python's receiver does not care, ours
// insists, since it puts each chunk where it belongs as it comes.
//
// The message is "PK\n" and a pickle of protocol 5 of EndpointRequest(kind, op, uuid, key, data, exists, error): kind "request" or "response", op "evict",
// "exists", "get" or "set", and error an exception. A response repeats its request but for the data of a set. A get of a missing object is answered
// with data None. Pickles are read structurally by package serialize/pickle: whatever one names, nothing is looked up, imported or run.
//
// # Memory
//
// A message is held whole, as the protocol has no ranges. Memory for it grows as its chunks come, never by what a header claims, up to Options.MaxObject and
// a little for the rest of the message; all messages under way together are bounded by Options.Budget. What exceeds a limit is received but not kept:
// a set is then answered with ObjectSizeExceededError, which Python's endpoint raises itself, a get fails with transport.ErrTooLarge. Requests that are
// being served are bounded by Options.Budget too: beyond it nothing is read, which slows the peer down to what the store takes.
//
// No object is copied but out of its chunks into its place. What a peer sets is stored as a view into its message.
package p2p
