//go:build unix

package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/tcp"
	"github.com/proxyplane/proxyplane/transport/zmq"
)

// A carrier is one of our own transports: how to serve it and how to reach it.
type carrier struct {
	listen func(ctx context.Context, store objects.Store) (objects.Server, error)
	dial   func(ctx context.Context, addr string) (objects.Client, error)
}

var carriers = map[string]carrier{
	"tcp": {func(ctx context.Context, store objects.Store) (objects.Server, error) {
		return tcp.Listen(ctx, "tcp://127.0.0.1:0", store, tcp.ListenOptions{BusyPoll: *pollFlag})
	}, func(ctx context.Context, addr string) (objects.Client, error) {
		return tcp.Dial(ctx, addr, tcp.DialOptions{NoSameHost: true, BusyPoll: *pollFlag})
	}},
	"unix": {func(ctx context.Context, store objects.Store) (objects.Server, error) {
		// In the directory for temporary files there may be any number of old ones; a name of this process is its own.
		return tcp.Listen(ctx, "unix://"+filepath.Join(os.TempDir(), fmt.Sprintf("proxyplane-bench-%d.sock", os.Getpid())), store, tcp.ListenOptions{BusyPoll: *pollFlag})
	}, func(ctx context.Context, addr string) (objects.Client, error) {
		return tcp.Dial(ctx, addr, tcp.DialOptions{BusyPoll: *pollFlag})
	}},
	"zmq": {func(ctx context.Context, store objects.Store) (objects.Server, error) {
		return zmq.Listen(ctx, "tcp://127.0.0.1:0", store, zmq.ListenOptions{})
	}, func(ctx context.Context, addr string) (objects.Client, error) {
		return zmq.Dial(ctx, addr, zmq.DialOptions{})
	}},
}

func init() {
	servers["ours"] = serveOurs
}

// serveOurs is an object server on the carrier of that name.
func serveOurs(name string, ready func(string), stdin io.Reader) error {
	table, err := objects.NewTable(objects.TableOptions{})
	if err != nil {
		return err
	}
	defer table.Close()
	s, err := carriers[name].listen(context.Background(), table)
	if err != nil {
		return err
	}
	defer s.Close()
	ready(s.Addr())
	untilEOF(stdin)
	return nil
}

// client is ours as a rival.
type client struct {
	objects.Client
	ctx context.Context
	obj []byte
}

func openOurs(name string) func(b *testing.B, obj []byte) (rival, error) {
	return func(b *testing.B, obj []byte) (rival, error) {
		c, err := carriers[name].dial(b.Context(), serverAt(b, "ours "+name))
		if err != nil {
			return nil, err
		}
		// Several puts with one id are several versions of one object: the server's memory stays bounded.
		return &client{c, b.Context(), obj}, c.Put(b.Context(), "object", transport.Slices{obj}, objects.PutOptions{})
	}
}

func (c *client) round(op string, flight int, until time.Duration) (sample, error) {
	return parallel(flight, until, func(worker int) error {
		switch op {
		case "put":
			return c.Put(c.ctx, "worker-"+strconv.Itoa(worker), transport.Slices{c.obj}, objects.PutOptions{})
		case "get":
			v, err := c.Get(c.ctx, "object", 0, -1, int64(len(c.obj)))
			if err != nil {
				return err
			}
			return verify(v, c.obj)
		case "map":
			v, err := c.Map(c.ctx, "object")
			if err != nil {
				return err
			}
			return verify(v, c.obj)
		}
		return fmt.Errorf("no operation %s", op)
	})
}

func (c *client) close() {
	for i := range 64 {
		c.Evict(context.Background(), "worker-"+strconv.Itoa(i))
	}
	c.Evict(context.Background(), "object")
	c.Client.Close()
}
