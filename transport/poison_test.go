//go:build race || invariants

package transport_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
)

// Memory that went back to a Pool is overwritten, up to its capacity, before anyone else gets it.
func TestPoisoned(t *testing.T) {
	p := transport.NewPool(1 << 20)
	b := p.Get(1000)
	stale := b.Bytes()[:1024]
	clear(stale)
	b.Release()
	for i, v := range stale {
		if v != 0xdb {
			t.Fatalf("byte %d is %#x after Release", i, v)
		}
	}
}

// In these builds the panic tells who released last.
func TestMisuseTellsWhoReleased(t *testing.T) {
	b := transport.FromBytes(nil)
	releaseHere(b)
	text := fmt.Sprint(recovered(func() { b.Bytes() }))
	if !strings.Contains(text, "recorded at:") || !strings.Contains(text, "releaseHere") {
		t.Errorf("panic %q lacks the stack of the last Release", text)
	}
}

//go:noinline
func releaseHere(b *transport.Buffer) { b.Release() }
