package storage

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// A disk that is really full, where this process may mount one; TestNoSpace and TestDatabaseFull do the same everywhere with injected errors.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=12m,mode=0700"); err != nil {
		t.Logf("no disk of our own: %v", err)
		return
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	leakCheck(t)
	o := Options{Path: filepath.Join(dir, "blobs.db"), FileAbove: 64 << 10}
	s := mustOpen(t, o)
	want := map[string][]byte{}
	fill := func(n int) (refused int) {
		for i := 0; refused < 3; i++ {
			key, data := fmt.Sprintf("%d/%d", n, i), content(uint64(i), n)
			var err error
			switch i % 3 {
			case 0:
				err = s.Put(key, transport.FromBytes(data), objects.PutOptions{})
			case 1:
				err = put(s, key, int64(n), data, 100_000)
			default:
				err = put(s, key, -1, data, 100_000)
			}
			switch {
			case err == nil:
				want[key] = data
			case errors.Is(err, transport.ErrFull):
				refused++
			default:
				t.Fatal(err)
			}
		}
		return refused
	}
	all := func() {
		t.Helper()
		for key, data := range want {
			check(t, s, key, data)
		}
		if u := s.Usage(); u.Objects != int64(len(want)) || u.Arriving != 0 {
			t.Fatalf("%+v, want %d objects", u, len(want))
		}
	}
	for round := range 3 {
		for _, n := range []int{1_000_000, 100_000, 20_000, 500} { // the last holes too
			fill(n)
		}
		all()
		if round == 1 { // what is full can be opened
			mustClose(t, s)
			s = mustOpen(t, o)
			all()
		}
		for key := range want {
			if ok, err := s.Remove(key); !ok || err != nil {
				t.Fatalf("round %d: delete %s of %d objects on the full disk: %v, %v", round, key, len(want), ok, err)
			}
			delete(want, key)
			if len(want) == 2 {
				break
			}
		}
		all()
		data := content(5, 3_000_000)
		mustPut(t, s, "again", data)
		want["again"] = data
		if !s.reserved {
			t.Error("the reserve was not made again")
		}
	}
	mustClose(t, s)
	s = mustOpen(t, o)
	all()
}
