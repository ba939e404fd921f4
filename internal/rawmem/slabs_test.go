package rawmem

import (
	"math/rand/v2"
	"testing"
)

func TestSlotClasses(t *testing.T) {
	last := -1
	for n := 1; n <= maxSlot; n++ {
		class, size := slot(n)
		if size < n || n > minSlot && float64(size) > 1.25*float64(n) || class < last || class > last+1 {
			t.Fatalf("%d bytes: class %d of %d bytes, after class %d", n, class, size, last)
		}
		if c, s := slot(size); c != class || s != size {
			t.Fatalf("%d bytes: class %d, and its size of %d is class %d", n, class, size, c)
		}
		if slabSize(size)/size < 8 || slabSize(size)/size > 1<<16 {
			t.Fatalf("%d slots of %d bytes", slabSize(size)/size, size)
		}
		last = class
	}
	var s Slabs
	if last != len(s.classes)-1 {
		t.Errorf("%d classes, room for %d", last+1, len(s.classes))
	}
}

// However memory is taken and given back, no byte belongs to two, and in the end nothing is held.
func TestSlabs(t *testing.T) {
	var pages Pages
	s := Slabs{Pages: &pages}
	r := rand.New(rand.NewPCG(1, 2))
	type piece struct {
		mem []byte
		tag byte
	}
	var held []piece
	check := func(p piece) {
		for _, i := range []int{0, len(p.mem) / 2, len(p.mem) - 1} {
			if p.mem[i] != p.tag {
				t.Fatal("memory was handed out twice")
			}
		}
	}
	for i := range 20_000 {
		if r.IntN(5) > 1 && len(held) < 300 {
			n := minSlot + r.IntN(1<<(1+r.IntN(18))) - 1
			if !Slotted(n) {
				continue
			}
			p := piece{s.Get(n), byte(i)}
			for j := range p.mem {
				p.mem[j] = p.tag
			}
			held = append(held, p)
		} else if len(held) > 0 {
			k := r.IntN(len(held))
			check(held[k])
			s.Put(held[k].mem[:0])
			held[k] = held[len(held)-1]
			held = held[:len(held)-1]
		}
	}
	for _, p := range held {
		check(p)
		s.Put(p.mem)
	}
	for i := range s.classes {
		if c := &s.classes[i]; len(c.all) != 0 || len(c.partial) != 0 {
			t.Errorf("class %d keeps %d slabs", i, len(c.all))
		}
	}
	pages.Trim(0)
	if pages.Idle() != 0 {
		t.Error("Trim left memory")
	}
}

func BenchmarkSlabs(b *testing.B) {
	var pages Pages
	s := Slabs{Pages: &pages}
	keep := s.Get(4096)
	b.ReportAllocs()
	for b.Loop() {
		s.Put(s.Get(4096))
	}
	s.Put(keep)
}
