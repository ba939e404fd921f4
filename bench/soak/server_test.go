package soak

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
	_ "github.com/proxyplane/proxyplane/connectors/all"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/tcp"
	"github.com/proxyplane/proxyplane/transport/zmq"
)

// A kindOfServer is one transport of object servers.
type kindOfServer struct {
	conn   string                    // the connector
	addr   func(t *testing.T) string // where the server is to listen, for its first start
	listen func(addr string, store objects.Store) (objects.Server, error)
}

func loopback(*testing.T) string { return "tcp://127.0.0.1:0" }

var kindsOfServers = map[string]kindOfServer{
	"tcp": {"tcp", loopback, func(addr string, store objects.Store) (objects.Server, error) {
		return tcp.Listen(context.Background(), addr, store, tcp.ListenOptions{NoSameHost: true})
	}},
	"samehost": {"tcp", loopback, listenTCP},
	"unix":     {"tcp", func(t *testing.T) string { return "unix://" + filepath.Join(t.TempDir(), "s") }, listenTCP},
	"zmq": {"zmq", loopback, func(addr string, store objects.Store) (objects.Server, error) {
		return zmq.Listen(context.Background(), addr, store, zmq.ListenOptions{})
	}},
}

func namesOfServers() []string { return slices.Sorted(maps.Keys(kindsOfServers)) }

func listenTCP(addr string, store objects.Store) (objects.Server, error) {
	return tcp.Listen(context.Background(), addr, store, tcp.ListenOptions{})
}

func init() {
	children["serve"] = func() int {
		kind, addr, _ := strings.Cut(os.Getenv("SOAK_SERVE"), " ")
		return exitCode(serveChild(kindsOfServers[kind], addr))
	}
}

// serveChild serves until its input ends, or it is killed.
func serveChild(kind kindOfServer, addr string) error {
	table, err := objects.NewTable(objects.TableOptions{})
	if err != nil {
		return err
	}
	s, err := kind.listen(addr, table)
	if err != nil {
		return err
	}
	fmt.Println(s.Addr())
	io.Copy(io.Discard, os.Stdin)
	return errors.Join(s.Close(), table.Close())
}

// objectServer is such a process, which can be killed and started again at the same address.
type objectServer struct {
	kind kindOfServer
	name string
	addr string
	cmd  *exec.Cmd
	in   io.Closer
}

func startServer(t *testing.T, name string) *objectServer {
	t.Helper()
	s := &objectServer{kind: kindsOfServers[name], name: name}
	s.addr = s.kind.addr(t)
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	return s
}

func (s *objectServer) start() error {
	s.cmd = exec.Command(os.Args[0])
	s.cmd.Env = append(os.Environ(), childVar+"=serve", "SOAK_SERVE="+s.name+" "+s.addr)
	s.cmd.Stderr = os.Stderr
	in, err := s.cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return fmt.Errorf("the server did not start: %w, %w", err, s.cmd.Wait())
	}
	s.in, s.addr = in, strings.TrimSpace(line)
	return nil
}

func (s *objectServer) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
	s.in.Close()
}

// open returns a store whose objects are on the server.
func (s *objectServer) open(ctx context.Context) (*proxyplane.Store, error) {
	options := map[string]any{"timeout": 10.0, "connect_only": true, "connections": int64(1)}
	if strings.HasPrefix(s.addr, "unix://") {
		options["address"] = s.addr
	} else {
		host, port, err := net.SplitHostPort(strings.TrimPrefix(s.addr, "tcp://"))
		if err != nil {
			return nil, err
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			return nil, err
		}
		options["address"], options["port"] = host, int64(n)
	}
	return proxyplane.Open(ctx, proxyplane.NewConfig("", connectors.Config{Kind: s.kind.conn, Options: options}), proxyplane.WithStores(proxyplane.NewStores()),
		proxyplane.WithCacheBytes(0))
}

// withClients calls f with that many stores on a new server, and checks that everything is given back.
func withClients(t *testing.T, name string, clients int, f func(ctx context.Context, s *objectServer, stores []*proxyplane.Store)) {
	before := takeInventory()
	s := startServer(t, name)
	ctx := context.Background()
	var stores []*proxyplane.Store
	for range clients {
		st, err := s.open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		stores = append(stores, st)
	}
	f(ctx, s, stores)
	for _, st := range stores {
		if err := st.Close(ctx); err != nil {
			t.Error(err)
		}
	}
	s.kill()
	if !t.Failed() {
		before.compare(t)
	}
}

// TestManyClients lets 64 clients of one server get at once: 10,000 gets that all are under way before the first may end, of objects from nothing to
// megabytes, every byte of which is checked.
func TestManyClients(t *testing.T) {
	const clients, different = 64, 100
	for _, name := range namesOfServers() {
		t.Run("transport="+name, func(t *testing.T) {
			withClients(t, name, clients, func(ctx context.Context, _ *objectServer, stores []*proxyplane.Store) {
				rng := rand.New(rand.NewPCG(*seed, 7))
				var keys []proxyplane.Key
				for i := range different {
					size := rng.IntN(20_000)
					if i%20 == 0 {
						size = rng.IntN(2 << 20)
					}
					key, err := stores[i%clients].Put(ctx, sealed(uint64(i), 1, size))
					if err != nil {
						t.Fatal(err)
					}
					keys = append(keys, key)
				}
				for start := time.Now(); ; {
					var ready, done sync.WaitGroup
					begin := make(chan struct{})
					var wrong atomic.Int64
					ready.Add(gets)
					for i := range gets {
						done.Go(func() {
							ready.Done()
							<-begin
							id := i % different
							if err := getSealed(ctx, stores[i%clients], keys[id], uint64(id), 1); err != nil && wrong.Add(1) <= 3 {
								t.Errorf("get %d: %v", i, err)
							}
						})
					}
					ready.Wait()
					close(begin)
					done.Wait()
					if t.Failed() || time.Since(start) >= *duration {
						break
					}
				}
			})
		})
	}
}

// getSealed gets an object and checks every byte of it.
func getSealed(ctx context.Context, s *proxyplane.Store, key proxyplane.Key, id, version uint64) error {
	b, err := proxyplane.Get[*transport.Buffer](ctx, s, key)
	if err != nil {
		return err
	}
	defer b.Release()
	gotID, gotVersion, err := unseal(b.Bytes())
	if err == nil && (gotID != id || gotVersion != version) {
		err = fmt.Errorf("object %d, version %d, instead of %d, %d", gotID, gotVersion, id, version)
	}
	return err
}

// TestServerKilled kills and restarts a server again and again while 64 clients put, get and evict. Calls may fail, with ErrUnavailable; objects may
// be gone, as the server that had them is; but what comes back is right to the last byte, and every client goes on with the next server.
func TestServerKilled(t *testing.T) {
	t.Logf("-seed %d", *seed)
	const clients = 64
	for _, name := range namesOfServers() {
		t.Run("transport="+name, func(t *testing.T) {
			withClients(t, name, clients, func(ctx context.Context, s *objectServer, stores []*proxyplane.Store) {
				var lives atomic.Int64 // how often the server was killed
				var stop atomic.Bool
				var wg sync.WaitGroup
				loads := make([]load, clients)
				for i, st := range stores {
					loads[i] = load{s: st, rng: rand.New(rand.NewPCG(*seed, uint64(i))), lives: &lives, id: uint64(i) << 20}
					wg.Go(func() {
						for !stop.Load() && loads[i].err == nil {
							loads[i].err = loads[i].step(ctx)
						}
					})
				}
				rng := rand.New(rand.NewPCG(*seed, 99))
				for start := time.Now(); lives.Load() < 2 || time.Since(start) < orShort(time.Second)/2; {
					time.Sleep(50*time.Millisecond + time.Duration(rng.Int64N(int64(200*time.Millisecond))))
					lives.Add(1)
					s.kill()
					if err := s.start(); err != nil {
						t.Fatal(err)
					}
				}
				stop.Store(true)
				wg.Wait()
				var done, failed int
				for i := range loads {
					l := &loads[i]
					done, failed = done+l.done, failed+l.failed
					if l.err != nil {
						t.Errorf("client %d: %v", i, l.err)
						continue
					}
					// The server stays now: in the end everybody must get through.
					for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
						before := l.failed
						if l.err = l.step(ctx); l.err != nil || l.failed == before {
							break
						}
						if time.Now().After(deadline) {
							l.err = errors.New("it does not find the new server")
							break
						}
					}
					if l.err != nil {
						t.Errorf("client %d, after the last restart: %v", i, l.err)
					}
				}
				t.Logf("%d kills, %d operations, %d of which the server did not live to answer", lives.Load(), done, failed)
				if done == 0 {
					t.Error("nothing was done: this proves nothing")
				}
			})
		})
	}
}

// load is one client's work.
type load struct {
	s            *proxyplane.Store
	rng          *rand.Rand
	lives        *atomic.Int64
	id           uint64
	done, failed int
	err          error
}

// step puts an object, gets it twice and evicts it. It returns what must not happen.
func (l *load) step(ctx context.Context) error {
	l.id++
	size := l.rng.IntN(50_000)
	if l.rng.IntN(20) == 0 {
		size = l.rng.IntN(3 << 20)
	}
	life := l.lives.Load()
	key, err := l.s.Put(ctx, sealed(l.id, 1, size))
	if err != nil {
		return l.expected(err)
	}
	l.done++
	for range 2 {
		err := getSealed(ctx, l.s, key, l.id, 1)
		if errors.Is(err, proxyplane.ErrNotFound) && l.lives.Load() != life {
			return nil // its server is gone
		}
		if err != nil {
			return l.expected(err)
		}
		l.done++
	}
	if err := l.s.Evict(ctx, key); err != nil {
		return l.expected(err)
	}
	l.done++
	return nil
}

func (l *load) expected(err error) error {
	if l.failed++; errors.Is(err, connectors.ErrUnavailable) {
		return nil
	}
	return err
}
