package fuzz

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime/metrics"
	"testing"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/internal/testenv"
	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/transport"
)

// recorded returns the objects that real ProxyStores wrote.
func recorded(tb testing.TB) [][]byte {
	tb.Helper()
	var all [][]byte
	for _, version := range []string{"1.1.0", "0.6.5"} {
		f, err := os.Open(filepath.Join(testenv.Root(), "serialize", "testdata", "objects-"+version+".json.gz"))
		if err != nil {
			tb.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			tb.Fatal(err)
		}
		var objects []struct{ Object []byte }
		if err := json.NewDecoder(z).Decode(&objects); err != nil {
			tb.Fatal(err)
		}
		for _, o := range objects {
			if len(o.Object) < 4<<10 { // the fuzzer works better on short ones
				all = append(all, o.Object)
			}
		}
	}
	return all
}

// documented are the errors of objects, keys and configurations from outside that a caller can tell apart. Anything else is a bug: an error that was
// not thought of.
var documented = []error{
	serialize.ErrUnknownTag, serialize.ErrCorrupt, serialize.ErrTooLarge, serialize.ErrType,
	connectors.ErrNotFound, connectors.ErrCorrupt, connectors.ErrTooLarge, connectors.ErrInvalidKey, connectors.ErrInvalidRange,
	connectors.ErrUnavailable, connectors.ErrConfig, connectors.ErrDenied, connectors.ErrNotForPython, errors.ErrUnsupported,
	proxyplane.ErrBadProxy,
}

// checkError fails the test unless err is nil or documented.
func checkError(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil {
		return
	}
	for _, e := range documented {
		if errors.Is(err, e) {
			return
		}
	}
	t.Errorf("%s: an error that is none of the documented ones: %v", what, err)
}

// allocated returns how many bytes this process has allocated so far.
func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// checkMemory fails the test if memory is held that is not the garbage collector's.
func checkMemory(t *testing.T) {
	t.Helper()
	for b := transport.Pooled; b <= transport.Registered; b++ {
		if n, size := transport.Live(b); n != 0 {
			t.Errorf("%d buffers of %s memory with %d bytes are not released", n, b, size)
		}
	}
}
