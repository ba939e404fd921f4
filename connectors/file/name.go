package file

import (
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/connectors"
)

const (
	ready      = ".ready"       // FileConnector.set: the marker's name is the object's with this at the end
	tempPrefix = ".proxyplane-" // no key begins so
	maxName    = 255 - len(ready)
)

// checkName refuses every file name that is not one plain path component that can have a marker.
func checkName(name string) error {
	why := ""
	switch {
	case name == "":
		why = "empty file name"
	case name == "." || name == "..":
		why = "a directory's name"
	case strings.ContainsAny(name, "/\\\x00"):
		why = "a path separator or NUL in the file name"
	case len(name) > maxName:
		why = fmt.Sprintf("a file name of %d bytes; the most is %d", len(name), maxName)
	case strings.HasSuffix(name, ready):
		why = "the file name of a marker"
	case strings.HasPrefix(name, tempPrefix):
		why = "a temporary file's name"
	default:
		return nil
	}
	return fmt.Errorf("%w: %s", connectors.ErrInvalidKey, why)
}

// newPrefix returns the first 8 bytes of all UUIDs of one connector: 60 random bits and the version.
func newPrefix() (p [8]byte) {
	rand.Read(p[:]) // never fails
	p[6] = p[6]&0x0f | 0x40
	return p
}

// newName returns a version-4 UUID that begins with the connector's prefix and has 62 random bits of its own. (str(uuid.uuid4()) in Python.)
func (c *Connector) newName() string {
	var u uuid.UUID
	copy(u[:], c.prefix[:])
	rand.Read(u[8:])
	u[8] = u[8]&0x3f | 0x80
	return u.String()
}

// ownPrefix returns what the names made by c begin with.
func (c *Connector) ownPrefix() string {
	var u uuid.UUID
	copy(u[:], c.prefix[:])
	return u.String()[:19]
}

// looksLikeUUID reports whether a file may be an object that ProxyStore or we named.
func looksLikeUUID(name string) bool {
	if len(name) != 36 {
		return false
	}
	for i := range len(name) {
		switch c := name[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case c >= '0' && c <= '9' || c >= 'a' && c <= 'f':
		default:
			return false
		}
	}
	return true
}

// tempName returns a new name for a temporary file.
func tempName() string { return tempPrefix + rand.Text() }
