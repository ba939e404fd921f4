package soak

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/retry"
	"github.com/proxyplane/proxyplane/internal/redistest"
	"github.com/proxyplane/proxyplane/internal/testenv"
	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/transport"
)

// A kindOfStore is one way to build a store; all of them must give the same answers.
type kindOfStore struct {
	name  string
	cfg   func(t *testing.T) connectors.Config
	opts  []proxyplane.Option
	count func(t *testing.T, s *proxyplane.Store) int // objects that are there; nil if the storage cannot be listed
}

func localStore(*testing.T) connectors.Config { return proxyplane.LocalConnector() }

func fileStore(t *testing.T) connectors.Config { return proxyplane.FileConnector(t.TempDir()) }

// multiStore keeps small objects in memory and large ones in files.
func multiStore(t *testing.T) connectors.Config {
	f := proxyplane.FileConnector(t.TempDir())
	return connectors.Config{Kind: "multi", Options: map[string]any{
		"small": []any{"local", map[string]any{}, map[string]any{"priority": int64(1), "max_size_bytes": int64(4000)}},
		"large": []any{f.Kind, f.Options, map[string]any{}},
	}}
}

func redisStore(t *testing.T) connectors.Config {
	testenv.Redis(t)
	srv := redistest.Start(t)
	return proxyplane.RedisConnector(srv.Host, srv.Port)
}

var kindsOfStores = []kindOfStore{
	{name: "conn=local/cache=default", cfg: localStore},
	{name: "conn=local/cache=off", cfg: localStore, opts: uncached},
	{name: "conn=file/cache=default", cfg: fileStore, count: countFiles},
	{name: "conn=file/cache=tiny", cfg: fileStore, opts: []proxyplane.Option{proxyplane.WithCacheBytes(64 << 10)}, count: countFiles},
	{name: "conn=file/cache=off", cfg: fileStore, opts: uncached, count: countFiles},
	{name: "conn=file/retry+metrics", cfg: fileStore, opts: []proxyplane.Option{proxyplane.WithMetrics(), withRetry}, count: countFiles},
	{name: "conn=multi/cache=default", cfg: multiStore},
	{name: "conn=multi/cache=off", cfg: multiStore, opts: uncached},
	{name: "conn=redis/cache=default", cfg: redisStore},
}

var (
	uncached  = []proxyplane.Option{proxyplane.WithCacheBytes(0)}
	withRetry = proxyplane.WithDecorator(func(c connectors.Connector) connectors.Connector { return retry.Wrap(c, retry.Policy{}) })
)

// countFiles counts the objects in a file store's directory and fails if anything else is there.
func countFiles(t *testing.T, s *proxyplane.Store) int {
	dir := s.Config().Connector.Options["store_dir"].(string)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		other, marker := strings.CutSuffix(e.Name(), ".ready")
		if !marker {
			other, n = e.Name()+".ready", n+1
		}
		if _, err := os.Lstat(filepath.Join(dir, other)); err != nil {
			t.Errorf("%s is left in the store's directory without %s", e.Name(), other)
		}
	}
	return n
}

// TestSameAnswers runs one seeded history on every kind of store. Each answer is compared with the model's, and all answers of one store with
// those of the first.
func TestSameAnswers(t *testing.T) {
	t.Logf("-seed %d", *seed)
	var first []string
	for _, k := range kindsOfStores {
		t.Run(k.name, func(t *testing.T) {
			var answers []string
			withStore(t, k, func(ctx context.Context, s *proxyplane.Store, stores *proxyplane.Stores) int {
				a := newActor(s, stores, *seed, 0)
				for range steps() {
					line, err := a.step(ctx)
					answers = append(answers, line)
					if err != nil {
						t.Errorf("%v; the last operations were\n%s", err, strings.Join(answers[max(0, len(answers)-20):], "\n"))
						break
					}
				}
				return len(a.live)
			})
			if first == nil {
				first = answers
			}
			for i := range min(len(first), len(answers)) {
				if first[i] != answers[i] {
					t.Fatalf("operation %d: %s, and on the first store %s", i, answers[i], first[i])
				}
			}
		})
	}
}

// steps is how many operations a history has: as many as -for allows at a modest rate.
func steps() int {
	if *duration > 0 {
		return int(*duration/time.Second) * 200
	}
	return 400
}

// TestManyGoroutines lets many goroutines work on one store, each with keys of its own, whose answers must be the model's, and with keys that
// all of them read and some evict, whose answers must be the object or nothing.
func TestManyGoroutines(t *testing.T) {
	t.Logf("-seed %d", *seed)
	for _, k := range kindsOfStores {
		t.Run(k.name, func(t *testing.T) {
			withStore(t, k, func(ctx context.Context, s *proxyplane.Store, stores *proxyplane.Stores) int {
				const goroutines = 16
				deadline := time.Now().Add(orShort(900*time.Millisecond) / time.Duration(len(kindsOfStores)))
				common := &commons{}
				actors := make([]*actor, goroutines)
				var wg sync.WaitGroup
				for i := range actors {
					a := newActor(s, stores, *seed, uint64(i))
					a.common = common
					actors[i] = a
					wg.Go(func() {
						for a.steps == 0 || time.Now().Before(deadline) {
							if line, err := a.step(ctx); err != nil {
								t.Errorf("goroutine %d, operation %d, %s: %v", i, a.steps, line, err)
								return
							}
						}
					})
				}
				wg.Wait()
				live, steps := len(common.objects), 0
				for _, a := range actors {
					live += len(a.live)
					steps += a.steps
				}
				t.Logf("%d operations, %d objects at the end", steps, live)
				return live
			})
		})
	}
}

// withStore calls f with a store, and fails if f's number of objects is not what is there afterwards, or anything is not given back.
func withStore(t *testing.T, k kindOfStore, f func(ctx context.Context, s *proxyplane.Store, stores *proxyplane.Stores) int) {
	cfg := k.cfg(t)
	before := takeInventory()
	ctx := context.Background()
	stores := proxyplane.NewStores()
	s, err := proxyplane.Open(ctx, proxyplane.NewConfig("", cfg), append([]proxyplane.Option{proxyplane.WithStores(stores)}, k.opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	want := f(ctx, s, stores)
	if k.count != nil && !t.Failed() {
		if n := k.count(t, s); n != want {
			t.Errorf("%d objects are there at the end, the model has %d", n, want)
		}
	}
	if err := errors.Join(stores.Close(ctx), s.Close(ctx)); err != nil {
		t.Error(err)
	}
	before.compare(t)
}

// object is what the model knows of one object.
type object struct {
	key   proxyplane.Key
	value any
	canon string
	body  []byte // encoded, without the tag
}

// commons are objects that all actors share.
type commons struct {
	mu      sync.Mutex
	objects []object
}

// An actor makes random operations and knows the right answers.
type actor struct {
	s      *proxyplane.Store
	stores *proxyplane.Stores
	rng    *rand.Rand
	common *commons // nil: alone
	live   []object
	dead   []object // evicted
	steps  int
}

func newActor(s *proxyplane.Store, stores *proxyplane.Stores, seed, n uint64) *actor {
	return &actor{s: s, stores: stores, rng: rand.New(rand.NewPCG(seed, n))}
}

// operations by name; an answer is what the caller saw, without keys, which are random. An error is a wrong answer.
var operations = []struct {
	name   string
	weight int
	run    func(a *actor, ctx context.Context) (answer string, err error)
}{
	{"put", 6, (*actor).put},
	{"put reader", 3, (*actor).putReader},
	{"put batch", 2, (*actor).putBatch},
	{"get", 8, (*actor).get},
	{"get buffer", 4, (*actor).getBuffer},
	{"get wrong type", 2, (*actor).getWrongType},
	{"get batch", 3, (*actor).getBatch},
	{"get missing", 3, (*actor).getMissing},
	{"range", 6, (*actor).getRange},
	{"open reader", 3, (*actor).openReader},
	{"evict", 4, (*actor).evict},
	{"proxy", 4, (*actor).proxy},
	{"proxy that evicts", 2, (*actor).evictingProxy},
	{"proxy of evicted", 1, (*actor).deadProxy},
	{"future", 2, (*actor).future},
	{"future timeout", 1, (*actor).futureTimeout},
	{"owned", 2, (*actor).owned},
	{"lifetime", 1, (*actor).lifetime},
	{"failing reader", 1, (*actor).failingReader},
	{"wrong key", 1, (*actor).wrongKey},
	{"common", 4, (*actor).useCommon},
}

// step makes one operation and returns a line for the history.
func (a *actor) step(ctx context.Context) (string, error) {
	a.steps++
	total := 0
	for _, op := range operations {
		total += op.weight
	}
	n := a.rng.IntN(total)
	for _, op := range operations {
		if n -= op.weight; n < 0 {
			answer, err := op.run(a, ctx)
			for err == nil && len(a.live) > 50 { // bounded, whatever -for is
				_, err = a.evict(ctx)
			}
			if err != nil {
				err = fmt.Errorf("%s: %w", op.name, err)
			}
			return op.name + ": " + answer, err
		}
	}
	panic("unreachable")
}

// sizes are those at which something changes: empty, inline, one page, the file connector's mappings, and nothing in particular.
var sizes = []int{0, 1, 3, 100, 1000, 4093, 4096, 4097, 50_000, 256<<10 - 3, 256<<10 + 1, 1 << 20}

func (a *actor) data() []byte {
	n := sizes[a.rng.IntN(len(sizes))]
	if n >= 50_000 && a.rng.IntN(4) > 0 {
		n = a.rng.IntN(5000)
	}
	b := make([]byte, n)
	fill(b, a.rng.Int64N(1<<40))
	return b
}

func (a *actor) text() string {
	return fmt.Sprintf("%x κόσμε", a.data()[:0]) + strings.Repeat("x", a.rng.IntN(300))
}

// value returns a random value. Nothing in it is ever changed, since proxies may keep it.
func (a *actor) value() any {
	switch a.rng.IntN(7) {
	case 0:
		return a.text()
	case 1:
		return a.rng.Int64() - a.rng.Int64()
	case 2:
		return map[string]any{"n": a.rng.Int64N(100), "s": a.text(), "l": []any{int64(1), "two", 3.5, nil, true}, "b": a.data()}
	case 3:
		return []any{a.rng.NormFloat64(), a.text(), []any{}}
	case 4:
		data := make([]float64, a.rng.IntN(3000))
		for i := range data {
			data[i] = a.rng.Float64()
		}
		return must(serialize.NewArray(data[:len(data)/2*2], len(data)/2, 2))
	}
	return a.data()
}

// canonical describes a value so that equal values, whichever way they travelled, have equal descriptions.
func canonical(v any) string {
	switch v := v.(type) {
	case []byte:
		return fmt.Sprintf("bytes[%d] %x", len(v), xxhash.Sum64(v))
	case string:
		return fmt.Sprintf("str[%d] %x", len(v), xxhash.Sum64String(v))
	case *serialize.Array:
		defer v.Release()
		return fmt.Sprintf("%s%v %x", v.DType, v.Shape, xxhash.Sum64(v.Bytes()))
	case map[string]any:
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, k+"="+canonical(v[k]))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case []any:
		var parts []string
		for _, e := range v {
			parts = append(parts, canonical(e))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return fmt.Sprint(v)
}

// class is an error as a caller can tell it.
func class(err error) string {
	for _, c := range []struct {
		name string
		err  error
	}{
		{"not found", proxyplane.ErrNotFound}, {"wrong type", serialize.ErrType}, {"invalid range", connectors.ErrInvalidRange},
		{"invalid key", connectors.ErrInvalidKey}, {"lifetime ended", proxyplane.ErrLifetimeEnded}, {"borrowed", proxyplane.ErrBorrowed},
		{"reader failed", iotest.ErrTimeout},
	} {
		if errors.Is(err, c.err) {
			return c.name
		}
	}
	return fmt.Sprint(err)
}

// expect compares an answer with the model's.
func expect(got, want string) (string, error) {
	if got != want {
		return got, fmt.Errorf("answer %q, expected %q", got, want)
	}
	return got, nil
}

// fails compares the class of an error with the model's.
func fails(err error, want string) (string, error) { return expect(class(err), want) }

// add has the model take an object that was put under key.
func (a *actor) add(key proxyplane.Key, v any) (object, error) {
	enc, err := serialize.Encode(v)
	if err != nil {
		return object{}, err
	}
	o := object{key: key, value: v, canon: canonical(v), body: enc.Join()[serialize.TagLen:]}
	a.live = append(a.live, o)
	return o, nil
}

// pick returns a live object, putting one if there is none.
func (a *actor) pick(ctx context.Context) (object, error) {
	if len(a.live) == 0 {
		if _, err := a.put(ctx); err != nil {
			return object{}, err
		}
	}
	return a.live[a.rng.IntN(len(a.live))], nil
}

// take removes a live object from the model, which remembers it among the dead.
func (a *actor) take(ctx context.Context) (object, error) {
	o, err := a.pick(ctx)
	if err != nil {
		return o, err
	}
	i := slices.IndexFunc(a.live, func(p object) bool { return p.key == o.key })
	a.live = slices.Delete(a.live, i, i+1)
	a.bury(o)
	return o, nil
}

func (a *actor) bury(o object) {
	a.dead = append(a.dead, o)
	if len(a.dead) > 20 {
		a.dead = slices.Delete(a.dead, 0, 1)
	}
}

func (a *actor) put(ctx context.Context) (string, error) {
	v := a.value()
	key, err := a.s.Put(ctx, v)
	if err != nil {
		return "", err
	}
	o, err := a.add(key, v)
	return o.canon, err
}

func (a *actor) putReader(ctx context.Context) (string, error) {
	data := a.data()
	size := int64(len(data))
	if a.rng.IntN(2) == 0 {
		size = -1
	}
	var r io.Reader = bytes.NewReader(data)
	if a.rng.IntN(2) == 0 {
		r = iotest.HalfReader(r)
	}
	key, err := a.s.PutReader(ctx, r, size)
	if err != nil {
		return "", err
	}
	o, err := a.add(key, data)
	return o.canon, err
}

// failingReader: what cannot be read to its end leaves nothing, and no other number of bytes than announced is taken.
func (a *actor) failingReader(ctx context.Context) (string, error) {
	data := a.data()
	_, err := a.s.PutReader(ctx, io.MultiReader(bytes.NewReader(data), iotest.ErrReader(iotest.ErrTimeout)), -1)
	if answer, err := fails(err, "reader failed"); err != nil {
		return answer, err
	}
	if _, err = a.s.PutReader(ctx, bytes.NewReader(data), int64(len(data))+1); err == nil {
		return "", errors.New("a reader with too few bytes was taken")
	}
	return "refused", nil
}

func (a *actor) putBatch(ctx context.Context) (string, error) {
	values := make([]any, a.rng.IntN(6))
	for i := range values {
		values[i] = a.value()
	}
	keys, err := a.s.PutBatch(ctx, values)
	if err != nil {
		return "", err
	}
	var canons []string
	for i, v := range values {
		o, err := a.add(keys[i], v)
		if err != nil {
			return "", err
		}
		canons = append(canons, o.canon)
	}
	return strings.Join(canons, "; "), nil
}

func (a *actor) get(ctx context.Context) (string, error) {
	o, err := a.pick(ctx)
	if err != nil {
		return "", err
	}
	if ok, err := a.s.Exists(ctx, o.key); err != nil || !ok {
		return "", fmt.Errorf("exists: %v, %w", ok, err)
	}
	v, err := a.s.Get(ctx, o.key)
	if err != nil {
		return "", err
	}
	return expect(canonical(v), o.canon)
}

func (a *actor) getBuffer(ctx context.Context) (string, error) {
	o, err := a.pick(ctx)
	if err != nil {
		return "", err
	}
	var b *transport.Buffer
	if _, isBytes := o.value.([]byte); isBytes && a.rng.IntN(2) == 0 {
		b, err = proxyplane.Get[*transport.Buffer](ctx, a.s, o.key)
	} else if b, err = a.s.GetObject(ctx, o.key); err == nil {
		whole := b
		b = whole.Slice(serialize.TagLen, whole.Len()-serialize.TagLen)
		whole.Release()
	}
	if err != nil {
		return "", err
	}
	defer b.Release()
	return expect(canonical(b.Bytes()), canonical(o.body))
}

func (a *actor) getWrongType(ctx context.Context) (string, error) {
	o, err := a.pick(ctx)
	if err != nil {
		return "", err
	}
	_, err = proxyplane.Get[struct{ NoSuchField complex128 }](ctx, a.s, o.key)
	if _, isMap := o.value.(map[string]any); isMap { // whose other fields may be ignored
		return "", nil
	}
	return fails(err, "wrong type")
}

func (a *actor) getBatch(ctx context.Context) (string, error) {
	var keys []proxyplane.Key
	var want, got []string
	anyDead := false
	for range a.rng.IntN(6) {
		o, err := a.pick(ctx)
		if err != nil {
			return "", err
		}
		if len(a.dead) > 0 && a.rng.IntN(4) == 0 {
			o, anyDead = a.dead[a.rng.IntN(len(a.dead))], true
			o.canon = canonical(nil)
		}
		keys, want = append(keys, o.key), append(want, o.canon)
	}
	values, err := a.s.GetBatch(ctx, keys)
	if errors.Is(err, proxyplane.ErrNotFound) != anyDead || err != nil && !anyDead {
		return "", fmt.Errorf("error of a batch with evicted objects (%v): %w", anyDead, err)
	}
	for _, v := range values {
		got = append(got, canonical(v))
	}
	return expect(strings.Join(got, "; "), strings.Join(want, "; "))
}

func (a *actor) getMissing(ctx context.Context) (string, error) {
	if len(a.dead) == 0 {
		return "", nil
	}
	o := a.dead[a.rng.IntN(len(a.dead))]
	if ok, err := a.s.Exists(ctx, o.key); err != nil || ok {
		return "", fmt.Errorf("exists after evict: %v, %w", ok, err)
	}
	if err := a.s.Evict(ctx, o.key); err != nil {
		return "", err
	}
	if _, err := a.s.GetRange(ctx, o.key, 0, 1); class(err) != "not found" {
		return "", fmt.Errorf("range: %w", err)
	}
	if _, err := a.s.OpenReader(ctx, o.key); class(err) != "not found" {
		return "", fmt.Errorf("reader: %w", err)
	}
	if _, err := proxyplane.Get[*transport.Buffer](ctx, a.s, o.key); class(err) != "not found" {
		return "", fmt.Errorf("view: %w", err)
	}
	_, err := a.s.Get(ctx, o.key)
	return fails(err, "not found")
}

func (a *actor) getRange(ctx context.Context) (string, error) {
	o, err := a.pick(ctx)
	if err != nil {
		return "", err
	}
	size := int64(len(o.body))
	off := []int64{0, 1, size / 2, size - 1, size, size + 1, -1, a.rng.Int64N(size + 1)}[a.rng.IntN(8)]
	n := []int64{-1, 0, 1, 7, size, size + 1, 1 << 62, a.rng.Int64N(size + 1)}[a.rng.IntN(8)]
	b, err := a.s.GetRange(ctx, o.key, off, n)
	if off < 0 || off > size {
		return fails(err, "invalid range")
	}
	if err != nil {
		return "", fmt.Errorf("%d bytes from %d of %d: %w", n, off, size, err)
	}
	defer b.Release()
	if n < 0 || n > size-off {
		n = size - off
	}
	return expect(canonical(b.Bytes()), canonical(o.body[off:off+n]))
}

func (a *actor) openReader(ctx context.Context) (answer string, err error) {
	o, err := a.pick(ctx)
	if err != nil {
		return "", err
	}
	r, err := a.s.OpenReader(ctx, o.key)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if r.Size() != int64(len(o.body)) {
		return "", fmt.Errorf("the reader's size is %d, not %d", r.Size(), len(o.body))
	}
	head := make([]byte, a.rng.IntN(min(len(o.body), 5000)+1))
	if _, err := io.ReadFull(r, head); err != nil {
		return "", err
	}
	if a.rng.IntN(4) == 0 { // closed before the end
		return expect(canonical(head), canonical(o.body[:len(head)]))
	}
	data := bytes.NewBuffer(head)
	if _, err := io.Copy(data, r); err != nil {
		return "", err
	}
	return expect(canonical(data.Bytes()), canonical(o.body))
}

func (a *actor) evict(ctx context.Context) (string, error) {
	o, err := a.take(ctx)
	if err != nil {
		return "", err
	}
	return o.canon, a.s.Evict(ctx, o.key)
}

// travel sends a proxy through one of its forms.
func (a *actor) travel(p *proxyplane.Proxy[any]) (*proxyplane.Proxy[any], error) {
	form := []func() ([]byte, error){p.MarshalJSON, p.MarshalText, p.MarshalBinary, func() ([]byte, error) { return p.Pickle() }}[a.rng.IntN(4)]
	data, err := form()
	if err != nil {
		return nil, err
	}
	q, err := proxyplane.ParseProxy[any](data)
	if err == nil {
		q.Bind(a.stores)
	}
	return q, err
}

func (a *actor) proxy(ctx context.Context) (string, error) {
	v := a.value()
	p, err := proxyplane.NewProxy(ctx, a.s, v, proxyplane.Populate(a.rng.IntN(2) == 0))
	if err != nil {
		return "", err
	}
	o, err := a.add(p.Key(), v)
	if err != nil {
		return "", err
	}
	q, err := a.travel(p)
	if err != nil {
		return "", err
	}
	for _, p := range []*proxyplane.Proxy[any]{p, q} {
		got, err := p.Resolve(ctx)
		if err != nil {
			return "", err
		}
		if answer, err := expect(canonical(got), o.canon); err != nil {
			return answer, err
		}
	}
	part, err := q.ReadRange(ctx, 0, 5)
	if err != nil {
		return "", err
	}
	defer part.Release()
	return expect(canonical(part.Bytes()), canonical(o.body[:min(5, len(o.body))]))
}

// evictingProxy: resolving takes the object from the store, and only the first time needs it.
func (a *actor) evictingProxy(ctx context.Context) (string, error) {
	v := a.value()
	p, err := proxyplane.NewProxy(ctx, a.s, v, proxyplane.Evict(), proxyplane.Populate(false))
	if err != nil {
		return "", err
	}
	o, err := a.add(p.Key(), v)
	if err != nil {
		return "", err
	}
	a.live = a.live[:len(a.live)-1]
	a.bury(o)
	q, err := a.travel(p)
	if err != nil {
		return "", err
	}
	var wg sync.WaitGroup
	answers := make([]error, 3)
	for i := range answers { // at once: one of them fetches, all get it
		wg.Go(func() {
			got, err := q.Resolve(ctx)
			if err == nil {
				_, err = expect(canonical(got), o.canon)
			}
			answers[i] = err
		})
	}
	wg.Wait()
	if err := errors.Join(answers...); err != nil {
		return "", err
	}
	if ok, err := a.s.Exists(ctx, o.key); err != nil || ok {
		return "", fmt.Errorf("exists after evict on resolve: %v, %w", ok, err)
	}
	_, err = p.Resolve(ctx)
	return fails(err, "not found")
}

func (a *actor) deadProxy(ctx context.Context) (string, error) {
	if len(a.dead) == 0 {
		return "", nil
	}
	p, err := proxyplane.ProxyFromKey[any](a.s, a.dead[a.rng.IntN(len(a.dead))].key)
	if err != nil {
		return "", err
	}
	_, err = p.Resolve(ctx)
	return fails(err, "not found")
}

// future: who waits gets the value, by a proxy that travelled before there was one.
func (a *actor) future(ctx context.Context) (string, error) {
	f, err := proxyplane.NewFuture[any](ctx, a.s, proxyplane.Polling{Timeout: time.Minute, Interval: time.Millisecond})
	if err != nil {
		return "", err
	}
	p, err := a.travel(f.Proxy())
	if err != nil {
		return "", err
	}
	if done, err := f.Done(ctx); err != nil || done {
		return "", fmt.Errorf("done before Set: %v, %w", done, err)
	}
	v := a.value()
	got := make(chan string, 1)
	waiting := a.rng.IntN(2) == 0
	if waiting {
		go func() {
			v, err := p.Resolve(ctx)
			if err != nil {
				v = err
			}
			got <- canonical(v)
		}()
	}
	if err := f.Set(ctx, v); err != nil {
		return "", err
	}
	o, err := a.add(f.Key(), v)
	if err != nil {
		return "", err
	}
	if waiting {
		if answer, err := expect(<-got, o.canon); err != nil {
			return answer, err
		}
	}
	w, err := f.Result(ctx)
	if err != nil {
		return "", err
	}
	return expect(canonical(w), o.canon)
}

func (a *actor) futureTimeout(ctx context.Context) (string, error) {
	f, err := proxyplane.NewFuture[any](ctx, a.s, proxyplane.Polling{Timeout: time.Millisecond})
	if err != nil {
		return "", err
	}
	_, err = f.Result(ctx)
	return fails(err, "not found")
}

// owned: an owner's object changes and is borrowed by the rules, and goes with its owner.
func (a *actor) owned(ctx context.Context) (string, error) {
	v, w := a.value(), any(a.text()) // a small one, for which a multi connector need not choose another child
	o, err := proxyplane.NewOwned(ctx, a.s, v)
	if err != nil {
		return "", err
	}
	defer o.Close(ctx) // again, or after an error
	ref, err := o.Borrow()
	if err != nil {
		return "", err
	}
	got, err := ref.Resolve(ctx)
	if err != nil {
		return "", err
	}
	if answer, err := expect(canonical(got), canonical(v)); err != nil {
		return answer, err
	}
	if answer, err := fails(o.Update(ctx, w), "borrowed"); err != nil {
		return answer, err
	}
	ref.Release()
	if err := o.Update(ctx, w); err != nil {
		return "", err
	}
	stored, err := a.s.Get(ctx, o.Key()) // not what was cached before
	if err != nil {
		return "", err
	}
	if answer, err := expect(canonical(stored), canonical(w)); err != nil {
		return answer, err
	}
	if a.rng.IntN(2) == 0 {
		if _, err := o.Release(); err != nil {
			return "", err
		}
		_, err := a.add(o.Key(), w)
		return canonical(w), err
	}
	if err := o.Close(ctx); err != nil {
		return "", err
	}
	_, err = a.s.Get(ctx, o.Key())
	return fails(err, "not found")
}

func (a *actor) lifetime(ctx context.Context) (string, error) {
	l := proxyplane.ContextLifetime(ctx)
	defer l.Close(ctx)
	var keys []proxyplane.Key
	for range 1 + a.rng.IntN(3) {
		key, err := a.s.Put(ctx, a.value(), proxyplane.InLifetime(l))
		if err != nil {
			return "", err
		}
		keys = append(keys, key)
	}
	if err := l.Close(ctx); err != nil {
		return "", err
	}
	for _, key := range keys {
		if _, err := a.s.Get(ctx, key); class(err) != "not found" {
			return "", fmt.Errorf("after the lifetime: %w", err)
		}
	}
	_, err := a.s.Put(ctx, a.value(), proxyplane.InLifetime(l))
	return fails(err, "lifetime ended")
}

func (a *actor) wrongKey(ctx context.Context) (string, error) {
	for _, key := range []proxyplane.Key{nil, connectors.NewGlobusKey("f"), connectors.MultiKey{ConnectorName: "none", ConnectorKey: connectors.FileKey{Filename: "f"}}} {
		if _, err := a.s.Get(ctx, key); class(err) != "invalid key" {
			return "", fmt.Errorf("get with key %s: %w", connectors.FormatKey(key), err)
		}
		if err := a.s.Evict(ctx, key); class(err) != "invalid key" {
			return "", fmt.Errorf("evict with key %s: %w", connectors.FormatKey(key), err)
		}
	}
	return "refused", nil
}

// useCommon reads, puts or evicts an object that others read, put and evict at the same time.
func (a *actor) useCommon(ctx context.Context) (string, error) {
	if a.common == nil {
		return "", nil
	}
	a.common.mu.Lock()
	objects := slices.Clone(a.common.objects)
	a.common.mu.Unlock()
	what := a.rng.IntN(20)
	switch {
	case len(objects) == 0 || what < 4 && len(objects) < 50:
		v := a.value()
		key, err := a.s.Put(ctx, v)
		if err != nil {
			return "", err
		}
		o, err := a.add(key, v)
		a.live = a.live[:len(a.live)-1]
		a.common.mu.Lock()
		a.common.objects = append(a.common.objects, o)
		a.common.mu.Unlock()
		return "put", err
	case what < 7:
		o := objects[a.rng.IntN(len(objects))]
		a.common.mu.Lock()
		a.common.objects = slices.DeleteFunc(a.common.objects, func(p object) bool { return p.key == o.key })
		a.common.mu.Unlock()
		return "evict", a.s.Evict(ctx, o.key)
	}
	o := objects[a.rng.IntN(len(objects))]
	if _, isBytes := o.value.([]byte); isBytes && what < 13 {
		b, err := proxyplane.Get[*transport.Buffer](ctx, a.s, o.key)
		if err != nil {
			return fails(err, "not found")
		}
		defer b.Release()
		return expect(canonical(b.Bytes()), o.canon)
	}
	v, err := a.s.Get(ctx, o.key)
	if err != nil {
		return fails(err, "not found")
	}
	return expect(canonical(v), o.canon)
}
