package endpoint

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// noData is ProxyStore's text for a missing object.
const noData = "no data associated with request key"

// get answers GET and HEAD /get.
func (x *exchange) get() {
	key, at, ok := x.target()
	if !ok {
		return
	}
	if x.r.Method == http.MethodHead {
		info, err := x.e.Stat(x.r.Context(), key, at)
		if err != nil {
			x.getFailed(err)
			return
		}
		if x.precondition(info) {
			x.objectHeader(info)
			x.w.Header().Set("Content-Length", strconv.FormatInt(info.Size, 10))
			x.header(http.StatusOK)
		}
		return
	}
	rng := parseRange(x.r.Header.Values("Range"))
	obj, rng, err := x.open(key, at, rng)
	if err != nil {
		x.getFailed(err)
		return
	}
	defer func() { obj.close() }()
	if !x.precondition(obj.info) {
		return
	}
	if rng.given && !x.ifRange(obj.info) {
		rng = byteRange{}
		if obj.reader != nil { // it reads the range
			obj.close()
			obj = &object{}
			if obj, _, err = x.open(key, at, rng); err != nil {
				obj = &object{}
				x.getFailed(err)
				return
			}
		}
	}
	off, n, ok := rng.of(obj.info.Size)
	if !ok {
		x.w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", obj.info.Size))
		x.text(http.StatusRequestedRangeNotSatisfiable, fmt.Sprintf("the object has %d bytes", obj.info.Size))
		return
	}
	x.objectHeader(obj.info)
	code := http.StatusOK
	if rng.given && obj.info.Size > 0 {
		code = http.StatusPartialContent
		x.w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, off+n-1, obj.info.Size))
	}
	x.w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	x.header(code)
	if err := x.body(obj, off, n); err != nil {
		x.abort(err)
	}
}

// open opens what is to be sent: of a peer no more than the range, for which the last bytes of an object must become ones from the beginning.
func (x *exchange) open(key string, at uuid.UUID, rng byteRange) (*object, byteRange, error) {
	off, n := int64(0), int64(-1)
	if rng.given && !x.e.local(at) {
		if rng.suffix {
			info, err := x.e.Stat(x.r.Context(), key, at)
			if err != nil {
				return nil, rng, err
			}
			if first, count, ok := rng.of(info.Size); ok {
				rng = byteRange{given: true, off: first, n: count}
			}
		}
		off, n = rng.off, rng.n
	}
	obj, err := x.e.open(x.r.Context(), key, at, off, n)
	if err != nil && errors.Is(err, transport.ErrInvalidRange) {
		if info, serr := x.e.Stat(x.r.Context(), key, at); serr == nil {
			if info.Size == 0 {
				obj, err = x.e.open(x.r.Context(), key, at, 0, -1)
				return obj, byteRange{}, err
			}
			x.w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", info.Size))
		}
	}
	return obj, rng, err
}

// getFailed answers with an error; only here does a missing object make 404.
func (x *exchange) getFailed(err error) {
	if errors.Is(err, transport.ErrNotFound) || errors.Is(err, transport.ErrInvalidKey) {
		x.text(http.StatusNotFound, noData)
		return
	}
	x.fail(err)
}

// body sends n bytes of an object from off.
func (x *exchange) body(obj *object, off, n int64) error {
	w := bodyWriter{x}
	switch {
	case n == 0:
		return nil
	case obj.file != nil:
		if off > 0 {
			if _, err := obj.file.Seek(off, io.SeekStart); err != nil {
				return err
			}
		}
		return w.file(obj.file, n)
	case obj.buffer != nil:
		_, err := w.Write(obj.buffer.Bytes()[off : off+n])
		return err
	}
	m, err := obj.reader.WriteTo(w)
	if err == nil && m != n {
		err = fmt.Errorf("%w: %d bytes came of %d", transport.ErrCorrupt, m, n)
	}
	return err
}

// etag returns a strong validator, or none if versions cannot be told apart.
func etag(info objects.Info) string {
	if info.ModTime.IsZero() {
		return ""
	}
	return fmt.Sprintf(`"%x-%x"`, info.Size, info.ModTime.UnixNano())
}

func (x *exchange) objectHeader(info objects.Info) {
	h := x.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Accept-Ranges", "bytes")
	x.validators(info)
}

func (x *exchange) validators(info objects.Info) {
	if tag := etag(info); tag != "" {
		x.w.Header()["ETag"] = []string{tag} // the RFC's spelling
		x.w.Header().Set("Last-Modified", info.ModTime.UTC().Format(http.TimeFormat))
	}
}

// precondition evaluates If-Match and its like in the order of RFC 9110, 13.2.2. If it returns false it has answered.
func (x *exchange) precondition(info objects.Info) bool {
	h := x.r.Header
	tag := etag(info)
	since := func(name string) (modified, given bool) {
		t, err := http.ParseTime(h.Get(name))
		if err != nil || info.ModTime.IsZero() {
			return false, false
		}
		return info.ModTime.Truncate(time.Second).After(t), true
	}
	failed := false
	if v := h.Values("If-Match"); len(v) > 0 {
		failed = !matches(v, tag, false)
	} else if modified, given := since("If-Unmodified-Since"); given {
		failed = modified
	}
	if failed {
		x.text(http.StatusPreconditionFailed, "the object is another version")
		return false
	}
	fresh := false
	if v := h.Values("If-None-Match"); len(v) > 0 {
		fresh = matches(v, tag, true)
	} else if modified, given := since("If-Modified-Since"); given {
		fresh = !modified
	}
	if fresh {
		x.validators(info)
		x.header(http.StatusNotModified)
		return false
	}
	return true
}

// matches looks for tag in lists of entity tags; weak comparison ignores the mark of weak ones, strong comparison never matches those.
func matches(lists []string, tag string, weak bool) bool {
	for _, list := range lists {
		for {
			list = strings.TrimLeft(list, " \t,")
			if list == "" {
				break
			}
			if list[0] == '*' {
				return true
			}
			isWeak := strings.HasPrefix(list, "W/")
			rest := strings.TrimPrefix(list, "W/")
			if !strings.HasPrefix(rest, `"`) {
				break // not a list of tags
			}
			end := strings.IndexByte(rest[1:], '"')
			if end < 0 {
				break
			}
			if found := rest[:end+2]; found == tag && (weak || !isWeak) {
				return true
			}
			list = rest[end+2:]
		}
	}
	return false
}

// ifRange reports whether a range may be answered by it: RFC 9110, 13.1.5.
func (x *exchange) ifRange(info objects.Info) bool {
	v := x.r.Header.Get("If-Range")
	if v == "" {
		return true
	}
	if strings.HasPrefix(v, `"`) || strings.HasPrefix(v, "W/") {
		return v == etag(info)
	}
	// A date is of whole seconds, in which there may have been two versions; so it is never strong enough (8.8.2.2) unless the object is older than it.
	t, err := http.ParseTime(v)
	return err == nil && !info.ModTime.IsZero() && t.Equal(info.ModTime.Truncate(time.Second)) && time.Since(info.ModTime) > 2*time.Second
}

// byteRange is the bytes that a request wants: from off n, or to the end if n is negative; with suffix the last n.
type byteRange struct {
	given, suffix bool
	off, n        int64
}

// parseRange reads a Range header. What is not one range of bytes is as if it were not there, which RFC 9110, 14.2, allows.
func parseRange(headers []string) byteRange {
	if len(headers) != 1 {
		return byteRange{}
	}
	unit, spec, ok := strings.Cut(headers[0], "=")
	if !ok || !strings.EqualFold(strings.TrimSpace(unit), "bytes") {
		return byteRange{}
	}
	first, last, ok := strings.Cut(strings.Trim(spec, " \t"), "-")
	if !ok {
		return byteRange{}
	}
	first, last = strings.TrimRight(first, " \t"), strings.TrimLeft(last, " \t")
	if first == "" {
		n, ok := digits(last)
		return byteRange{given: ok, suffix: ok, n: n}
	}
	off, ok := digits(first)
	if !ok {
		return byteRange{}
	}
	if last == "" {
		return byteRange{given: true, off: off, n: -1}
	}
	end, ok := digits(last)
	if !ok || end < off {
		return byteRange{}
	}
	if end-off == maxInt64 {
		return byteRange{given: true, off: off, n: -1}
	}
	return byteRange{given: true, off: off, n: end - off + 1}
}

const maxInt64 = 1<<63 - 1

// digits reads a number that may be larger than any object: then it is the largest there is.
func digits(s string) (int64, bool) {
	if s == "" {
		return 0, false
	}
	var n int64
	for i := range len(s) {
		d := int64(s[i]) - '0'
		if d < 0 || d > 9 {
			return 0, false
		}
		if n > (maxInt64-d)/10 {
			n = maxInt64
			continue
		}
		n = n*10 + d
	}
	return n, true
}

// of returns the bytes of an object of that size that the range means; false if it has none of them. An empty object is always sent whole.
func (r byteRange) of(size int64) (off, n int64, ok bool) {
	switch {
	case !r.given || size == 0:
		return 0, size, true
	case r.suffix:
		n = min(r.n, size)
		return size - n, n, n > 0
	case r.off >= size:
		return 0, 0, false
	case r.n < 0 || r.n > size-r.off:
		return r.off, size - r.off, true
	}
	return r.off, r.n, true
}
