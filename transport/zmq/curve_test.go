package zmq

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
)

// tampered is a connection on which one byte of what is read was changed.
type tampered struct {
	net.Conn
	at int // bytes until then
}

func (c *tampered) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.at >= 0 && c.at < n {
		p[c.at] ^= 0x40
	}
	c.at -= n
	return n, err
}

// TestCurveTamperedHandshake: whatever byte (every third is tried) is changed behind the greeting, nobody is let in, and no client believes to be.
func TestCurveTamperedHandshake(t *testing.T) {
	leakCheck(t)
	public, secret, _ := NewCurveKeys()
	clientPublic, clientSecret, _ := NewCurveKeys()
	cs := &CurveServer{PublicKey: public, SecretKey: secret, AllowedClients: []CurveKey{clientPublic}}
	cc := &CurveClient{ServerKey: public, PublicKey: clientPublic, SecretKey: clientSecret}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	try := func(serverAt, clientAt int) error {
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		sc, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		limit := 200 * time.Millisecond // for changed lengths, where one waits for what never comes
		if serverAt < 0 && clientAt < 0 {
			limit = time.Minute
		}
		server, client := newWire(&tampered{sc, serverAt}), newWire(&tampered{nc, clientAt})
		defer server.close()
		defer client.close()
		var wg sync.WaitGroup
		var se error
		wg.Go(func() {
			if se = server.bounded(context.Background(), limit, func() error { return server.accept(cs) }); se != nil {
				server.close()
			}
		})
		ce := client.bounded(context.Background(), limit, func() error { return client.introduce(cc, nil) })
		if ce != nil {
			client.close()
		}
		wg.Wait()
		return errors.Join(se, ce)
	}
	if err := try(-1, -1); err != nil {
		t.Fatal(err)
	}
	const fromClient = 64 + 2 + 200 + 9 + 9 + 96 + 8 + 16 + 32 + 96 // and metadata
	const padding = 64 + 2 + 6 + 2                                  // in HELLO, which means nothing
	for at := 64; at < fromClient+16; at += 3 {
		if at == padding-1 || at >= padding && at < padding+72 {
			continue // the minor version is for whoever makes one
		}
		if err := try(at, -1); err == nil {
			t.Errorf("byte %d from the client was changed, and nobody saw it", at)
		}
	}
	const fromServer = 64 + 2 + 168 + 2 + 6 + 8 + 16 // and metadata
	for at := 64; at < fromServer+16; at += 3 {
		if err := try(-1, at); err == nil {
			t.Errorf("byte %d from the server was changed, and nobody saw it", at)
		}
	}
}

// TestCurveTamperedMessage: a box that was changed, repeated, left out or turned around is not opened.
func TestCurveTamperedMessage(t *testing.T) {
	leakCheck(t)
	key := &[32]byte{1}
	s := sealer{seal: key, prefix: "CurveZMQMESSAGEC"}
	var boxes [][]byte
	for range 2 {
		s.begin(0, 0)
		s.add([]byte("a message"))
		boxes = append(boxes, frameBytes(0, s.end(nil)))
	}
	open := func(in []byte) error {
		w := newWire(&script{in: in})
		w.box = sealed{open: key, prefix: "CurveZMQMESSAGEC"}
		_, _, err := w.next()
		if err == nil {
			_, _, err = w.next()
		}
		return err
	}
	both := append(append([]byte{}, boxes[0]...), boxes[1]...)
	if err := open(both); err != nil {
		t.Fatal(err)
	}
	for at := range both {
		b := append([]byte{}, both...)
		if b[at] ^= 0x40; at%len(boxes[0]) == 0 {
			continue // the bits of the frame outside of the box: reserved ones are refused, others say nothing
		}
		if err := open(b); err == nil {
			t.Errorf("byte %d was changed, and nobody saw it", at)
		}
	}
	for name, in := range map[string][]byte{
		"twice":  append(append([]byte{}, boxes[0]...), boxes[0]...),
		"around": append(append([]byte{}, boxes[1]...), boxes[0]...),
		"plain":  append(append([]byte{}, boxes[0]...), message([]byte("a message that is not in a box at all"))...),
	} {
		if err := open(in); !errors.Is(err, transport.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
