package relay_test

import (
	"context"
	"fmt"
	"net"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/endpoint/relay"
)

// A relay with two clients, of which one sends an offer to the other.
func Example() {
	ctx := context.Background()
	server, err := relay.NewServer(relay.ServerOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	go server.Serve(l)

	var clients [2]*relay.Client
	for i := range clients {
		c, err := relay.NewClient(relay.ClientOptions{Address: "ws://" + l.Addr().String(), Name: fmt.Sprint("endpoint-", i), UUID: uuid.New()})
		if err != nil {
			fmt.Println(err)
			return
		}
		defer c.Close()
		if err := c.Wait(ctx); err != nil {
			fmt.Println(err)
			return
		}
		clients[i] = c
	}
	to := server.Clients()[1].UUID
	if err := clients[0].Send(ctx, relay.PeerConnection{PeerUUID: to, DescriptionType: "offer", Description: "v=0"}); err != nil {
		fmt.Println(err)
		return
	}
	m, err := clients[1].Receive(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(m.SourceName, m.DescriptionType, m.Description)
	// Output: endpoint-0 offer v=0
}
