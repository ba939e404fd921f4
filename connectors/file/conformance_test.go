package file

import (
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/connectortest"
)

func TestConformance(t *testing.T) {
	for name, set := range map[string]func(c *Connector){
		"default": func(*Connector) {},
		"named":   func(c *Connector) { c.dir.plain() }, // as on NFS
	} {
		t.Run(name, func(t *testing.T) { connectortest.Run(t, harness(set)) })
	}
}

func harness(set func(*Connector)) func(t testing.TB) connectortest.Harness {
	return func(t testing.TB) connectortest.Harness {
		dir := tmpDir(t)
		var reg connectors.Registry
		reg.Register(Driver())
		return connectortest.Harness{
			Open: func(t testing.TB) connectors.Connector {
				// ClearAll, since the suite wants CloseClear(true) to remove other connectors' objects too, as Python does.
				c := newConnector(t, Options{StoreDir: dir, ClearAll: true})
				set(c)
				return c
			},
			Want: []string{"Deferrer", "BatchPutter", "BatchGetter", "BatchEvicter", "RangeGetter", "BytesGetter", "StreamPutter",
				"StreamGetter", "Mapper", "Stater", "Waiter", "ClearCloser"},
			Registry:      &reg,
			OutlivesClose: true,
			HostileKeys:   hostileKeys(),
			Objects: func(t testing.TB) int {
				n := 0
				for _, name := range list(t, dir) {
					if !strings.HasSuffix(name, ready) {
						n++
					}
				}
				return n
			},
		}
	}
}
