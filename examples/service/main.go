// Service is an HTTP service that takes uploads of any size and answers with proxies, a few hundred bytes each. Whoever has a proxy, in Go or in
// Python, can fetch the object from the store, and this service resolves proxies for those who cannot reach it.
//
//	go run ./examples/service &
//	curl -s --data-binary @README.md localhost:8080/upload > proxy.json
//	curl -s --data-binary @proxy.json localhost:8080/resolve
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"

	"github.com/proxyplane/proxyplane"
)

func main() {
	listen := flag.String("listen", "localhost:8080", "address")
	dir := flag.String("dir", filepath.Join(os.TempDir(), "proxyplane-service"), "where the objects are")
	flag.Parse()
	handler, closeStore, err := newService(context.Background(), *dir)
	if err != nil {
		log.Fatal(err)
	}
	defer closeStore()
	log.Printf("listening on %s", *listen)
	log.Print(http.ListenAndServe(*listen, handler))
}

// newService returns a service on a store in dir. A proxy that it receives may name any directory or host it likes; this policy lets it reach
// dir and nothing else.
func newService(ctx context.Context, dir string) (http.Handler, func(), error) {
	stores := proxyplane.NewStores(proxyplane.WithPolicy(proxyplane.Policy{Kinds: []string{"file"}, Dirs: []string{dir}, OnlyDirs: true}))
	store, err := proxyplane.Open(ctx, proxyplane.NewConfig("", proxyplane.FileConnector(dir)), proxyplane.WithStores(stores))
	if err != nil {
		return nil, nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /upload", func(w http.ResponseWriter, r *http.Request) { upload(w, r, store) })
	mux.HandleFunc("POST /resolve", func(w http.ResponseWriter, r *http.Request) { resolve(w, r, stores) })
	return mux, func() { stores.Close(ctx); store.Close(ctx) }, nil
}

// upload stores the body as it comes, in bounded memory, and answers with its proxy.
func upload(w http.ResponseWriter, r *http.Request, store *proxyplane.Store) {
	key, err := store.PutReader(r.Context(), r.Body, r.ContentLength)
	if err != nil {
		fail(w, err)
		return
	}
	p, err := proxyplane.ProxyFromKey[[]byte](store, key)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(p) // or p.Pickle(), for a Python worker
}

// resolve answers with the object of the proxy in the body, in whatever form that comes.
func resolve(w http.ResponseWriter, r *http.Request, stores *proxyplane.Stores) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		fail(w, err)
		return
	}
	p, err := proxyplane.ParseProxy[[]byte](data) // contacts nothing
	if err != nil {
		fail(w, err)
		return
	}
	p.Bind(stores)
	object, err := p.Open(r.Context()) // p.Resolve would have it in memory
	if err != nil {
		fail(w, err)
		return
	}
	defer object.Close()
	object.WriteTo(w)
}

func fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, proxyplane.ErrBadProxy):
		status = http.StatusBadRequest
	case errors.Is(err, proxyplane.ErrDenied):
		status = http.StatusForbidden
	case errors.Is(err, proxyplane.ErrNotFound):
		status = http.StatusNotFound
	}
	http.Error(w, err.Error(), status)
}
