//go:build !race && !invariants

package endpoint

import (
	"bytes"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/transport/objects"
)

// TestMemory: setting and getting 64 MB takes no memory of the Go heap to speak of, however the body comes; the object's own is outside.
func TestMemory(t *testing.T) {
	const size = 64 << 20
	table := newTable(t, objects.TableOptions{})
	data := random(size)
	s := newSite(t, Options{Store: table})
	c, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := make([]byte, 64<<10)
	transfer := func(key, body string, parts ...[]byte) {
		io.WriteString(c, "POST /set?key="+key+" HTTP/1.1\r\nHost: x\r\n"+body+"\r\n\r\n")
		for _, p := range parts {
			c.Write(p)
		}
		if n, err := c.Read(in); err != nil || !bytes.HasPrefix(in[:n], []byte("HTTP/1.1 200 ")) {
			t.Fatalf("%v %s", err, in[:n])
		}
		io.WriteString(c, "GET /get?key="+key+" HTTP/1.1\r\nHost: x\r\n\r\n")
		n, err := c.Read(in)
		if err != nil {
			t.Fatal(err)
		}
		head, rest, _ := bytes.Cut(in[:n], []byte("\r\n\r\n"))
		if !bytes.Contains(head, []byte("Content-Length: "+strconv.Itoa(size))) {
			t.Fatalf("%s", head)
		}
		for got := len(rest); got < size; got += n {
			if n, err = c.Read(in); err != nil {
				t.Fatal(err)
			}
		}
	}
	chunk := []byte(strconv.FormatInt(1<<20, 16) + "\r\n")
	var chunks [][]byte
	for i := 0; i < size; i += 1 << 20 {
		chunks = append(chunks, chunk, data[i:i+1<<20], []byte("\r\n"))
	}
	chunks = append(chunks, []byte("0\r\n\r\n"))
	for name, run := range map[string]func(){
		"length":  func() { transfer("a", "Content-Length: "+strconv.Itoa(size), data) },
		"chunked": func() { transfer("b", "Transfer-Encoding: chunked", chunks...) },
	} {
		run() // pools fill
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		run()
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 512<<10 {
			t.Errorf("%s: %d bytes were allocated", name, n)
		} else {
			t.Logf("%s: %d bytes", name, n)
		}
	}
}
