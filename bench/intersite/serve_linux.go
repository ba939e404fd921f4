package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/proxyplane/proxyplane/endpoint"
	"github.com/proxyplane/proxyplane/endpoint/config"
	"github.com/proxyplane/proxyplane/endpoint/peer"
	"github.com/proxyplane/proxyplane/endpoint/relay"
)

// role is the first argument that makes this program one of the daemons of a run. They run what `proxyplane endpoint start` and `proxyplane relay` run;
// only that has no flag for the kinds of paths.
const role = "serve"

// kinds are the paths that a system may take, by name.
var kinds = map[string]peer.Kinds{"any": peer.AllKinds, "tls": peer.TLS, "quic": peer.QUIC, "webrtc": peer.WebRTC}

// serve runs "relay HOST:PORT" or "endpoint KIND DIR" until it is told to end.
func serve(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	switch {
	case len(args) == 2 && args[0] == "relay":
		ln, err := net.Listen("tcp", args[1])
		if err != nil {
			return err
		}
		s, err := relay.NewServer(relay.ServerOptions{})
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, func() { s.Close() })
		if err := s.Serve(ln); ctx.Err() == nil {
			return err
		}
		return nil
	case len(args) == 3 && args[0] == "endpoint":
		cfg, err := config.Read(args[2])
		if err != nil {
			return err
		}
		return endpoint.Run(ctx, args[2], cfg, endpoint.RunOptions{LogTo: os.Stderr, Peering: func(_ *relay.ClientOptions, o *peer.Options) { o.Paths = kinds[args[1]] }})
	}
	return fmt.Errorf("serve %q: want relay HOST:PORT or endpoint KIND DIR", args)
}
