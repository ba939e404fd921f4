package objects

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
)

// noise is where contents are cut from: made once, since making it is what would take the tests' time.
var noise = func() []byte {
	b := make([]byte, 4<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}()

// content is what an object of that seed holds. Nobody may change it.
func content(seed uint64, n int) []byte {
	at := int(seed % uint64(len(noise)-n+1))
	return noise[at : at+n : at+n]
}

// sizes where something changes: the garbage collector's memory, slabs, pages, growth.
var sizes = []int{0, 1, 511, 512, 513, 4096, 40_000, 64 << 10, 64<<10 + 1, 256 << 10, 256<<10 + 1, 700_000, 1 << 20, 3<<20 + 17}

// Whatever is done to a Table, it says what a plain map says, and in the end holds nothing.
func TestModel(t *testing.T) {
	for name, o := range map[string]TableOptions{
		"roomy":  {Memory: 1 << 30},
		"noidle": {Memory: 1 << 30, IdleMemory: -1},
		"spill":  {Memory: 4 << 20, SpillDir: t.TempDir()},
	} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprintf("%s/seed=%d", name, seed), func(t *testing.T) { model(t, o, seed) })
		}
	}
}

func model(t *testing.T, o TableOptions, seed uint64) {
	live, _ := transport.Live(transport.Pooled)
	mapped, _ := transport.Live(transport.Mapped)
	table := newTable(t, o)
	r := rand.New(rand.NewPCG(seed, 3))
	want := map[string][]byte{}
	type lent struct {
		b    *transport.Buffer
		data []byte
	}
	var held []lent
	fill := func(id string) ([]byte, PutOptions) {
		return content(r.Uint64(), sizes[r.IntN(len(sizes))]), PutOptions{}
	}
	for range 600 {
		id := fmt.Sprintf("object %d", r.IntN(20))
		old, exists := want[id]
		switch op := r.IntN(12); op {
		case 0, 1, 2: // announced or not, in pieces
			data, po := fill(id)
			size := int64(len(data))
			if op == 0 {
				size = -1
			}
			if err := put(table, id, size, data, 1+r.IntN(300_000), po); err != nil {
				t.Fatal(err)
			}
			want[id] = data
		case 3: // dropped half way
			data, po := fill(id)
			in, err := table.Create(id, int64(len(data))+1, po)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if p, err := in.Next(1 + len(data)/2); err == nil {
					clear(p)
				}
			}
			if r.IntN(2) == 0 {
				in.Abort()
			} else if err := in.Commit(); err == nil {
				want[id] = make([]byte, len(data)+1)
			}
		case 4:
			data, po := fill(id)
			b := transport.FromBytes(bytes.Clone(data))
			if r.IntN(2) == 0 {
				b = transport.DefaultPool.Get(len(data))
				copy(b.Bytes(), data)
			}
			if err := table.Put(id, b, po); err != nil {
				t.Fatal(err)
			}
			want[id] = data
		case 5:
			if got := table.Evict(id); got != exists {
				t.Fatalf("Evict %s = %v", id, got)
			}
			delete(want, id)
		case 6:
			info, err := table.Stat(id)
			if exists && (err != nil || info.Size != int64(len(old)) || info.ModTime.IsZero()) || !exists && !errors.Is(err, transport.ErrNotFound) {
				t.Fatalf("Stat %s = %+v, %v", id, info, err)
			}
			if table.Exists(id) != exists {
				t.Fatalf("Exists %s", id)
			}
		case 7: // to another server and back, where that is possible
			f, size, err := table.Share(id)
			if !exists {
				if !errors.Is(err, transport.ErrNotFound) {
					t.Fatal(err)
				}
				continue
			}
			if errors.Is(err, errors.ErrUnsupported) {
				continue
			}
			if err != nil || size != int64(len(old)) {
				t.Fatal(size, err)
			}
			other := fmt.Sprintf("object %d", r.IntN(20))
			if err := table.Adopt(other, f, size, PutOptions{}); err != nil {
				if errors.Is(err, transport.ErrFull) {
					continue
				}
				t.Fatal(err)
			}
			want[other] = old
		default:
			b, err := table.Get(id)
			if !exists {
				if !errors.Is(err, transport.ErrNotFound) {
					t.Fatal(err)
				}
				continue
			}
			if err != nil || !bytes.Equal(b.Bytes(), old) {
				t.Fatalf("Get %s: %v, or wrong bytes", id, err)
			}
			if o.SpillDir == "" && r.IntN(3) == 0 {
				held = append(held, lent{b, old})
			} else {
				b.Release()
			}
		}
		st := table.Stats()
		var total int64
		for _, data := range want {
			total += int64(len(data))
		}
		if st.Objects != int64(len(want)) || st.Bytes+st.SpilledSize != total || st.Reserved != 0 || table.mem.used.Load() > table.o.Memory {
			t.Fatalf("%+v, want %d objects of %d bytes", st, len(want), total)
		}
	}
	for _, l := range held {
		if !bytes.Equal(l.b.Bytes(), l.data) {
			t.Error("bytes changed while they were held")
		}
	}
	for id := range want {
		table.Evict(id)
	}
	for _, l := range held {
		l.b.Release()
	}
	st := table.Stats()
	if table.mem.used.Load() != 0 || st.Lent != 0 || st.Spilled != 0 || st.SpilledSize != 0 || table.shares.Load() != 0 {
		t.Errorf("%d bytes are still counted, %d files open: %+v", table.mem.used.Load(), table.shares.Load(), st)
	}
	if (o.SpillDir != "") != (st.Spills > 0) {
		t.Errorf("%d spills", st.Spills)
	}
	if err := table.Close(); err != nil {
		t.Error(err)
	}
	if n, _ := transport.Live(transport.Pooled); n != live {
		t.Errorf("%d buffers leaked", n-live)
	}
	if n, _ := transport.Live(transport.Mapped); n != mapped {
		t.Errorf("%d mappings leaked", n-mapped)
	}
	if st := table.Stats(); st.Idle != 0 || st.Objects != 0 {
		t.Errorf("after Close: %+v", st)
	}
}

// Many at once, on few objects: no mixture of two objects is ever seen, nothing is counted twice, and nothing is left.
func TestConcurrent(t *testing.T) {
	for name, o := range map[string]TableOptions{
		"roomy": {Memory: 1 << 30}, "spill": {Memory: 2 << 20, SpillDir: t.TempDir()}, "full": {Memory: 2 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			table := newTable(t, o)
			var wg sync.WaitGroup
			var refused atomic.Int64
			for g := range 8 {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(uint64(g), 9))
					for range 400 {
						id := string(rune('a' + r.IntN(12)))
						switch r.IntN(6) {
						case 0, 1:
							n := []int{100, 5000, 100_000, 400_000}[r.IntN(4)]
							data := bytes.Repeat([]byte{byte(r.Uint32())}, n)
							size := int64(n)
							if r.IntN(2) == 0 {
								size = -1
							}
							err := put(table, id, size, data, 90_000, PutOptions{})
							if errors.Is(err, transport.ErrFull) {
								refused.Add(1)
							} else if err != nil {
								t.Error(err)
							}
						case 2:
							table.Evict(id)
						case 3:
							f, size, err := table.Share(id)
							if err != nil {
								if !errors.Is(err, transport.ErrNotFound) && !errors.Is(err, errors.ErrUnsupported) {
									t.Error(err)
								}
								continue
							}
							if err := table.Adopt(id, f, size, PutOptions{}); err != nil && !errors.Is(err, transport.ErrFull) {
								t.Error(err)
							}
						default:
							b, err := table.Get(id)
							if err != nil {
								if !errors.Is(err, transport.ErrNotFound) {
									t.Error(err)
								}
								continue
							}
							runtime.Gosched()
							if data := b.Bytes(); bytes.Count(data, data[:1]) != len(data) {
								t.Error("bytes of two objects")
							}
							b.Release()
						}
					}
				})
			}
			wg.Wait()
			for i := range 12 {
				table.Evict(string(rune('a' + i)))
			}
			st := table.Stats()
			if table.mem.used.Load() != 0 || st.Objects != 0 || st.Spilled != 0 || st.Reserved != 0 || table.shares.Load() != 0 {
				t.Errorf("%d bytes are still counted: %+v", table.mem.used.Load(), st)
			}
			if name == "roomy" && refused.Load() > 0 || name == "full" && refused.Load() == 0 {
				t.Errorf("%d puts were refused", refused.Load())
			}
		})
	}
}
