package redis

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

// tape is a connection that gives what was recorded and keeps what is written.
type tape struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (t *tape) Read(p []byte) (int, error)  { return t.in.Read(p) }
func (t *tape) Write(p []byte) (int, error) { return t.out.Write(p) }
func (t *tape) Close() error                { return nil }

func play(in string) (*conn, *tape) {
	t := &tape{in: strings.NewReader(in)}
	return newConn(t, t, "test", 0), t
}

func TestCommand(t *testing.T) {
	cn, tape := play("")
	large := bytes.Repeat([]byte("x"), gather+1)
	cn.command(4, "SET")
	cn.arg("k")
	cn.value(transport.Slices{nil, []byte("a"), large, []byte("b"), {}, large})
	cn.number(-12)
	cn.command(1, "PING")
	if err := cn.send(); err != nil {
		t.Fatal(err)
	}
	want := "*4\r\n$3\r\nSET\r\n$1\r\nk\r\n$16388\r\na" + string(large) + "b" + string(large) + "\r\n$3\r\n-12\r\n*1\r\n$4\r\nPING\r\n"
	if got := tape.out.String(); got != want {
		t.Errorf("%d bytes %.60q..., want %d bytes", len(got), got, len(want))
	}
}

func TestReply(t *testing.T) {
	for _, in := range []string{"", "\n", "\r\n", "+\n", "+OK", "+OK\n", ":\r\n", ":1x\r\n", ":9999999999999999999\r\n", "$-2\r\n", "$x\r\n", "*-2\r\n",
		"?\r\n", "HTTP/1.1 200 OK\r\n", "$5\r\nabc", "$3\r\nabcd\r\n", "$3\r\nabc\r", "$3\r\nabc\n\n", "+" + strings.Repeat("x", maxLine) + "\r\n"} {
		cn, _ := play(in)
		b, found, err := cn.buffer(100)
		if err == nil || !cn.broken && in[0] != '-' {
			t.Errorf("%.40q gives %v, %v, %v, broken %v", in, b, found, err, cn.broken)
		}
	}
	cn, _ := play("$101\r\n" + strings.Repeat("x", 101) + "\r\n")
	if _, _, err := cn.buffer(100); !errors.Is(err, connectors.ErrTooLarge) {
		t.Errorf("a value over the limit: %v", err)
	}
	var se *serverError
	cn, _ = play("-ERR no\r\n$-1\r\n$0\r\n\r\n_\r\n")
	if _, _, err := cn.buffer(100); !errors.As(err, &se) || se.code() != "ERR" || cn.broken {
		t.Errorf("an error reply: %v", err)
	}
	for _, want := range []bool{false, true, false} {
		if _, found, err := cn.buffer(100); found != want || err != nil {
			t.Errorf("found %v, %v", found, err)
		}
	}
}

// TestClaim reads values that are longer than what is allocated at once, and heads that claim more than comes.
func TestClaim(t *testing.T) {
	value := strings.Repeat("0123456789", 100_000)
	cn, _ := play(strings.Repeat(fmt.Sprintf("$%d\r\n%s\r\n", len(value), value), 2))
	cn.trust = 1000
	b, found, err := cn.buffer(1 << 20)
	if err != nil || !found || string(b.Bytes()) != value {
		t.Errorf("a value that was grown: found %v, %v", found, err)
	}
	b.Release()
	if p, found, err := cn.bytes(1 << 20); err != nil || !found || string(p) != value {
		t.Errorf("a value that was grown: found %v, %v", found, err)
	}
	for _, read := range []func(*conn) error{
		func(cn *conn) error { _, _, err := cn.buffer(1 << 40); return err },
		func(cn *conn) error { _, _, err := cn.bytes(1 << 40); return err },
	} {
		cn, _ := play("$1099511627776\r\nabc")
		cn.trust = 1000
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := read(cn)
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; err != io.ErrUnexpectedEOF || grown > 1<<20 {
			t.Errorf("a claim of 1 TiB allocates %d bytes, %v", grown, err)
		}
	}
}

func TestAsking(t *testing.T) {
	cn, tape := play("+OK\r\n:1\r\n+OK\r\n-ERR x\r\n")
	cn.asking = true
	for _, name := range []string{"A", "B", "MULTI", "C", "EXEC", "D", "E"} {
		cn.command(1, name)
	}
	if err := cn.flush(); err != nil {
		t.Fatal(err)
	}
	if sent := strings.Join(strings.FieldsFunc(tape.out.String(), func(r rune) bool { return r < 'A' }), " "); sent !=
		"ASKING A ASKING B ASKING MULTI C EXEC ASKING D ASKING E" {
		t.Errorf("sent %s", sent)
	}
	a, err := cn.int()
	_, err2 := cn.int()
	var se *serverError
	if a != 1 || err != nil || !errors.As(err2, &se) || cn.broken {
		t.Errorf("%d, %v, %v", a, err, err2)
	}
}

// BenchmarkQuiet is what it costs to look whether an idle connection is still of use.
func BenchmarkQuiet(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	cn := newConn(c, c, "", 0)
	b.ReportAllocs()
	for b.Loop() {
		if !cn.quiet() {
			b.Fatal("not quiet")
		}
	}
}

func TestRedirect(t *testing.T) {
	for text, want := range map[string]string{
		"MOVED 1 h:2": "h:2", "ASK 1 h:2": "h:2", "MOVED 1 :7": "127.0.0.1:7", "MOVED 1 ::1:7": "[::1]:7", "MOVED 1 [::1]:7": "[::1]:7",
		"MOVED": "", "MOVED 1": "", "MOVED 1 ": "", "ERR 1 h:2": "",
	} {
		addr, ask, ok := redirect(&serverError{text: text}, "127.0.0.1:1")
		if ok != (want != "") || ok && (addr != want || ask != strings.HasPrefix(text, "ASK")) {
			t.Errorf("%q leads to %q, %v, %v", text, addr, ask, ok)
		}
	}
}

// FuzzReply reads anything as each kind of reply. Nothing may panic, allocate by what is claimed, or go on after nonsense.
func FuzzReply(f *testing.F) {
	for _, s := range []string{"+OK\r\n", "-ERR x\r\n", ":12\r\n", "$3\r\nabc\r\n", "$-1\r\n", "*2\r\n:1\r\n$1\r\nx\r\n", "_\r\n",
		"%1\r\n+server\r\n$5\r\nredis\r\n", ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n", "=5\r\ntxt:x\r\n", "#t\r\n,1.5\r\n(12\r\n", "*3\r\n*3\r\n*3\r\n"} {
		f.Add(s, "MOVED 1 h:2")
	}
	f.Fuzz(func(t *testing.T, in, text string) {
		if addr, _, ok := redirect(&serverError{text: text}, "h:1"); ok && addr == "" {
			t.Errorf("%q leads nowhere", text)
		}
		const limit = 1 << 16
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for kind := range 7 {
			cn, _ := play(in)
			for !cn.broken {
				var err error
				switch kind {
				case 0:
					var b *transport.Buffer
					if b, _, err = cn.buffer(limit); err == nil && b != nil {
						if !strings.Contains(in, string(b.Bytes())) {
							t.Fatal("bytes from nowhere")
						}
						b.Release()
					}
				case 1:
					_, _, err = cn.bytes(limit)
				case 2:
					_, err = cn.int()
				case 3:
					err = cn.status("OK")
				case 4:
					_, err = cn.array(2)
				case 5:
					err = cn.skip(0)
				case 6:
					w := &watcher{cn: cn, waits: map[string][]chan error{"k": {make(chan error, 1)}}, asked: []string{"k"}, err: io.EOF}
					err = w.listen()
				}
				var se *serverError
				if err != nil && !errors.As(err, &se) && !cn.broken {
					t.Fatalf("kind %d: %v, and the connection passes for good", kind, err)
				}
			}
		}
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 7*(limit+2*readBuffer)+64*uint64(len(in))+1<<20 {
			t.Errorf("%d bytes of input made us allocate %d", len(in), grown)
		}
	})
}
