package faults

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

var here = site{}

// TestEndpointRelayRestart: transfers do not need the relay, nor do new requests to known peers; new peers are found once it is back.
func TestEndpointRelayRestart(t *testing.T) {
	t.Parallel()
	r := startRelay(t, here)
	a, b, c := startNode(t, here, r, "a"), startNode(t, here, r, "b", "--persist"), startNode(t, here, r, "c")
	data, other := content(1, large), content(2, large)
	b.mustPut("there", nil, data)
	a.comes("small", b, []byte("small"))
	c.connected()

	for _, end := range []func(){func() { r.kill() }, func() { r.stop() }} {
		get, put := a.download("there", b, data), a.upload("here", b, other)
		if err := get.take(1_000_000); err != nil {
			t.Fatal(err)
		}
		put.send(large / 5)
		end()
		a.mustGet("small", b, []byte("small")) // while the others wait
		put.send(large / 5)
		if err := get.rest(); err != nil {
			t.Errorf("a get ended with the relay: %v", err)
		}
		if got := put.finish(); got.code != 200 {
			t.Errorf("a put ended with the relay: %v", got)
		}
		b.mustGet("here", nil, other)
		a.mustPut("small", b, []byte("smaller"))
		eventually(t, "the relay's end", func() error {
			if s := a.status(); s.Relay.Connected || s.Relay.GaveUp || s.Relay.Error == "" {
				return fmt.Errorf("%+v", s.Relay)
			}
			return nil
		})
		contains(t, "status", a.statusText(), "not connected: relay: .*"+regexp.QuoteMeta(r.address))

		// A request to a peer that is not connected waits for the relay. It may fail, if its endpoint is back there before the peer is.
		found := make(chan answer)
		go func() { found <- c.put("c", a, []byte("from c")) }()
		r.again()
		if got := <-found; got.code != 200 && (got.code != 500 || !strings.Contains(got.text, "is not registered")) {
			t.Errorf("after the relay's restart: %v", got)
		}
		a.connected()
		b.connected()
		c.comes("c", a, []byte("from c"))
		a.mustGet("c", nil, []byte("from c"))
		a.mustPut("small", b, []byte("small"))
		c.stop()
		c.start()
	}
}

// TestEndpointPeerKilled: what a killed peer has acknowledged is there when it is back; what it was in the middle of comes whole or fails, and new requests work.
func TestEndpointPeerKilled(t *testing.T) {
	t.Parallel()
	r := startRelay(t, here)
	a, b := startNode(t, here, r, "a"), startNode(t, here, r, "b", "--persist")
	data, other := content(3, large), content(4, large)
	a.comes("small", b, content(5, 1000))
	a.mustPut("there", b, data)
	a.mustPut("replaced", b, data)

	get, put, replace := a.download("there", b, data), a.upload("new", b, other), a.upload("replaced", b, other)
	if err := get.take(1_000_000); err != nil {
		t.Fatal(err)
	}
	put.send(large * 3 / 5)
	replace.send(large * 3 / 5)
	b.kill()
	if got := a.do("GET", "/health", nil, nil); got.code != 200 {
		t.Error(got)
	}
	b.start()
	var wg sync.WaitGroup
	wg.Go(func() { // a get may go on at the restarted peer, since the object is the same
		if err := get.rest(); err != nil {
			t.Logf("the get: %v after %d bytes", err, get.off)
		}
	})
	for _, u := range []struct {
		key string
		*upload
		old []byte
	}{{"new", put, nil}, {"replaced", replace, data}} {
		wg.Go(func() {
			got := u.finish()
			t.Logf("put of %s: %v", u.key, got)
			switch {
			case got.code == 200:
				b.mustGet(u.key, nil, other)
			case got.code != 500 || !strings.Contains(got.text, b.uuid):
				t.Errorf("put of %s: %v", u.key, got)
			case u.old != nil:
				b.mustGet(u.key, nil, u.old)
			case b.exists(u.key, nil):
				t.Errorf("half of %s is visible", u.key)
			}
		})
	}
	a.comes("again", b, content(6, 5_000_000))
	wg.Wait()
	b.mustGet("there", nil, data)
	a.mustGet("there", b, data)
	a.mustGet("small", b, content(5, 1000))
	b.settled()

	// A peer that stays away is an error with a reason, and not for ever.
	get = a.download("there", b, data)
	if err := get.take(1_000_000); err != nil {
		t.Fatal(err)
	}
	b.kill()
	got := a.put("away", b, []byte("x"))
	if got.code != 500 {
		t.Error(got)
	}
	contains(t, "a request to a peer that is away", got.text, "Request to peer "+b.uuid+" failed: .*not registered")
	if err := get.rest(); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	contains(t, "status", a.statusText(), b.uuid, "last error: ")
}

// TestEndpointAskerKilled: nobody sees half of what a killed endpoint was putting.
func TestEndpointAskerKilled(t *testing.T) {
	t.Parallel()
	r := startRelay(t, here)
	a, b := startNode(t, here, r, "a"), startNode(t, here, r, "b", "--persist")
	data, other := content(7, large), content(8, large)
	a.comes("kept", b, data)
	put, replace := a.upload("new", b, other), a.upload("kept", b, other)
	put.send(large * 3 / 5)
	replace.send(large * 3 / 5)
	eventually(t, "the upload's arrival", func() error {
		if s := b.status(); s.Storage.Arriving == 0 {
			return errors.New("nothing")
		}
		return nil
	})
	a.kill()
	for _, u := range []*upload{put, replace} {
		if got := u.finish(); got.err == nil {
			t.Errorf("an endpoint that was killed has answered: %v", got)
		}
	}
	if b.exists("new", nil) {
		t.Error("half an object is visible")
	}
	b.mustGet("kept", nil, data)
	a.start()
	if a.exists("new", b) {
		t.Error("half an object is visible to a peer")
	}
	b.settled() // nothing of what an earlier instance had begun takes room any more
	a.mustGet("kept", b, data)
	a.mustPut("new", b, other)
	a.mustPut("kept", b, other)
	b.mustGet("new", nil, other)
	b.mustGet("kept", nil, other)

	// Nor after the peer's own restart, which drops what had come.
	put = a.upload("half", b, other)
	put.send(large * 3 / 5)
	b.kill()
	a.kill()
	put.finish()
	b.start()
	if b.exists("half", nil) {
		t.Error("half an object is visible")
	}
	b.mustGet("new", nil, other)
	b.mustGet("kept", nil, other)
	if s := b.status(); s.Storage.Arriving != 0 || s.Storage.Objects != 2 {
		t.Errorf("%+v", s.Storage)
	}
	files, err := filepath.Glob(filepath.Join(b.home, b.name, "blobs.db.objects", "????????????????"))
	if err != nil || len(files) != 2 {
		t.Errorf("files of 2 objects: %q, %v", files, err)
	}
}

// TestEndpointTooLarge: a peer refuses what is larger than its objects may be, with both sizes; nothing is sent for nothing, and nothing is left.
func TestEndpointTooLarge(t *testing.T) {
	t.Parallel()
	r := startRelay(t, here)
	a, b := startNode(t, here, r, "a", "--max-object", "20MB"), startNode(t, here, r, "b", "--max-object", "1MB")
	a.comes("fits", b, content(9, 1_000_000))
	for _, size := range []int{1_000_001, 2_000_000, 20_000_000} {
		got := a.put("more", b, content(9, size))
		if got.code != 413 {
			t.Errorf("%d bytes: %v", size, got)
		}
		contains(t, "the peer's refusal", got.text, b.uuid, fmt.Sprint(size), `1000000`)
		body := struct{ io.Reader }{strings.NewReader(strings.Repeat("x", size))} // of unknown length
		if got = a.do("POST", "/set"+where("more", b), body, nil); got.code != 413 {
			t.Errorf("%d bytes, of unknown length: %v", size, got)
		}
		if a.exists("more", b) {
			t.Error("it is there")
		}
	}
	// Who asks has a limit for what is put at it, not for what it passes on.
	a.mustPut("large", nil, content(9, 20_000_000))
	b.mustGet("large", a, content(9, 20_000_000))
	if got := b.put("more", nil, content(9, 2_000_000)); got.code != 413 {
		t.Error(got)
	}
	if s := b.settled(); s.Objects != 1 {
		t.Errorf("%+v", s)
	}
	a.mustPut("more", b, content(10, 1_000_000))
}

// full puts until the endpoint at is full, through a and at itself, calls while, and then evicts.
func full(t *testing.T, a, at *node, reason string, while func()) {
	t.Helper()
	const size = 5_000_000
	stored, refused := 0, 0
	for i := 0; refused < 4; i++ {
		if i == 100 {
			t.Fatal("it is never full")
		}
		key, data := fmt.Sprint("o", i), content(i, size)
		var got answer
		switch i % 3 {
		case 0:
			got = a.put(key, at, data)
		case 1:
			got = at.put(key, nil, data)
		default:
			got = a.do("POST", "/set"+where(key, at), struct{ io.Reader }{strings.NewReader(string(data))}, nil)
		}
		switch got.code {
		case 200:
			stored++
		case 507:
			refused++
			contains(t, "a refusal", got.text, reason)
			if at.exists(key, nil) {
				t.Errorf("%s was refused and is there", key)
			}
		default:
			t.Fatalf("put %d: %v", i, got)
		}
	}
	if s := at.settled(); s.Objects != int64(stored) || stored < 2 {
		t.Fatalf("%d objects are stored: %+v", stored, s)
	}
	while()
	a.mustGet("o0", at, content(0, size))
	if got := a.evict("o0", at); got.code != 200 {
		t.Fatalf("evict: %v", got)
	}
	if got := at.evict("o1", nil); got.code != 200 {
		t.Fatalf("evict: %v", got)
	}
	a.mustPut("o0", at, content(1000, size))
	at.mustPut("small", nil, []byte("small"))
	a.mustGet("o0", at, content(1000, size))
	for i := 2; i < stored; i++ {
		at.mustGet(fmt.Sprint("o", i), nil, content(i, size))
	}
}

// TestEndpointQuota: an endpoint that is full says so, and takes objects again when others are evicted.
func TestEndpointQuota(t *testing.T) {
	t.Parallel()
	r := startRelay(t, here)
	a := startNode(t, here, r, "a")
	memory := startNode(t, here, r, "memory", "--quota", "22MB")
	disk := startNode(t, here, r, "disk", "--quota", "22MB", "--persist")
	a.comes("first", memory, []byte("x"))
	a.comes("first", disk, []byte("x"))
	a.evict("first", memory)
	a.evict("first", disk)
	full(t, a, memory, "limit is reached: [0-9]+ bytes of 22000000 are taken.*evict objects", func() {})
	full(t, a, disk, "full|quota", func() {})
}

// TestEndpointDuplicateUUID: of two endpoints with one UUID the first is told, and gives way for good.
func TestEndpointDuplicateUUID(t *testing.T) {
	t.Parallel()
	r := startRelay(t, here)
	a, first := startNode(t, here, r, "a"), startNode(t, here, r, "b")
	a.comes("first", first, []byte("first"))
	second := configure(t, here, r, "b")
	path := filepath.Join(second.home, "b", "config.toml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), second.uuid, first.uuid)), 0o600); err != nil {
		t.Fatal(err)
	}
	second.uuid = first.uuid
	second.start()
	second.connected()
	eventually(t, "the first learns of it", func() error {
		if s := first.status(); !s.Relay.GaveUp {
			return fmt.Errorf("%+v", s.Relay)
		}
		return nil
	})
	contains(t, "status of the first", first.statusText(), "refused it for good: .*"+first.uuid+" was registered from elsewhere", "stop one and restart the other")
	contains(t, "log of the first", first.log.String(), "level=ERROR.*registered from elsewhere")
	first.mustPut("local", nil, []byte("still served"))
	if got := first.put("x", a, []byte("x")); got.code != 200 && got.code != 500 {
		t.Error(got)
	}
	a.comes("second", second, []byte("second"))
	if s := second.status(); !s.Relay.Connected {
		t.Errorf("%+v", s.Relay)
	}
	if n := strings.Count(second.log.String(), "registered at the relay"); n != 1 {
		t.Errorf("the second has registered %d times", n)
	}
	if n := strings.Count(first.log.String(), "registered at the relay"); n != 1 {
		t.Errorf("the first has registered %d times", n)
	}
	second.stop()
	first.stop()
	first.start()
	a.comes("third", first, []byte("third"))
}

// TestEndpointTokenRevoked: a relay that no longer takes the token is a reason in status and log; the endpoint goes on when the token is right again.
func TestEndpointTokenRevoked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tokens, mine := filepath.Join(dir, "tokens"), filepath.Join(dir, "mine")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write(tokens, "old-token alice\n")
	write(mine, "old-token\n")
	r := startRelay(t, here, "--token-file", tokens)
	a, b := startNode(t, here, r, "a", "--relay-token-file", mine), startNode(t, here, r, "b", "--relay-token-file", mine)
	a.comes("x", b, []byte("x"))
	write(tokens, "new-token alice\n")
	r.kill()
	r.again()
	for _, n := range []*node{a, b} {
		eventually(t, "the refusal", func() error {
			if s := n.status(); s.Relay.Connected || !strings.Contains(s.Relay.Error, "revoked") {
				return fmt.Errorf("%+v", s.Relay)
			}
			return nil
		})
		contains(t, "status", n.statusText(), "refuses us: .*expired or has been revoked.*new token")
		contains(t, "log", n.log.String(), "level=(WARN|ERROR).*expired or has been revoked")
	}
	a.mustGet("x", b, []byte("x")) // who is connected needs no relay
	write(mine, "new-token\n")
	a.connected()
	b.connected()
	a.stop()
	a.start()
	a.comes("y", b, []byte("y"))
	for _, n := range []*node{a, b} {
		if strings.Contains(n.log.String(), "old-token") || strings.Contains(n.log.String(), "new-token") {
			t.Error("a token is in the log")
		}
	}
}
