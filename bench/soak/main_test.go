package soak

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
)

var (
	objectSize = byteSize(256 << 20)
	duration   = flag.Duration("for", 0, "how long the kill and model tests go on; 0 is their short form")
	seed       = flag.Uint64("seed", 0, "where random histories start; 0 takes a new one")
)

func init() {
	flag.Var(&objectSize, "size", "length of the object that is streamed, with K, M or G of 1024")
}

// byteSize is a flag such as 10G.
type byteSize int64

func (b *byteSize) String() string { return strconv.FormatInt(int64(*b), 10) }

func (b *byteSize) Set(s string) error {
	digits := strings.TrimRight(s, "KMG")
	shift, ok := map[string]int{"": 0, "K": 10, "M": 20, "G": 30}[s[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil || !ok || n < 0 {
		return fmt.Errorf("%q is no size; write 256M or 10G", s)
	}
	*b = byteSize(n << shift)
	return nil
}

// childVar names, in the environment of a process that a test started from its own binary, what that process is to do.
const childVar = "PROXYPLANE_SOAK_CHILD"

// children are the programs that tests run in processes of their own. Each returns its exit code.
var children = map[string]func() int{}

func TestMain(m *testing.M) {
	if what := os.Getenv(childVar); what != "" {
		os.Exit(children[what]())
	}
	flag.Parse()
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	os.Exit(m.Run())
}

// orShort is -for, or the short form's time.
func orShort(short time.Duration) time.Duration {
	if *duration > 0 {
		return *duration
	}
	return short
}

// multiFile is a multi connector whose only child is a file connector on dir.
func multiFile(dir string) connectors.Config {
	file := proxyplane.FileConnector(dir)
	return connectors.Config{Kind: "multi", Options: map[string]any{"only": []any{file.Kind, file.Options, map[string]any{}}}}
}
