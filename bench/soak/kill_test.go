package soak

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/file"
)

// TestKill kills a process again and again while it puts, streams, sets, updates and evicts. Whatever it had acknowledged must be whole in a new
// process that has nothing but the proxies, whatever it had evicted gone, and nothing torn visible at all.
func TestKill(t *testing.T) {
	t.Logf("-seed %d", *seed)
	for _, c := range []struct {
		kind string
		cfg  func(dir string) connectors.Config
	}{{"file", proxyplane.FileConnector}, {"multi", multiFile}} {
		t.Run("conn="+c.kind, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(*seed, 1))
			rounds, acked := 0, 0
			for start := time.Now(); rounds == 0 || time.Since(start) < orShort(time.Second)/2; rounds++ {
				n, err := killRound(t, c.cfg, rng)
				if err != nil {
					t.Fatalf("round %d: %v", rounds, err)
				}
				acked += n
			}
			t.Logf("%d kills, %d acknowledged operations", rounds, acked)
			if acked == 0 {
				t.Error("nothing was acknowledged before any kill: this proves nothing")
			}
		})
	}
}

// An ack is a line that the writer prints: before an operation that changes an object ("begin") and after one that is done.
type ack struct {
	Done    bool
	Proxy   string // the proxy as text
	ID      uint64
	Version uint64 // 0: evicted
}

// A record is what the acks of one object add up to.
type record struct {
	Proxy         string
	ID            uint64
	Least, Most   uint64 // versions that it may have now
	Gone, MayGone bool
}

// killRound runs a writer on a new directory, kills it and has what it left checked.
func killRound(t *testing.T, cfg func(dir string) connectors.Config, rng *rand.Rand) (int, error) {
	dir, err := os.MkdirTemp(t.TempDir(), "round-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	config, err := json.Marshal(cfg(dir))
	if err != nil {
		return 0, err
	}
	env := append(os.Environ(), "SOAK_CONFIG="+string(config), "SOAK_DIR="+dir, fmt.Sprint("SOAK_SEED=", rng.Uint64()))

	writer := exec.Command(os.Args[0])
	writer.Env, writer.Stderr = append(env, childVar+"=write"), os.Stderr
	out, err := writer.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := writer.Start(); err != nil {
		return 0, err
	}
	var acks []ack
	var bad error
	lines := bufio.NewReaderSize(out, 1<<20)
	for first := true; ; first = false {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break // what the kill cut short was not acknowledged
		}
		if first {
			defer time.AfterFunc(time.Duration(rng.Int64N(int64(80*time.Millisecond))), func() { writer.Process.Kill() }).Stop()
		}
		var a ack
		if err := json.Unmarshal(line, &a); err != nil {
			bad = errors.Join(bad, fmt.Errorf("the writer says %q: %w", line, err))
			continue
		}
		acks = append(acks, a)
	}
	if writer.Wait(); writer.ProcessState.Exited() {
		return 0, fmt.Errorf("the writer ended by itself: %s", writer.ProcessState)
	}
	if bad != nil {
		return 0, bad
	}

	records := map[string]*record{}
	done := 0
	for _, a := range acks {
		r := records[a.Proxy]
		if r == nil {
			r = &record{Proxy: a.Proxy, ID: a.ID, MayGone: true} // not before its first version is done
			records[a.Proxy] = r
		}
		switch {
		case a.Done && a.Version == 0:
			r.Gone = true
		case a.Done:
			r.Least, r.Most, r.MayGone = a.Version, max(r.Most, a.Version), false
		case a.Version == 0:
			r.MayGone = true
		default:
			r.Most = a.Version
		}
		if a.Done {
			done++
		}
	}
	var stdin bytes.Buffer
	enc := json.NewEncoder(&stdin)
	for _, r := range records {
		if err := enc.Encode(r); err != nil {
			return 0, err
		}
	}
	checker := exec.Command(os.Args[0])
	checker.Env, checker.Stdin = append(env, childVar+"=check"), &stdin
	if out, err := checker.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("after a kill: %w\n%s", err, out)
	}
	return done, nil
}

func init() {
	children["write"] = func() int { return exitCode(writeChild(context.Background())) }
	children["check"] = func() int { return exitCode(checkChild(context.Background(), os.Stdin)) }
}

func exitCode(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func childStore(ctx context.Context) (*proxyplane.Store, error) {
	var cfg connectors.Config
	if err := json.Unmarshal([]byte(os.Getenv("SOAK_CONFIG")), &cfg); err != nil {
		return nil, err
	}
	return proxyplane.Open(ctx, proxyplane.NewConfig("", cfg))
}

// writeChild writes until it is killed.
func writeChild(ctx context.Context) error {
	s, err := childStore(ctx)
	if err != nil {
		return err
	}
	seed, err := strconv.ParseUint(os.Getenv("SOAK_SEED"), 10, 64)
	if err != nil {
		return err
	}
	const writers = 4
	errs := make(chan error, writers)
	var out sync.Mutex
	for i := range uint64(writers) {
		w := &killWriter{s: s, rng: rand.New(rand.NewPCG(seed, i)), out: &out, nextID: i << 32}
		go func() { errs <- w.run(ctx) }()
	}
	return <-errs
}

// killWriter is one goroutine of the writer.
type killWriter struct {
	s      *proxyplane.Store
	rng    *rand.Rand
	out    *sync.Mutex
	nextID uint64
	owners []*proxyplane.Owned[[]byte] // kept: a dropped owner evicts its object
}

func (w *killWriter) run(ctx context.Context) error {
	for {
		w.nextID++
		if err := w.step(ctx, w.nextID); err != nil {
			return err
		}
	}
}

// say prints a line, which is in the pipe, and so survives the kill, when say returns.
func (w *killWriter) say(done bool, key proxyplane.Key, id, version uint64) error {
	p, err := proxyplane.ProxyFromKey[[]byte](w.s, key)
	if err != nil {
		return err
	}
	text, err := p.MarshalText()
	if err != nil {
		return err
	}
	line, err := json.Marshal(ack{Done: done, Proxy: string(text), ID: id, Version: version})
	if err != nil {
		return err
	}
	w.out.Lock()
	defer w.out.Unlock()
	_, err = os.Stdout.Write(append(line, '\n'))
	return err
}

func (w *killWriter) size() int {
	if w.rng.IntN(8) == 0 {
		return w.rng.IntN(4 << 20)
	}
	return w.rng.IntN(64 << 10)
}

// versions is how often an object is replaced.
const versions = 4

func (w *killWriter) step(ctx context.Context, id uint64) error {
	var key proxyplane.Key
	var err error
	switch w.rng.IntN(5) {
	case 0:
		if key, err = w.s.Put(ctx, sealed(id, 1, w.size())); err != nil {
			return err
		}
	case 1:
		data := sealed(id, 1, w.size())
		size := int64(len(data))
		if w.rng.IntN(2) == 0 {
			size = -1
		}
		if key, err = w.s.PutReader(ctx, iotest.HalfReader(bytes.NewReader(data)), size); err != nil {
			return err
		}
	case 2:
		f, err := proxyplane.NewFuture[[]byte](ctx, w.s, proxyplane.Polling{})
		if err != nil {
			return err
		}
		return w.replace(f.Key(), id, 1, func(v []byte) error { return f.Set(ctx, v) })
	case 3:
		o, err := proxyplane.NewOwned(ctx, w.s, sealed(id, 1, w.size()))
		if err != nil {
			return err
		}
		w.owners = append(w.owners, o)
		if err := w.say(true, o.Key(), id, 1); err != nil {
			return err
		}
		return w.replace(o.Key(), id, 2, func(v []byte) error { return o.Update(ctx, v) })
	case 4:
		var batch []any
		for range 5 {
			batch = append(batch, sealed(id, 1, w.rng.IntN(10<<10)))
		}
		keys, err := w.s.PutBatch(ctx, batch)
		if err != nil {
			return err
		}
		for _, k := range keys {
			if err := w.say(true, k, id, 1); err != nil {
				return err
			}
		}
		return nil
	}
	if err := w.say(true, key, id, 1); err != nil || w.rng.IntN(2) == 0 {
		return err
	}
	if err := w.say(false, key, id, 0); err != nil {
		return err
	}
	if err := w.s.Evict(ctx, key); err != nil {
		return err
	}
	return w.say(true, key, id, 0)
}

// replace sets one version after another.
func (w *killWriter) replace(key proxyplane.Key, id, first uint64, set func([]byte) error) error {
	for v := first; v <= versions; v++ {
		if err := w.say(false, key, id, v); err != nil {
			return err
		}
		if err := set(sealed(id, v, w.size())); err != nil {
			return err
		}
		if err := w.say(true, key, id, v); err != nil {
			return err
		}
	}
	return nil
}

// checkChild resolves what the writer left, by its proxies, in a process that knows nothing else.
func checkChild(ctx context.Context, in io.Reader) error {
	var records []record
	for dec := json.NewDecoder(in); ; {
		var r record
		if err := dec.Decode(&r); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		records = append(records, r)
	}
	if err := checkRecords(ctx, records); err != nil {
		return err
	}

	// Whatever is visible must be whole, acknowledged or not.
	dir := os.Getenv("SOAK_DIR")
	c, err := file.New(file.Options{StoreDir: dir})
	if err != nil {
		return err
	}
	s, err := proxyplane.NewStore("", c)
	if err != nil {
		return err
	}
	markers, err := filepath.Glob(filepath.Join(dir, "*.ready"))
	if err != nil {
		return err
	}
	for _, m := range markers {
		name := strings.TrimSuffix(filepath.Base(m), ".ready")
		data, err := proxyplane.Get[[]byte](ctx, s, connectors.FileKey{Filename: name})
		if errors.Is(err, proxyplane.ErrNotFound) {
			continue // a marker alone: killed while evicting
		}
		if err == nil {
			_, _, err = unseal(data)
		}
		if err != nil {
			return fmt.Errorf("visible object %s: %w", name, err)
		}
	}

	// Sweep takes what the kill left and nobody sees, and nothing else.
	if _, err := c.Sweep(ctx, 0); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name := e.Name(); !strings.HasSuffix(name, ".ready") {
			if _, err := os.Lstat(filepath.Join(dir, name+".ready")); err != nil {
				return fmt.Errorf("after Sweep there is %s, but %w", name, err)
			}
		}
	}
	return errors.Join(checkRecords(ctx, records), s.Close(ctx))
}

// checkRecords resolves the records' proxies in Stores of their own.
func checkRecords(ctx context.Context, records []record) error {
	stores := proxyplane.NewStores()
	for _, r := range records {
		p, err := proxyplane.ParseProxy[[]byte]([]byte(r.Proxy))
		if err != nil {
			return err
		}
		p.Bind(stores)
		data, err := p.Resolve(ctx)
		if errors.Is(err, proxyplane.ErrNotFound) && (r.Gone || r.MayGone) {
			continue
		}
		if err != nil {
			return fmt.Errorf("acknowledged object %d: %w", r.ID, err)
		}
		if r.Gone {
			return fmt.Errorf("object %d is there, though its eviction was acknowledged", r.ID)
		}
		id, version, err := unseal(data)
		if err == nil && (id != r.ID || version < r.Least || version > r.Most) {
			err = fmt.Errorf("it is object %d, version %d", id, version)
		}
		if err != nil {
			return fmt.Errorf("object %d, versions %d to %d: %w", r.ID, r.Least, r.Most, err)
		}
	}
	return stores.Close(ctx)
}
