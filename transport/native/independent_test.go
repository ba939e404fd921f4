package native_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/tcp"
)

// stranger is a client that was written from docs/protocol.md alone: nothing in its methods is this package's. One request at a time, sums always.
type stranger struct {
	conn  net.Conn
	token []byte
	limit int // bytes of body that the server takes
	id    uint32
}

// strangeFrame is one frame. The numbers of types, flags and operations below are those of the document.
type strangeFrame struct {
	typ, flags byte
	code       uint16
	id         uint32
	off, size  uint64
	meta, body []byte
}

func low32(parts ...[]byte) uint32 { return uint32(xxhash.Sum64(bytes.Join(parts, nil))) }

func (s *stranger) send(f strangeFrame) error {
	var sum uint64
	if len(f.body) > 0 {
		f.flags |= 2
		sum = xxhash.Sum64(f.body)
	}
	le := binary.LittleEndian
	b := le.AppendUint32(le.AppendUint16([]byte{f.typ, f.flags}, f.code), f.id)
	b = le.AppendUint64(le.AppendUint64(b, f.off), f.size)
	b = le.AppendUint32(le.AppendUint32(b, uint32(len(f.meta))), uint32(len(f.body)))
	b = le.AppendUint32(le.AppendUint64(b, sum), 0)
	b = le.AppendUint32(b, low32(b, f.meta))
	_, err := s.conn.Write(bytes.Join([][]byte{b, f.meta, f.body}, nil))
	return err
}

func (s *stranger) recv() (f strangeFrame, err error) {
	h := make([]byte, 48)
	if _, err = io.ReadFull(s.conn, h); err != nil {
		return f, err
	}
	le := binary.LittleEndian
	f = strangeFrame{typ: h[0], flags: h[1], code: le.Uint16(h[2:]), id: le.Uint32(h[4:]), off: le.Uint64(h[8:]), size: le.Uint64(h[16:])}
	if le.Uint32(h[24:]) > 1<<16 || le.Uint32(h[28:]) > 1<<20 {
		return f, errors.New("lengths beyond the limits")
	}
	f.meta, f.body = make([]byte, le.Uint32(h[24:])), make([]byte, le.Uint32(h[28:]))
	if _, err = io.ReadFull(s.conn, f.meta); err != nil {
		return f, err
	}
	if le.Uint32(h[44:]) != low32(h[:44], f.meta) {
		return f, errors.New("wrong check")
	}
	if _, err = io.ReadFull(s.conn, f.body); err != nil {
		return f, err
	}
	switch {
	case len(f.body) > 0 && (f.flags&2 == 0 || le.Uint64(h[32:]) != xxhash.Sum64(f.body)):
		return f, errors.New("wrong sum")
	case f.typ == 5:
		return f, fmt.Errorf("status %d: %s", f.code, f.field(4))
	}
	return f, nil
}

// field finds a field of metadata that holds nothing else.
func (f strangeFrame) field(tag uint16) []byte {
	for b := f.meta; len(b) >= 4; {
		n := 4 + int(binary.LittleEndian.Uint16(b[2:]))
		if binary.LittleEndian.Uint16(b) == tag {
			return b[4:n]
		}
		b = b[n:]
	}
	return nil
}

func (s *stranger) proof(role string, said ...[]byte) []byte {
	m := hmac.New(sha256.New, s.token)
	m.Write([]byte("proxyplane native " + role + "\x00"))
	for _, b := range said {
		m.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...))
	}
	return m.Sum(nil)
}

func (s *stranger) open() error {
	le := binary.LittleEndian
	hello := le.AppendUint64([]byte("PXPLANE\x00\x01\x00\x01\x00"), 0)
	hello = append(le.AppendUint32(hello, 1<<20), 3, 0, 0, 0)
	hello = append(hello, make([]byte, 32)...)
	rand.Read(hello[28:])
	if err := s.send(strangeFrame{typ: 1, flags: 1, code: 1, meta: hello}); err != nil {
		return err
	}
	f, err := s.recv()
	if err != nil {
		return err
	}
	challenge := f.meta
	if f.typ == 2 {
		if err := s.send(strangeFrame{typ: 3, flags: 1, meta: s.proof("client", hello, challenge)}); err != nil {
			return err
		}
		if f, err = s.recv(); err != nil {
			return err
		}
	} else if s.token != nil {
		return errors.New("not asked for the token")
	}
	if f.typ != 4 || len(f.meta) < 52 || le.Uint16(f.meta) != 1 || f.meta[2] != 1 || f.meta[3] != 0 {
		return fmt.Errorf("no WELCOME that we understand: %+v", f)
	}
	s.limit = int(le.Uint32(f.meta[12:]))
	if s.token != nil {
		theirs := bytes.Clone(f.meta[20:52])
		clear(f.meta[20:52])
		if !hmac.Equal(theirs, s.proof("server", hello, challenge, f.meta)) {
			return errors.New("the server does not know the token")
		}
	}
	return nil
}

// ask sends a request with its body in frames of at most part bytes, and returns the first frame of the answer, with the whole body.
func (s *stranger) ask(op uint16, object string, off, size uint64, body []byte, part int) (strangeFrame, error) {
	s.id++
	meta := append(binary.LittleEndian.AppendUint16(make([]byte, 4), uint16(len(object))), object...)
	f := strangeFrame{typ: 6, code: op, id: s.id, off: off, size: size, meta: meta}
	part = min(part, s.limit)
	for sent := 0; f.flags == 0; sent += part {
		if f.body = body[sent:min(sent+part, len(body))]; sent+part >= len(body) {
			f.flags = 1
		}
		if err := s.send(f); err != nil {
			return f, err
		}
		f = strangeFrame{typ: 8, flags: f.flags, id: s.id, off: uint64(sent + part)}
	}
	answer, err := s.recv()
	if err == nil && answer.typ != 7 {
		err = fmt.Errorf("a frame of type %d", answer.typ)
	}
	for last := answer; err == nil && last.flags&1 == 0; {
		if last, err = s.recv(); err == nil && (last.typ != 8 || last.id != s.id || last.off != off+uint64(len(answer.body))) {
			err = fmt.Errorf("not the next part: %+v", last)
		}
		if err == nil && last.code != 0 {
			return last, fmt.Errorf("status %d: %s", last.code, last.field(4))
		}
		answer.body = append(answer.body, last.body...)
	}
	if err == nil && answer.code != 0 {
		err = fmt.Errorf("status %d: %s", answer.code, answer.field(4))
	}
	return answer, err
}

// TestIndependentClient: docs/protocol.md suffices to write a client.
func TestIndependentClient(t *testing.T) {
	checkLeaks(t)
	const all = 1<<64 - 1
	for _, token := range []string{"", "secret"} {
		store := table(t)
		srv, err := tcp.Listen(context.Background(), "tcp://127.0.0.1:0", store, tcp.ListenOptions{ServerOptions: native.ServerOptions{Token: []byte(token)}})
		must(t, err)
		t.Cleanup(func() { srv.Close() })
		dial := func(token []byte) (*stranger, error) {
			conn, err := net.Dial("tcp", strings.TrimPrefix(srv.Addr(), "tcp://"))
			must(t, err)
			t.Cleanup(func() { conn.Close() })
			s := &stranger{conn: conn, token: token}
			return s, s.open()
		}
		var secret []byte
		if token != "" {
			secret = []byte(token)
			if _, err := dial([]byte("wrong")); err == nil || !strings.HasPrefix(err.Error(), "status 5: ") {
				t.Errorf("with a wrong token: %v", err)
			}
		}
		s, err := dial(secret)
		must(t, err)
		_, err = s.ask(1, "", 0, 0, nil, 1)
		must(t, err)
		for _, n := range []int{0, 1, 5000, 3 << 20} {
			for _, part := range []int{1000, 1 << 30} {
				if n/part > 100 {
					part = 100_000
				}
				want := payload("stranger", n)
				size := uint64(n)
				if part < 1<<20 {
					size = all // unknown beforehand
				}
				_, err = s.ask(2, "x", 0, size, want, part)
				must(t, err)
				got, err := s.ask(3, "x", 0, all, nil, 1)
				must(t, err)
				if !bytes.Equal(got.body, want) || got.size != uint64(n) {
					t.Errorf("get: %d bytes of %d, want %d", len(got.body), got.size, n)
				}
				got, err = s.ask(3, "x", uint64(n/2), uint64(n/3), nil, 1)
				must(t, err)
				if !bytes.Equal(got.body, want[n/2:][:n/3]) {
					t.Error("range differs")
				}
				got, err = s.ask(4, "x", 0, 0, nil, 1)
				must(t, err)
				if info, err := store.Stat("x"); err != nil || got.size != uint64(n) || len(got.field(3)) != 8 ||
					int64(binary.LittleEndian.Uint64(got.field(3))) != info.ModTime.UnixNano() {
					t.Errorf("stat: %+v", got)
				}
				for _, there := range []uint64{1, 0} {
					got, err = s.ask(6, "x", 0, 0, nil, 1)
					must(t, err)
					if got.size != there {
						t.Errorf("evict: %d", got.size)
					}
				}
			}
		}
		if got, err := s.ask(3, "x", 0, all, nil, 1); err == nil || got.code != 1 {
			t.Errorf("a get of nothing: %v", err)
		}
	}
}
