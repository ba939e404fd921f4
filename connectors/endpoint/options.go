package endpoint

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/endpoint/config"
)

const kind = "endpoint"

// Options configure a Connector.
type Options struct {
	Endpoints     []string // UUIDs of endpoints, one of which must be running and in reach; at least one
	ProxystoreDir string   // where their configurations are; default: [config.Home]

	MaxBytes    int64         // largest object that is read, which bounds what an endpoint can make us hold; default 64 GiB
	Connections int           // idle connections that are kept; default 64
	DialTimeout time.Duration // for connecting, and for the first answer of an endpoint; default 5 s
}

const (
	defaultMaxBytes    = 64 << 30
	defaultConnections = 64
	defaultDialTimeout = 5 * time.Second
)

func (o *Options) ensure() error {
	if len(o.Endpoints) == 0 {
		return fmt.Errorf("%w: option endpoints must name at least one endpoint's UUID; `proxyplane endpoint list` shows them", connectors.ErrConfig)
	}
	for _, id := range o.Endpoints {
		if _, err := config.ParseUUID(id); err != nil {
			return fmt.Errorf("%w: option endpoints: %w", connectors.ErrConfig, err)
		}
	}
	if o.ProxystoreDir != "" {
		abs, err := filepath.Abs(o.ProxystoreDir)
		if err != nil {
			return fmt.Errorf("%w: option proxystore_dir: %w", connectors.ErrConfig, err)
		}
		o.ProxystoreDir = abs
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = defaultMaxBytes
	}
	if o.Connections <= 0 {
		o.Connections = defaultConnections
	}
	if o.DialTimeout <= 0 {
		o.DialTimeout = defaultDialTimeout
	}
	return nil
}

func (o *Options) home() string {
	if o.ProxystoreDir != "" {
		return o.ProxystoreDir
	}
	return config.Home()
}

var class = connectors.Class{Module: "proxystore.connectors.endpoint", Name: "EndpointConnector"}

func (o *Options) config() connectors.Config {
	ids := make([]any, len(o.Endpoints))
	for i, id := range o.Endpoints {
		ids[i] = id
	}
	m := map[string]any{"endpoints": ids, "proxystore_dir": nil}
	if o.ProxystoreDir != "" {
		m["proxystore_dir"] = o.ProxystoreDir
	}
	if o.MaxBytes != defaultMaxBytes {
		m["max_bytes"] = o.MaxBytes
	}
	if o.Connections != defaultConnections {
		m["connections"] = int64(o.Connections)
	}
	if o.DialTimeout != defaultDialTimeout {
		m["dial_timeout"] = o.DialTimeout.Seconds()
	}
	return connectors.Config{Kind: class.String(), Options: m}
}

// Driver returns the driver of this connector, for a [connectors.Registry]. Its options are the fields of [Options], in Python's spelling: endpoints,
// proxystore_dir, max_bytes, connections, dial_timeout (seconds).
//
// A received configuration reads the endpoints' configurations below proxystore_dir, which the policy must allow, and connects to where they say: whoever may
// write there decides that.
func Driver() connectors.Driver {
	return connectors.Driver{
		Kind:          kind,
		Class:         class,
		PythonOptions: []string{"endpoints", "proxystore_dir"},
		Open: func(ctx context.Context, o *connectors.Options, env *connectors.Env) (connectors.Connector, error) {
			opts := parse(o)
			if err := o.Err(); err != nil {
				return nil, err
			}
			if env.Received {
				if opts.MaxBytes <= 0 || opts.MaxBytes > defaultMaxBytes {
					opts.MaxBytes = defaultMaxBytes
				}
				opts.Connections = min(opts.Connections, defaultConnections)
			}
			return New(ctx, opts)
		},
		Locations: func(o *connectors.Options, _ *connectors.Env) ([]connectors.Location, error) {
			opts := parse(o)
			if err := o.Err(); err != nil {
				return nil, err
			}
			if err := opts.ensure(); err != nil {
				return nil, err
			}
			if opts.ProxystoreDir == "" {
				return []connectors.Location{{Kind: kind}}, nil // the user's own
			}
			return []connectors.Location{{Kind: kind, Dir: opts.ProxystoreDir}}, nil
		},
	}
}

func parse(o *connectors.Options) Options {
	return Options{
		Endpoints: o.Strings("endpoints"), ProxystoreDir: o.String("proxystore_dir", ""), MaxBytes: o.Int("max_bytes", 0, 0, math.MaxInt64),
		Connections: int(o.Int("connections", 0, 0, 1<<16)), DialTimeout: o.Seconds("dial_timeout", 0),
	}
}
