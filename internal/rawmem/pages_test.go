package rawmem

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"
)

func TestClassOf(t *testing.T) {
	for _, c := range [][2]int{
		{0, MinPages}, {1, MinPages}, {MinPages, MinPages}, {MinPages + 1, 320 << 10}, {1 << 20, 1 << 20}, {1<<20 + 1, 5 << 18},
		{7<<20 - 1, 7 << 20}, {7<<20 + 1, 8 << 20}, {5 << 28, 5 << 28}, {5<<28 + 1, 6 << 28},
	} {
		if got := ClassOf(c[0]); got != c[1] || ClassOf(got) != got {
			t.Errorf("ClassOf(%d) = %d, want %d", c[0], got, c[1])
		}
	}
}

func TestPagesUsedAgain(t *testing.T) {
	var p Pages
	a, again := p.Get(1 << 20)
	if len(a) != 1<<20 || cap(a) != 1<<20 || again {
		t.Fatalf("%d of %d bytes, used before %v", len(a), cap(a), again)
	}
	b, _ := p.Get(1 << 20)
	p.Put(a[:5])
	p.Put(b)
	if p.Idle() != 2<<20 {
		t.Errorf("%d bytes idle", p.Idle())
	}
	c, again := p.Get(1<<20 - 1)
	if &c[0] != &b[0] || !again {
		t.Error("not the memory that was used last")
	}
	p.Shrink(0)
	if p.Idle() != 1<<20 {
		t.Errorf("Shrink left %d bytes", p.Idle())
	}
	p.Trim(0)
	if p.Idle() != 0 {
		t.Errorf("Trim left %d bytes", p.Idle())
	}
	Free(c)
}

func TestPagesResize(t *testing.T) {
	var p Pages
	mem, _ := p.Get(MinPages)
	want := bytes.Repeat([]byte("0123456789"), MinPages/10+1)
	copy(mem, want)
	for _, n := range []int{MinPages - 1, MinPages + 1, 3 << 20, 100 << 20, 5 << 20, MinPages} {
		keep := min(len(mem), n, len(want))
		mem = p.Resize(mem, n)
		if len(mem) != n || cap(mem) != ClassOf(n) {
			t.Fatalf("%d of %d bytes, want %d of %d", len(mem), cap(mem), n, ClassOf(n))
		}
		if !bytes.Equal(mem[:keep], want[:keep]) {
			t.Fatalf("resized to %d: other bytes", n)
		}
		copy(mem, want)
		mem[n-1] = want[min(n, len(want))-1]
	}
	p.Put(mem)
	used, _ := p.Get(3 << 20)
	p.Put(used)
	mem, _ = p.Get(MinPages)
	copy(mem, want)
	mem = p.Resize(mem, 3<<20)
	if &mem[0] != &used[0] || !bytes.Equal(mem[:MinPages], want[:MinPages]) {
		t.Error("fresh pages where there were used ones, or other bytes")
	}
	Free(mem)
	p.Trim(0)
}

// Unused memory goes back after some seconds, and no timer is left then.
func TestPagesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pages
		a, _ := p.Get(1 << 20)
		b, _ := p.Get(1 << 20)
		p.Put(a)
		time.Sleep(keepFor / 2)
		p.Put(b)
		time.Sleep(keepFor - 1)
		synctest.Wait()
		if p.Idle() != 1<<20 {
			t.Errorf("%d bytes idle", p.Idle())
		}
		time.Sleep(2 * keepFor)
		synctest.Wait()
		if p.Idle() != 0 || p.armed {
			t.Errorf("%d bytes idle, timer %v", p.Idle(), p.armed)
		}
	})
}

// A timer that never fires, since it belonged to a test's clock, does not keep memory for ever.
func TestPagesForgottenTimer(t *testing.T) {
	var p Pages
	synctest.Test(t, func(t *testing.T) {
		a, _ := p.Get(1 << 20)
		p.Put(a)
	})
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(24 * time.Hour)
		a, _ := p.Get(2 << 20)
		p.Put(a)
		time.Sleep(2 * keepFor)
		synctest.Wait()
		if p.Idle() != 0 {
			t.Errorf("%d bytes idle", p.Idle())
		}
	})
}
