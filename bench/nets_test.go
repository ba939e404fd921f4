//go:build unix

package bench

import (
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/internal/testenv"
)

func init() {
	nets = append(nets,
		netCase{name: "tcp", ops: []string{"put", "get"}, flight: 16, rivals: []rivalOf{{ours, openOurs("tcp")}, {rivalRaw, openRaw("raw-tcp")}}},
		netCase{name: "unix", ops: []string{"put", "get", "map"}, flight: 16, rivals: []rivalOf{{ours, openOurs("unix")}, {rivalRaw, openRaw("raw-unix")},
			{rivalCopy, openCopied}}},
		netCase{name: "zmq", ops: []string{"put", "get"}, flight: 16, rivals: []rivalOf{{ours, openOurs("zmq")}, {rivalRaw, openRaw("raw-tcp")}, {rivalNative, openLibzmq},
			{rivalPython, openPython}}},
	)
}

func openRaw(role string) func(b *testing.B, obj []byte) (rival, error) {
	return func(b *testing.B, obj []byte) (rival, error) { return dialSocket(serverAt(b, role), obj) }
}

func openPython(_ *testing.B, obj []byte) (rival, error) {
	interpreter, ok := testenv.FindPython(testenv.ProxyStore11)
	if !ok {
		return nil, nil
	}
	return &pythonRival{interpreter, "zmq", len(obj)}, nil
}

// copied is memcpy into memory that is warm.
type copied struct{ from, to []byte }

func openCopied(_ *testing.B, obj []byte) (rival, error) {
	return &copied{obj, make([]byte, len(obj))}, nil
}

func (c *copied) round(_ string, _ int, until time.Duration) (sample, error) {
	return sequential(until, func() error { copy(c.to, c.from); return nil })
}

func (c *copied) close() {}
