package peer

import (
	"fmt"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/webrtc"
)

// registry has the certificates that peers may show now: those of the descriptions of current negotiations, by fingerprint. Whoever shows another one is
// nobody.
type registry struct {
	mu sync.Mutex
	by map[string][]*peering // the latest last; all of one peer
}

// add lets the certificate in until remove. One certificate cannot speak for two peers: that would be somebody's word against another's key.
func (r *registry) add(fp string, g *peering) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if gs := r.by[fp]; len(gs) > 0 && gs[0].p.id != g.p.id {
		return fmt.Errorf("peer: %w: %s shows the certificate of peer %s", transport.ErrDenied, g.p.id, gs[0].p.id)
	}
	if r.by == nil {
		r.by = map[string][]*peering{}
	}
	r.by[fp] = append(r.by[fp], g)
	return nil
}

func (r *registry) remove(fp string, g *peering) {
	r.mu.Lock()
	defer r.mu.Unlock()
	gs := slices.DeleteFunc(r.by[fp], func(x *peering) bool { return x == g })
	if len(gs) == 0 {
		delete(r.by, fp)
	} else {
		r.by[fp] = gs
	}
}

// find returns the latest negotiation that expects the certificate, in DER.
func (r *registry) find(der []byte) (*peering, error) {
	fp := webrtc.Fingerprint(der)
	r.mu.Lock()
	defer r.mu.Unlock()
	gs := r.by[fp]
	if len(gs) == 0 {
		return nil, fmt.Errorf("peer: %w: no peer is expected with the certificate %.23s...", transport.ErrDenied, fp)
	}
	return gs[len(gs)-1], nil
}

// peer is find for a listener.
func (r *registry) peer(der []byte) (uuid.UUID, error) {
	g, err := r.find(der)
	if err != nil {
		return uuid.Nil, err
	}
	return g.p.id, nil
}

// verify is find for a socket.
func (r *registry) verify(der []byte) error {
	_, err := r.find(der)
	return err
}
