package webrtc

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"testing"
	"testing/synctest"
	"time"
)

const (
	testBuffer  = 96 << 10
	testPayload = packetMTU - commonHeader - dataHeader
	testAdvert  = 1 << 20 // aiortc's window
)

func sctpPacket(chunks ...[]byte) []byte {
	p := []byte{0x13, 0x88, 0x13, 0x88, 1, 2, 3, 4, 0, 0, 0, 0}
	for _, c := range chunks {
		binary.BigEndian.PutUint16(c[2:], uint16(len(c)))
		p = append(p, c...)
		for len(p)%4 != 0 {
			p = append(p, 0)
		}
	}
	binary.LittleEndian.PutUint32(p[8:], checksum(p))
	return p
}

func dataChunk(tsn uint32, n int) []byte {
	c := make([]byte, dataHeader+n)
	c[0], c[1] = chunkData, 3
	binary.BigEndian.PutUint32(c[4:], tsn)
	return c
}

func sackChunk(tsn, window uint32) []byte {
	c := make([]byte, sackHeader)
	c[0] = chunkSACK
	binary.BigEndian.PutUint32(c[4:], tsn)
	binary.BigEndian.PutUint32(c[8:], window)
	return c
}

// slowPeer is a peer that takes packets one after the other, behind a path with a delay. Times are those of a bubble.
type slowPeer struct {
	f       *inflight
	delay   time.Duration // there and back
	each    time.Duration // for a packet
	tsn     uint32
	free    time.Time   // when it has done with what it has
	acks    []time.Time // that are on their way, in order
	bound   int         // what SCTP believes that may be in flight
	waiting int         // the most bytes that waited at the peer
}

// run sends as much as it may for so long, and returns what was acknowledged.
func (p *slowPeer) run(long time.Duration) (bytes int) {
	for end := time.Now().Add(long); time.Now().Before(end); {
		for (len(p.acks)+1)*testPayload <= p.bound {
			p.tsn++
			p.f.send(sctpPacket(dataChunk(p.tsn, testPayload)))
			arrives := time.Now().Add(p.delay / 2)
			if p.free.Before(arrives) {
				p.free = arrives
			}
			p.waiting = max(p.waiting, int(p.free.Sub(arrives)/p.each)*testPayload)
			p.free = p.free.Add(p.each)
			p.acks = append(p.acks, p.free.Add(p.delay/2))
		}
		time.Sleep(time.Until(p.acks[0]))
		sack := sctpPacket(sackChunk(p.tsn-uint32(len(p.acks))+1, testAdvert))
		p.acks = p.acks[1:]
		p.f.receive(sack)
		if binary.LittleEndian.Uint32(sack[8:]) != checksum(sack) {
			panic("wrong checksum")
		}
		p.bound = int(binary.BigEndian.Uint32(sack[commonHeader+8:]))
		bytes += testPayload
	}
	return bytes
}

// TestInflight fills paths to peers of several speeds: nearly all that they can take arrives, and never more waits there than they have room for.
func TestInflight(t *testing.T) {
	for _, delay := range []time.Duration{5 * time.Millisecond, 20 * time.Millisecond, 200 * time.Millisecond} {
		for _, rate := range []int{500, 10000} {
			synctest.Test(t, func(t *testing.T) {
				p := &slowPeer{f: newInflight(testBuffer), delay: delay, each: time.Second / time.Duration(rate), tsn: 1<<32 - 1000, bound: 32 << 10}
				want := min(float64(rate*testPayload), testAdvert/delay.Seconds())
				p.run(8 * time.Second)
				got := float64(p.run(3*time.Second)) / 3
				if p.waiting > testBuffer || got < 0.95*want {
					t.Errorf("%v, %d packets a second: %d bytes waited; %.0f of %.0f bytes a second", delay, rate, p.waiting, got, want)
				}
				// It is busy with something else for a moment.
				p.free = p.free.Add(100 * time.Millisecond)
				p.run(2 * time.Second)
				if got := float64(p.run(2*time.Second)) / 2; got < 0.9*want {
					t.Errorf("%v, %d packets a second, after a stall: %.0f of %.0f bytes a second", delay, rate, got, want)
				}
				// It becomes twice as slow.
				p.each *= 2
				want = min(want, float64(rate*testPayload)/2)
				p.run(4 * time.Second)
				if got := float64(p.run(2*time.Second)) / 2; got < 0.9*want {
					t.Errorf("%v, %d packets a second, half as many now: %.0f of %.0f bytes a second", delay, rate, got, want)
				}
			})
		}
	}
}

// TestInflightNear leaves a path without delay to SCTP.
func TestInflightNear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &slowPeer{f: newInflight(testBuffer), delay: minDelay / 2, each: time.Millisecond / 10, bound: 2 * testPayload}
		p.run(time.Second)
		if p.bound != testAdvert {
			t.Errorf("the peer's window became %d", p.bound)
		}
	})
}

// TestLowerWindow changes packets.
func TestLowerWindow(t *testing.T) {
	window := func(p []byte, at int) uint32 { return binary.BigEndian.Uint32(p[at+8:]) }
	for _, c := range []struct {
		name   string
		packet []byte
		at     int // where the acknowledgement is
		to     uint32
		want   uint32
	}{
		{"lowered", sctpPacket(sackChunk(7, 1<<20)), 12, 5000, 5000},
		{"not raised", sctpPacket(sackChunk(7, 4000)), 12, 5000, 4000},
		{"after data", sctpPacket(dataChunk(1, 5), sackChunk(7, 1<<20)), 12 + 24, 5000, 5000},
		{"before data", sctpPacket(sackChunk(7, 1<<20), dataChunk(1, 5)), 12, 5000, 5000},
	} {
		before := bytes.Clone(c.packet)
		lowerWindow(c.packet, c.to)
		if window(c.packet, c.at) != c.want || binary.LittleEndian.Uint32(c.packet[8:]) != checksum(c.packet) {
			t.Errorf("%s: %x", c.name, c.packet)
		}
		copy(c.packet[8:12], before[8:12])
		copy(c.packet[c.at+8:c.at+12], before[c.at+8:])
		if !bytes.Equal(c.packet, before) {
			t.Errorf("%s: something else has changed", c.name)
		}
	}
	wrong := sctpPacket(sackChunk(7, 1<<20))
	wrong[8]++
	before := bytes.Clone(wrong)
	if lowerWindow(wrong, 5000); !bytes.Equal(wrong, before) {
		t.Error("a damaged packet was made whole")
	}
	none := sctpPacket(sackChunk(7, 1<<20))
	clear(none[8:12])
	if lowerWindow(none, 5000); window(none, 12) != 5000 || !bytes.Equal(none[8:12], noSum[:]) {
		t.Errorf("without a checksum: %x", none)
	}
	// RFC 3720, appendix B.4, has sums of this kind: 32 bytes of zeros.
	zeros := make([]byte, 32)
	if got := checksum(zeros); got != 0x8a9136aa {
		t.Errorf("%x", got)
	}
}

// FuzzSACK has hostile packets looked at.
func FuzzSACK(f *testing.F) {
	f.Add(sctpPacket(sackChunk(7, 1<<20)), sctpPacket(dataChunk(7, 10)))
	f.Add(sctpPacket(dataChunk(1, 5), sackChunk(7, 1<<20)), []byte{})
	gaps, _ := hex.DecodeString("1388138801020304000000000300001800000007001000000002000000030004000600ff")
	f.Add(gaps, sctpPacket(dataChunk(9, 10)))
	f.Fuzz(func(t *testing.T, in, out []byte) {
		x := newInflight(testBuffer)
		x.send(out)
		before := bytes.Clone(in)
		x.receive(in)
		x.send(in)
		x.receive(out)
		if b := x.window.bound; b < minInFlight || b > maxInFlight {
			t.Errorf("%d bytes may be in flight", b)
		}
		for c, i := nextChunk(before, commonHeader); c != nil; {
			at := i
			c, i = nextChunk(before, i)
			if d, _ := nextChunk(in, at); len(c) != len(d) {
				t.Errorf("chunk at %d: %x became %x", at, c, d)
			}
		}
	})
}
