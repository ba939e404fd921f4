package redis

import (
	"sync"

	"github.com/proxyplane/proxyplane/internal/invariants"
	"github.com/proxyplane/proxyplane/transport"
)

// hugeFrom is the size from which transport.DefaultPool keeps nothing. Memory of that size comes from large instead: fresh pages cost as much as the
// whole transfer over a unix socket.
const hugeFrom = 32 << 20

// large keeps huge memory until the garbage collector has run twice, so that it costs nothing to who is done with huge objects.
var large sync.Pool // of *[]byte

// memory returns a Buffer of n bytes with undefined content.
func memory(n int64) *transport.Buffer {
	switch {
	case n < pooled:
		return transport.FromBytes(make([]byte, n))
	case n < hugeFrom:
		return transport.DefaultPool.Get(int(n))
	}
	mem, _ := large.Get().(*[]byte)
	if mem == nil || int64(cap(*mem)) < n || int64(cap(*mem))/2 > n { // too small, or a waste
		fresh := make([]byte, n)
		mem = &fresh
	}
	return transport.NewBuffer((*mem)[:n], transport.Pooled, func([]byte) {
		invariants.Poison((*mem)[:n])
		large.Put(mem)
	})
}
