package fuzz

import (
	"bufio"
	_ "embed"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/proxyplane/proxyplane/internal/testenv"
	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/transport"
)

// A python is a process with the real ProxyStore that deserializes the objects it is sent and answers with what it makes of them, serialized again.
type python struct {
	mu  sync.Mutex
	in  io.Writer
	out *bufio.Reader
}

//go:embed worker.py
var workerScript string

func startPython(tb testing.TB) *python {
	tb.Helper()
	cmd := exec.Command(testenv.Python(tb, testenv.ProxyStore11), "-c", workerScript)
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
			tb.Error(err)
		}
	})
	return &python{in: in, out: bufio.NewReader(out)}
}

// again sends an object through Python. ok is false if Python could not read it, and answer is then its error.
func (p *python) again(object []byte) (answer []byte, ok bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := p.in.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(object))), object...)); err != nil {
		return nil, false, err
	}
	var head [5]byte
	if _, err := io.ReadFull(p.out, head[:]); err != nil {
		return nil, false, err
	}
	answer = make([]byte, binary.BigEndian.Uint32(head[1:]))
	_, err = io.ReadFull(p.out, answer)
	return answer, head[0] == 0, err
}

// FuzzPython makes a value of any bytes, and lets Python read what we write for it and write it again: that must be the value.
func FuzzPython(f *testing.F) {
	for _, s := range []string{"", "s", "sκόσμε", "b\x00\xff", "a\x01\x02\x03\x04\x05\x06\x07\x08", "m\x03abc\x02de\x00\x01x", "l\x01\x00\x80\x7f\xff\x00\x00\x00\x00", "f\x7f\xf0\x00\x00\x00\x00\x00\x00"} {
		f.Add([]byte(s))
	}
	py := startPython(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		v := valueOf(data)
		object, err := serialize.Encode(v)
		if err != nil {
			t.Fatalf("a %T cannot be written: %v", v, err)
		}
		answer, ok, err := py.again(object.Join())
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			t.Fatalf("Python cannot read %q: %s", object.Join(), answer)
		}
		w, err := serialize.Decode(transport.FromBytes(answer))
		if err != nil {
			t.Fatalf("what Python wrote for %q cannot be read: %q: %v", object.Join(), answer, err)
		}
		ours, err := serialize.Decode(transport.FromBytes(object.Join()))
		if err != nil {
			t.Fatal(err)
		}
		// Compared as we would write both, since NaN is not equal to itself.
		a, err1 := serialize.Encode(ours)
		b, err2 := serialize.Encode(w)
		if err := errors.Join(err1, err2); err != nil || string(a.Join()) != string(b.Join()) {
			t.Fatalf("%q became %q by way of Python (%v)", a.Join(), b.Join(), err)
		}
	})
}

// valueOf makes a value: the first byte says of which type, the rest what it is.
func valueOf(data []byte) any {
	if len(data) == 0 {
		return nil
	}
	body := data[1:]
	numbers := make([]int64, 0, len(body)/8)
	for rest := body; len(rest) >= 8; rest = rest[8:] {
		numbers = append(numbers, int64(binary.BigEndian.Uint64(rest)))
	}
	switch data[0] % 8 {
	case 's' % 8:
		if utf8.Valid(body) {
			return string(body)
		}
	case 'a' % 8:
		a, err := serialize.NewArray(numbers)
		if err != nil {
			panic(err)
		}
		return a
	case 'm' % 8: // texts by text, each with its length before it
		m := map[string]any{}
		for len(body) > 0 {
			n := min(int(body[0]), len(body)-1)
			if key := body[1 : 1+n]; utf8.Valid(key) {
				m[string(key)] = []any{int64(n), key}
			}
			body = body[1+n:]
		}
		return m
	case 'l' % 8:
		return numbers
	case 'f' % 8:
		floats := make([]float64, len(numbers))
		for i, n := range numbers {
			floats[i] = float64(n) / 3
		}
		return floats
	}
	return body
}
