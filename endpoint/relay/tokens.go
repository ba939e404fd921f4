package relay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/proxyplane/proxyplane/transport"
)

// maxTokensFile bounds a file of tokens, in bytes.
const maxTokensFile = 16 << 20

// Tokens authenticates clients by bearer tokens from a file. Each line has a token, white space and the user that it belongs to; a user may have several. Empty
// lines and those that begin with # are skipped. The file is read again when it has changed.
type Tokens struct {
	path string

	mu    sync.Mutex
	seen  fileVersion
	users []tokenUser
	err   error // of the last reading
}

type tokenUser struct {
	hash [sha256.Size]byte
	user string
}

// fileVersion changes when a file is written or replaced.
type fileVersion struct {
	size    int64
	changed time.Time
	mode    os.FileMode
}

func versionOf(info os.FileInfo) fileVersion {
	return fileVersion{size: info.Size(), changed: info.ModTime(), mode: info.Mode()}
}

// NewTokens reads the file at path. It must not be readable by everybody, where the system knows permissions. If it is missing or damaged later, nobody can register
// until it is repaired: clients are told to come back.
func NewTokens(path string) (*Tokens, error) {
	t := &Tokens{path: path}
	if _, err := t.current(); err != nil {
		return nil, err
	}
	return t, nil
}

// Authenticate finds the user of the token in the Authorization header.
func (t *Tokens) Authenticate(_ context.Context, h http.Header) (User, error) {
	token, err := bearer(h)
	if err != nil {
		return User{}, err
	}
	users, err := t.current()
	if err != nil {
		return User{}, err
	}
	// All of them, so that the time does not tell which one is near; hashed, so that lengths do not tell either.
	hash, found := sha256.Sum256([]byte(token)), -1
	for i := range users {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(hash[:], users[i].hash[:]), i, found)
	}
	if found < 0 {
		return User{}, &ForbiddenError{"Token is expired or has been revoked."}
	}
	return User{ID: users[found].user, Name: users[found].user}, nil
}

// current returns the users in the file, which is read if it has changed.
func (t *Tokens) current() ([]tokenUser, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	info, err := os.Stat(t.path)
	if err != nil {
		t.seen = fileVersion{}
		return nil, fmt.Errorf("relay: tokens: %w", err)
	}
	version := versionOf(info)
	if version == t.seen {
		return t.users, t.err
	}
	t.seen = version
	t.users, t.err = readTokens(t.path)
	return t.users, t.err
}

func readTokens(path string) ([]tokenUser, error) {
	data, err := readFileBounded(path, maxTokensFile, true)
	if err != nil {
		return nil, fmt.Errorf("relay: tokens: %w", err)
	}
	users, err := parseTokens(data)
	if err != nil {
		return nil, fmt.Errorf("relay: tokens: %s: %w", path, err)
	}
	return users, nil
}

// parseTokens never says what a token is: errors go to logs.
func parseTokens(data []byte) ([]tokenUser, error) {
	var users []tokenUser
	known := map[[sha256.Size]byte]bool{}
	line := 0
	for l := range bytes.Lines(data) {
		line++
		l = bytes.TrimSpace(l)
		if len(l) == 0 || l[0] == '#' {
			continue
		}
		f := bytes.Fields(l)
		if len(f) != 2 {
			return nil, fmt.Errorf("line %d has %d words; it should be a token and its user", line, len(f))
		}
		if len(f[0]) > maxToken {
			return nil, fmt.Errorf("line %d: the token is longer than %d bytes", line, maxToken)
		}
		hash := sha256.Sum256(f[0])
		if known[hash] {
			return nil, fmt.Errorf("line %d has a token that is there already", line)
		}
		known[hash] = true
		users = append(users, tokenUser{hash, string(f[1])})
	}
	return users, nil
}

// readFileBounded reads a file of at most limit bytes. A secret one must not be readable by everybody.
func readFileBounded(path string, limit int64, secret bool) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if secret && runtime.GOOS != "windows" { // which has no such permissions
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if info.Mode().Perm()&0o004 != 0 {
			return nil, fmt.Errorf("%s can be read by everybody: %w; chmod 600 it", path, transport.ErrDenied)
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is %w: more than %d bytes", path, transport.ErrTooLarge, limit)
	}
	return data, nil
}

// TokenFile returns a function for [ClientOptions].Header that shows the relay the token in the file at path. It is read for each connection, so that a new token
// is used as soon as it is there.
func TokenFile(path string) func(ctx context.Context) (http.Header, error) {
	return func(context.Context) (http.Header, error) {
		data, err := readFileBounded(path, 2*maxToken, false)
		if err != nil {
			return nil, fmt.Errorf("relay: token file: %w", err)
		}
		token := bytes.TrimSpace(data)
		if len(token) == 0 || len(token) > maxToken || bytes.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, fmt.Errorf("relay: %s should have one token and nothing else", path)
		}
		return bearerHeader(string(token)), nil
	}
}

func bearerHeader(token string) http.Header {
	return http.Header{"Authorization": {"Bearer " + token}}
}

// isMissing reports whether err says that a file is not there.
func isMissing(err error) bool { return errors.Is(err, os.ErrNotExist) }
