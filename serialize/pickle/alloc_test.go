//go:build !race && !invariants

package pickle

import (
	"bytes"
	"io"
	"runtime"
	"testing"
)

const mib = 1 << 20

// allocated returns the bytes that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestLargeBytesAreNotCopied decodes and encodes 64 MiB of bytes in less memory than a page or two.
func TestLargeBytesAreNotCopied(t *testing.T) {
	payload := make([]byte, 64*mib)
	pickled, err := Marshal([]any{"header", payload, ByteArray(payload)})
	if err != nil {
		t.Fatal(err)
	}
	if n := allocated(func() {
		if _, err := Decode(pickled); err != nil {
			t.Fatal(err)
		}
	}); n > 8<<10 {
		t.Errorf("decoding allocates %d bytes", n)
	}
	v := []any{"header", payload}
	if n := allocated(func() {
		if _, err := new(Encoder).Encode(v); err != nil {
			t.Fatal(err)
		}
	}); n > 8<<10 {
		t.Errorf("encoding allocates %d bytes", n)
	}
	if n := allocated(func() {
		if err := new(Encoder).EncodeTo(io.Discard, v); err != nil {
			t.Fatal(err)
		}
	}); n > 8<<10 {
		t.Errorf("EncodeTo allocates %d bytes", n)
	}
	if n := allocated(func() {
		if err := new(Encoder).EncodeTo(io.Discard, LargeBytes{int64(len(payload)), bytes.NewReader(payload)}); err != nil {
			t.Fatal(err)
		}
	}); n > 64<<10 {
		t.Errorf("streaming LargeBytes allocates %d bytes", n)
	}
	if n := allocated(func() {
		d := NewDecoder(bytes.NewReader(pickled), Limits{})
		d.OnLargeBytes(mib, func(_ int64, r io.Reader) (any, error) { return io.Copy(io.Discard, r) })
		if _, err := d.Decode(); err != nil {
			t.Fatal(err)
		}
	}); n > 256<<10 {
		t.Errorf("handing large bytes out allocates %d bytes", n)
	}
	var into struct{ Payload []byte }
	in := dictOf("payload", payload)
	if n := allocated(func() {
		if err := Convert(in, &into); err != nil {
			t.Fatal(err)
		}
	}); n > 8<<10 {
		t.Errorf("Convert allocates %d bytes", n)
	}
}

// TestAllocBudgets fixes the allocations of a typical small message: a dataclass in the form that ProxyStore's servers exchange.
func TestAllocBudgets(t *testing.T) {
	message := &Object{Callable: Global{"proxystore_ex.connectors.dim.models", "RPC"}, Args: Tuple{}, New: true, HasState: true,
		State: dictOf("operation", "put", "key", &Object{Callable: Global{"m", "Key"}, Args: Tuple{"zmq", "id", int64(1), "host", int64(5)}, New: true}, "data", []byte("x"))}
	pickled, err := Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if n := testing.AllocsPerRun(100, func() { v, _ = Decode(pickled) }); n > 50 {
		t.Errorf("decoding takes %v allocations, budget 50", n)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = Marshal(message) }); n > 30 {
		t.Errorf("encoding takes %v allocations, budget 30", n)
	}
	var into struct {
		Operation string
		Key       struct {
			Kind, ID string
			Size     int
			Host     string
			Port     int
		}
		Data []byte
	}
	if n := testing.AllocsPerRun(100, func() {
		if err := Convert(v, &into); err != nil {
			t.Fatal(err)
		}
	}); n > 25 {
		t.Errorf("converting takes %v allocations, budget 25", n)
	}
}
