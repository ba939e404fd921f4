package connectortest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"github.com/proxyplane/proxyplane/transport"
)

// block is a prime number of bytes, so that no chunk size ever finds the same bytes at its start twice.
const block = 65521

// payload returns n bytes that look random, differ for every seed, and are cheap to make under the race detector too.
func payload(n, seed int) []byte {
	data := make([]byte, n)
	rng := rand.New(rand.NewPCG(uint64(seed), 42))
	first := data[:min(n, block)]
	for i := 0; i+8 <= len(first); i += 8 {
		binary.LittleEndian.PutUint64(first[i:], rng.Uint64())
	}
	for i := len(first) &^ 7; i < len(first); i++ {
		first[i] = byte(rng.Uint32())
	}
	for done := len(first); done < n; done += block {
		copy(data[done:], first)
		if n-done >= 8 {
			binary.LittleEndian.PutUint64(data[done:], uint64(done)) // no two blocks are equal, so that swapped chunks show
		}
	}
	return data
}

// split cuts data into parts of these sizes, over and over, and lets an empty part in between now and then.
func split(data []byte, sizes ...int) transport.Slices {
	var parts transport.Slices
	for i := 0; len(data) > 0; i++ {
		n := min(sizes[i%len(sizes)], len(data))
		parts = append(parts, data[:n])
		data = data[n:]
	}
	return parts
}

// differ says where got is not want, or "".
func differ(got, want []byte) string {
	if bytes.Equal(got, want) {
		return ""
	}
	n := min(len(got), len(want))
	at := n
	for i := range n {
		if got[i] != want[i] {
			at = i
			break
		}
	}
	return fmt.Sprintf("%d bytes, want %d; they differ from byte %d: got %.8x, want %.8x", len(got), len(want), at, got[at:], want[at:])
}
