package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/serialize/pickle"
)

func TestExitCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0}, {errNo, 1}, {errors.Join(errNo), 1}, {connectors.ErrConfig, 2}, {connectors.ErrInvalidKey, 2}, {errors.ErrUnsupported, 2},
		{connectors.ErrNotFound, 3}, {connectors.ErrDenied, 4}, {proxyplane.ErrBadProxy, 5}, {serialize.ErrType, 5}, {connectors.ErrCorrupt, 5},
		{connectors.ErrUnavailable, 6}, {syscall.ECONNREFUSED, 6}, {context.DeadlineExceeded, 6}, {os.ErrPermission, 7}, {syscall.ENOSPC, 7},
		{fail(4, "x: %w", connectors.ErrNotFound), 4},
	} {
		err := c.err
		if err != nil {
			err = fmt.Errorf("wrapped: %w", err)
		}
		if got := exitCode(err); got != c.want {
			t.Errorf("%v: exit code %d, want %d", c.err, got, c.want)
		}
	}
}

// FuzzTextReader compares with utf8.Valid, however the text is cut into reads.
func FuzzTextReader(f *testing.F) {
	for _, s := range []string{"", "abc", "é", "日本", "\xff", "a\xe2\x82", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xf0\x9f\x98", "\xed\xa0\x80", "\xc0\x80", "�"} {
		f.Add([]byte(s), 1)
		f.Add([]byte(s), 2)
	}
	f.Fuzz(func(t *testing.T, data []byte, n int) {
		n = max(1, n%7)
		r := &textReader{r: &cutReader{data, n}, what: "it"}
		got, err := io.ReadAll(r)
		if valid := utf8.Valid(data); valid != (err == nil) {
			t.Fatalf("valid %v, error %v", valid, err)
		}
		if err == nil && !bytes.Equal(got, data) {
			t.Fatalf("got %q of %q", got, data)
		}
		if err == nil {
			return
		}
		// The offset is that of the first bad byte.
		want := 0
		for want < len(data) {
			c, size := utf8.DecodeRune(data[want:])
			if c == utf8.RuneError && size == 1 {
				break
			}
			want += size
		}
		if !strings.Contains(err.Error(), fmt.Sprintf("offset %d;", want)) {
			t.Fatalf("%q: %v, want offset %d", data, err, want)
		}
	})
}

type cutReader struct {
	data []byte
	n    int
}

func (r *cutReader) Read(p []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.data[:min(r.n, len(r.data))])
	r.data = r.data[n:]
	return n, nil
}

// FuzzJSON: what can be parsed is stored, read back and formatted to JSON that means the same.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{"1", "1.0", "-0", "1e400", "123456789012345678901234567890", `"a\u00e9<>"`, `{"b":1,"a":[null,true,2.5e-3],"b":2}`, "[[[]]]", "[1", `"\ud800"`, "1 2", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := parseJSON(data)
		if err != nil {
			return
		}
		if !json.Valid(data) {
			t.Fatalf("%q is no JSON and was taken", data)
		}
		obj, err := pickle.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		structure, err := pickle.Decode(obj)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := pickle.ToGo(structure)
		if err != nil {
			t.Fatal(err)
		}
		text, err := formatJSON(plain)
		if err != nil {
			t.Fatal(err)
		}
		var a, b any
		if json.Unmarshal(data, &a) != nil {
			return // an integer that Go's any cannot hold
		}
		if err := json.Unmarshal(text, &b); err != nil || fmt.Sprint(unsigned0(a)) != fmt.Sprint(unsigned0(b)) {
			t.Fatalf("%q became %q", data, text)
		}
	})
}

// unsigned0 makes -0, which as an integer is 0 in Python, a plain 0.
func unsigned0(v any) any {
	switch v := v.(type) {
	case float64:
		return v + 0
	case []any:
		for i := range v {
			v[i] = unsigned0(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = unsigned0(v[k])
		}
	}
	return v
}

func TestFormatJSONRefuses(t *testing.T) {
	nan := []any{1.5, map[string]any{"x": []any{int64(1), nanOf()}}}
	if _, err := formatJSON(nan); err == nil || !strings.Contains(err.Error(), `NaN has no form in JSON (at [1]["x"][1])`) {
		t.Errorf("NaN: %v", err)
	}
	for _, v := range []any{map[any]any{int64(1): 1, "1": 2}, []pickle.Pair{{Key: []any{}, Value: 1}}, pickle.Global{Module: "a", Name: "b"}, "\xed\xa0\x80",
		&pickle.Object{Callable: pickle.Global{Module: "m", Name: "C"}}} {
		if out, err := formatJSON(v); err == nil {
			t.Errorf("%#v became %s", v, out)
		}
	}
	var deep any
	for range maxJSONDepth + 2 {
		deep = []any{deep}
	}
	if _, err := formatJSON(deep); err == nil {
		t.Error("no bound on nesting")
	}
	if _, err := parseJSON([]byte(strings.Repeat("[", 1e6))); err == nil {
		t.Error("no bound on nesting of input")
	}
}

func nanOf() float64 { var zero float64; return zero / zero }

func TestArraysAsJSON(t *testing.T) {
	for want, make := range map[string]func() (*serialize.Array, error){
		"[[1,2],[3,4]]":          func() (*serialize.Array, error) { return serialize.NewArray([]int8{1, 2, 3, 4}, 2, 2) },
		"[1.5,2.0]":              func() (*serialize.Array, error) { return serialize.NewArray([]float32{1.5, 2}) },
		"[18446744073709551615]": func() (*serialize.Array, error) { return serialize.NewArray([]uint64{1<<64 - 1}) },
		"[[1.0,-2.0]]":           func() (*serialize.Array, error) { return serialize.NewArray([]complex128{1 - 2i}) },
		"[[],[]]":                func() (*serialize.Array, error) { return serialize.NewArray([]int64{}, 2, 0) },
	} {
		a, err := make()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := formatJSON(a); err != nil || string(got) != want+"\n" {
			t.Errorf("got %s (%v), want %s", got, err, want)
		}
	}
	if a, err := serialize.NewArray([]int64{}, 1<<40, 0); err == nil {
		if _, err := formatJSON(a); err == nil {
			t.Error("an empty array of a huge shape became lists")
		}
	}
}

func TestTerminalGuard(t *testing.T) {
	for text, ok := range map[string]bool{"plain\ttext\r\n": true, "é日本": true, "\x1b[2J": false, "\x00": false, "\xff": false, "\x7f": false} {
		var b bytes.Buffer
		_, err := (&terminalGuard{w: &b}).Write([]byte(text))
		if (err == nil) != ok || ok && b.String() != text || !ok && b.Len() > 0 {
			t.Errorf("%q: %v, wrote %q", text, err, b.String())
		}
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", "redis://h:1/0": "redis://h:1/0", "redis://u:pw@h:1/0": "redis://u:" + redacted + "@h:1/0", "http://u@h": "http://u@h",
		"http://h/a:b@c": "http://h/a:b@c", "x://a:b@c@d": "x://a:" + redacted + "@d",
	} {
		if got := redactURL(in); got != want {
			t.Errorf("%s became %s, want %s", in, got, want)
		}
	}
	got := fmt.Sprint(redact("multi", map[string]any{"m": []any{"proxystore.connectors.redis.RedisConnector", map[string]any{"password": "hunter2", "x": map[string]any{"API_Token": "hunter2"}}, map[string]any{}}}))
	if strings.Contains(got, "hunter2") {
		t.Error(got)
	}
}

func TestContextReader(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789"), 100_000)
	got, err := io.ReadAll(contextReader(t.Context(), bytes.NewReader(want)))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := iotest.TestReader(contextReader(t.Context(), strings.NewReader("abc")), []byte("abc")); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	r, w := io.Pipe()
	defer w.Close()
	cr := contextReader(ctx, r)
	cancel(errSignal{syscall.SIGINT})
	if _, err := cr.Read(make([]byte, 1)); !errors.Is(err, errSignal{syscall.SIGINT}) {
		t.Errorf("read after cancel: %v", err)
	}
}

func TestUnits(t *testing.T) {
	for ns, want := range map[int64]string{0: "0 ns", 999: "999 ns", 1500: "1.50 µs", 12_340: "12.3 µs", 123_456: "123 µs", 5e6: "5.00 ms", 2e9: "2.00 s"} {
		if got := formatTime(ns); got != want {
			t.Errorf("%d ns: %s, want %s", ns, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 bytes", 1023: "1023 bytes", 1024: "1 KiB", 1536: "1.5 KiB", 64 << 20: "64 MiB", 3 << 30: "3 GiB"} {
		if got := formatBytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
