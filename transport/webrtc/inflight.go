package webrtc

import (
	"encoding/binary"
	"hash/crc32"
	"sync"
	"time"
)

const (
	// maxInFlight bounds what inflight lets through.
	maxInFlight = 16 << 20
	// minInFlight is what it lets through while it looks for the least round trip.
	minInFlight = 8 * packetMTU
	// minDelay is the least round trip of a path that is bounded. On a shorter one a loss is made good at once, and what waits cannot be told from how
	// long either side takes for a batch of packets: there the bound cost a tenth, where with 20 ms it made transfers to aiortc 1.5 times as fast.
	minDelay = 5 * time.Millisecond
	// baseAge is how long a least round trip counts that is not seen again: the path may have become longer.
	baseAge = 30 * time.Second
)

// window finds how much may be in flight so that about queue bytes of it wait somewhere, as TCP Vegas and FAST do: what waits shows in the round trip.
type window struct {
	queue  int
	bound  int // how much may be in flight now
	target int // where bound is going
	base   time.Duration
	seen   time.Time // when a round trip was about base
	last   time.Duration
	probes int // how many round trips are still to be taken with little in flight, which then give base
}

func newWindow(queue int) window { return window{queue: queue, bound: queue, target: queue} }

// sample takes a round trip, at whose end flight bytes were on their way.
func (w *window) sample(now time.Time, rtt time.Duration, flight int) {
	rtt = max(rtt, time.Microsecond)
	low, high, first := min(rtt, w.last), max(rtt, w.last), w.last == 0
	w.last = rtt
	if w.probes > 0 {
		if w.probes--; w.probes == 0 {
			w.base, w.seen = low, now
			w.restart()
		}
		return
	}
	if w.base == 0 || rtt < w.base {
		w.base = rtt
	}
	if rtt <= w.base+w.base/8 {
		w.seen = now
	}
	if now.Sub(w.seen) > baseAge {
		// Either the path has become longer, or bytes of ours have waited all the time. The first of the two round trips may still meet some of them.
		w.probes, w.last = 2, 0
		w.bound, w.target = minInFlight, minInFlight
		return
	}
	if first || flight < w.bound/4*3 {
		return // the first of a burst met nothing that waits; and if little is in flight, this is not what limits it
	}
	// Of two round trips the longer one says whether more may be in flight, and the shorter one whether it must be less, so that a peer which was busy for
	// a moment does not count.
	if more := w.wanted(high); more > w.bound {
		if w.target = more; more < w.bound+w.queue/8*7 {
			w.target = (w.bound + more) / 2 // nearly there
		}
	} else if less := w.wanted(low); less < w.bound {
		w.bound = (w.bound + less) / 2
		w.target = w.bound
	} else {
		w.target = w.bound
	}
}

// wanted returns what should be in flight, if the round trip is rtt with what is in flight now.
func (w *window) wanted(rtt time.Duration) int {
	return min(int(float64(w.bound)*float64(w.base)/float64(rtt))+w.queue, maxInFlight)
}

// acked lets the bound grow, by queue in a round trip: that much may arrive at once, even if it has nowhere else to wait.
func (w *window) acked(n int) {
	if w.bound < w.target {
		w.bound = min(w.bound+int(int64(min(n, w.bound))*int64(w.queue)/int64(w.bound)), w.target)
	}
}

// restart is for when nothing is in flight: all that the bound allows would arrive at once.
func (w *window) restart() { w.bound, w.target, w.last = w.queue, w.queue, 0 }

// inflight bounds what is in flight to a peer, by the window that SCTP believes the peer to advertise: pion's own congestion window grows until packets
// are lost. It sees all packets in both directions. All methods may be called concurrently.
type inflight struct {
	mu      sync.Mutex
	window  window
	any     bool
	highest uint32 // the highest TSN sent
	acked   uint32 // the highest cumulative one that came back
	timing  bool   // a round trip is being measured
	timed   uint32 // the TSN that ends it
	at      time.Time
	sent    int // bytes of user data sent since
}

// newInflight returns the bound for a peer whose socket holds so many bytes. Half of that waits there; the other half is for when the path gets slower, and
// for what comes at once while the bound grows.
func newInflight(peerBuffer int) *inflight {
	return &inflight{window: newWindow(max(peerBuffer/2, minInFlight))}
}

// The types of chunks with a TSN, and of acknowledgements.
const (
	chunkData, chunkIData, chunkSACK = 0, 64, 3
	// The lengths of their headers.
	dataHeader, iDataHeader, sackHeader = 16, 20, 16
	commonHeader                        = 12
)

// nextChunk returns the chunk of an SCTP packet that begins at i, without padding, and where the next one begins; nil at the end, or if it is none.
func nextChunk(packet []byte, i int) ([]byte, int) {
	if i < commonHeader || len(packet)-i < 4 {
		return nil, i
	}
	n := int(binary.BigEndian.Uint16(packet[i+2:]))
	if n < 4 || n > len(packet)-i {
		return nil, i
	}
	return packet[i : i+n], i + (n+3)&^3
}

// after reports whether TSN a is a later one than b.
func after(a, b uint32) bool { return int32(a-b) > 0 }

// send sees a packet just before it leaves.
func (f *inflight) send(packet []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fresh := false
	for c, i := nextChunk(packet, commonHeader); c != nil; c, i = nextChunk(packet, i) {
		header := dataHeader
		switch c[0] {
		case chunkData:
		case chunkIData:
			header = iDataHeader
		default:
			continue
		}
		if len(c) < header {
			continue
		}
		tsn := binary.BigEndian.Uint32(c[4:])
		switch {
		case !f.any:
			f.any, f.highest, f.acked, fresh = true, tsn, tsn-1, true
		case after(tsn, f.highest):
			f.highest, fresh = tsn, true
			f.sent += len(c) - header
		case f.timing && tsn == f.timed:
			f.timing = false // sent again: whose round trip it is could not be told
		}
	}
	if fresh && !f.timing {
		f.timing, f.timed, f.at, f.sent = true, f.highest, time.Now(), 0
	}
}

// receive sees a packet before SCTP does, and lowers the window in it.
func (f *inflight) receive(packet []byte) {
	bound := -1
	for c, i := nextChunk(packet, commonHeader); c != nil; c, i = nextChunk(packet, i) {
		if c[0] == chunkSACK && len(c) >= sackHeader {
			bound = f.sack(c)
		}
	}
	if bound >= 0 {
		lowerWindow(packet, uint32(bound))
	}
}

// sack takes an acknowledgement, and returns what may be in flight.
func (f *inflight) sack(c []byte) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := &f.window
	tsn := binary.BigEndian.Uint32(c[4:])
	if !f.any || after(tsn, f.highest) || after(f.acked, tsn) {
		return w.bound // SCTP ignores it as well
	}
	n := int(tsn-f.acked) * packetMTU
	f.acked = tsn
	if f.timing && acknowledges(c, f.timed) {
		f.timing = false
		now := time.Now()
		w.sample(now, now.Sub(f.at), f.sent)
	}
	if tsn == f.highest && w.probes == 0 {
		w.restart()
	} else {
		w.acked(n)
	}
	if w.base > 0 && w.base < minDelay {
		return maxInFlight
	}
	return w.bound
}

// acknowledges reports whether a SACK says that a TSN has arrived.
func acknowledges(c []byte, tsn uint32) bool {
	cumulative := binary.BigEndian.Uint32(c[4:])
	if !after(tsn, cumulative) {
		return true
	}
	offset := tsn - cumulative
	gaps := c[sackHeader:]
	for n := int(binary.BigEndian.Uint16(c[12:])); n > 0 && len(gaps) >= 4; n-- {
		if uint32(binary.BigEndian.Uint16(gaps)) <= offset && offset <= uint32(binary.BigEndian.Uint16(gaps[2:])) {
			return true
		}
		gaps = gaps[4:]
	}
	return false
}

// lowerWindow makes the windows advertised in a packet at most w. One with a wrong checksum stays as it is; none (RFC 9653) stays none.
func lowerWindow(packet []byte, w uint32) {
	sum := uint32(0)
	lowered := false
	for c, i := nextChunk(packet, commonHeader); c != nil; c, i = nextChunk(packet, i) {
		if c[0] != chunkSACK || len(c) < sackHeader || binary.BigEndian.Uint32(c[8:]) <= w {
			continue
		}
		if !lowered {
			if sum = binary.LittleEndian.Uint32(packet[8:]); sum != 0 && sum != checksum(packet) {
				return
			}
			lowered = true
		}
		binary.BigEndian.PutUint32(c[8:], w)
	}
	if lowered && sum != 0 {
		binary.LittleEndian.PutUint32(packet[8:], checksum(packet))
	}
}

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	noSum      [4]byte
)

// checksum is that of RFC 9260, appendix A, which the header has in little-endian order.
func checksum(packet []byte) uint32 {
	sum := crc32.Update(0, castagnoli, packet[:8])
	sum = crc32.Update(sum, castagnoli, noSum[:])
	return crc32.Update(sum, castagnoli, packet[commonHeader:])
}
