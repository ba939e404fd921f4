package storage_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/proxyplane/proxyplane/endpoint/storage"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

func Example() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	s, err := storage.Open(context.Background(), storage.Options{Path: filepath.Join(dir, "blobs.db"), Quota: 1 << 30})
	if err != nil {
		panic(err)
	}
	defer s.Close()
	if err := s.Put("greeting", transport.FromBytes([]byte("hello")), objects.PutOptions{}); err != nil {
		panic(err)
	}
	b, err := s.Get("greeting")
	if err != nil {
		panic(err)
	}
	defer b.Release()
	fmt.Printf("%s, %d objects\n", b.Bytes(), s.Usage().Objects)
	// Output: hello, 1 objects
}
