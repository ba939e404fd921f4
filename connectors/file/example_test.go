package file_test

import (
	"context"
	"fmt"
	"os"

	"github.com/proxyplane/proxyplane/connectors/file"
	"github.com/proxyplane/proxyplane/transport"
)

func Example() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	c, err := file.New(file.Options{StoreDir: dir})
	if err != nil {
		panic(err)
	}
	defer c.Close(ctx)

	// A header and a body leave together. Python reads the same bytes at FileKey(filename=...).
	key, err := c.Put(ctx, transport.Slices{[]byte("BS\n"), []byte("hello")})
	if err != nil {
		panic(err)
	}
	b, err := c.Get(ctx, key)
	if err != nil {
		panic(err)
	}
	defer b.Release()
	fmt.Printf("%q\n", b.Bytes())
	// Output: "BS\nhello"
}
