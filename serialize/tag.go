package serialize

import (
	"errors"
	"fmt"

	"github.com/proxyplane/proxyplane/serialize/pickle"
)

var (
	// ErrUnknownTag says that bytes do not start with a tag that is known here: they are no ProxyStore object, or one of a codec that is not
	// registered.
	ErrUnknownTag = errors.New("unknown object tag")
	// ErrCorrupt says that an object's body is not what its tag promises: truncated, or lying about its lengths.
	ErrCorrupt = errors.New("corrupt object")
	// ErrTooLarge says that decoding would take more memory than the limits allow.
	ErrTooLarge = errors.New("object exceeds a limit")
	// ErrType says that an object and a Go type do not fit each other.
	ErrType = errors.New("object type mismatch")
)

// The tags of ProxyStore 1.1.0 and 0.6.5.
const (
	TagBytes       = "BS"
	TagString      = "US"
	TagNumPy       = "NP"
	TagPandas      = "PD"
	TagPolars      = "PL"
	TagPickle      = "PK"
	TagCloudPickle = "CP"

	TagBytes06       = "01"
	TagString06      = "02"
	TagPickle06      = "03"
	TagCloudPickle06 = "04"
)

// What stands before the body of a bytes and of a str object of ProxyStore 1.1.0. Who streams such an object writes this and then the content.
const (
	BytesTag  = TagBytes + "\n"
	StringTag = TagString + "\n"
)

// TagLen is the number of bytes before the body: two of the tag and the newline.
const TagLen = 3

// builtin holds each tag, and its bytes with the newline, so that neither encoding nor decoding allocates them. They are never written.
var builtin = func() map[string]tagLine {
	m := make(map[string]tagLine)
	for _, t := range []string{
		TagBytes, TagString, TagNumPy, TagPandas, TagPolars, TagPickle, TagCloudPickle, TagBytes06, TagString06, TagPickle06, TagCloudPickle06,
	} {
		m[t] = tagLine{t, []byte(t + "\n")}
	}
	return m
}()

type tagLine struct {
	tag  string
	line []byte
}

// isPickleTag reports whether the body of a tag is a pickle.
func isPickleTag(tag string) bool {
	switch tag {
	case TagPickle, TagCloudPickle, TagPandas, TagPickle06, TagCloudPickle06:
		return true
	}
	return false
}

// Tag splits an object into its tag and its body, which aliases obj. Known are ProxyStore's tags and those registered in [Default]. Other bytes
// give [ErrUnknownTag].
func Tag(obj []byte) (tag string, body []byte, err error) { return Default.Tag(obj) }

// PayloadOffset returns the tag and where the body starts, given the first [TagLen] bytes of an object or more; a reader of ranges adds the
// offset to its own.
func PayloadOffset(prefix []byte) (tag string, off int, err error) {
	return Default.PayloadOffset(prefix)
}

// Tag is the function [Tag] for the tags known to c.
func (c *Codecs) Tag(obj []byte) (tag string, body []byte, err error) {
	tag, off, err := c.PayloadOffset(obj)
	if err != nil {
		return "", nil, err
	}
	return tag, obj[off:], nil
}

// PayloadOffset is the function [PayloadOffset] for the tags known to c.
func (c *Codecs) PayloadOffset(prefix []byte) (tag string, off int, err error) {
	if len(prefix) >= TagLen && prefix[2] == '\n' {
		if t, ok := builtin[string(prefix[:2])]; ok {
			return t.tag, TagLen, nil
		}
		if codec := c.byTag(string(prefix[:2])); codec != nil {
			return codec.Tag, TagLen, nil
		}
	}
	head := prefix[:min(len(prefix), 16)]
	if len(prefix) < TagLen {
		return "", 0, fmt.Errorf("serialize: %w: %d bytes (%q) are too few for a tag and a newline", ErrUnknownTag, len(prefix), head)
	}
	return "", 0, fmt.Errorf("serialize: %w: object starts with %q, expected two characters of a known codec and a newline "+
		"(is it a ProxyStore object, and is its codec registered?)", ErrUnknownTag, head)
}

// wrapPickle gives an error of package pickle its class here. what says which object failed.
func wrapPickle(what string, err error) error {
	if err == nil {
		return nil
	}
	class := ErrCorrupt
	switch {
	case errors.Is(err, ErrCorrupt), errors.Is(err, ErrTooLarge), errors.Is(err, ErrType):
		return fmt.Errorf("serialize: %s: %w", what, err)
	case errors.Is(err, pickle.ErrTooLarge):
		class = ErrTooLarge
	case errors.Is(err, pickle.ErrType), errors.Is(err, pickle.ErrCycle):
		class = ErrType
	}
	return fmt.Errorf("serialize: %w: %s: %w", class, what, err)
}
