package rpc

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/serialize/pickle"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/zmq"
)

// golden returns the messages that testdata/record.py recorded.
func golden(t testing.TB) map[string][]byte {
	t.Helper()
	raw, err := os.ReadFile("testdata/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Messages map[string][]any }
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for name, parts := range file.Messages {
		var m []byte
		for _, p := range parts {
			switch p := p.(type) {
			case float64:
				m = append(m, bytes.Repeat([]byte("h"), int(p))...)
			case string:
				b, err := base64.StdEncoding.DecodeString(p)
				if err != nil {
					t.Fatal(err)
				}
				m = append(m, b...)
			}
		}
		out[name] = m
	}
	return out
}

// message is a message whose memory is counted, as a transport's is.
func message(t testing.TB, parts ...[]byte) *transport.Buffer {
	t.Helper()
	m := transport.Slices(parts).AppendTo(nil)
	return transport.NewBuffer(m, transport.CMemory, func(b []byte) { clear(b) })
}

// balanced fails the test if C memory is alive at its end.
func balanced(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		if n, size := transport.Live(transport.CMemory); n != 0 {
			t.Errorf("%d buffers of %d bytes were not released", n, size)
		}
	})
}

// store is a Store of the few methods that the Handler uses.
type store struct {
	objects.Store
	mu   sync.Mutex
	objs map[string]*transport.Buffer
	fail error
	puts []objects.PutOptions
}

func newStore(t testing.TB) *store {
	s := &store{objs: map[string]*transport.Buffer{}}
	t.Cleanup(func() {
		for _, b := range s.objs {
			b.Release()
		}
	})
	return s
}

func (s *store) Put(id string, b *transport.Buffer, o objects.PutOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		b.Release()
		return s.fail
	}
	s.puts = append(s.puts, o)
	s.objs[id].Release()
	s.objs[id] = b
	return nil
}

func (s *store) Get(id string) (*transport.Buffer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return nil, s.fail
	}
	if b := s.objs[id]; b != nil {
		return b.Retain(), nil
	}
	return nil, fmt.Errorf("%w: %q", transport.ErrNotFound, id)
}

func (s *store) Exists(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objs[id] != nil
}

func (s *store) Evict(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.objs[id]
	delete(s.objs, id)
	b.Release()
	return b != nil
}

// handled is an Exchanger that a Handler answers, or, with fail or mangle, something worse.
type handled struct {
	h      objects.Handler
	t      testing.TB
	fail   error
	mangle func([]byte) []byte
	closed int
}

func (x *handled) Exchange(ctx context.Context, req transport.Slices) (*transport.Buffer, error) {
	if x.fail != nil {
		return nil, x.fail
	}
	reply, release, err := x.h(ctx, message(x.t, req...))
	if err != nil {
		return nil, err
	}
	raw := reply.AppendTo(nil)
	if release != nil {
		release()
	}
	if x.mangle != nil {
		raw = x.mangle(raw)
	}
	return message(x.t, raw), nil
}

// sized is an Exchanger that is told sizes.
type sized struct {
	handled
	size int64
}

func (x *sized) ExchangeSize(ctx context.Context, req transport.Slices, size int64) (*transport.Buffer, error) {
	x.size = size
	return x.Exchange(ctx, req)
}

var _ sizer = (*zmq.Exchanger)(nil)

// TestClientSize: memory for an object whose size is known is had once.
func TestClientSize(t *testing.T) {
	balanced(t)
	x := &sized{handled: handled{h: NewHandler(newStore(t), HandlerOptions{}), t: t}}
	c := NewClient(x, "zmq", ClientOptions{Host: strings.Repeat("h", 255), Port: 1 << 20})
	id := strings.Repeat("i", 1024)
	answer := 0
	x.mangle = func(b []byte) []byte {
		answer = len(b)
		return b
	}
	const n = 100_000
	if err := c.Put(t.Context(), id, transport.Slices{make([]byte, n)}, objects.PutOptions{}); err != nil || x.size != 0 {
		t.Fatal(err, x.size)
	}
	b, err := c.Get(t.Context(), id, 0, -1, n)
	if err != nil || b.Len() != n {
		t.Fatal(err)
	}
	b.Release()
	if x.size < int64(answer) || x.size > int64(answer)+answerHead {
		t.Errorf("%d bytes were expected, %d came", x.size, answer)
	}
	if _, err := c.Exists(t.Context(), id); err != nil {
		t.Error(err)
	}
}

func (x *handled) Close() error {
	x.closed++
	return nil
}

var (
	key = connectors.DIMKey{DIMType: "zmq", ObjID: "3f2504e0-4f89-41d3-9a0c-0305e82c3301", Size: 5, PeerHost: "127.0.0.1", PeerPort: 5555}
	big = connectors.DIMKey{DIMType: "ucx", ObjID: "id é😀", Size: 1 << 40, PeerHost: "node-17.cluster.example", PeerPort: 70000}
)

func TestGoldenRequests(t *testing.T) {
	balanced(t)
	msgs := golden(t)
	for name, want := range map[string]struct {
		op   string
		key  connectors.DIMKey
		data string // "-" is None
		err  string
		view bool // the data must lie in the message
	}{
		"put":                  {op: "put", key: key, data: "hello", view: true},
		"put empty":            {op: "put", key: key},
		"put none":             {op: "put", key: key, data: "-"},
		"put bytearray":        {op: "put", key: key, data: "hello", view: true},
		"put memoryview":       {op: "put", key: key, data: "hello", view: true},
		"put large memoryview": {op: "put", key: key, data: strings.Repeat("h", 3_000_000), view: true},
		"put str":              {op: "put", key: key, err: "data is string"},
		"put list":             {op: "put", key: key, err: "data is *pickle.List"},
		"put in a frame":       {op: "put", key: key, data: strings.Repeat("h", 60_000), view: true},
		"put large":            {op: "put", key: key, data: strings.Repeat("h", 3_000_000), view: true},
		"put large bytearray":  {op: "put", key: key, data: strings.Repeat("h", 3_000_000), view: true},
		"get":                  {op: "get", key: key, data: "-"},
		"get big key":          {op: "get", key: big, data: "-"},
		"get numpy key":        {op: "get", key: key, data: "-"},
		"exists":               {op: "exists", key: key, data: "-"},
		"evict":                {op: "evict", key: key, data: "-"},
		"plain tuple as key":   {op: "get", err: "no DIMKey"},
		"a dict":               {err: "not an RPC"},
		"answer get":           {err: "not an RPC"},
		"python pickler":       {op: "put", key: key, data: "hello", view: true},
		"cloudpickle":          {op: "put", key: key, data: "hello", view: true},
		"tag of 0.6":           {op: "put", key: key, data: "hello", view: true},
		"protocol 0":           {op: "put", key: key, data: "hello"},
		"protocol 1":           {op: "put", key: key, data: "hello"},
		"protocol 2":           {op: "put", key: key, data: "hello"},
		"protocol 3":           {op: "put", key: key, data: "hello", view: true},
		"protocol 4":           {op: "put", key: key, data: "hello", view: true},
	} {
		t.Run(name, func(t *testing.T) {
			msg := message(t, msgs[name])
			r, err := DecodeRequest(msg)
			msg.Release()
			if r.Op != want.op || r.Key != want.key {
				t.Errorf("request %q of %v, want %q of %v", r.Op, r.Key, want.op, want.key)
			}
			if want.err != "" {
				if !errors.Is(err, transport.ErrCorrupt) || !strings.Contains(err.Error(), want.err) || r.Data != nil {
					t.Errorf("error %v, data %v, want %q", err, r.Data, want.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer r.Release()
			if (r.Data == nil) != (want.data == "-") || r.Data != nil && string(r.Data.Bytes()) != want.data {
				t.Errorf("data is not what was sent")
			}
			if r.Data != nil && want.view != (r.Data.Backing() == transport.CMemory) {
				t.Errorf("data is a view: %v", !want.view)
			}
		})
	}
}

func TestGoldenResponses(t *testing.T) {
	balanced(t)
	msgs := golden(t)
	hit := key
	hit.ObjID = "hit"
	for name, want := range map[string]struct {
		op     string
		key    connectors.DIMKey
		data   string
		exists bool
		class  string
		text   string
		is     error
	}{
		"answer put":         {op: "put", key: hit, data: "-"},
		"answer get":         {op: "get", key: hit, data: "hello"},
		"answer get missing": {op: "get", key: key, data: "-"},
		"answer exists":      {op: "exists", key: hit, data: "-", exists: true},
		"answer exists not":  {op: "exists", key: key, data: "-"},
		"answer evict":       {op: "evict", key: hit, data: "-"},
		"answer put none":    {op: "put", key: key, data: "-", class: "AssertionError"},
		"answer memory":      {op: "put", key: key, data: "-", class: "MemoryError", text: "no room, 7", is: transport.ErrFull},
		"answer os":          {op: "put", key: key, data: "-", class: "OSError", text: "28, No space left on device"},
	} {
		t.Run(name, func(t *testing.T) {
			msg := message(t, msgs[name])
			r, err := DecodeResponse(msg)
			msg.Release()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Release()
			if r.Op != want.op || r.Key != want.key || r.Exists != want.exists {
				t.Errorf("got %+v, want %+v", r, want)
			}
			if (r.Data == nil) != (want.data == "-") || r.Data != nil && string(r.Data.Bytes()) != want.data {
				t.Errorf("data is not what was sent")
			}
			var se *ServerError
			if errors.As(r.Err, &se) != (want.class != "") || se != nil && (se.Class != want.class || se.Text != want.text) ||
				want.is != nil && !errors.Is(r.Err, want.is) {
				t.Errorf("exception %+v, want %s(%s) that is %v", r.Err, want.class, want.text, want.is)
			}
		})
	}
}

// TestEncode compares what we write with what Python writes, as structures, at every size where the form of a length changes.
func TestEncode(t *testing.T) {
	balanced(t)
	msgs := golden(t)
	structure := func(msg []byte) string {
		v, err := pickle.Decode(msg[3:])
		if err != nil {
			t.Fatalf("%v in %q", err, msg)
		}
		var b strings.Builder
		if err := pickle.Dump(&b, v); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	hit := key
	hit.ObjID = "hit"
	hello := []byte("hello")
	for name, got := range map[string]transport.Slices{
		"put":                EncodeRequest(OpPut, key, transport.Slices{hello[:2], nil, hello[2:]}),
		"put empty":          EncodeRequest(OpPut, key, transport.Slices{}),
		"put none":           EncodeRequest(OpPut, key, nil),
		"put in a frame":     EncodeRequest(OpPut, key, transport.Slices{bytes.Repeat([]byte("h"), 60_000)}),
		"put large":          EncodeRequest(OpPut, key, transport.Slices{bytes.Repeat([]byte("h"), 3_000_000)}),
		"get":                EncodeRequest(OpGet, key, nil),
		"get big key":        EncodeRequest(OpGet, big, nil),
		"answer get":         (&reply{op: OpGet, key: &hit}).encode(hello, true),
		"answer get missing": (&reply{op: OpGet, key: &key}).encode(nil, false),
		"answer exists":      (&reply{op: OpExists, key: &hit, exists: 1}).encode(nil, false),
		"answer exists not":  (&reply{op: OpExists, key: &key, exists: -1}).encode(nil, false),
	} {
		joined := got.Join()
		if string(joined[:3]) != "PK\n" || structure(joined) != structure(msgs[name]) {
			t.Errorf("%s:\n%s\nwant\n%s", name, structure(joined), structure(msgs[name]))
		}
	}
	long := key
	long.ObjID, long.PeerHost = strings.Repeat("é", 200), strings.Repeat("x", 300)
	for _, port := range []int64{0, 255, 256, 65535, 65536, 1<<31 - 1, 1 << 31, 1<<63 - 1, -1, -1 << 31, -1<<31 - 1, -1 << 63} {
		long.PeerPort = port
		for _, n := range []int{0, 1, 255, 256, frameLimit, frameLimit + 1} {
			msg := message(t, EncodeRequest(OpPut, long, transport.Slices{make([]byte, n)})...)
			r, err := DecodeRequest(msg)
			msg.Release()
			if err != nil || r.Key != long || r.Data.Len() != n {
				t.Fatalf("port %d, %d bytes: %v, %+v", port, n, err, r)
			}
			r.Release()
		}
	}
}

func TestHandler(t *testing.T) {
	balanced(t)
	s := newStore(t)
	o := objects.PutOptions{TTL: 7}
	c := NewClient(&handled{h: NewHandler(s, HandlerOptions{Put: o}), t: t}, "zmq", ClientOptions{Host: "127.0.0.1", Port: 5555})
	ctx := t.Context()
	if err := c.Put(ctx, "a", transport.Slices{[]byte("hel"), []byte("lo")}, objects.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(s.puts) != 1 || s.puts[0] != o {
		t.Errorf("put with options %v, want %v", s.puts, o)
	}
	if b := s.objs["a"]; b.Backing() != transport.GC {
		t.Errorf("a small object keeps its whole message alive")
	}
	large := bytes.Repeat([]byte("l"), 100_000)
	if err := c.Put(ctx, "l", transport.Slices{large}, objects.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if b := s.objs["l"]; b.Backing() != transport.CMemory {
		t.Errorf("a large object was copied out of its message")
	}
	for _, r := range []struct {
		off, n int64
		want   string
		err    error
	}{{0, -1, "hello", nil}, {1, 3, "ell", nil}, {5, -1, "", nil}, {0, 99, "hello", nil}, {0, 0, "", nil}, {6, 1, "", transport.ErrInvalidRange},
		{-1, 1, "", transport.ErrInvalidRange}} {
		b, err := c.Get(ctx, "a", r.off, r.n, -1)
		if !errors.Is(err, r.err) || err == nil && string(b.Bytes()) != r.want {
			t.Errorf("Get(%d, %d): %v, want %q, %v", r.off, r.n, err, r.want, r.err)
		}
		b.Release()
	}
	if b, err := c.GetBytes(ctx, "l", 100_000); err != nil || !bytes.Equal(b, large) {
		t.Errorf("GetBytes: %v", err)
	}
	if ok, err := c.Exists(ctx, "a"); !ok || err != nil {
		t.Errorf("Exists: %v, %v", ok, err)
	}
	for range 2 {
		if err := c.Evict(ctx, "a"); err != nil {
			t.Error(err)
		}
	}
	if ok, err := c.Exists(ctx, "a"); ok || err != nil {
		t.Errorf("Exists after Evict: %v, %v", ok, err)
	}
	if _, err := c.Get(ctx, "a", 0, -1, 5); !errors.Is(err, transport.ErrNotFound) {
		t.Errorf("Get after Evict: %v", err)
	}
	if err := c.Put(ctx, strings.Repeat("i", objects.MaxID+1), nil, objects.PutOptions{}); err == nil || !strings.Contains(err.Error(), "1 to 1024 bytes") {
		t.Errorf("Put with a long id: %v", err)
	}
	for name, err := range map[string]error{
		"put": c.Put(ctx, "", nil, objects.PutOptions{}), "put utf-8": c.Put(ctx, "\xff", nil, objects.PutOptions{}), "evict": c.Evict(ctx, ""),
	} {
		if !errors.Is(err, transport.ErrInvalidKey) {
			t.Errorf("%s with a bad id: %v", name, err)
		}
	}
	_, e1 := c.Map(ctx, "a")
	_, e2 := c.Stat(ctx, "a")
	_, e3 := c.PutStream(ctx, "a", 1, objects.PutOptions{})
	_, e4 := c.GetStream(ctx, "a", 0)
	for _, err := range []error{e1, e2, e3, e4, c.Wait(ctx, "a"), c.Put(ctx, "a", nil, o)} {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%v, want unsupported", err)
		}
	}
}

// TestHandlerErrors: what goes wrong in the Store reaches the other side, in Python's words, as the same error.
func TestHandlerErrors(t *testing.T) {
	balanced(t)
	s := newStore(t)
	c := NewClient(&handled{h: NewHandler(s, HandlerOptions{}), t: t}, "zmq", ClientOptions{})
	for _, want := range []struct {
		err   error
		class string
		says  string
	}{
		{transport.ErrFull, "MemoryError", "raise the server's memory limit"},
		{transport.ErrTooLarge, "OverflowError", "raise the server's limit"},
		{transport.ErrDenied, "PermissionError", "denied"},
		{transport.ErrUnavailable, "ConnectionError", "try again"},
		{transport.ErrClosed, "ConnectionError", "going away"},
		{errors.New("odd \xff"), "RuntimeError", "odd \uFFFD"},
	} {
		s.fail = fmt.Errorf("wrapped: %w", want.err)
		_, gets := c.Get(t.Context(), "a", 0, -1, -1)
		for _, err := range []error{gets, c.Put(t.Context(), "a", nil, objects.PutOptions{})} {
			var se *ServerError
			if !errors.As(err, &se) || se.Class != want.class || !strings.Contains(se.Text, want.says) {
				t.Errorf("%v became %v", want.err, err)
			}
			if want.class != "RuntimeError" && want.err != transport.ErrClosed && !errors.Is(err, want.err) {
				t.Errorf("%v is not %v", err, want.err)
			}
		}
	}
}

func TestHandlerHostile(t *testing.T) {
	balanced(t)
	s := newStore(t)
	h := NewHandler(s, HandlerOptions{})
	ask := func(msg []byte) (Response, error) {
		reply, release, err := h(t.Context(), message(t, msg))
		if err != nil {
			return Response{}, err
		}
		b := message(t, reply.AppendTo(nil))
		if release != nil {
			release()
		}
		defer b.Release()
		return DecodeResponse(b)
	}
	for _, msg := range []string{"", "ping", "PK", "PKx", "BS\nhello", "\n\n\n\n"} {
		if _, err := ask([]byte(msg)); !errors.Is(err, transport.ErrCorrupt) {
			t.Errorf("%q: %v", msg, err)
		}
	}
	msgs := golden(t)
	rename := func(name, from, to string) []byte { return bytes.Replace(msgs[name], []byte(from), []byte(to), 1) }
	for name, c := range map[string]struct {
		msg  []byte
		says string
		op   string
		key  bool
	}{
		"nothing":        {[]byte("PK\n"), "truncated", "", false},
		"a lie":          {[]byte("PK\n\x80\x05\x8e\xff\xff\xff\xff\xff\xff\xff\x7fx"), "truncated", "", false},
		"os.system":      {[]byte("PK\ncos\nsystem\n(S'true'\ntR."), "os.system", "", false},
		"a dict":         {msgs["a dict"], "not an RPC", "", false},
		"another class":  {rename("get", "\x03RPC", "\x03RPX"), "RPX", "", false},
		"another module": {rename("get", "proxystore_ex", "proxystore_xx"), "proxystore_xx", "", false},
		"operation":      {rename("get", "\x03get", "\x03gut"), "unknown operation", "gut", true},
		"no operation":   {rename("get", "\x09operation", "\x09operatiox"), "operation is <nil>", "", false},
		"no key":         {rename("get", "\x03key", "\x03kex"), "no DIMKey", "get", false},
		"no data":        {msgs["put none"], "without data", "put", true},
		"a str":          {msgs["put str"], "serialize it first", "put", true},
		"a deep pickle":  {[]byte("PK\n" + strings.Repeat("]", 100) + strings.Repeat("a", 99) + "."), "limit", "", false},
		"many values":    {[]byte("PK\n" + strings.Repeat("]0", 5000) + "]."), "limit", "", false},
		"an id too long": {EncodeRequest(OpPut, connectors.DIMKey{DIMType: "zmq", ObjID: strings.Repeat("x", 5000)}, transport.Slices{}).Join(),
			"1 to 1024", "put", true},
	} {
		r, err := ask(c.msg)
		var se *ServerError
		if err != nil || !errors.As(r.Err, &se) || !strings.Contains(se.Text, c.says) || r.Op != c.op || (r.Key.DIMType != "") != c.key {
			t.Errorf("%s: %v, %+v", name, err, r)
		}
	}
	if len(s.objs) != 0 {
		t.Errorf("something was stored: %v", s.objs)
	}
	// A client of a ProxyStore that had the connectors itself gets classes that it has.
	reply, _, err := h(t.Context(), message(t, finish(begin("RPC", OpExists, &key, form{old: true}), nil, false, nil)...))
	if want := "\x20" + oldModels; err != nil || !bytes.Contains(reply.Join(), []byte(want)) {
		t.Errorf("%q, %v, want %q in it", reply, err, want)
	}
	// One of ProxyStore 0.6 knows tags as it writes them itself, and no others.
	for tag, want := range map[string]string{"PK": "PK", "CP": "PK", "03": "03", "04": "03"} {
		for name, msg := range map[string][]byte{"an RPC": msgs["get"], "a str": msgs["put str"], "no RPC": msgs["a dict"]} {
			reply, _, err := h(t.Context(), message(t, []byte(tag), msg[2:]))
			if err != nil || !bytes.HasPrefix(reply.Join(), []byte(want+"\n")) {
				t.Errorf("%s with tag %s: %q, %v, want tag %s", name, tag, reply, err, want)
			}
		}
	}
}

// TestClientErrors: answers that are wrong, and none at all.
func TestClientErrors(t *testing.T) {
	balanced(t)
	s := newStore(t)
	x := &handled{h: NewHandler(s, HandlerOptions{}), t: t}
	c := NewClient(x, "zmq", ClientOptions{Host: "h", Port: 1})
	ctx := t.Context()
	if err := c.Put(ctx, "a", transport.Slices{bytes.Repeat([]byte("x"), 1000)}, objects.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, mangle := range map[string]func([]byte) []byte{
		"nothing":    func([]byte) []byte { return nil },
		"no pickle":  func([]byte) []byte { return []byte("pong") },
		"cut":        func(b []byte) []byte { return b[:len(b)-1] },
		"another id": func(b []byte) []byte { return bytes.Replace(b, []byte("\x01a"), []byte("\x01b"), 1) },
		"another op": func(b []byte) []byte { return bytes.Replace(b, []byte("\x03get"), []byte("\x03put"), 1) },
		"a request":  func([]byte) []byte { return EncodeRequest(OpGet, key, nil).Join() },
	} {
		x.mangle = mangle
		if b, err := c.Get(ctx, "a", 0, -1, -1); !errors.Is(err, transport.ErrCorrupt) || b != nil {
			t.Errorf("%s: %v, %v", name, b, err)
		}
		if err := c.Ping(ctx); name != "no pickle" && !strings.HasPrefix(name, "another") && !errors.Is(err, transport.ErrCorrupt) { // those leave a pong alone
			t.Errorf("%s: ping: %v", name, err)
		}
	}
	x.mangle = nil
	for _, fail := range []error{transport.ErrUnavailable, context.Canceled} {
		x.fail = fail
		_, e1 := c.Get(ctx, "a", 0, -1, -1)
		_, e2 := c.GetBytes(ctx, "a", -1)
		_, e3 := c.Exists(ctx, "a")
		for _, err := range []error{e1, e2, e3, c.Evict(ctx, "a"), c.Ping(ctx), c.Put(ctx, "a", nil, objects.PutOptions{})} {
			if !errors.Is(err, fail) {
				t.Errorf("%v, want %v", err, fail)
			}
		}
	}
	c.Close()
	if err := c.Close(); err != nil || x.closed != 1 {
		t.Errorf("Close: %v, the Exchanger was closed %d times", err, x.closed)
	}
	if err := c.Evict(ctx, "a"); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := c.Ping(ctx); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// FuzzRequest: no message makes the Handler panic, leak, or answer with what is no response.
func FuzzRequest(f *testing.F) {
	for _, m := range golden(f) {
		if len(m) < 2000 {
			f.Add(m)
		}
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		s := &store{objs: map[string]*transport.Buffer{}}
		reply, release, err := NewHandler(s, HandlerOptions{})(t.Context(), message(t, msg))
		if err == nil {
			raw := transport.FromBytes(reply.AppendTo(nil))
			r, err := DecodeResponse(raw)
			if err != nil {
				t.Errorf("%q was answered with %q: %v", msg, raw.Bytes(), err)
			}
			r.Release()
		}
		if release != nil {
			release()
		}
		for _, b := range s.objs {
			b.Release()
		}
		if n, _ := transport.Live(transport.CMemory); n != 0 {
			t.Errorf("%q leaks", msg)
		}
	})
}

// FuzzResponse: no answer makes the Client panic or leak.
func FuzzResponse(f *testing.F) {
	for _, m := range golden(f) {
		if len(m) < 2000 {
			f.Add(m)
		}
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		b := message(t, msg)
		r, err := DecodeResponse(b)
		if err == nil && r.Err != nil {
			_ = r.Err.Error()
		}
		r.Release()
		b.Release()
		if n, _ := transport.Live(transport.CMemory); n != 0 {
			t.Errorf("%q leaks", msg)
		}
	})
}

func BenchmarkHandler(b *testing.B) {
	for _, size := range []int{1 << 10, 1 << 20} {
		s := newStore(b)
		h := NewHandler(s, HandlerOptions{})
		put := EncodeRequest(OpPut, key, transport.Slices{make([]byte, size)}).Join()
		get := EncodeRequest(OpGet, key, nil).Join()
		for op, msg := range map[string][]byte{"put": put, "get": get} {
			b.Run(fmt.Sprintf("op=%s/size=%d", op, size), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(size))
				for b.Loop() {
					_, release, err := h(b.Context(), transport.FromBytes(msg))
					if err != nil {
						b.Fatal(err)
					}
					if release != nil {
						release()
					}
				}
			})
		}
	}
}
