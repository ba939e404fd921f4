package tcp_test

import (
	"context"
	"fmt"
	"os"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/tcp"
)

func Example() {
	ctx := context.Background()
	store, err := objects.NewTable(objects.TableOptions{Memory: 64 << 20})
	if err != nil {
		panic(err)
	}
	defer store.Close()
	server, err := tcp.Listen(ctx, "tcp://127.0.0.1:0", store, tcp.ListenOptions{})
	if err != nil {
		panic(err)
	}
	defer server.Close()

	client, err := tcp.Dial(ctx, server.Addr(), tcp.DialOptions{})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	if err := client.Put(ctx, "greeting", transport.Slices{[]byte("hello, "), []byte("world\n")}, objects.PutOptions{}); err != nil {
		panic(err)
	}
	object, err := client.Get(ctx, "greeting", 0, -1, -1)
	if err != nil {
		panic(err)
	}
	defer object.Release()
	os.Stdout.Write(object.Bytes())
	// Output: hello, world
}

// A server that other hosts can reach needs a token or client certificates.
func ExampleListen() {
	store, err := objects.NewTable(objects.TableOptions{Memory: 64 << 20})
	if err != nil {
		panic(err)
	}
	defer store.Close()
	_, err = tcp.Listen(context.Background(), "tcp://0.0.0.0:0", store, tcp.ListenOptions{})
	fmt.Println(err)
	// Output:
	// denied by policy: 0.0.0.0:0 can be reached from other hosts: set a Token, TLS client certificates (ClientAuth and ClientCAs), or Insecure if all may come
}
