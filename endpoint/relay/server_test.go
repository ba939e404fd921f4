package relay

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"
)

func TestForward(t *testing.T) {
	checkLeaks(t)
	s, addr := startServer(t, ServerOptions{})
	a, b := dialRaw(t, addr, nil).register(uuid.New()), dialRaw(t, addr, nil).register(uuid.New())
	offer := a.offer(b.id)
	a.send(offer)
	if got := b.receive(); got != offer {
		t.Fatalf("got %+v, want %+v", got, offer)
	}
	answer := b.offer(a.id)
	answer.DescriptionType, answer.Error = "answer", "cannot"
	b.send(answer)
	if got := a.receive(); got != answer {
		t.Fatalf("got %+v, want %+v", got, answer)
	}
	a.send(a.offer(a.id)) // Python passes this on too
	if got := a.receive(); got != a.offer(a.id) {
		t.Fatalf("got %+v", got)
	}
	eventually(t, "all is counted", func() bool { return s.Stats().Forwarded == 3 }) // which happens after the message is out
	if st := s.Stats(); st.Clients != 2 || st.Users != 1 || st.Connections != 2 || st.Registrations != 2 || st.Handshakes != 2 || st.QueuedBytes < 0 {
		t.Errorf("%+v", st)
	}
	if infos := s.Clients(); len(infos) != 2 || infos[0].Name != "raw" || infos[0].Remote == "" {
		t.Errorf("%+v", infos)
	}
	b.conn.Close(websocket.StatusNormalClosure, "")
	eventually(t, "b is unregistered", func() bool { return s.Stats().Clients == 1 })
	eventually(t, "nothing is queued", func() bool { return s.Stats().QueuedBytes == 0 })
}

// TestErrorReplies: what cannot be forwarded comes back, with Python's texts.
func TestErrorReplies(t *testing.T) {
	checkLeaks(t)
	_, addr := startServer(t, ServerOptions{Authenticator: byName{}})
	a, b := dialRaw(t, addr, userHeader("alice")).register(uuid.New()), dialRaw(t, addr, userHeader("bob")).register(uuid.New())
	nobody := uuid.New()
	forged := a.offer(b.id)
	forged.SourceUUID = b.id
	for _, c := range []struct {
		m    PeerConnection
		text string
	}{
		{a.offer(nobody), "Cannot forward peer connection message to peer " + nobody.String() + " because this peer is not registered this relay server."},
		{a.offer(b.id), "The requested peer " + b.id.String() + " is owned by a different user."},
		{forged, "The source UUID " + b.id.String() + " of the message is not the UUID that its sender has registered."},
	} {
		a.send(c.m)
		want := c.m
		want.Error = c.text
		if got := a.receive(); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func TestCloseCodes(t *testing.T) {
	checkLeaks(t)
	s, addr := startServer(t, ServerOptions{Authenticator: byName{}, MaxMessage: 100_000})
	owned := dialRaw(t, addr, userHeader("alice")).register(uuid.New())
	registration, err := Encode(Registration{Name: "x", UUID: uuid.New()})
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := Encode(Registration{Name: "x", UUID: owned.id})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		header http.Header
		kind   websocket.MessageType
		text   string
		code   websocket.StatusCode
		reason string
	}{
		{"no JSON", userHeader("bob"), websocket.MessageText, "{", 4000, "Unknown message type."},
		{"bytes", userHeader("bob"), websocket.MessageBinary, string(registration), 4000, "Unknown message type."},
		{"a response", userHeader("bob"), websocket.MessageText, `{"message_type": "relay_response"}`, 4000, "Unknown message type."},
		{"no header", nil, websocket.MessageText, string(registration), 4001, "UnauthorizedError: Request headers are missing authorization header."},
		{"malformed header", http.Header{"Authorization": {"Basic x"}}, websocket.MessageText, string(registration), 4001,
			"UnauthorizedError: Bearer token in authorization header is malformed."},
		{"refused", userHeader("bad"), websocket.MessageText, string(registration), 4002, "ForbiddenError: Token is expired or has been revoked."},
		{"no answer", userHeader("broken"), websocket.MessageText, string(registration), 1011, "The authentication service is not available."},
		{"another's UUID", userHeader("bob"), websocket.MessageText, string(foreign), 4002,
			fmt.Sprintf("ForbiddenError: The client UUID %s is already registered to another user.", owned.id)},
		{"not registered", userHeader("bob"), websocket.MessageText,
			fmt.Sprintf(`{"source_uuid": "%[1]s", "source_name": "", "peer_uuid": "%[1]s", "description_type": "offer", "description": "", "message_type": "peer_connection"}`, owned.id),
			4002, "ForbiddenError: Client has not registered and authenticated with the relay server."},
		{"too large", userHeader("bob"), websocket.MessageText, strings.Repeat("x", 100_001), 4003, "Message length exceeds limit."},
		{"too large before the registration", userHeader("bob"), websocket.MessageText, strings.Repeat("x", maxUnregistered+1), 4003, "Message length exceeds limit."},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := dialRaw(t, addr, c.header)
			if err := raw.conn.Write(raw.ctx, c.kind, []byte(c.text)); err != nil {
				t.Fatal(err)
			}
			raw.closed(c.code, c.reason)
		})
	}
	owned.send(PeerConnection{SourceUUID: owned.id, PeerUUID: owned.id, Description: strings.Repeat("x", 90_000)}) // the limit is another one by now
	owned.receive()
	owned.text(strings.Repeat("x", 100_001))
	owned.closed(4003, "Message length exceeds limit.")
	eventually(t, "all are gone", func() bool { return s.Stats().Connections == 0 })
	if st := s.Stats(); st.Denied != 5 || st.Malformed != 6 || st.Clients != 0 || st.Users != 0 {
		t.Errorf("%+v", st)
	}
}

// TestRegisterAgain: a second connection of the user takes the UUID over; on one connection it is the same again, or a change.
func TestRegisterAgain(t *testing.T) {
	checkLeaks(t)
	s, addr := startServer(t, ServerOptions{})
	id := uuid.New()
	first := dialRaw(t, addr, nil).register(id)
	first.register(id)
	second := dialRaw(t, addr, nil).register(id)
	first.closed(4004, "Relay received a registration with the same ID. This might mean that the endpoint is running in multiple locations.")
	second.send(second.offer(id))
	if got := second.receive(); got != second.offer(id) {
		t.Fatalf("got %+v", got)
	}
	second.register(uuid.New())
	second.send(second.offer(id))
	if got, ok := second.receive().(PeerConnection); !ok || !strings.Contains(got.Error, "is not registered") {
		t.Fatalf("got %+v", got)
	}
	eventually(t, "one is left", func() bool { st := s.Stats(); return st.Connections == 1 && st.Clients == 1 && st.Replaced == 1 })
}

func TestLimits(t *testing.T) {
	checkLeaks(t)
	s, addr := startServer(t, ServerOptions{Authenticator: byName{}, MaxClients: 3, MaxClientsPerUser: 2})
	alice := dialRaw(t, addr, userHeader("alice")).register(uuid.New())
	dialRaw(t, addr, userHeader("alice")).register(uuid.New())
	third := dialRaw(t, addr, userHeader("alice"))
	third.send(Registration{UUID: uuid.New()})
	third.closed(1013, "too many clients")
	dialRaw(t, addr, userHeader("alice")).register(alice.id) // takes over, and is not one more
	alice.closed(4004, "")
	dialRaw(t, addr, userHeader("bob")).register(uuid.New())
	fifth := dialRaw(t, addr, userHeader("carol"))
	fifth.send(Registration{UUID: uuid.New()})
	fifth.closed(1013, "too many clients")
	if st := s.Stats(); st.Refused != 2 || st.Clients != 3 || st.Users != 2 {
		t.Errorf("%+v", st)
	}
}

func TestHandshakeRate(t *testing.T) {
	checkLeaks(t)
	s, addr := startServer(t, ServerOptions{HandshakesPerSecond: 0.001, HandshakeBurst: 2})
	dialRaw(t, addr, nil)
	dialRaw(t, addr, nil)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	_, response, err := websocket.Dial(testContext(t), "ws://"+addr, &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
	if err == nil || response == nil || response.StatusCode != http.StatusTooManyRequests {
		t.Fatalf("%v, %v", response, err)
	}
	eventually(t, "all are counted", func() bool { st := s.Stats(); return st.RateLimited == 1 && st.Handshakes == 2 })
	limiter := newAddressLimiter(1, 1)
	for remote, want := range map[string]bool{"192.0.2.1:1": true, "[2001:db8::1]:1": true, "[::ffff:192.0.2.2]:1": true, "@": true} {
		if got := limiter.allow(remote); got != want {
			t.Errorf("%s: %t", remote, got)
		}
	}
	for _, remote := range []string{"192.0.2.1:2", "[2001:db8::2]:1", "192.0.2.2:7"} {
		if limiter.allow(remote) {
			t.Errorf("%s is of a network that has had its share", remote)
		}
	}
	limiter.trim(time.Now().Add(2 * time.Hour))
	if len(limiter.byNet) != 0 {
		t.Errorf("%d networks are remembered for ever", len(limiter.byNet))
	}
}

// TestMessageRate: who sends too much is slowed down, and nothing is lost.
func TestMessageRate(t *testing.T) {
	checkLeaks(t)
	s, addr := startServer(t, ServerOptions{MessagesPerSecond: 100, MessageBurst: 5})
	a, b := dialRaw(t, addr, nil).register(uuid.New()), dialRaw(t, addr, nil).register(uuid.New())
	const n = 20
	for range n {
		a.send(a.offer(b.id))
	}
	for range n {
		b.receive()
	}
	if st := s.Stats(); st.ThrottledEvents == 0 {
		t.Errorf("%+v", st)
	}
}

func TestRegistrationTimeout(t *testing.T) {
	checkLeaks(t)
	_, addr := startServer(t, ServerOptions{RegistrationTimeout: 50 * time.Millisecond})
	dialRaw(t, addr, nil).closed(websocket.StatusPolicyViolation, "No registration was received in time.")
	late := dialRaw(t, addr, nil).register(uuid.New())
	time.Sleep(100 * time.Millisecond)
	late.send(late.offer(late.id))
	late.receive()
}

// handshake opens a connection by hand, and registers. Nothing answers pings on it.
func handshake(t *testing.T, addr string, id uuid.UUID) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	data, err := Encode(Registration{Name: "by hand", UUID: id})
	if err != nil {
		t.Fatal(err)
	}
	// The registration comes with the handshake, in one packet, which no client should do but which must work. The mask is 0.
	frame := append([]byte{0x81, 0x80 | byte(len(data)), 0, 0, 0, 0}, data...)
	request := "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
	if len(data) > 125 {
		t.Fatal("too long for this")
	}
	if _, err := conn.Write(append([]byte(request), frame...)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	response, err := http.ReadResponse(r, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", response, err)
	}
	if b, err := r.ReadByte(); err != nil || b != 0x81 {
		t.Fatalf("%x, %v", b, err)
	}
	return conn.(*net.TCPConn)
}

// TestDeadClient: a client that is silent and does not answer pings is cut off; one that only answers pings is not.
func TestDeadClient(t *testing.T) {
	checkLeaks(t)
	s, addr := startServer(t, ServerOptions{KeepAlive: 100 * time.Millisecond})
	dead := handshake(t, addr, uuid.New())
	live := dialRaw(t, addr, nil).register(uuid.New())
	done := make(chan error, 1)
	go func() {
		_, _, err := live.conn.Read(live.ctx)
		done <- err
	}()
	eventually(t, "the dead one is gone", func() bool { return s.Stats().Dead == 1 })
	if _, err := io.Copy(io.Discard, dead); err != nil {
		t.Logf("dead: %v", err)
	}
	time.Sleep(300 * time.Millisecond)
	if st := s.Stats(); st.Clients != 1 {
		t.Errorf("%+v", st)
	}
	live.conn.CloseNow()
	<-done
}

// TestSlowReader: one that does not read is cut off, its senders are told, and others are served all the while.
func TestSlowReader(t *testing.T) {
	checkLeaks(t)
	s, addr := startServer(t, ServerOptions{WriteTimeout: 300 * time.Millisecond, QueueMessages: 4, MessagesPerSecond: -1})
	id := uuid.New()
	slow := handshake(t, addr, id)
	slow.SetReadBuffer(4096)
	a, b := dialRaw(t, addr, nil).register(uuid.New()), dialRaw(t, addr, nil).register(uuid.New())
	big := a.offer(id)
	big.Description = strings.Repeat("x", 900_000)
	go func() {
		for range 40 {
			data, err := Encode(big)
			if err != nil || a.conn.Write(a.ctx, websocket.MessageText, data) != nil {
				return
			}
		}
	}()
	if m, ok := a.receive().(PeerConnection); !ok || !strings.Contains(m.Error, "does not read") && !strings.Contains(m.Error, "not registered") {
		t.Errorf("%+v", m)
	}
	b.send(b.offer(b.id))
	b.receive()
	eventually(t, "the slow one is cut off", func() bool { st := s.Stats(); return st.Slow == 1 && st.Clients == 2 })
	eventually(t, "nothing is queued", func() bool {
		go a.conn.Read(a.ctx) // what else comes back
		return s.Stats().QueuedBytes == 0
	})
	a.conn.CloseNow()
}

func TestTotalQueue(t *testing.T) {
	checkLeaks(t)
	_, addr := startServer(t, ServerOptions{QueueBytes: 1000})
	a := dialRaw(t, addr, nil).register(uuid.New())
	a.send(PeerConnection{SourceUUID: a.id, PeerUUID: a.id, Description: strings.Repeat("x", 100)})
	a.receive()
	b := dialRaw(t, addr, nil).register(uuid.New())
	big := a.offer(b.id)
	big.Description = strings.Repeat("x", 2000)
	a.send(big) // nor does the answer fit
	b.send(b.offer(a.id))
	if got := a.receive(); got != b.offer(a.id) {
		t.Errorf("%+v", got)
	}
}

func TestShutdown(t *testing.T) {
	checkLeaks(t)
	s, addr := startServer(t, ServerOptions{})
	a := dialRaw(t, addr, nil).register(uuid.New())
	hung := handshake(t, addr, uuid.New())
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(ctx) }()
	a.closed(websocket.StatusGoingAway, "The relay server is shutting down.")
	if err := <-done; err == nil {
		t.Error("the hung client should have taken the time")
	}
	if n, err := io.Copy(io.Discard, hung); err == nil && n == 0 {
		t.Error("nothing was said to the hung client")
	}
	if st := s.Stats(); st.Connections != 0 || st.Clients != 0 {
		t.Errorf("%+v", st)
	}
	if conn, err := net.Dial("tcp", addr); err == nil {
		conn.Close()
		t.Error("still accepts connections")
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestHealth(t *testing.T) {
	checkLeaks(t)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "numbers") })
	_, addr := startServer(t, ServerOptions{Handler: mux})
	_, bare := startServer(t, ServerOptions{})
	dialRaw(t, addr, nil).register(uuid.New())
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(addr, path string) (int, string) {
		response, err := client.Get("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	code, body := get(addr, "/health")
	var health struct {
		Status  string
		Clients int
	}
	if err := json.Unmarshal([]byte(body), &health); err != nil || code != 200 || health.Status != "ok" || health.Clients != 1 {
		t.Errorf("%d %s %v", code, body, err)
	}
	if code, _ := get(bare, "/"); code != http.StatusUpgradeRequired {
		t.Errorf("GET / answers %d", code)
	}
	if code, body := get(addr, "/metrics"); code != 200 || body != "numbers" {
		t.Errorf("%d %s", code, body)
	}
}
