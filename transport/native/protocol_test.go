package native

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/proxyplane/proxyplane/internal/testenv"
)

// TestProtocolExample keeps the example of docs/protocol.md true.
func TestProtocolExample(t *testing.T) {
	var out strings.Builder
	show := func(who, what string, h Header, meta, body []byte) {
		if len(body) > 0 {
			h.Flags |= FlagSum
			h.Sum = xxhash.Sum64(body)
		}
		h.seal(meta, int64(len(body)))
		fmt.Fprintf(&out, "%s: %s\n\n```\n%s```\n\n", who, what, hex.Dump(append(append(h.Append(nil), meta...), body...)))
	}
	token := []byte("example")
	hi := hello{min: 1, max: 1, features: 3, maxBody: 1 << 20, hash: hashWanted}
	nonce := make([]byte, nonceSize)
	for i := range hi.nonce {
		hi.nonce[i], nonce[i] = byte(i), 0xa0+byte(i)
	}
	greeting := hi.append(nil)
	var again hello
	if err := again.decode(greeting); err != nil || again != hi {
		t.Fatalf("%+v, %v", again, err)
	}
	wel := welcome{version: 1, sums: true, features: 3, maxBody: 1 << 20, maxReqs: 1024, instance: "example-1"}
	copy(wel.proof[:], proof(token, "server", greeting, nonce, wel.append(nil)))
	var wel2 welcome
	if err := wel2.decode(wel.append(nil)); err != nil || wel2 != wel {
		t.Fatalf("%+v, %v", wel2, err)
	}
	show("Client", "HELLO", Header{Type: TypeHello, Flags: FlagLast, Code: 1}, greeting, nil)
	show("Server", "CHALLENGE", Header{Type: TypeChallenge, Flags: FlagLast, Code: 1}, nonce, nil)
	show("Client", "AUTH", Header{Type: TypeAuth, Flags: FlagLast}, proof(token, "client", greeting, nonce), nil)
	show("Server", "WELCOME", Header{Type: TypeWelcome, Flags: FlagLast, Code: 1}, wel.append(nil), nil)
	x := appendRequest(t.Context(), nil, "x")
	show("Client", "REQUEST put, five bytes, all in one frame", Header{Type: TypeRequest, Flags: FlagLast, Code: uint16(OpPut), ID: 1, Size: 5}, x,
		[]byte("hello"))
	show("Server", "RESPONSE, stored", Header{Type: TypeResponse, Flags: FlagLast, ID: 1}, nil, nil)
	show("Client", "REQUEST get, from byte 0, all", Header{Type: TypeRequest, Flags: FlagLast, Code: uint16(OpGet), ID: 2, Size: unknown}, x, nil)
	show("Server", "RESPONSE, the object", Header{Type: TypeResponse, Flags: FlagLast, ID: 2, Size: 5}, nil, []byte("hello"))
	show("Client", "REQUEST get of `y`", Header{Type: TypeRequest, Flags: FlagLast, Code: uint16(OpGet), ID: 3, Size: unknown},
		appendRequest(t.Context(), nil, "y"), nil)
	show("Server", "RESPONSE, no such object", Header{Type: TypeResponse, Flags: FlagLast, Code: uint16(StatusNotFound), ID: 3},
		appendText(nil, tagText, "y is not here", maxText), nil)

	path := filepath.Join(testenv.Root(), "docs", "protocol.md")
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const from, to = "<!-- example -->\n", "<!-- end of example -->"
	before, rest, ok := strings.Cut(string(doc), from)
	got, after, ok2 := strings.Cut(rest, to)
	if !ok || !ok2 {
		t.Fatalf("%s lacks the marks of the example", path)
	}
	if want := "\n" + out.String(); got != want {
		if os.Getenv("PROXYPLANE_RECORD") != "1" {
			t.Fatalf("the example in %s is not what the code does; PROXYPLANE_RECORD=1 writes it anew", path)
		}
		if err := os.WriteFile(path, []byte(before+from+want+to+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHeader: every field has its place, and every bit of header and metadata changes the check.
func TestHeader(t *testing.T) {
	h := Header{Type: TypeData, Flags: FlagLast | FlagSum, Code: 3, ID: 4, Off: 5, Size: 6, Sum: 7, Raw: 8}
	for _, n := range []int{0, 5, 300} {
		meta := make([]byte, n)
		h.seal(meta, 9)
		b := h.Append(nil)
		if len(b) != HeaderSize {
			t.Fatal(len(b))
		}
		var got Header
		if got.Decode(b); got != h {
			t.Fatalf("%+v, want %+v", got, h)
		}
		for bit := range (len(b) - 4 + n) * 8 {
			c, m := append([]byte(nil), b...), append([]byte(nil), meta...)
			if at := bit / 8; at < len(b)-4 {
				c[at] ^= 1 << (bit % 8)
			} else {
				m[at-(len(b)-4)] ^= 1 << (bit % 8)
			}
			var d Header
			if d.Decode(c); d.check(m) == d.Check {
				t.Errorf("flipping bit %d changes nothing", bit)
			}
		}
	}
}

func TestAgree(t *testing.T) {
	for _, v := range []struct {
		a, b uint8
		want bool
	}{{hashNever, hashWanted, false}, {hashNever, hashAlways, true}, {hashTrusted, hashTrusted, false}, {hashTrusted, hashWanted, true},
		{hashTrusted, hashAlways, true}, {hashWanted, hashWanted, true}, {hashNever, hashNever, false}} {
		if agreeSums(v.a, v.b) != v.want || agreeSums(v.b, v.a) != v.want {
			t.Errorf("%d and %d: want %v", v.a, v.b, v.want)
		}
	}
}

// TestStatuses: every status comes back as the error that it was.
func TestStatuses(t *testing.T) {
	for st := StatusNotFound; st < StatusBusy; st++ {
		base := statusErrors[st].err
		for _, err := range []error{base, fmt.Errorf("%w: because", base)} {
			got, text := statusOf(err)
			if got != st {
				t.Errorf("%v becomes %d, want %d", err, got, st)
			}
			back := &RemoteError{got, text}
			if back.Unwrap() != base || !strings.Contains(back.Error(), base.Error()) {
				t.Errorf("%v comes back as %v", err, back)
			}
		}
	}
	if e := (&RemoteError{Status: 999}); e.Unwrap() != statusErrors[StatusInternal].err {
		t.Error(e)
	}
}
