package storage

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// sample is a database with objects of ours, and the log of one that was not closed.
func sample(t testing.TB) (db, wal []byte) {
	t.Helper()
	o := Options{Path: filepath.Join(t.TempDir(), "blobs.db"), FileAbove: 4096, NoSync: true}
	s := mustOpen(t, o)
	for i, n := range []int{0, 10, 1000, 4000, 5000, 9000} {
		mustPut(t, s, string(rune('a'+i)), content(uint64(i), n))
	}
	mustClose(t, s)
	s = mustOpen(t, o)
	mustPut(t, s, "k", content(1, 500))
	st, err := readFiles(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	return st.db, st.wal
}

// open opens a database of these bytes and uses whatever can be opened. Nothing may panic, and errors have a class.
func open(t testing.TB, dir string, db, wal []byte) error {
	t.Helper()
	o := Options{Path: filepath.Join(dir, "blobs.db"), FileAbove: 4096, NoSync: true, BusyTimeout: time.Second}
	if err := (dbState{db, wal}).write(o.Path); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(o.Path+".objects", 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := Open(context.Background(), o)
	if err != nil {
		classed(t, err)
		return err
	}
	for key := range s.Keys() {
		b, err := s.Get(key)
		classed(t, err)
		if err == nil {
			b.Release()
		}
	}
	classed(t, s.Put("new", transport.FromBytes([]byte("value")), objects.PutOptions{}))
	_, err = s.Remove("a")
	classed(t, err)
	classed(t, s.Fold(context.Background()))
	_ = s.Close() // what is damaged may not be closed cleanly
	return nil
}

func classed(t testing.TB, err error) {
	t.Helper()
	for _, class := range []error{nil, transport.ErrCorrupt, transport.ErrUnavailable, transport.ErrNotFound, transport.ErrFull, transport.ErrTooLarge} {
		if errors.Is(err, class) {
			return
		}
	}
	t.Errorf("an error without a class: %v", err)
}

// Damage of all kinds is an error or does not matter.
func TestDamage(t *testing.T) {
	db, wal := sample(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	refused := 0
	for i := range 120 {
		d, w := append([]byte{}, db...), append([]byte{}, wal...)
		switch i % 4 {
		case 0:
			d = d[:r.IntN(len(d))]
		case 1:
			for range 1 + r.IntN(30) {
				d[r.IntN(len(d))] ^= 1 << r.IntN(8)
			}
		case 2:
			page := r.IntN(len(d) / 4096)
			_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(d[page*4096+r.IntN(4096) : (page+1)*4096])
		default:
			for range 1 + r.IntN(5) {
				w[r.IntN(len(w))] ^= 1 << r.IntN(8)
			}
		}
		if i%4 != 3 {
			w = nil
		}
		if open(t, t.TempDir(), d, w) != nil {
			refused++
		}
	}
	if refused == 0 {
		t.Error("no damage was noticed")
	}
	if err := open(t, t.TempDir(), db, wal); err != nil {
		t.Errorf("without any damage: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	db, wal := sample(f)
	f.Add(db, wal)
	f.Add(db, []byte{})
	f.Add(db[:4096], wal[:100])
	f.Add([]byte("SQLite format 3\x00"), []byte{})
	f.Add([]byte{}, wal)
	f.Fuzz(func(t *testing.T, db, wal []byte) {
		_ = open(t, t.TempDir(), db, wal)
	})
}
