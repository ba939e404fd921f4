package peer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/endpoint/relay"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// hub is a relay in this process.
type hub struct {
	mu      sync.Mutex
	clients map[uuid.UUID]*hubClient
	down    bool
	since   time.Time
	filter  func(relay.PeerConnection) bool // false: it waits in held, or is lost
	held    []relay.PeerConnection
	sent    []relay.PeerConnection
}

func newHub() *hub {
	return &hub{clients: map[uuid.UUID]*hubClient{}, since: time.Now().Add(-time.Hour)}
}

type hubClient struct {
	h  *hub
	id uuid.UUID
	in chan relay.PeerConnection
}

func (h *hub) client(id uuid.UUID) *hubClient {
	c := &hubClient{h, id, make(chan relay.PeerConnection, 256)}
	h.mu.Lock()
	h.clients[id] = c
	h.mu.Unlock()
	return c
}

func (h *hub) remove(id uuid.UUID) {
	h.mu.Lock()
	delete(h.clients, id)
	h.mu.Unlock()
}

func (h *hub) setDown(down bool) {
	h.mu.Lock()
	h.down, h.since = down, time.Now()
	h.mu.Unlock()
}

// count returns how many messages of that kind one sent to the other.
func (h *hub) count(typ string, from, to uuid.UUID) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.sent {
		if m.DescriptionType == typ && m.SourceUUID == from && m.PeerUUID == to {
			n++
		}
	}
	return n
}

func (c *hubClient) Send(ctx context.Context, m relay.PeerConnection) error {
	for {
		c.h.mu.Lock()
		down := c.h.down
		c.h.mu.Unlock()
		if !down {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.NewTimer(5 * time.Millisecond).C:
		}
	}
	c.h.pass(m, true)
	return nil
}

func (h *hub) pass(m relay.PeerConnection, filtered bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if filtered {
		h.sent = append(h.sent, m)
		if h.filter != nil && !h.filter(m) {
			h.held = append(h.held, m)
			return
		}
	}
	to := h.clients[m.PeerUUID]
	if to == nil {
		m.Error = fmt.Sprintf("Cannot forward peer connection message to peer %s because this peer is not registered this relay server.", m.PeerUUID)
		if to = h.clients[m.SourceUUID]; to == nil {
			return
		}
	}
	select {
	case to.in <- m:
	default:
	}
}

// letGo delivers what was held.
func (h *hub) letGo() {
	h.mu.Lock()
	held := h.held
	h.held, h.filter = nil, nil
	h.mu.Unlock()
	for _, m := range held {
		h.pass(m, false)
	}
}

func (c *hubClient) Receive(ctx context.Context) (relay.PeerConnection, error) {
	select {
	case m := <-c.in:
		return m, nil
	case <-ctx.Done():
		return relay.PeerConnection{}, ctx.Err()
	}
}

func (c *hubClient) State() relay.ClientState {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	s := relay.ClientState{Connected: !c.h.down, Since: c.h.since}
	if c.h.down {
		s.Err = fmt.Errorf("%w: connection refused", transport.ErrUnavailable)
	}
	return s
}

func logger(t testing.TB, name string) *slog.Logger {
	if os.Getenv("PEER_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("m", name)
}

// node is a Manager with its Store.
type node struct {
	*Manager
	id    uuid.UUID
	store *objects.Table
}

func (n *node) put(t testing.TB, key string, size int) []byte {
	t.Helper()
	b := content(size)
	if err := n.store.Put(key, transport.FromBytes(bytes.Clone(b)), objects.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	return b
}

func content(size int) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8)})
	r.Read(b)
	return b
}

func newNode(t testing.TB, r Relay, id uuid.UUID, change func(*Options)) *node {
	t.Helper()
	store, err := objects.NewTable(objects.TableOptions{Memory: 512 << 20})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{UUID: id, Name: "node " + id.String()[:4], Relay: r, Store: store, Listen: "127.0.0.1:0", Loopback: true, Timeout: 15 * time.Second,
		Logger: logger(t, id.String()[:4])}
	if change != nil {
		change(&o)
	}
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{m, id, store}
	t.Cleanup(func() {
		began := time.Now()
		m.Close()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("Close took %v", took)
		}
		store.Close()
	})
	return n
}

// ids returns UUIDs in rising order.
func ids(n int) []uuid.UUID {
	var out []uuid.UUID
	for i := range n {
		u := uuid.New()
		u[0] = byte(0x10 * (i + 1))
		out = append(out, u)
	}
	return out
}

// pair returns two nodes on one hub; the first has the smaller UUID.
func pair(t testing.TB, change func(*Options)) (*hub, *node, *node) {
	t.Helper()
	h, id := newHub(), ids(2)
	return h, newNode(t, h.client(id[0]), id[0], change), newNode(t, h.client(id[1]), id[1], change)
}

func get(t testing.TB, ctx context.Context, from *node, peer uuid.UUID, key string, off, n int64) []byte {
	t.Helper()
	b, err := tryGet(ctx, from, peer, key, off, n)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func tryGet(ctx context.Context, from *node, peer uuid.UUID, key string, off, n int64) ([]byte, error) {
	r, err := from.Get(ctx, peer, key, off, n)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// checkLeaks fails the test if goroutines of this project outlive it. Call it first, so that it is checked last.
func checkLeaks(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		if left := leaked(); len(left) > 0 {
			t.Errorf("%d goroutines are left:\n%s", len(left), strings.Join(left, "\n\n"))
		}
	})
}

func leaked() (left []string) {
	for range 500 {
		if left = ours(); len(left) == 0 {
			break
		}
		time.Sleep(5 * time.Millisecond) // goroutines that are ending have no event to wait for
	}
	return left
}

func ours() (left []string) {
	buf := make([]byte, 4<<20)
	for i, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if i > 0 && (strings.Contains(g, "proxyplane/") || strings.Contains(g, "pion/") || strings.Contains(g, "quic-go")) && !strings.Contains(g, "testing.(*T).Run") &&
			!strings.Contains(g, "TestMain(") {
			left = append(left, g)
		}
	}
	return left
}

// until waits for something that has no event.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func (n *node) peer(id uuid.UUID) PeerStatus {
	for _, p := range n.Status().Peers {
		if p.UUID == id {
			return p
		}
	}
	return PeerStatus{}
}
