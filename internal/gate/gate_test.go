package gate

import (
	"sync"
	"testing"
)

func TestGate(t *testing.T) {
	g := New()
	if g.Closed() || !g.Enter() {
		t.Fatal("a new gate is shut")
	}
	if !g.Shut() || g.Shut() || !g.Closed() {
		t.Error("Shut tells the wrong caller that it did it")
	}
	if g.Enter() {
		t.Error("somebody came in after Shut")
	}
	select {
	case <-g.Drained():
		t.Error("drained with a call in flight")
	default:
	}
	g.Leave()
	<-g.Drained()
	empty := New()
	empty.Shut()
	<-empty.Drained()
}

func TestConcurrent(t *testing.T) {
	g := New()
	var wg sync.WaitGroup
	inside := make(chan struct{}, 1<<16)
	for range 8 {
		wg.Go(func() {
			for g.Enter() {
				select {
				case inside <- struct{}{}:
				default:
				}
				g.Leave()
			}
		})
	}
	for range 1000 {
		<-inside
	}
	g.Shut()
	<-g.Drained()
	wg.Wait()
}
