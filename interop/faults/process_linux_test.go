package faults

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
)

// TestPeerHangs: a peer that does nothing for a while, though its host still acknowledges what comes. Transfers go on when it does, also after its paths were given up.
func TestEndpointPeerHangs(t *testing.T) {
	t.Parallel()
	r := startRelay(t, here)
	a, b := startNode(t, here, r, "a"), startNode(t, here, r, "b", "--persist")
	data, other := content(50, large), content(51, large)
	a.comes("first", b, []byte("first"))
	b.mustPut("there", nil, data)
	get, put := a.download("there", b, data), a.upload("here", b, other)
	if err := get.take(500_000); err != nil {
		t.Fatal(err)
	}
	put.send(large / 5)
	b.signal(syscall.SIGSTOP)
	t.Cleanup(func() { b.signal(syscall.SIGCONT) })
	var wg sync.WaitGroup
	var got answer
	var err error
	wg.Go(func() { got = put.finish() })
	wg.Go(func() { err = get.rest() })
	eventually(t, "the loss is noticed", func() error {
		if p := a.peer(b); len(p.Paths) > 0 {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	b.signal(syscall.SIGCONT)
	wg.Wait()
	if err != nil {
		t.Errorf("a get of %d bytes ended after %d: %v", large, get.off, err)
	}
	if got.code != 200 {
		t.Errorf("a put ended: %v", got)
	} else {
		b.mustGet("here", nil, other)
	}
	a.mustGet("first", b, []byte("first"))
	b.mustPut("first", a, []byte("second"))
}
