package objects

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxyplane/proxyplane/internal/invariants"
	"github.com/proxyplane/proxyplane/transport"
)

func newTable(t testing.TB, o TableOptions) *Table {
	t.Helper()
	table, err := NewTable(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	})
	return table
}

// put stores data by Create, in pieces of at most piece bytes.
func put(s Store, id string, size int64, data []byte, piece int, o PutOptions) error {
	in, err := s.Create(id, size, o)
	if err != nil {
		return err
	}
	defer in.Abort()
	for len(data) > 0 {
		b, err := in.Next(min(piece, len(data)))
		if err != nil {
			return err
		}
		data = data[copy(b, data):]
	}
	return in.Commit()
}

// wants reports whether an error is of its kind and says all of this.
func wants(err, kind error, words ...string) error {
	if !errors.Is(err, kind) {
		return fmt.Errorf("got %v, want %v", err, kind)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			return fmt.Errorf("%q does not say %q", err, w)
		}
	}
	return nil
}

func check(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
}

// The limit is exact, whoever takes the bytes, and what is refused takes none.
func TestLimit(t *testing.T) {
	const limit = 1 << 20
	table := newTable(t, TableOptions{Memory: limit, MaxObject: limit - 100})
	data := make([]byte, limit)
	_, err := table.Create("a", limit-99, PutOptions{})
	check(t, wants(err, transport.ErrTooLarge, "1048477", "1048476"))
	check(t, wants(table.Put("a", transport.FromBytes(data), PutOptions{}), transport.ErrTooLarge))
	check(t, wants(put(table, "a", -1, data, 1000, PutOptions{}), transport.ErrTooLarge))
	if used := table.mem.used.Load(); used != 0 {
		t.Errorf("%d bytes are counted", used)
	}

	check(t, put(table, "a", limit-100, data[:limit-100], limit, PutOptions{}), put(table, "b", -1, data[:100], 7, PutOptions{}))
	check(t, wants(put(table, "c", 1, data[:1], 1, PutOptions{}), transport.ErrFull,
		"1048576 bytes of 1048576", "1 more", "evict", "--memory", "--spill-dir"))
	check(t, wants(put(table, "c", -1, data[:1], 1, PutOptions{}), transport.ErrFull))
	check(t, wants(table.Put("c", transport.FromBytes(data[:1]), PutOptions{}), transport.ErrFull))
	check(t, put(table, "c", 0, nil, 1, PutOptions{}))
	if st := table.Stats(); st.Bytes != limit || st.Objects != 3 || st.Refusals != 6 || st.Reserved != 0 {
		t.Errorf("%+v", st)
	}

	b, err := table.Get("a") // whoever reads a deleted object still holds its memory
	check(t, err)
	table.Evict("a")
	check(t, wants(put(table, "c", 1, data[:1], 1, PutOptions{}), transport.ErrFull))
	if st := table.Stats(); st.Lent != limit-100 {
		t.Errorf("%+v", st)
	}
	b.Release()
	check(t, put(table, "c", 1, data[:1], 1, PutOptions{}))
	if st := table.Stats(); st.Lent != 0 || st.Bytes != 101 {
		t.Errorf("%+v", st)
	}
}

// Peers that announce what they never send cannot take more than there is, and what they took is back at once.
func TestLiars(t *testing.T) {
	table := newTable(t, TableOptions{Memory: 100 << 20, MaxObject: 30 << 20})
	var mu sync.Mutex
	var open []Incoming
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			in, err := table.Create(fmt.Sprint(i), 30<<20, PutOptions{})
			if err != nil {
				check(t, wants(err, transport.ErrFull))
				return
			}
			if _, err := in.Next(1); err != nil {
				t.Error(err)
			}
			mu.Lock()
			open = append(open, in)
			mu.Unlock()
		})
	}
	wg.Wait()
	if st := table.Stats(); len(open) != 3 || st.Reserved != 90<<20 || st.Refusals != 47 {
		t.Errorf("%d got in: %+v", len(open), st)
	}
	for _, in := range open {
		in.Abort()
		in.Abort()
		if _, err := in.Next(1); err == nil {
			t.Error("Next after Abort")
		}
		if err := in.Commit(); err == nil {
			t.Error("Commit after Abort")
		}
	}
	if st := table.Stats(); st.Reserved != 0 || table.mem.used.Load() != 0 || st.Objects != 0 {
		t.Errorf("%+v", st)
	}
	for _, size := range []int64{1 << 62, 1<<63 - 1} {
		_, err := table.Create("x", size, PutOptions{})
		check(t, wants(err, transport.ErrTooLarge))
	}
	in, err := table.Create("x", -1, PutOptions{})
	check(t, err)
	in.Next(10)
	_, err = in.Next(math.MaxInt)
	check(t, wants(err, transport.ErrTooLarge))
	in.Abort()
}

func TestMaxObjects(t *testing.T) {
	table := newTable(t, TableOptions{Memory: 1 << 20, MaxObjects: 10})
	for i := range 10 {
		check(t, put(table, fmt.Sprint(i), 0, nil, 1, PutOptions{}))
	}
	_, err := table.Create("x", 0, PutOptions{})
	check(t, wants(err, transport.ErrFull, "10 objects"))
	check(t, put(table, "3", 5, []byte("other"), 1, PutOptions{}))
	table.Evict("3")
	check(t, put(table, "x", 0, nil, 1, PutOptions{}))
	table.Evict("x")
	first, err := table.Create("y", 5, PutOptions{})
	check(t, err)
	_, err = first.Next(5)
	check(t, err, put(table, "z", 0, nil, 1, PutOptions{}))
	check(t, wants(first.Commit(), transport.ErrFull)) // another was faster
	if st := table.Stats(); st.Objects != 10 || st.Bytes != 0 || table.mem.used.Load() != 0 {
		t.Errorf("%+v", st)
	}
}

func TestIncoming(t *testing.T) {
	table := newTable(t, TableOptions{Memory: 1 << 20})
	for _, id := range []string{"", strings.Repeat("x", MaxID+1)} {
		_, err := table.Create(id, 1, PutOptions{})
		check(t, wants(err, transport.ErrInvalidKey), wants(table.Put(id, transport.FromBytes(nil), PutOptions{}), transport.ErrInvalidKey))
	}
	in, err := table.Create("a", 1000, PutOptions{})
	check(t, err)
	p, err := in.Next(600)
	check(t, err)
	if len(p) != 600 || cap(p) != 600 || table.Exists("a") {
		t.Errorf("%d of %d bytes", len(p), cap(p))
	}
	q, err := in.Next(600)
	check(t, err)
	if len(q) != 400 {
		t.Errorf("%d bytes beyond the 600", len(q))
	}
	_, err = in.Next(1)
	check(t, wants(err, transport.ErrTooLarge, "1000"))
	check(t, in.Commit())
	in.Abort() // does nothing now
	b, err := table.Get("a")
	check(t, err)
	if &b.Bytes()[0] != &p[0] || &b.Bytes()[600] != &q[0] {
		t.Error("the object was moved")
	}
	b.Release()
	in, err = table.Create("b", 1000, PutOptions{})
	check(t, err)
	in.Next(999)
	check(t, wants(in.Commit(), transport.ErrCorrupt, "999", "1000"))
	if table.Exists("b") || table.mem.used.Load() != 1000 {
		t.Error("half an object was kept")
	}
	if p, err := in.Next(1); err == nil {
		t.Errorf("%d bytes after Commit", len(p))
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, TableOptions{Memory: 1 << 20})
		done := make(chan error, 5000)
		for i := range 5000 {
			go func() { done <- table.Wait(t.Context(), fmt.Sprint(i%10)) }()
		}
		synctest.Wait()
		if n := table.Stats().Waiting; n != 5000 {
			t.Errorf("%d wait", n)
		}
		for i := range 9 {
			check(t, put(table, fmt.Sprint(i), 3, []byte("abc"), 1, PutOptions{}))
			for range 500 {
				check(t, <-done)
			}
		}
		check(t, table.Wait(t.Context(), "0"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for range 10 {
			go func() { done <- table.Wait(ctx, "never") }()
		}
		for range 10 {
			check(t, wants(<-done, context.DeadlineExceeded))
		}
		check(t, wants(table.Wait(ctx, "never"), context.DeadlineExceeded))
		check(t, table.Close())
		for range 500 {
			check(t, wants(<-done, transport.ErrClosed))
		}
		check(t, wants(table.Wait(t.Context(), "0"), transport.ErrClosed))
		for i := range table.shards {
			if n := len(table.shards[i].waiters); n > 0 {
				t.Errorf("%d entries for waiters are left", n)
			}
		}
		if st := table.Stats(); st.Waiting != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, TableOptions{Memory: 1 << 20, TTL: time.Hour})
		at := func(id string, want bool) {
			t.Helper()
			synctest.Wait()
			if table.Exists(id) != want {
				t.Errorf("%s exists: %v", id, !want)
			}
			b, err := table.Get(id)
			if want != (err == nil) {
				t.Errorf("Get %s: %v", id, err)
			}
			b.Release()
		}
		data := make([]byte, 1000)
		check(t, put(table, "default", 1000, data, 1000, PutOptions{}))
		for i := range 100 {
			check(t, put(table, fmt.Sprint(i), 1000, data, 1000, PutOptions{TTL: time.Duration(100-i) * time.Second}))
		}
		check(t, put(table, "50", 1000, data, 1000, PutOptions{TTL: 2 * time.Hour})) // replaced: its first time does not count
		check(t, put(table, "ever", 1, data[:1], 1, PutOptions{TTL: math.MaxInt64}))
		table.Evict("51")
		time.Sleep(30*time.Second + 1)
		at("70", false)
		at("69", true)
		if st := table.Stats(); st.Expirations != 30 || st.Objects != 1+70-1+1 {
			t.Errorf("%+v", st)
		}
		time.Sleep(time.Hour - 31*time.Second)
		at("0", false)
		at("default", true)
		time.Sleep(time.Second)
		at("default", false)
		at("50", true)
		time.Sleep(time.Hour + 30*time.Second)
		at("50", false)
		if st := table.Stats(); st.Expirations != 100 || st.Objects != 1 || table.mem.used.Load() != 1 || table.ttl.at != 0 {
			t.Errorf("%+v", st)
		}
		check(t, put(table, "last", 1, data[:1], 1, PutOptions{TTL: time.Minute}), table.Close())
		time.Sleep(time.Hour) // Close has stopped the timer
		if st := table.Stats(); st.Expirations != 100 {
			t.Errorf("%+v", st)
		}
	})
}

func TestClosed(t *testing.T) {
	table := newTable(t, TableOptions{Memory: 1 << 20})
	data := bytes.Repeat([]byte("x"), 100_000)
	check(t, put(table, "a", -1, data, 1000, PutOptions{}))
	b, err := table.Get("a")
	check(t, err)
	in, err := table.Create("b", 10, PutOptions{})
	check(t, err)
	_, err = in.Next(10)
	check(t, err, table.Close(), table.Close())
	check(t, wants(in.Commit(), transport.ErrClosed))
	_, err = table.Create("a", 1, PutOptions{})
	check(t, wants(err, transport.ErrClosed))
	_, err = table.Get("a")
	check(t, wants(err, transport.ErrClosed))
	_, err = table.Stat("a")
	check(t, wants(err, transport.ErrClosed))
	check(t, wants(table.Put("a", transport.FromBytes(nil), PutOptions{}), transport.ErrClosed))
	if table.Exists("a") || table.Evict("a") {
		t.Error("objects are left")
	}
	if !bytes.Equal(b.Bytes(), data) {
		t.Error("a Buffer ended with its Table")
	}
	b.Release()
	if used := table.mem.used.Load(); used != 0 {
		t.Errorf("%d bytes are counted", used)
	}
}

// The Go heap does not grow with objects, whether they are few and large or many and small.
func TestHeapGrowth(t *testing.T) {
	if invariants.Enabled || runtime.GOOS != "linux" {
		return // half of the memory is Go memory then, for the race detector; or all, where there is no other
	}
	for _, n := range []int{4 << 10, 100_000, 1 << 20, 64 << 20} {
		for _, announced := range []bool{true, false} {
			t.Run(fmt.Sprintf("size=%d/announced=%v", n, announced), func(t *testing.T) {
				table := newTable(t, TableOptions{Memory: 1 << 30})
				const total = 64 << 20
				piece := make([]byte, 1<<20)
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				for i := range total / n {
					size := int64(n)
					if !announced {
						size = -1
					}
					in, err := table.Create(fmt.Sprint(i), size, PutOptions{})
					if err != nil {
						t.Fatal(err)
					}
					for left := n; left > 0; {
						p, err := in.Next(min(left, len(piece)))
						if err != nil {
							t.Fatal(err)
						}
						left -= copy(p, piece)
					}
					check(t, in.Commit())
				}
				runtime.ReadMemStats(&after)
				count := int64(total / n)
				if grown := int64(after.TotalAlloc - before.TotalAlloc); grown > 64<<10+count*1000 {
					t.Errorf("%d objects took %d bytes of Go heap, %d each", count, grown, grown/count)
				}
			})
		}
	}
}

// A limit larger than the machine lets peers announce more than the system maps. That is refused, and costs nothing.
func TestCreateMoreThanTheSystemHas(t *testing.T) {
	table := newTable(t, TableOptions{Memory: math.MaxInt64})
	for _, size := range []int64{1 << 47, 1<<62 + 1, math.MaxInt64} {
		in, err := table.Create("a", size, PutOptions{})
		check(t, err)
		_, err = in.Next(1)
		check(t, wants(err, transport.ErrFull, "in one run"))
		in.Abort()
	}
	check(t, put(table, "a", 5, []byte("bytes"), 5, PutOptions{}))
	if st := table.Stats(); st.Reserved != 0 || st.Bytes != 5 {
		t.Errorf("%+v", st)
	}
}
