//go:build !race && !invariants

package serialize_test

import (
	"runtime"
	"testing"

	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/transport"
)

// allocated returns the bytes and allocations that one call of f takes, on average.
func allocated(f func()) (bytes, allocs float64) {
	const runs = 100
	allocs = testing.AllocsPerRun(runs, f)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		f()
	}
	runtime.ReadMemStats(&after)
	return float64(after.TotalAlloc-before.TotalAlloc) / runs, allocs
}

func TestBudget(t *testing.T) {
	const size = 64 << 20
	big := make([]byte, size)
	floats, err := serialize.NewArray(make([]float64, size/8), 1024, size/8/1024)
	if err != nil {
		t.Fatal(err)
	}
	bytesObj := transport.NewBuffer(encode(t, big), transport.Mapped, nil) // not GC memory, so that a needless copy shows
	defer bytesObj.Release()
	npyObj := transport.NewBuffer(encode(t, floats), transport.Mapped, nil)
	defer npyObj.Release()
	gcObj := transport.FromBytes(bytesObj.Bytes())
	var keep any = big
	for _, b := range []struct {
		name          string
		bytes, allocs float64
		f             func() error
	}{
		{"encode 64 MiB []byte", 1 << 10, 1, func() error { _, err := serialize.Encode(keep); return err }},
		{"encode 64 MiB array", 1 << 10, 6, func() error { _, err := serialize.Encode(floats); return err }},
		{"decode 64 MiB array", 4 << 10, 28, func() error {
			a, err := serialize.DecodeAs[*serialize.Array](serialize.Default, npyObj)
			if err == nil {
				_, err = serialize.View[float64](a)
				a.Release()
			}
			return err
		}},
		{"decode 64 MiB bytes as a view", 1 << 10, 4, func() error {
			v, err := serialize.DecodeAs[*transport.Buffer](serialize.Default, bytesObj)
			v.Release()
			return err
		}},
		{"decode 64 MiB bytes of GC memory", 1 << 10, 4, func() error {
			_, err := serialize.DecodeAs[[]byte](serialize.Default, gcObj)
			return err
		}},
	} {
		bytes, allocs := allocated(func() {
			if err := b.f(); err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("%s: %.0f bytes in %.0f allocations", b.name, bytes, allocs)
		if bytes > b.bytes || allocs > b.allocs {
			t.Errorf("%s: %.0f bytes in %.0f allocations, the budget is %.0f in %.0f", b.name, bytes, allocs, b.bytes, b.allocs)
		}
	}
}
