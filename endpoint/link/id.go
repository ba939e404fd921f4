package link

import (
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/transport"
)

// MaxKey is the longest key of an object, in bytes: what is left of the native protocol's id beside the longest prefix of a segment.
const MaxKey = 940

const (
	objectPrefix = "o/"
	uploadPrefix = "up/"
)

func objectID(key string) string { return objectPrefix + key }

func abortID(upload uuid.UUID) string { return uploadPrefix + hex.EncodeToString(upload[:]) }

func checkKey(key string) error {
	if key == "" || len(key) > MaxKey {
		return fmt.Errorf("%w: a key has 1 to %d bytes, this has %d", transport.ErrInvalidKey, MaxKey, len(key))
	}
	return nil
}

// segmentID names one segment of an upload, with all that a server needs to begin with any of them: they overtake each other.
type segmentID struct {
	upload uuid.UUID
	off    int64
	size   int64 // of the object; -1 while the sender does not know it
	acked  bool  // whether the sender has given up any segment, since it was acknowledged
	key    string
}

func (s segmentID) String() string {
	b := make([]byte, 0, len(uploadPrefix)+32+48+len(s.key))
	b = append(b, uploadPrefix...)
	b = hex.AppendEncode(b, s.upload[:])
	b = append(b, '/')
	b = strconv.AppendInt(b, s.off, 10)
	b = append(b, '/')
	if s.size < 0 {
		b = append(b, '?')
	} else {
		b = strconv.AppendInt(b, s.size, 10)
	}
	if b = append(b, "/0/"...); s.acked {
		b[len(b)-2] = '1'
	}
	return string(append(b, s.key...))
}

// parseObject returns the key of an object's id.
func parseObject(id string) (key string, err error) {
	key, ok := strings.CutPrefix(id, objectPrefix)
	if !ok {
		return "", badID(id)
	}
	return key, checkKey(key)
}

// parseUpload reads the upload's own name from the beginning of an id, and returns what follows it.
func parseUpload(id string) (upload uuid.UUID, rest string, err error) {
	s, ok := strings.CutPrefix(id, uploadPrefix)
	if !ok || len(s) < 32 || strings.ToLower(s[:32]) != s[:32] {
		return upload, "", badID(id)
	}
	if _, err := hex.Decode(upload[:], []byte(s[:32])); err != nil {
		return upload, "", badID(id)
	}
	return upload, s[32:], nil
}

// parseSegment reads a segment's id. It accepts nothing but what String makes.
func parseSegment(id string) (s segmentID, err error) {
	upload, rest, err := parseUpload(id)
	if err != nil {
		return s, err
	}
	part := strings.SplitN(rest, "/", 5)
	if len(part) != 5 || part[0] != "" || part[3] != "0" && part[3] != "1" {
		return s, badID(id)
	}
	s = segmentID{upload: upload, size: -1, acked: part[3] == "1", key: part[4]}
	if s.off, err = parseNumber(part[1]); err != nil {
		return s, badID(id)
	}
	if part[2] != "?" {
		if s.size, err = parseNumber(part[2]); err != nil || s.off > s.size {
			return s, badID(id)
		}
	}
	return s, checkKey(s.key)
}

// parseNumber reads a decimal number without sign or leading zeros.
func parseNumber(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > math.MaxInt64 || s[0] == '0' && len(s) > 1 {
		return 0, strconv.ErrSyntax
	}
	return int64(n), nil
}

func badID(id string) error {
	return fmt.Errorf("%w: %.60q names neither an object nor an upload", transport.ErrInvalidKey, id)
}
