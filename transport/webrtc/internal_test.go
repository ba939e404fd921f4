package webrtc

import "testing"

// TestStreamNumbers gives out all numbers of one parity.
func TestStreamNumbers(t *testing.T) {
	for parity := range uint16(2) {
		c := &Channels{open: make(map[uint16]*Channel), next: parity}
		n := 0
		for {
			id, ok := c.stream()
			if !ok {
				break
			}
			if id%2 != parity || id == 65535 || c.open[id] != nil {
				t.Fatalf("stream %d", id)
			}
			c.open[id] = new(Channel)
			n++
		}
		if want := 32768 - int(parity); n != want {
			t.Errorf("%d streams of parity %d, want %d", n, parity, want)
		}
		delete(c.open, 100+parity)
		if id, ok := c.stream(); !ok || id != 100+parity {
			t.Errorf("stream %d, %v, instead of the only free one", id, ok)
		}
	}
}
