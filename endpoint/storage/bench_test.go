package storage

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

var benchSizes = []int{1_000, 1_000_000, 100_000_000}

func benchData(n int) []byte {
	data := make([]byte, n)
	for i := 0; i < n; i += copy(data[i:], noise) {
	}
	return data
}

// BenchmarkPut is a put that is durable, beside its floor: a plain file that is written and synced, and its name too. The ratio of the two is the
// number to look at: disks differ. par puts come at once.
func BenchmarkPut(b *testing.B) {
	for _, n := range benchSizes {
		data := benchData(n)
		b.Run(fmt.Sprintf("size=%d/how=floor", n), func(b *testing.B) {
			dir := b.TempDir()
			b.SetBytes(int64(n))
			i := 0
			for b.Loop() {
				i++
				f, err := os.Create(filepath.Join(dir, strconv.Itoa(i%4)))
				if err == nil {
					_, err = f.Write(data)
				}
				if err == nil {
					err = f.Sync()
				}
				if err == nil {
					err = f.Close()
				}
				if err == nil {
					err = syncDirectory(dir)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
		for _, how := range []string{"put", "stream"} {
			for _, par := range []int{1, 64} {
				if par > 1 && n > 1_000_000 {
					continue
				}
				b.Run(fmt.Sprintf("size=%d/how=%s/par=%d", n, how, par), func(b *testing.B) {
					s := mustOpen(b, Options{Path: filepath.Join(b.TempDir(), "blobs.db")})
					b.SetBytes(int64(n))
					b.ReportAllocs()
					b.SetParallelism(max(par/runtime.GOMAXPROCS(0), 1))
					one := func(i int) {
						var err error
						key := strconv.Itoa(i % (4 * par))
						if how == "put" {
							err = s.Put(key, transport.FromBytes(data), objects.PutOptions{})
						} else {
							err = put(s, key, int64(n), data, 1<<20)
						}
						if err != nil {
							b.Error(err)
						}
					}
					if par == 1 {
						i := 0
						for b.Loop() {
							i++
							one(i)
						}
						return
					}
					b.RunParallel(func(pb *testing.PB) {
						for i := 0; pb.Next(); i++ {
							one(i * 7)
						}
					})
					b.ReportMetric(float64(s.Usage().Puts)/float64(s.Usage().Commits), "puts/commit")
				})
			}
		}
	}
}

// BenchmarkGet reads every byte, beside its floor: a plain file that is opened and read.
func BenchmarkGet(b *testing.B) {
	for _, n := range benchSizes {
		data := benchData(n)
		path := filepath.Join(b.TempDir(), "blobs.db")
		s := mustOpen(b, Options{Path: path, NoSync: true})
		mustPut(b, s, "k", data)
		plain := filepath.Join(b.TempDir(), "plain")
		if err := os.WriteFile(plain, data, 0o600); err != nil {
			b.Fatal(err)
		}
		sink := make([]byte, 256<<10)
		drain := func(p []byte) {
			for len(p) > 0 {
				p = p[copy(sink, p):]
			}
		}
		b.Run(fmt.Sprintf("size=%d/how=floor", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				f, err := os.Open(plain)
				if err != nil {
					b.Fatal(err)
				}
				for err == nil {
					_, err = f.Read(sink)
				}
				if err != io.EOF {
					b.Fatal(err)
				}
				f.Close()
			}
		})
		b.Run(fmt.Sprintf("size=%d/how=get", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				buf, err := s.Get("k")
				if err != nil {
					b.Fatal(err)
				}
				drain(buf.Bytes())
				buf.Release()
			}
		})
		if n < DefaultFileAbove {
			continue
		}
		b.Run(fmt.Sprintf("size=%d/how=open", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				f, _, err := s.Open("k")
				for err == nil {
					_, err = f.Read(sink)
				}
				if err != io.EOF {
					b.Fatal(err)
				}
				f.Close()
			}
		})
	}
}

// BenchmarkIndex is what keys cost: the time of Open and the memory for each key, and looking for a key that exists or does not.
func BenchmarkIndex(b *testing.B) {
	const keys = 1_000_000
	path := filepath.Join(b.TempDir(), "blobs.db")
	o := Options{Path: path, NoSync: true}
	s := mustOpen(b, o)
	mustClose(b, s)
	sql(b, path, fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < %d) INSERT INTO blobs(key, value) `+
		`SELECT printf('%%08x-0000-4000-8000-%%012x', i * 2654435761 %% 4294967296, i), zeroblob(100) FROM n`, keys-1))
	b.Run(fmt.Sprintf("op=open/keys=%d", keys), func(b *testing.B) {
		var before, after runtime.MemStats
		for b.Loop() {
			runtime.GC()
			runtime.ReadMemStats(&before)
			s, err := Open(context.Background(), o)
			if err != nil {
				b.Fatal(err)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			if s.Usage().Objects != keys {
				b.Fatalf("%+v", s.Usage())
			}
			mustClose(b, s)
		}
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/keys, "B/key")
	})
	s = mustOpen(b, o)
	present := ""
	for key := range s.Keys() {
		present = key
		break
	}
	for _, key := range []string{present, "00000000-0000-4000-8000-missing"} {
		b.Run(fmt.Sprintf("op=stat/exists=%t", key == present), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Stat(key); (err == nil) != (key == present) {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("op=get/bytes=100", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			buf, err := s.Get(present)
			if err != nil {
				b.Fatal(err)
			}
			buf.Release()
		}
	})
}
