package webrtc

import (
	"context"
	"net/netip"

	"github.com/pion/stun/v3"
)

// PeerKey is what authenticates the peer's STUN messages.
func PeerKey(a *Agent) stun.MessageIntegrity {
	a.mu.Lock()
	defer a.mu.Unlock()
	return stun.NewShortTermIntegrity(a.remote.pwd)
}

// Probes counts those that wait for an answer.
func Probes(m *Mux) int {
	n := 0
	m.pc.probes.Range(func(any, any) bool {
		n++
		return true
	})
	return n
}

// Moved has channels believe that another path was probed than is in use.
func Moved(c *Channels) {
	ctx, cancel := context.WithCancel(c.a.ctx)
	c.wg.Go(func() { c.a.watchPath(ctx, netip.MustParseAddrPort("192.0.2.1:1")) })
	c.wg.Go(func() {
		<-c.done
		cancel()
	})
}
