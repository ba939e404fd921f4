// Package link moves objects between two endpoints that are both ours, over whatever Path there is between them (package path): a Link asks, a Server
// answers. It belongs here what makes one peer's objects reachable over several streams and several Paths, one after the other; who finds Paths is package
// peer, what speaks on one stream is transport/native.
//
// # Lanes
//
// A lane is one session of the native protocol on one stream of a Path. A Link has three groups of them: for small requests, for gets and for puts, so that
// a short request never waits behind bulk, nor a request behind an upload. A get asks for the first 14 KiB on a small lane, and in the same round trip for as
// much more on the lanes for gets as the object is likely to have, by those before it (at most 1 MiB); what is beyond the end comes back as a refusal of a few
// bytes. The rest is asked for in segments over all lanes for gets, several in flight on each, and given to the reader in order. A put of up to 256 KiB is one
// request, too; a longer one is sent in segments over the lanes for puts. On long wires, when little else is on its way, all lanes share also a shorter one,
// and what is left of a longer one: see wire.share. Transfers take turns: see transfer.
//
// There are four lanes for bulk in each direction to begin with, and up to sixteen where more turn out to be faster: see width.
//
// How much a lane has in flight follows from its rate and the round trip (see lane.flight), how long a segment is from the rate (lane.segment), how far a
// transfer reads ahead from whether that would help (transfer.grow).
//
// # Ids
//
// The ids of the native protocol's requests are
//
//	o/KEY                           the object of that key: get, stat, exists, evict, wait
//	up/UPLOAD/OFFSET/SIZE/STATE/KEY one segment of an upload: put
//	up/UPLOAD                       an upload that its sender gives up: evict
//
// UPLOAD is a random UUID in 32 lower-case hexadecimal digits. OFFSET is where in the object the segment begins, SIZE the length of the whole object, both
// decimal without sign or leading zeros; SIZE is "?" as long as the sender does not know it, and known in the last segment. STATE is 1 once any segment of the
// upload was acknowledged, else 0. KEY is 1 to [MaxKey] bytes of anything.
//
// A segment has at most [MaxSegment] bytes, and announces how many. Only one that says that the object ends where it begins may be empty: it ends an object
// whose sender found the end late.
//
// # Uploads
//
// Segments come in any order. The server gives them to its store in order, holds those that came too early (at most 64 MiB ahead, and of all uploads of one
// peer at most ServerOptions.Memory, of all at most TotalMemory), and acknowledges each when it has it. The one that completes the object is acknowledged when the store has committed: so
// an object is stored once all its segments are acknowledged by one server. Segments may be sent again: what is there already is received and dropped, and the
// segments of an upload that has ended are answered with its outcome, which is remembered for ServerOptions.Idle. An upload belongs to a peer and outlives
// Paths; one that pauses for ServerOptions.Idle is dropped, with what the store had reserved, and so are all when a later instance of the
// peer comes. A client that gives a put up says so, on the next Path if there is none now (Link.orphans).
//
// A server that does not know the upload refuses a segment with STATE 1, as the beginning would never come again. The client on its side compares the
// instances that have acknowledged (Welcome): if there were two, the peer restarted on the way and the put fails with ErrUnavailable. A put whose
// segments are all in memory still is just sent again.
//
// Statuses: BUSY is a segment that may be sent again a little later, INVALID_RANGE one that does not fit to those before it.
//
// # Versions
//
// A get reads one version of an object: all segments must come with the Size and ModTime of the first. A Store whose ModTime is zero cannot tell versions
// apart; then there is one stream, which cannot be resumed.
//
// # Liveness
//
// A Path that is silent for Options.Quiet while something is asked gets a ping; if it stays silent as long again it is closed. What was in flight is asked
// again on the next Path from the Source, from where it stopped.
package link
