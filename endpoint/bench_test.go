package endpoint

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/proxyplane/proxyplane/endpoint/storage"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

var benchSizes = map[string]int{"1KB": 1000, "1MB": 1_000_000, "100MB": 100_000_000}

// BenchmarkGet over loopback: from a table, from files, and the floor, net/http's file server on the same bytes.
func BenchmarkGet(b *testing.B) {
	for _, store := range []string{"table", "files", "fileserver"} {
		for _, name := range []string{"1KB", "1MB", "100MB"} {
			b.Run(fmt.Sprintf("store=%s/size=%s", store, name), func(b *testing.B) {
				data := random(benchSizes[name])
				url, client := benchSite(b, store, data)
				buf := make([]byte, 256<<10)
				b.SetBytes(int64(len(data)))
				b.ReportAllocs()
				for b.Loop() {
					resp, err := client.Get(url)
					if err != nil {
						b.Fatal(err)
					}
					n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{resp.Body}, buf)
					resp.Body.Close()
					if err != nil || n != int64(len(data)) {
						b.Fatal(n, err)
					}
				}
			})
		}
	}
}

func benchSite(b *testing.B, store string, data []byte) (string, *http.Client) {
	if store == "fileserver" {
		dir := b.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "k"), data, 0o600); err != nil {
			b.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		srv := &http.Server{Handler: http.FileServer(http.Dir(dir))}
		go srv.Serve(l)
		tr := &http.Transport{}
		b.Cleanup(func() { tr.CloseIdleConnections(); srv.Close() })
		return "http://" + l.Addr().String() + "/k", &http.Client{Transport: tr}
	}
	s := benchStore(b, store)
	if err := s.Set(b.Context(), "k", ownID, int64(len(data)), bytes.NewReader(data)); err != nil {
		b.Fatal(err)
	}
	return s.url + "/get?key=k", s.client
}

func benchStore(b *testing.B, store string) *site {
	var st objects.Store = newTable(b, objects.TableOptions{})
	if store == "files" {
		db, err := storage.Open(b.Context(), storage.Options{Path: filepath.Join(b.TempDir(), "blobs.db")})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { db.Close() })
		st = db
	}
	return newSite(b, Options{Store: st})
}

// BenchmarkSet likewise; the floor reads the body into memory that it has already.
func BenchmarkSet(b *testing.B) {
	for _, store := range []string{"table", "files", "discard"} {
		for _, name := range []string{"1KB", "1MB", "100MB"} {
			b.Run(fmt.Sprintf("store=%s/size=%s", store, name), func(b *testing.B) {
				data := random(benchSizes[name])
				var url string
				var client *http.Client
				if store == "discard" {
					l, err := net.Listen("tcp", "127.0.0.1:0")
					if err != nil {
						b.Fatal(err)
					}
					mem := transport.DefaultPool.Get(len(data))
					srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.ReadFull(r.Body, mem.Bytes()) })}
					go srv.Serve(l)
					tr := &http.Transport{}
					b.Cleanup(func() { tr.CloseIdleConnections(); srv.Close(); mem.Release() })
					url, client = "http://"+l.Addr().String(), &http.Client{Transport: tr}
				} else {
					s := benchStore(b, store)
					url, client = s.url+"/set?key=k", s.client
				}
				b.SetBytes(int64(len(data)))
				b.ReportAllocs()
				for b.Loop() {
					resp, err := client.Post(url, "application/octet-stream", bytes.NewReader(data))
					if err != nil {
						b.Fatal(err)
					}
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if resp.StatusCode != 200 {
						b.Fatal(resp.Status)
					}
				}
			})
		}
	}
}
