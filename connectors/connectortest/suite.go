package connectortest

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
)

// Harness says how to reach one storage and what is expected of its connector.
type Harness struct {
	// Open returns a connector of the storage; every call opens the same one. The suite closes what it opens.
	Open func(t testing.TB) connectors.Connector

	// Want names the capabilities that connectors.As must find: "Deferrer", "RangeGetter", ... Exactly these: losing or silently gaining one
	// fails, and so does answering errors.ErrUnsupported. A name with a question mark ("Waiter?") is one that may be there or not, and may
	// answer errors.ErrUnsupported: that is for decorators, which have what their inner connector has.
	Want []string

	// MaxSize is the size of the largest object that the suite may put; default 64 MiB and 4 KiB.
	MaxSize int64

	// Registry opens the connector's configuration, to check Config -> Open -> Config. Nil only if the connector has no driver.
	Registry *connectors.Registry

	// OutlivesClose says that objects survive Close and are seen by the next Open.
	OutlivesClose bool

	// ForeignKey is a well-formed key that the connector must refuse; default one of another kind.
	ForeignKey connectors.Key

	// HostileKeys are keys of the right type that must be refused or be not found, and never reach anything outside the storage.
	HostileKeys []connectors.Key

	// Objects counts the objects in the storage, past the connector: files, database keys. Optional; with it the suite proves that evicted
	// objects and failed puts leave nothing behind. Whatever is there before the suite's first Put must be counted the same all the time.
	Objects func(t testing.TB) int
}

// defaultMaxSize is the default of Harness.MaxSize: the large object and a part beside it.
const defaultMaxSize = 64<<20 + 4<<10

// Run runs the whole suite, each check as a subtest with a fresh Harness. Cleanups of the Harness go to the testing.TB it is given.
func Run(t *testing.T, newHarness func(t testing.TB) Harness) {
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) { runCheck(t, newHarness, c.run) })
	}
}

// check is one subtest.
type check struct {
	name string
	run  func(s *suite)
}

// checks is the whole suite, in the order in which it runs.
var checks = []check{
	{"Capabilities", checkCapabilities},
	{"RoundTrip", checkRoundTrip},
	{"Large", checkLarge},
	{"Parts", checkParts},
	{"Missing", checkMissing},
	{"Evict", checkEvict},
	{"OutlivesClose", checkOutlivesClose},
	{"Borrow", checkBorrow},
	{"Buffers", checkBuffers},
	{"Bytes", checkBytes},
	{"Map", checkMap},
	{"Stat", checkStat},
	{"Keys", checkKeys},
	{"Set", checkSet},
	{"Batch", checkBatch},
	{"Range", checkRange},
	{"Tags", checkTags},
	{"PutStream", checkPutStream},
	{"PutStreamFaults", checkPutStreamFaults},
	{"GetStream", checkGetStream},
	{"Wait", checkWait},
	{"Context", checkContext},
	{"Config", checkConfig},
	{"Close", checkClose},
	{"CloseClear", checkCloseClear},
	{"CloseDuringCalls", checkCloseDuringCalls},
	{"Concurrent", checkConcurrent},
	{"Torn", checkTorn},
}

// suite is what a check works with.
type suite struct {
	testing.TB
	Harness
	ctx    context.Context // has a deadline, so that a connector that hangs fails by itself
	opened []connectors.Connector
}

// deadline is far more than any check takes. The suite's own tests, whose connectors hang for certain, have less.
var deadline = time.Minute

// runCheck runs one check and then looks for leaks.
func runCheck(t testing.TB, newHarness func(testing.TB) Harness, run func(*suite)) {
	t.Helper()
	before := takeInventory()
	t.Cleanup(func() { before.compare(t) }) // registered first, so that it runs after the harness has cleaned up
	h := newHarness(t)
	if h.Open == nil {
		t.Fatal("Harness.Open is nil")
	}
	if h.MaxSize == 0 {
		h.MaxSize = defaultMaxSize
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	s := &suite{TB: t, Harness: h, ctx: ctx}
	t.Cleanup(cancel)
	t.Cleanup(s.closeAll)
	run(s)
}

// open opens one more connector of the storage.
func (s *suite) open() connectors.Connector {
	s.Helper()
	c := s.Open(s)
	if c == nil {
		s.Fatal("Open returned nil")
	}
	s.opened = append(s.opened, c)
	return c
}

// closeAll closes what the check opened, also what it has closed itself: a second Close must be harmless.
func (s *suite) closeAll() {
	for _, c := range s.opened {
		if err := c.Close(s.ctx); err != nil {
			s.Errorf("Close at the end: %v", err)
		}
	}
}

// capability knows whether a connector has one.
type capability struct {
	name string
	has  func(connectors.Connector) (any, bool)
}

func as[T any](c connectors.Connector) (any, bool) { return connectors.As[T](c) }

// capabilities are all that package connectors knows.
var capabilities = []capability{
	{"Deferrer", as[connectors.Deferrer]},
	{"BatchPutter", as[connectors.BatchPutter]},
	{"BatchGetter", as[connectors.BatchGetter]},
	{"BatchEvicter", as[connectors.BatchEvicter]},
	{"RangeGetter", as[connectors.RangeGetter]},
	{"BytesGetter", as[connectors.BytesGetter]},
	{"StreamPutter", as[connectors.StreamPutter]},
	{"StreamGetter", as[connectors.StreamGetter]},
	{"Mapper", as[connectors.Mapper]},
	{"Stater", as[connectors.Stater]},
	{"Waiter", as[connectors.Waiter]},
	{"Tagger", as[connectors.Tagger]},
	{"ClearCloser", as[connectors.ClearCloser]},
}

// AllCapabilities returns the names of all capabilities, for a Harness's Want.
func AllCapabilities() []string {
	var names []string
	for _, c := range capabilities {
		names = append(names, c.name)
	}
	return names
}

// wants reports whether a capability must be there and must work.
func (s *suite) wants(name string) bool { return slices.Contains(s.Want, name) }

// checkCapabilities compares what the connector has with Want.
func checkCapabilities(s *suite) {
	c := s.open()
	for _, name := range s.Want {
		if !slices.Contains(AllCapabilities(), strings.TrimSuffix(name, "?")) {
			s.Errorf("Want names %q, which is no capability; there are %s", name, strings.Join(AllCapabilities(), ", "))
		}
	}
	for _, k := range capabilities {
		_, has := k.has(c)
		switch {
		case slices.Contains(s.Want, k.name+"?"):
		case s.wants(k.name) && !has:
			s.Errorf("capability %s is lost: connectors.As does not find it, and Want names it", k.name)
		case !s.wants(k.name) && has:
			s.Errorf("capability %s is there and Want does not name it", k.name)
		}
	}
}

// group runs goroutines and turns their panics into failures of the test.
type group struct {
	s  *suite
	wg sync.WaitGroup
}

func (g *group) run(f func()) {
	g.wg.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				g.s.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		f()
	})
}

// kind is the short kind that the connector's errors must carry, "" if it is not a known one.
func kind(c connectors.Connector) string {
	k, _ := connectors.LookupKind(c.Config().Kind)
	return k.Kind
}

// isErr returns "" if err is the sentinel, and says which operation of this connector failed; else what is wrong with it.
func isErr(c connectors.Connector, err, sentinel error) string {
	if !errors.Is(err, sentinel) {
		return fmt.Sprintf("error is %v, want one that is %q", err, sentinel)
	}
	var oe *connectors.OpError
	if !errors.As(err, &oe) {
		return fmt.Sprintf("error %q carries no *OpError", err)
	}
	if oe.Op == "" || oe.Kind == "" {
		return fmt.Sprintf("error %q has Op %q and Kind %q", err, oe.Op, oe.Kind)
	}
	if k := kind(c); k != "" && oe.Kind != k {
		return fmt.Sprintf("error %q has Kind %q, want %q", err, oe.Kind, k)
	}
	return ""
}
