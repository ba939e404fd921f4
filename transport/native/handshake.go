package native

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/proxyplane/proxyplane/transport"
)

// How much a side cares for checksums, in HELLO.
const (
	hashNever   = 0
	hashTrusted = 1 // would do without
	hashWanted  = 2
	hashAlways  = 3
)

func hashWish(m HashMode, c Carrier) uint8 {
	switch {
	case m == HashAlways:
		return hashAlways
	case m == HashNever:
		return hashNever
	case c.Trusted():
		return hashTrusted
	}
	return hashWanted
}

func agreeSums(a, b uint8) bool {
	if a >= hashAlways || b >= hashAlways {
		return true
	}
	return a != hashNever && b != hashNever && max(a, b) == hashWanted
}

// set applies what was agreed on.
func (l *link) agree(c Carrier, sums bool, compress Compression, chunk int, peerMax uint32) {
	l.sums = sums
	l.maxRecv = min(c.MaxBody(), MaxFrame)
	if w, ok := c.(WholeReader); ok {
		l.whole = w.ReadsWhole()
	}
	l.maxSend = min(l.maxRecv, int(min(peerMax, MaxFrame)))
	l.chunk = min(chunk, l.maxSend)
	switch l.compress = compress; compress {
	case CompressS2, CompressZstd:
	case CompressAuto:
		if l.compress, l.adapt = CompressS2, true; c.Trusted() {
			l.compress, l.adapt = CompressNone, false
		}
	default: // none, or one from the future
		l.compress = CompressNone
	}
}

// proof computes the HMAC by which one side shows that it knows the token. It covers all that was said before, so that nobody in between can change
// what the sides agree on, and the role, so that no proof can be sent back to who made it.
func proof(token []byte, role string, said ...[]byte) []byte {
	m := hmac.New(sha256.New, token)
	io.WriteString(m, "proxyplane native "+role+"\x00")
	for _, b := range said {
		var n [4]byte
		binary.LittleEndian.PutUint32(n[:], uint32(len(b)))
		m.Write(n[:])
		m.Write(b)
	}
	return m.Sum(nil)
}

// handshaker reads and writes the frames before a session is open.
type handshaker struct {
	c Carrier
	l link
	h Header
}

func (s *handshaker) write(t Type, code uint16, meta []byte) error {
	s.h = Header{Type: t, Code: code, Flags: FlagLast}
	s.h.seal(meta, 0)
	return s.c.WriteFrame(&s.h, meta, nil)
}

// read returns the metadata of the next frame, which must be one of the wanted types. It is lent until the next read.
func (s *handshaker) read(want ...Type) ([]byte, error) {
	meta, err := s.c.ReadFrame(&s.h)
	for errors.Is(err, ErrInterrupted) {
		meta, err = s.c.ReadFrame(&s.h)
	}
	if err != nil {
		return nil, err
	}
	if err := s.l.validate(&s.h, meta); err != nil {
		return nil, err
	}
	if s.h.Body != 0 {
		return nil, fmt.Errorf("%w: %s with a body", transport.ErrCorrupt, s.h.Type)
	}
	for _, t := range want {
		if s.h.Type == t {
			return meta, nil
		}
	}
	return nil, fmt.Errorf("%w: %s instead of %s", transport.ErrCorrupt, s.h.Type, want[0])
}

// greetServer is the client's side of the handshake.
func greetServer(ctx context.Context, c Carrier, o *ClientOptions, l *link) (Welcome, error) {
	s := handshaker{c: c, l: link{maxRecv: 0}}
	mine := hello{min: minVersion, max: maxVersion, features: features(c), maxBody: uint32(min(c.MaxBody(), MaxFrame)), hash: hashWish(o.Hash, c),
		compress: o.Compress}
	rand.Read(mine.nonce[:])
	greeting := mine.append(nil)
	if err := s.write(TypeHello, maxVersion, greeting); err != nil {
		return Welcome{}, handshakeError(ctx, err)
	}
	meta, err := s.read(TypeWelcome, TypeChallenge, TypeError)
	if err != nil {
		return Welcome{}, handshakeError(ctx, err)
	}
	var challenge []byte
	if s.h.Type == TypeChallenge {
		if len(meta) < nonceSize {
			return Welcome{}, fmt.Errorf("%w: CHALLENGE of %d bytes, want at least %d", transport.ErrCorrupt, len(meta), nonceSize)
		}
		if len(o.Token) == 0 {
			return Welcome{}, fmt.Errorf("%w: the server wants a token: set the client's Token to the server's", transport.ErrDenied)
		}
		challenge = append(challenge, meta...)
		if err := s.write(TypeAuth, 0, proof(o.Token, "client", greeting, challenge)); err != nil {
			return Welcome{}, handshakeError(ctx, err)
		}
		if meta, err = s.read(TypeWelcome, TypeError); err != nil {
			return Welcome{}, handshakeError(ctx, err)
		}
	}
	if s.h.Type == TypeError {
		var a ansMeta
		if err := a.decode(meta); err != nil {
			return Welcome{}, err
		}
		return Welcome{}, &RemoteError{Status(s.h.Code), clean(a.text, maxText)}
	}
	var w welcome
	if err := w.decode(meta); err != nil {
		return Welcome{}, err
	}
	if len(o.Token) > 0 {
		if challenge == nil {
			return Welcome{}, fmt.Errorf("%w: the server did not ask for the token, so it may not be the one you mean: "+
				"set the server's Token, or none here", transport.ErrDenied)
		}
		said := append([]byte(nil), meta...)
		clear(said[welcomeProofAt:welcomeSize])
		if !hmac.Equal(w.proof[:], proof(o.Token, "server", greeting, challenge, said)) {
			return Welcome{}, fmt.Errorf("%w: the server does not know the token: set the same Token on both sides", transport.ErrDenied)
		}
	}
	if w.version < minVersion || w.version > maxVersion {
		return Welcome{}, fmt.Errorf("%w: the server speaks version %d of the protocol, this client %d to %d: upgrade the older one",
			transport.ErrUnavailable, w.version, minVersion, maxVersion)
	}
	if w.maxBody < minBody {
		return Welcome{}, fmt.Errorf("%w: the server takes frames of %d bytes only, want at least %d", transport.ErrCorrupt, w.maxBody, minBody)
	}
	l.agree(c, w.sums, w.compress, o.Chunk, w.maxBody)
	return Welcome{
		Version: int(w.version), Features: w.features & mine.features,
		MaxBody: int(min(w.maxBody, MaxFrame)), MaxRequests: int(min(max(w.maxReqs, 1), 1<<20)),
		Sums: l.sums, Compress: l.compress, Instance: w.instance, Host: w.host, Local: w.local,
	}, nil
}

// handshakeError says of a connection that broke before a session was open what that may mean.
func handshakeError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: the peer hung up during the handshake: is it a server of proxyplane's native protocol?", transport.ErrUnavailable)
	}
	return broken(err)
}

// greetClient is the server's side. An error has been told to the client where it could be.
func greetClient(c Carrier, o *ServerOptions, l *link) (feats uint64, err error) {
	s := handshaker{c: c, l: link{maxRecv: 0}}
	defer func() {
		var refused *RemoteError
		if errors.As(err, &refused) {
			s.write(TypeError, uint16(refused.Status), appendText(nil, tagText, refused.Text, maxText)) // the connection ends anyhow
		}
	}()
	meta, err := s.read(TypeHello)
	if err != nil {
		return 0, err
	}
	greeting := append([]byte(nil), meta...)
	var theirs hello
	if err := theirs.decode(greeting); err != nil {
		return 0, err
	}
	if theirs.max < minVersion || theirs.min > maxVersion || theirs.min > theirs.max {
		return 0, &RemoteError{StatusVersion, fmt.Sprintf("the client speaks versions %d to %d of the protocol, the server %d to %d: upgrade the older one",
			theirs.min, theirs.max, minVersion, maxVersion)}
	}
	if theirs.maxBody < minBody {
		return 0, &RemoteError{StatusCorrupt, fmt.Sprintf("the client takes frames of %d bytes only, want at least %d", theirs.maxBody, minBody)}
	}
	answer := welcome{version: min(theirs.max, maxVersion), sums: agreeSums(hashWish(o.Hash, c), theirs.hash), compress: theirs.compress,
		features: theirs.features & features(c), maxBody: uint32(min(c.MaxBody(), MaxFrame)), maxReqs: uint32(o.MaxRequests),
		instance: o.Instance, host: o.Host, local: o.Local}
	if answer.compress == CompressNone || answer.compress > CompressAuto {
		answer.compress = o.Compress
	}
	if need := FeatureS2 | FeatureZstd; theirs.features&need != need { // a client that cannot read both gets neither
		answer.compress = CompressNone
	}
	if len(o.Token) > 0 {
		var nonce [nonceSize]byte
		rand.Read(nonce[:])
		if err := s.write(TypeChallenge, answer.version, nonce[:]); err != nil {
			return 0, err
		}
		mac, err := s.read(TypeAuth)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("%w: the client has no token", transport.ErrDenied)
			}
			return 0, err
		}
		if !hmac.Equal(mac, proof(o.Token, "client", greeting, nonce[:])) {
			return 0, &RemoteError{StatusDenied, "the tokens of client and server differ: set the same Token on both sides"}
		}
		copy(answer.proof[:], proof(o.Token, "server", greeting, nonce[:], answer.append(nil)))
	}
	l.agree(c, answer.sums, answer.compress, o.Chunk, theirs.maxBody)
	return answer.features, s.write(TypeWelcome, answer.version, answer.append(nil))
}

// features are what this side could do over c.
func features(c Carrier) uint64 {
	f := FeatureS2 | FeatureZstd
	if _, ok := c.(FilePasser); ok && haveMemfiles {
		f |= FeatureFiles
	}
	return f
}

// broken makes what a Carrier says match a sentinel.
func broken(err error) error {
	switch {
	case errors.Is(err, transport.ErrUnavailable), errors.Is(err, transport.ErrCorrupt), errors.Is(err, transport.ErrClosed),
		errors.Is(err, transport.ErrDenied):
		return err
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: the peer closed the connection", transport.ErrUnavailable)
	}
	return fmt.Errorf("%w: the connection broke: %w", transport.ErrUnavailable, err)
}
