package zmq

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/curve25519"
	"golang.org/x/crypto/nacl/box"
	"golang.org/x/crypto/nacl/secretbox"

	"github.com/proxyplane/proxyplane/transport"
)

// CurveKey is a public or a secret key of CURVE (RFC 26): a point or a scalar of Curve25519.
type CurveKey [32]byte

// NewCurveKeys makes a pair of keys.
func NewCurveKeys() (public, secret CurveKey, err error) {
	p, s, err := box.GenerateKey(rand.Reader)
	if err != nil {
		return CurveKey{}, CurveKey{}, err
	}
	return *p, *s, nil
}

// Public returns the public key that belongs to the secret key k.
func (k CurveKey) Public() (p CurveKey) {
	curve25519.ScalarBaseMult((*[32]byte)(&p), (*[32]byte)(&k))
	return p
}

const z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"

// Z85 returns the key in the form in which ZeroMQ's tools print it (RFC 32): 40 characters.
func (k CurveKey) Z85() string {
	var s []byte
	for i := 0; i < len(k); i += 4 {
		v := binary.BigEndian.Uint32(k[i:])
		for _, d := range []uint32{85 * 85 * 85 * 85, 85 * 85 * 85, 85 * 85, 85, 1} {
			s = append(s, z85[v/d%85])
		}
	}
	return string(s)
}

// String hides the key, which may be secret.
func (k CurveKey) String() string { return "CURVE key" }

// ParseCurveKey reads what Z85 writes.
func ParseCurveKey(s string) (k CurveKey, err error) {
	if len(s) != 40 {
		return k, fmt.Errorf("zmq: a CURVE key has 40 characters of Z85, this one %d", len(s))
	}
	for i := 0; i < len(s); i += 5 {
		v := uint64(0)
		for _, c := range []byte(s[i : i+5]) {
			d := bytes.IndexByte([]byte(z85), c)
			if d < 0 {
				return k, errors.New("zmq: a CURVE key has a character that is not of Z85")
			}
			v = v*85 + uint64(d)
		}
		if v >= 1<<32 {
			return k, errors.New("zmq: a CURVE key is not Z85")
		}
		binary.BigEndian.PutUint32(k[i/5*4:], uint32(v))
	}
	return k, nil
}

// CurveServer makes a server speak CURVE.
type CurveServer struct {
	PublicKey, SecretKey CurveKey

	// AllowedClients are the public keys of those who may connect.
	AllowedClients []CurveKey
	// AnyClient lets everybody connect who knows the server's public key.
	AnyClient bool
}

func (c *CurveServer) check() error {
	switch {
	case c.SecretKey.Public() != c.PublicKey:
		return errors.New("zmq: CurveServer: the keys are not a pair")
	case len(c.AllowedClients) == 0 && !c.AnyClient:
		return errors.New("zmq: CurveServer: nobody may connect: name AllowedClients, or set AnyClient")
	}
	return nil
}

// CurveClient makes a client speak CURVE.
type CurveClient struct {
	ServerKey            CurveKey // the server's public key
	PublicKey, SecretKey CurveKey
}

func (c *CurveClient) check() error {
	if c.SecretKey.Public() != c.PublicKey {
		return errors.New("zmq: CurveClient: the keys are not a pair")
	}
	return nil
}

const (
	// maxBoxed is the longest body of a native frame. A box must be there as a whole before any of it can be trusted, so that long ones cost memory
	// and leave the processor's cache.
	maxBoxed = 256 << 10
	// maxBox bounds frames of other peers.
	maxBox = 64 << 20
	// boxedCommand marks a command in the first byte of what is boxed; flagMore is as outside.
	boxedCommand = 2
	// keepBoxed is how much memory stays with a connection for its next frame.
	keepBoxed = 1 << 20

	messageHead = 8 + 8 // "\x07MESSAGE" and the counter part of the nonce
)

var messageName = []byte("\x07MESSAGE")

// nonce24 is a nonce of 16 bytes of text, or 8 and 16.
func nonce24(prefix string, rest []byte) *[24]byte {
	var n [24]byte
	copy(n[copy(n[:], prefix):], rest)
	return &n
}

func nonceCount(prefix string, count uint64) *[24]byte {
	var n [24]byte
	copy(n[:], prefix)
	binary.BigEndian.PutUint64(n[16:], count)
	return &n
}

// shared is the key that both who has secret and who has the secret to public compute. It refuses points that make it known to everybody.
func shared(public, secret *CurveKey) (*[32]byte, error) {
	if _, err := curve25519.X25519(secret[:], public[:]); err != nil {
		return nil, err
	}
	var k [32]byte
	box.Precompute(&k, (*[32]byte)(public), (*[32]byte)(secret))
	return &k, nil
}

// sealer boxes what is sent.
type sealer struct {
	seal   *[32]byte // nil without CURVE
	prefix string
	nonce  uint64 // of the last box
	plain  []byte
}

func (s *sealer) begin(flags byte, n int64) {
	s.plain = append(slices.Grow(s.plain[:0], 1+int(n)), flags)
}

func (s *sealer) add(p []byte) { s.plain = append(s.plain, p...) }

// len is how long the frame is that end appends.
func (s *sealer) len() int64 { return int64(messageHead + box.Overhead + len(s.plain)) }

func (s *sealer) end(dst []byte) []byte {
	s.nonce++
	dst = binary.BigEndian.AppendUint64(append(dst, messageName...), s.nonce)
	dst = secretbox.Seal(dst, s.plain, nonceCount(s.prefix, s.nonce), s.seal)
	if cap(s.plain) > keepBoxed {
		s.plain = nil
	}
	return dst
}

// sealed opens what is received.
type sealed struct {
	open   *[32]byte // nil without CURVE
	prefix string
	nonce  uint64 // of the last box

	want  int    // the length of the box that is being read; 0 between two
	box   []byte // what came of it
	plain []byte // what was in the last one, but for its first byte
	mem   []byte
}

func (s *sealed) read(dst []byte) int {
	n := copy(dst, s.plain)
	s.plain = s.plain[n:]
	return n
}

// nextBoxed is next under CURVE.
func (w *wire) nextBoxed() (int64, bool, error) {
	s := &w.box
	for {
		if s.want == 0 {
			within := w.within
			n, flags, err := w.frame()
			if err != nil {
				return 0, false, err
			}
			w.within = within // what is outside of the box says nothing
			if flags&flagCommand != 0 {
				return 0, false, w.unboxed(n)
			}
			if n < messageHead+box.Overhead+1 || n > maxBox {
				return 0, false, corrupt("%s: a CURVE message of %d bytes", w.remote(), n)
			}
			s.want, s.box, s.plain = int(n), s.box[:0], nil
			if cap(s.box) > keepBoxed {
				s.box = nil
			}
			if cap(s.mem) > keepBoxed {
				s.mem = nil
			}
		}
		for len(s.box) < s.want {
			s.box = slices.Grow(s.box, min(s.want-len(s.box), max(64<<10, len(s.box)))) // memory follows the bytes, not the promise
			more := s.box[len(s.box):min(cap(s.box), s.want)]
			n, err := w.readRaw(more)
			s.box = s.box[:len(s.box)+n]
			if err != nil {
				return 0, false, err
			}
		}
		s.want = 0
		nonce := binary.BigEndian.Uint64(s.box[8:])
		if !bytes.HasPrefix(s.box, messageName) || nonce <= s.nonce {
			return 0, false, corrupt("%s: a CURVE message out of order", w.remote())
		}
		s.nonce = nonce
		mem, ok := secretbox.Open(s.mem[:0], s.box[messageHead:], nonceCount(s.prefix, nonce), s.open)
		if !ok {
			return 0, false, corrupt("%s: a CURVE message was changed on its way", w.remote())
		}
		s.mem = mem
		if mem[0]&boxedCommand != 0 {
			if err := w.obey(mem[1:]); err != nil {
				return 0, false, err
			}
			continue
		}
		s.plain = mem[1:]
		w.within = mem[0]&flagMore != 0
		return int64(len(s.plain)), w.within, nil
	}
}

// unboxed says what a command means that is not in a box: nothing good.
func (w *wire) unboxed(n int64) error {
	body := w.rbuf[w.r : w.r+int(n)]
	if name, _, _ := commandName(body); string(name) == "ERROR" {
		return w.obey(body)
	}
	return corrupt("%s: a command that is not encrypted", w.remote())
}

// introduceCurve is the client's half of RFC 26's handshake. Names are as there: C and S are the lasting keys of both sides, C' and S' (Ct and St here)
// those of the connection.
func (w *wire) introduceCurve(c *CurveClient) error {
	ct, cts, err := NewCurveKeys()
	if err != nil {
		return err
	}
	hk, err := shared(&c.ServerKey, &cts)
	if err != nil {
		return fmt.Errorf("zmq: CurveClient.ServerKey: %w", err)
	}
	hello := secretbox.Seal(nil, make([]byte, 64), nonceCount("CurveZMQHELLO---", 1), hk)
	out := appendCommand(greeting("CURVE", false), []byte("\x05HELLO\x01\x00"), make([]byte, 72), ct[:], binary.BigEndian.AppendUint64(nil, 1), hello)
	if _, err := w.nc.Write(out); err != nil {
		return w.readError(err)
	}
	if err := w.readGreeting("CURVE"); err != nil {
		return err
	}
	b, err := w.readCommand("WELCOME")
	if err != nil {
		if errors.Is(err, transport.ErrUnavailable) {
			err = fmt.Errorf("%w (a server hangs up here that has another key)", err)
		}
		return err
	}
	if len(b) != 16+144 {
		return corrupt("%s: a WELCOME of %d bytes", w.remote(), len(b))
	}
	welcome, ok := secretbox.Open(nil, b[16:], nonce24("WELCOME-", b[:16]), hk)
	if !ok {
		return fmt.Errorf("zmq: %s: %w: the server does not have the key that it should", w.remote(), transport.ErrDenied)
	}
	st, cookie := CurveKey(welcome[:32]), welcome[32:]
	key, err := shared(&st, &cts)
	if err != nil {
		return corrupt("%s: %v", w.remote(), err)
	}
	vk, err := shared(&st, &c.SecretKey)
	if err != nil {
		return corrupt("%s: %v", w.remote(), err)
	}
	vn := make([]byte, 16)
	rand.Read(vn)
	vouch := secretbox.Seal(vn, append(ct[:], c.ServerKey[:]...), nonce24("VOUCH---", vn), vk)
	plain := slices.Concat(c.PublicKey[:], vouch, metadata("DEALER"))
	initiate := secretbox.Seal(nil, plain, nonceCount("CurveZMQINITIATE", 2), key)
	if _, err := w.nc.Write(appendCommand(nil, []byte("\x08INITIATE"), cookie, binary.BigEndian.AppendUint64(nil, 2), initiate)); err != nil {
		return w.readError(err)
	}
	if b, err = w.readCommand("READY"); err != nil {
		return err
	}
	if len(b) < 8+box.Overhead {
		return corrupt("%s: a READY of %d bytes", w.remote(), len(b))
	}
	nonce := binary.BigEndian.Uint64(b)
	m, ok := secretbox.Open(nil, b[8:], nonceCount("CurveZMQREADY---", nonce), key)
	if !ok {
		return corrupt("%s: a READY that was changed on its way", w.remote())
	}
	w.box = sealed{open: key, prefix: "CurveZMQMESSAGES", nonce: nonce}
	w.seal = sealer{seal: key, prefix: "CurveZMQMESSAGEC", nonce: 2}
	return w.checkMetadata(m, serverSockets)
}

// acceptCurve is the server's half.
func (w *wire) acceptCurve(c *CurveServer) error {
	if _, err := w.nc.Write(greeting("CURVE", true)); err != nil {
		return w.readError(err)
	}
	if err := w.readGreeting("CURVE"); err != nil {
		return err
	}
	b, err := w.readCommand("HELLO")
	if err != nil {
		return err
	}
	if len(b) != 200-6 || b[0] != 1 {
		return corrupt("%s: a HELLO of %d bytes", w.remote(), len(b))
	}
	ct, nonce := CurveKey(b[74:106]), binary.BigEndian.Uint64(b[106:])
	hk, err := shared(&ct, &c.SecretKey)
	if err != nil {
		return corrupt("%s: %v", w.remote(), err)
	}
	if _, ok := secretbox.Open(nil, b[114:], nonceCount("CurveZMQHELLO---", nonce), hk); !ok {
		return w.refuse("does not know our key")
	}
	st, sts, err := NewCurveKeys()
	if err != nil {
		return err
	}
	// A server that keeps nothing of a peer between WELCOME and INITIATE needs the cookie. This one has a connection anyway, and uses it only to see
	// that the same peer answers.
	var ck [32]byte
	cn, wn := make([]byte, 16), make([]byte, 16)
	rand.Read(ck[:])
	rand.Read(cn)
	rand.Read(wn)
	cookie := secretbox.Seal(slices.Clone(cn), slices.Concat(ct[:], sts[:]), nonce24("COOKIE--", cn), &ck)
	welcome := secretbox.Seal(nil, slices.Concat(st[:], cookie), nonce24("WELCOME-", wn), hk)
	if _, err := w.nc.Write(appendCommand(nil, []byte("\x07WELCOME"), wn, welcome)); err != nil {
		return w.readError(err)
	}
	if b, err = w.readCommand("INITIATE"); err != nil {
		return err
	}
	if len(b) < 96+8+box.Overhead+32+96 || !bytes.Equal(b[:96], cookie) {
		return corrupt("%s: an INITIATE that does not follow from our WELCOME", w.remote())
	}
	key, err := shared(&ct, &sts)
	if err != nil {
		return corrupt("%s: %v", w.remote(), err)
	}
	last := binary.BigEndian.Uint64(b[96:])
	plain, ok := secretbox.Open(nil, b[104:], nonceCount("CurveZMQINITIATE", last), key)
	if !ok || last <= nonce {
		return corrupt("%s: an INITIATE that was changed on its way", w.remote())
	}
	client := CurveKey(plain[:32])
	vk, err := shared(&client, &sts)
	if err != nil {
		return corrupt("%s: %v", w.remote(), err)
	}
	vouched, ok := secretbox.Open(nil, plain[48:128], nonce24("VOUCH---", plain[32:48]), vk)
	if !ok || !bytes.Equal(vouched, slices.Concat(ct[:], c.PublicKey[:])) {
		return w.refuse("does not have the secret of its key")
	}
	if !c.AnyClient && !slices.Contains(c.AllowedClients, client) {
		return w.refuse("has the key " + client.Z85() + ", which is not allowed")
	}
	if err := w.checkMetadata(plain[128:], clientSockets); err != nil {
		return err
	}
	ready := secretbox.Seal(nil, metadata("ROUTER"), nonceCount("CurveZMQREADY---", 1), key)
	if _, err := w.nc.Write(appendCommand(nil, []byte("\x05READY"), binary.BigEndian.AppendUint64(nil, 1), ready)); err != nil {
		return w.readError(err)
	}
	w.box = sealed{open: key, prefix: "CurveZMQMESSAGEC", nonce: last}
	w.seal = sealer{seal: key, prefix: "CurveZMQMESSAGES", nonce: 1}
	return nil
}

// refuse tells the peer that it may not come in.
func (w *wire) refuse(why string) error {
	w.nc.Write(appendCommand(nil, []byte("\x05ERROR\x03400")))
	return fmt.Errorf("zmq: %w: %s %s", transport.ErrDenied, w.remote(), why)
}
