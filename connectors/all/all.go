// Package all has every connector of this module in one [connectors.Registry]. A program that links only some of them, to be small or to refuse the
// others, registers their drivers itself.
package all

import (
	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/endpoint"
	"github.com/proxyplane/proxyplane/connectors/file"
	"github.com/proxyplane/proxyplane/connectors/local"
	"github.com/proxyplane/proxyplane/connectors/multi"
	"github.com/proxyplane/proxyplane/connectors/redis"
	"github.com/proxyplane/proxyplane/connectors/tcp"
	"github.com/proxyplane/proxyplane/connectors/ucx"
	"github.com/proxyplane/proxyplane/connectors/zmq"
)

// Registry returns a new Registry with every driver. The caller owns it and may register more.
func Registry() *connectors.Registry {
	r := &connectors.Registry{}
	r.Register(endpoint.Driver())
	r.Register(file.Driver())
	r.Register(local.Driver())
	r.Register(multi.Driver())
	r.Register(redis.Driver())
	r.Register(tcp.Driver())
	r.Register(ucx.Driver())
	r.Register(zmq.Driver())
	return r
}
