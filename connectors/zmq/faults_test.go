package zmq_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/connectortest"
	"github.com/proxyplane/proxyplane/connectors/dim"
	"github.com/proxyplane/proxyplane/connectors/zmq"
	"github.com/proxyplane/proxyplane/transport/faultnet"
	transport "github.com/proxyplane/proxyplane/transport/zmq"
)

// brittle hides Reader and Writer: a Writer whose connection breaks fails, as it must, and so does a Reader whose object is replaced. It hides Map,
// which ZeroMQ does not have.
type brittle struct{ *dim.Connector }

func (brittle) PutStream() {}
func (brittle) GetStream() {}
func (brittle) Map()       {}

// TestConformanceFaults has a bad network between connector and server: calls are made again until they come through.
func TestConformanceFaults(t *testing.T) {
	for name, plan := range map[string]faultnet.Plan{
		"Cut":     {Read: faultnet.Faults{CutAfter: 6 << 20, Reset: true}, Write: faultnet.Faults{CutAfter: 7 << 20}},
		"Slow":    {Read: faultnet.Faults{Short: 5000, ShortRandom: true}, Write: faultnet.Faults{Latency: 20 * time.Microsecond}},
		"Corrupt": {Seed: 1, Read: faultnet.Faults{CorruptRate: 5e-8}, Write: faultnet.Faults{CorruptRate: 5e-8}},
	} {
		t.Run(name, func(t *testing.T) {
			var faults faultnet.Stats
			connectortest.Run(t, func(t testing.TB) connectortest.Harness {
				port, table := serve(t, transport.ListenOptions{})
				p, err := faultnet.NewProxy("tcp://127.0.0.1:0", fmt.Sprint("tcp://127.0.0.1:", port), plan)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					stats := p.Stats()
					faults.Cuts += stats.Cuts
					faults.Corrupted += stats.Corrupted
					faults.Delayed += stats.Delayed
					p.Close()
				})
				opts := zmq.Options{}
				opts.Address, opts.Hash = "127.0.0.1", "always"
				if opts.Port, err = strconv.Atoi(p.Addr()[strings.LastIndexByte(p.Addr(), ':')+1:]); err != nil {
					t.Fatal(err)
				}
				h := connectortest.Harness{MaxSize: 2 << 20, OutlivesClose: true, HostileKeys: hostile(opts.Port),
					Want: slices.DeleteFunc(slices.Clone(capabilities), func(name string) bool {
						return strings.HasPrefix(name, "Stream") || name == "Mapper?"
					}),
					Open:    func(t testing.TB) connectors.Connector { return brittle{open(t, opts)} },
					Objects: func(testing.TB) int { return int(table.Stats().Objects) }}
				if name == "Slow" {
					h.MaxSize = 256 << 10
					h.Want = capabilities
					h.Open = func(t testing.TB) connectors.Connector { return open(t, opts) }
				}
				return h
			})
			if faults == (faultnet.Stats{}) {
				t.Error("nothing went wrong")
			}
			t.Logf("%d cuts, %d flipped bits, %d delays", faults.Cuts, faults.Corrupted, faults.Delayed)
		})
	}
}
