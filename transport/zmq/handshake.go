package zmq

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
)

const greetingSize = 64

// greeting is what each side sends first: ZMTP 3.1, which peers that speak 3.0 answer with 3.0.
func greeting(mechanism string, asServer bool) []byte {
	g := make([]byte, greetingSize)
	g[0], g[9], g[10], g[11] = 0xff, 0x7f, 3, 1
	copy(g[12:32], mechanism)
	if asServer {
		g[32] = 1
	}
	return g
}

// readGreeting reads the peer's. It gives up as soon as a byte is wrong, since who speaks something else may be waiting for us to speak.
func (w *wire) readGreeting(mechanism string) error {
	if err := w.fill(1); err != nil {
		return err
	}
	if w.rbuf[w.r] != 0xff {
		return corrupt("%s does not speak ZeroMQ: it begins with %#02x", w.remote(), w.rbuf[w.r])
	}
	if err := w.fill(11); err != nil {
		return err
	}
	if g := w.rbuf[w.r:]; g[9]&1 == 0 || g[10] < 3 {
		return corrupt("%s speaks ZMTP before 3.0", w.remote())
	}
	if err := w.fill(greetingSize); err != nil {
		return err
	}
	g := w.rbuf[w.r : w.r+greetingSize]
	w.r += greetingSize
	if theirs := string(bytes.TrimRight(g[12:32], "\x00")); theirs != mechanism {
		return fmt.Errorf("zmq: %s: %w: the peer's security mechanism is %q, ours %q", w.remote(), transport.ErrDenied, printable(theirs), mechanism)
	}
	return nil
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

// readCommand reads the handshake's next command, which must be of that name, and lends what follows the name until the next read.
func (w *wire) readCommand(name string) ([]byte, error) {
	n, flags, err := w.frame()
	if err != nil {
		return nil, err
	}
	if flags&flagCommand == 0 {
		return nil, corrupt("%s: a message where the command %s is due", w.remote(), name)
	}
	body := w.rbuf[w.r : w.r+int(n)]
	w.r += int(n)
	theirs, rest, ok := commandName(body)
	switch {
	case ok && string(theirs) == name:
		return rest, nil
	case ok && string(theirs) == "ERROR":
		why := string(reason(rest))
		if why == "400" { // what ZAP (RFC 27) calls a failed authentication
			return nil, fmt.Errorf("zmq: %s: %w: the peer does not accept our key", w.remote(), transport.ErrDenied)
		}
		return nil, fmt.Errorf("zmq: %s: %w: the peer says: %q", w.remote(), transport.ErrUnavailable, why)
	}
	return nil, corrupt("%s: the command %q where %s is due", w.remote(), printable(string(theirs)), name)
}

func appendCommand(dst []byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n <= 255 {
		dst = append(dst, flagCommand, byte(n))
	} else {
		dst = binary.BigEndian.AppendUint64(append(dst, flagCommand|flagLong), uint64(n))
	}
	return append(dst, bytes.Join(parts, nil)...)
}

// metadata says what socket we are.
func metadata(socket string) []byte {
	var m []byte
	for _, p := range [][2]string{{"Socket-Type", socket}, {"Identity", ""}} {
		m = append(append(m, byte(len(p[0]))), p[0]...)
		m = append(binary.BigEndian.AppendUint32(m, uint32(len(p[1]))), p[1]...)
	}
	return m
}

// checkMetadata checks that we can talk with what socket the peer is.
func (w *wire) checkMetadata(m []byte, accept []string) error {
	socket := ""
	for len(m) > 0 {
		n := int(m[0])
		if len(m) < 1+n+4 {
			return corrupt("%s: metadata cut short", w.remote())
		}
		name := m[1 : 1+n]
		size := binary.BigEndian.Uint32(m[1+n:])
		m = m[1+n+4:]
		if uint64(size) > uint64(len(m)) {
			return corrupt("%s: metadata cut short", w.remote())
		}
		if strings.EqualFold(string(name), "Socket-Type") {
			socket = string(m[:size])
		}
		m = m[size:]
	}
	if !slices.Contains(accept, socket) {
		return fmt.Errorf("zmq: %s: %w: the peer is a %q socket, and must be one of %s", w.remote(), transport.ErrUnavailable, printable(socket),
			strings.Join(accept, ", "))
	}
	return nil
}

// Whom we talk with, as a server (a ROUTER) and as a client (a DEALER).
var (
	clientSockets = []string{"REQ", "DEALER", "ROUTER"}
	serverSockets = []string{"ROUTER", "REP"}
)

// accept shakes hands as the server. On error the connection is of no use.
func (w *wire) accept(c *CurveServer) error {
	if c != nil {
		return w.acceptCurve(c)
	}
	// Both may say all they have to say at once.
	if _, err := w.nc.Write(appendCommand(greeting("NULL", false), []byte("\x05READY"), metadata("ROUTER"))); err != nil {
		return w.readError(err)
	}
	if err := w.readGreeting("NULL"); err != nil {
		return err
	}
	m, err := w.readCommand("READY")
	if err != nil {
		return err
	}
	return w.checkMetadata(m, clientSockets)
}

// introduce shakes hands as the client, and sends hello.
func (w *wire) introduce(c *CurveClient, hello transport.Slices) error {
	if c != nil {
		if err := w.introduceCurve(c); err != nil {
			return err
		}
		return w.sayHello(hello)
	}
	if _, err := w.nc.Write(appendCommand(greeting("NULL", false), []byte("\x05READY"), metadata("DEALER"))); err != nil {
		return w.readError(err)
	}
	if err := w.readGreeting("NULL"); err != nil {
		return err
	}
	m, err := w.readCommand("READY")
	if err != nil {
		return err
	}
	if err := w.checkMetadata(m, serverSockets); err != nil {
		return err
	}
	return w.sayHello(hello)
}

// sayHello sends the first message. Not earlier: libzmq hangs up on a peer whose first message it reads together with the greeting.
func (w *wire) sayHello(hello transport.Slices) error {
	if hello == nil {
		return nil
	}
	return w.send(nil, nil, hello, asParts)
}

// bounded bounds a handshake by ctx and a time: it runs f, and closes the connection when it fails.
func (w *wire) bounded(ctx context.Context, limit time.Duration, f func() error) error {
	until := time.Now().Add(limit)
	w.nc.SetDeadline(until)
	stop := context.AfterFunc(ctx, w.close)
	err := f()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		w.close()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, native.ErrInterrupted) || errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("zmq: %s: %w: the peer does not answer as ZeroMQ peers do within %v", w.remote(), transport.ErrUnavailable, limit)
		}
		return err
	}
	w.nc.SetDeadline(time.Time{})
	return nil
}

// connectPure is connectFunc in Go.
func connectPure(ctx context.Context, a address, o *DialOptions, hello [][]byte) (link, error) {
	d := net.Dialer{Timeout: o.HandshakeTimeout}
	nc, err := d.DialContext(ctx, a.network, a.host)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("zmq: %w: %w", transport.ErrUnavailable, err)
	}
	w := newWire(nc)
	if err := w.bounded(ctx, o.HandshakeTimeout, func() error { return w.introduce(o.Curve, hello) }); err != nil {
		return nil, err
	}
	return w, nil
}
