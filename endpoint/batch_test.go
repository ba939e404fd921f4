package endpoint

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/transport/objects"
)

// frames is the form of /batch/set's body and of /batch/get's answer.
func frames(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(binary.BigEndian.AppendUint64(out, uint64(len(p))), p...)
	}
	return out
}

func header(t testing.TB, at string, keys ...string) []byte {
	t.Helper()
	m := map[string]any{"keys": keys}
	if at != "" {
		m["endpoint"] = at
	}
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestBatch(t *testing.T) {
	noLeaks(t)
	table := newTable(t, objects.TableOptions{})
	peers := &fakePeers{table: newTable(t, objects.TableOptions{})}
	s := newSite(t, Options{Store: &fileStore{Table: table, dir: t.TempDir()}, Peers: peers, MaxObject: 10_000_000})
	for _, at := range []string{"", peerID.String(), ownID.String()} {
		var keys []string
		var values [][]byte
		for i := range 40 {
			keys, values = append(keys, fmt.Sprintf("k%d", i)), append(values, random(1+i*i*i*20))
		}
		for _, body := range []func([]byte) io.Reader{func(b []byte) io.Reader { return bytes.NewReader(b) }, chunked} {
			s.want(t, 200, `{"stored": 40}`, "POST", "/batch/set", body(frames(append([][]byte{header(t, at, keys...)}, values...)...)))
		}
		asked := append([]string{"none"}, keys...)
		a := s.want(t, 200, "?", "POST", "/batch/exists", bytes.NewReader(header(t, at, asked...)))
		var found struct{ Exists []bool }
		if err := json.Unmarshal(a.body, &found); err != nil || len(found.Exists) != 41 || found.Exists[0] || !found.Exists[1] || !found.Exists[40] {
			t.Errorf("%v %s", err, a.body)
		}
		want := append(binary.BigEndian.AppendUint64(nil, math.MaxUint64), frames(values...)...)
		a = s.want(t, 200, "?", "POST", "/batch/get", bytes.NewReader(header(t, at, asked...)))
		if !bytes.Equal(a.body, want) {
			t.Errorf("%s: batch/get: %d bytes, want %d", at, len(a.body), len(want))
		}
		s.want(t, 200, "{}", "POST", "/batch/evict", bytes.NewReader(header(t, at, asked...)))
		a = s.want(t, 200, "?", "POST", "/batch/exists", bytes.NewReader(header(t, at, keys...)))
		if strings.Contains(string(a.body), "true") {
			t.Errorf("%s", a.body)
		}
		s.want(t, 200, "", "POST", "/batch/get", strings.NewReader(`{"keys": []}`))
		s.want(t, 200, `{"exists":[]}`+"\n", "POST", "/batch/exists", strings.NewReader(`{"keys": []}`))
		s.want(t, 200, `{"stored": 0}`, "POST", "/batch/set", bytes.NewReader(frames([]byte(`{"keys":[]}`))))
	}
	if table.Stats().Objects+peers.table.Stats().Objects != 0 {
		t.Error("objects left")
	}
}

func TestBatchErrors(t *testing.T) {
	noLeaks(t)
	s := newSite(t, Options{Peers: &fakePeers{table: newTable(t, objects.TableOptions{})}, MaxObject: 1000})
	for _, bad := range []string{"", "x", "{}", `{"keys": 1}`, `{"keys": [1]}`, `{"keys": ["a"], "endpoint": "x"}`, `{"keys": ["a"], "other": 1}`, `{"keys": ["a"]} x`, "null",
		`{"keys": ["` + strings.Repeat("k", maxKey+1) + `"]}`, `{"keys": [` + strings.Repeat(`"",`, maxBatchKeys) + `""]}`} {
		for _, path := range []string{"/batch/exists", "/batch/evict", "/batch/get"} {
			s.want(t, 400, "?", "POST", path, strings.NewReader(bad))
		}
		s.want(t, 400, "?", "POST", "/batch/set", bytes.NewReader(frames([]byte(bad))))
	}
	s.want(t, 413, "?", "POST", "/batch/get", bytes.NewReader(make([]byte, maxBatchJSON+1)))
	s.want(t, 405, "?", "GET", "/batch/get", nil)
	for _, path := range []string{"/batch/exists", "/batch/evict", "/batch/get"} {
		s.want(t, 500, "?", "POST", path, bytes.NewReader(header(t, goneID.String(), "a", "b", "c")))
	}
	one := header(t, "", "a", "b")
	huge := binary.BigEndian.AppendUint64(frames(one), math.MaxUint64)
	large := binary.BigEndian.AppendUint64(frames(one), 1<<62)
	for i, bad := range []struct {
		code int
		body []byte
		text string
	}{
		{400, nil, "EOF"}, {400, []byte{0, 0, 0}, "EOF"}, {400, huge[:8], "EOF"}, {400, binary.BigEndian.AppendUint64(nil, math.MaxUint64), "claims"},
		{413, huge, "object 1 of 2"}, {413, large, "object 1 of 2"}, {400, frames(one, []byte("x")), `object 2 of 2, key "b"`}, {400, frames(one, []byte("x"), nil), "empty payload"},
		{413, frames(one, []byte("x"), make([]byte, 1001)), "max_object_size"}, {400, frames(one, []byte("x"), []byte("y"), nil), "follow"},
		{400, frames(one, []byte("x"), []byte("yyyy"))[:len(frames(one))+9+8+2], "object 2 of 2"},
		{500, frames(header(t, goneID.String(), "a"), []byte("x")), "no such peer"},
	} {
		for _, body := range []io.Reader{bytes.NewReader(bad.body), chunked(bad.body)} {
			if a := s.want(t, bad.code, "?", "POST", "/batch/set", body); !strings.Contains(string(a.body), bad.text) {
				t.Errorf("%d: %s", i, a.body)
			}
		}
	}
	s.want(t, 200, "x", "GET", "/get?key=a", nil) // those before the one that failed stay
	s.want(t, 200, `{"stored": 2}`, "POST", "/batch/set", bytes.NewReader(frames(one, nil, nil)), "Proxyplane-Empty", "1")
}

// FuzzBatchSet: whatever comes, lengths that are claimed cost nothing, and what is accepted is what was framed.
func FuzzBatchSet(f *testing.F) {
	one := []byte(`{"keys":["a","b"]}`)
	f.Add(frames(one, []byte("x"), []byte("yy")))
	f.Add(frames([]byte(`{"keys":[]}`)))
	f.Add(binary.BigEndian.AppendUint64(nil, maxBatchJSON))
	f.Add(binary.BigEndian.AppendUint64(frames(one), math.MaxUint64))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		b, err := readBatch(r)
		if err != nil {
			return
		}
		for _, k := range b.Keys {
			if len(k) > maxKey {
				t.Fatal("a key too long")
			}
			n, err := readFrame(r)
			if err != nil || n > uint64(r.Len()) {
				return
			}
			r.Seek(int64(n), io.SeekCurrent)
		}
	})
}

// FuzzRange: a range is inside the object, or there is none.
func FuzzRange(f *testing.F) {
	for _, s := range []string{"bytes=0-0", "bytes=-1", "bytes=1-", "bytes=9223372036854775807-9223372036854775807", "bytes=0-9223372036854775807", "bytes=0-1,2-3", "x", "bytes=--1"} {
		f.Add(s, int64(10))
	}
	f.Fuzz(func(t *testing.T, s string, size int64) {
		size = max(size, 0)
		r := parseRange([]string{s})
		off, n, ok := r.of(size)
		if !ok {
			if !r.given || size == 0 {
				t.Fatal("refused without need")
			}
			return
		}
		if off < 0 || n < 0 || off > size || n > size-off || size > 0 && n == 0 {
			t.Fatalf("%q of %d: %d from %d", s, size, n, off)
		}
		if !r.given && (off != 0 || n != size) {
			t.Fatal("not whole")
		}
	})
}

// FuzzQuery: a value survives being escaped, and no query is beyond reading.
func FuzzQuery(f *testing.F) {
	f.Add("key=a&endpoint=b", "k\x00ü&=+% ")
	f.Add("&&=&key", "")
	f.Add("key=%ff%C3%28%zz%", "%41")
	f.Fuzz(func(t *testing.T, raw, value string) {
		if v, ok := query(raw, "key"); !ok && v != "" {
			t.Fatal(v)
		}
		if v, ok := query("x=1&key="+escape(value), "key"); !ok || strings.ToValidUTF8(value, "") == value && v != value {
			t.Fatalf("%q came back as %q", value, v)
		}
	})
}

func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, "%%%02x", s[i])
	}
	return b.String()
}

func FuzzMatches(f *testing.F) {
	f.Add(`W/"a", "b"`, `"b"`)
	f.Add(`*`, `"b"`)
	f.Add(`"a`, `"a"`)
	f.Fuzz(func(t *testing.T, list, tag string) {
		if matches([]string{list}, tag, false) && !matches([]string{list}, tag, true) {
			t.Fatal("strong but not weak")
		}
	})
}
