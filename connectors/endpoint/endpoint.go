package endpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/endpoint/config"
	"github.com/proxyplane/proxyplane/internal/gate"
	"github.com/proxyplane/proxyplane/internal/uuid4"
	"github.com/proxyplane/proxyplane/transport"
)

const (
	// maxText bounds what is read of an answer that is no object.
	maxText = 64 << 10
	// maxID bounds a key's object id, as endpoints do.
	maxID = 1 << 10
	// trusted is the memory that an announced length takes at once; beyond it memory grows as bytes come.
	trusted = 1 << 30
	// drained is what is read of an answer that nobody wants, so that its connection can be used again.
	drained = 256 << 10
)

// Connector stores objects in endpoints. All methods may be called by many goroutines at once.
type Connector struct {
	opts Options
	home *home
	gate *gate.Gate
	gone chan struct{} // closed when Close begins
	once sync.Once
}

// New returns a connector to the first of the endpoints that answers.
func New(ctx context.Context, opts Options) (*Connector, error) {
	opts.Endpoints = append([]string(nil), opts.Endpoints...)
	if err := opts.ensure(); err != nil {
		return nil, err
	}
	h, err := find(ctx, &opts)
	if err != nil {
		return nil, err
	}
	return &Connector{opts: opts, home: h, gate: gate.New(), gone: make(chan struct{})}, nil
}

// Endpoint returns the UUID of the local endpoint, which has what is put here, and where it answers.
func (c *Connector) Endpoint() (id, address string) { return c.home.id, c.home.base }

// Config returns the configuration. It works after Close too.
func (c *Connector) Config() connectors.Config { return c.opts.config() }

// Close ends waits and streams, lets calls in flight end, and gives the connections back.
func (c *Connector) Close(ctx context.Context) error {
	c.gate.Shut()
	c.once.Do(func() { close(c.gone) })
	select {
	case <-c.gate.Drained():
	case <-ctx.Done():
		return ctx.Err()
	}
	c.home.http.CloseIdleConnections()
	return nil
}

func wrap(op string, key connectors.Key, err error) error {
	return connectors.WrapError(op, kind, key, err)
}

// enter begins a call; without error the caller must call gate.Leave.
func (c *Connector) enter(ctx context.Context, op string, key connectors.Key) error {
	if !c.gate.Enter() {
		return &connectors.OpError{Op: op, Kind: kind, Key: key, Err: connectors.ErrClosed}
	}
	if err := ctx.Err(); err != nil {
		c.gate.Leave()
		return err
	}
	return nil
}

// query returns the parameters that name the object.
func query(key connectors.Key) (url.Values, error) {
	k, err := connectors.KeyAs[connectors.EndpointKey](kind, key)
	if err != nil {
		return nil, err
	}
	if err := check(k); err != nil {
		return nil, err
	}
	q := url.Values{"key": {k.ObjectID}}
	if k.EndpointID != "" {
		q.Set("endpoint", k.EndpointID)
	}
	return q, nil
}

// check refuses keys that an endpoint would, or that could be mistaken for something else.
func check(k connectors.EndpointKey) error {
	if k.ObjectID == "" || len(k.ObjectID) > maxID || !utf8.ValidString(k.ObjectID) {
		return fmt.Errorf("%w: an endpoint key's object_id has 1 to %d bytes of UTF-8", connectors.ErrInvalidKey, maxID)
	}
	if k.EndpointID != "" {
		if _, err := config.ParseUUID(k.EndpointID); err != nil {
			return fmt.Errorf("%w: endpoint_id: %w", connectors.ErrInvalidKey, err)
		}
	}
	return nil
}

// request is one that has not been sent.
func (c *Connector) request(ctx context.Context, method, path string, q url.Values, body io.Reader) (*http.Request, error) {
	u := c.home.base + path
	if len(q) > 0 {
		u += "?" + q.Encode()
	}
	return http.NewRequestWithContext(ctx, method, u, body)
}

// send sends a request and returns the answer if its status is one of ok; else the error that it is.
func (c *Connector) send(req *http.Request, ok ...int) (*http.Response, error) {
	resp, err := c.home.do(req)
	if err != nil {
		return nil, c.broken(req.Context(), err)
	}
	for _, status := range ok {
		if resp.StatusCode == status {
			return resp, nil
		}
	}
	defer discard(resp)
	text, err := io.ReadAll(io.LimitReader(resp.Body, 2000))
	if err != nil {
		return nil, c.broken(req.Context(), err)
	}
	return nil, statusError(resp.StatusCode, strings.TrimSpace(string(text)))
}

// broken is the error of a connection that broke, or never was.
func (c *Connector) broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // without the URL, which the text around it says in fewer words
	}
	return fmt.Errorf("%w: endpoint %s at %s: %w", connectors.ErrUnavailable, c.home.id, c.home.base, err)
}

// statusError is what an endpoint's refusal means.
func statusError(status int, text string) error {
	if text == "" || strings.HasPrefix(text, "<!doctype html>") { // what Python says of what it did not foresee
		text = http.StatusText(status)
	}
	var base error
	switch status {
	case http.StatusNotFound:
		base = connectors.ErrNotFound
	case http.StatusBadRequest:
		base = connectors.ErrInvalidKey
		if strings.Contains(text, "empty payload") {
			base = fmt.Errorf("%w by ProxyStore's endpoints, which refuse objects of no bytes", errors.ErrUnsupported)
		}
	case http.StatusUnauthorized:
		return fmt.Errorf("%w: %s; the endpoint wants the token that http.token_file of its proxyplane.toml names", connectors.ErrDenied, text)
	case http.StatusForbidden:
		base = connectors.ErrDenied
	case http.StatusRequestEntityTooLarge:
		base = connectors.ErrTooLarge
	case http.StatusRequestedRangeNotSatisfiable:
		base = connectors.ErrInvalidRange
	case http.StatusInsufficientStorage:
		base = connectors.ErrFull
	default:
		base = connectors.ErrUnavailable
	}
	return fmt.Errorf("%w: the endpoint says: %s", base, text)
}

// discard ends an answer so that its connection can be used again.
func discard(resp *http.Response) {
	io.CopyN(io.Discard, resp.Body, drained)
	resp.Body.Close()
}

// read returns the answer's body as a Buffer of the pool. most bounds it.
func (c *Connector) read(ctx context.Context, resp *http.Response, most int64) (*transport.Buffer, error) {
	n := resp.ContentLength
	if n > most {
		return nil, fmt.Errorf("%w: %d bytes, option max_bytes is %d", connectors.ErrTooLarge, n, most)
	}
	if n == 0 {
		return transport.FromBytes(nil), nil
	}
	known := n > 0
	if !known {
		n = 64 << 10
		most = min(most, math.MaxInt64-1) // one more than allowed is room enough to see that there is more
		n = min(n, most+1)
	}
	buf := transport.DefaultPool.Get(int(min(n, trusted)))
	for at := 0; ; {
		k, err := io.ReadFull(resp.Body, buf.Bytes()[at:])
		at += k
		switch {
		case err == nil && int64(at) == n && known:
			return buf, nil
		case !known && int64(at) > most:
			buf.Release()
			return nil, fmt.Errorf("%w: option max_bytes is %d", connectors.ErrTooLarge, most)
		case !known && (err == io.EOF || err == io.ErrUnexpectedEOF):
			whole := buf.Slice(0, at)
			buf.Release()
			return whole, nil
		case err != nil:
			buf.Release()
			return nil, c.broken(ctx, fmt.Errorf("after %d bytes: %w", at, err))
		}
		grown := min(2*int64(at), most+1)
		if known {
			grown = min(grown, n)
		}
		larger := transport.DefaultPool.Get(int(grown))
		copy(larger.Bytes(), buf.Bytes())
		buf.Release()
		buf = larger
	}
}

// Put implements [connectors.Connector].
func (c *Connector) Put(ctx context.Context, obj transport.Slices) (connectors.Key, error) {
	if err := c.enter(ctx, "put", nil); err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	key := c.newKey()
	if err := c.put(ctx, key, obj); err != nil {
		return nil, wrap("put", nil, err)
	}
	return key, nil
}

// afterwards is how long a call may take to clean up when its context has ended.
const afterwards = 2 * time.Second

// put is set of a key that nobody knows. When ctx ends after the object has left, but before the endpoint said that it has it, then it is evicted.
func (c *Connector) put(ctx context.Context, key connectors.EndpointKey, obj transport.Slices) error {
	sent := &atomic.Bool{}
	inner, cancel := guard(ctx, sent)
	defer cancel()
	err := c.transmit(inner, key, obj, sent)
	if ctx.Err() == nil {
		return err
	}
	c.undo(ctx, key)
	return ctx.Err()
}

// guard returns the context of a put. It ends with ctx as long as the object is on its way, since the endpoint drops half of one. Once all of it was sent, the
// answer tells whether there is something to evict, and is waited for a while longer.
func guard(ctx context.Context, sent *atomic.Bool) (context.Context, context.CancelFunc) {
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if !sent.Load() {
			cancel()
			return
		}
		timer := time.NewTimer(afterwards)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-inner.Done():
		}
	})
	return inner, func() {
		stop()
		cancel()
	}
}

// undo evicts objects that nobody will ask for, since their put has failed.
func (c *Connector) undo(ctx context.Context, keys ...connectors.Key) {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
	defer cancel()
	_ = c.evictBatch(limited, keys) // it has failed already, with a better reason
}

// counted says when the last byte of a body was taken.
type counted struct {
	io.Reader
	left int64
	sent *atomic.Bool
}

func (r *counted) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if r.left -= int64(n); r.left <= 0 {
		r.sent.Store(true)
	}
	return n, err
}

func (c *Connector) newKey() connectors.EndpointKey {
	return connectors.EndpointKey{ObjectID: uuid4.New(), EndpointID: c.home.id}
}

// NewKey implements [connectors.Deferrer]. The object will be in this connector's local endpoint.
func (c *Connector) NewKey(ctx context.Context) (connectors.Key, error) {
	if err := c.enter(ctx, "new_key", nil); err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	return c.newKey(), nil
}

// Set implements [connectors.Deferrer]. The key may be one of another endpoint, which then gets the object.
func (c *Connector) Set(ctx context.Context, key connectors.Key, obj transport.Slices) error {
	if err := c.enter(ctx, "set", key); err != nil {
		return err
	}
	defer c.gate.Leave()
	return wrap("set", key, c.transmit(ctx, key, obj, &atomic.Bool{}))
}

// transmit sends one object; sent is set when all of it has left.
func (c *Connector) transmit(ctx context.Context, key connectors.Key, obj transport.Slices, sent *atomic.Bool) error {
	q, err := query(key)
	if err != nil {
		return err
	}
	n := obj.Len()
	if err := c.fits(q, n); err != nil {
		return err
	}
	req, err := c.request(ctx, http.MethodPost, "/set", q, nil)
	if err != nil {
		return err
	}
	setBody(req, n, func() io.Reader { return &counted{obj.Reader(), n, sent} })
	resp, err := c.send(req, http.StatusOK)
	if err != nil {
		return err
	}
	discard(resp)
	return nil
}

// fits refuses what an endpoint of ProxyStore's is known to refuse: it answers with an error that says nothing, and could be any.
func (c *Connector) fits(q url.Values, n int64) error {
	if most := c.home.max; !c.home.ours && most > 0 && n > most && q.Get("endpoint") == c.home.id {
		return fmt.Errorf("%w: %d bytes; raise storage.max_object_size in the endpoint's config.toml, which is %d", connectors.ErrTooLarge, n, most)
	}
	return nil
}

// setBody gives the request a body of n bytes, or of unknown length if n < 0, and says that it may be sent twice: a set is the same when repeated.
func setBody(req *http.Request, n int64, body func() io.Reader) {
	req.Header.Set("Content-Type", "application/octet-stream")
	if n == 0 {
		req.Header.Set("Proxyplane-Empty", "1")
		req.Body = http.NoBody
		return
	}
	req.ContentLength = n
	req.Body = io.NopCloser(body())
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(body()), nil }
	req.Header["Idempotency-Key"] = nil // for net/http alone: it sends nothing
}

// get begins a get. The caller closes the answer.
func (c *Connector) get(ctx context.Context, key connectors.Key, header http.Header, ok ...int) (*http.Response, error) {
	q, err := query(key)
	if err != nil {
		return nil, err
	}
	req, err := c.request(ctx, http.MethodGet, "/get", q, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	return c.send(req, ok...)
}

// Get implements [connectors.Connector].
func (c *Connector) Get(ctx context.Context, key connectors.Key) (*transport.Buffer, error) {
	if err := c.enter(ctx, "get", key); err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	resp, err := c.get(ctx, key, nil, http.StatusOK)
	if err != nil {
		return nil, wrap("get", key, err)
	}
	defer discard(resp)
	b, err := c.read(ctx, resp, c.opts.MaxBytes)
	return b, wrap("get", key, err)
}

// GetBytes implements [connectors.BytesGetter].
func (c *Connector) GetBytes(ctx context.Context, key connectors.Key) ([]byte, error) {
	if err := c.enter(ctx, "get", key); err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	resp, err := c.get(ctx, key, nil, http.StatusOK)
	if err != nil {
		return nil, wrap("get", key, err)
	}
	defer discard(resp)
	if n := resp.ContentLength; n >= 0 && n <= min(trusted, c.opts.MaxBytes) {
		b := make([]byte, n)
		if k, err := io.ReadFull(resp.Body, b); err != nil {
			return nil, wrap("get", key, c.broken(ctx, fmt.Errorf("after %d bytes: %w", k, err)))
		}
		return b, nil
	}
	b, err := c.read(ctx, resp, c.opts.MaxBytes)
	if err != nil {
		return nil, wrap("get", key, err)
	}
	return b.Detach(), nil
}

// GetRange implements [connectors.RangeGetter].
func (c *Connector) GetRange(ctx context.Context, key connectors.Key, off, n int64) (*transport.Buffer, error) {
	if err := c.enter(ctx, "get_range", key); err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	b, err := c.getRange(ctx, key, off, n)
	return b, wrap("get_range", key, err)
}

func (c *Connector) getRange(ctx context.Context, key connectors.Key, off, n int64) (*transport.Buffer, error) {
	if off < 0 {
		_, err := connectors.ClipRange(0, off, n)
		return nil, err
	}
	if n == 0 && c.home.ours { // HTTP has no empty ranges
		info, err := c.stat(ctx, key)
		if err != nil {
			return nil, err
		}
		if _, err := connectors.ClipRange(info.Size, off, n); err != nil {
			return nil, err
		}
		return transport.FromBytes(nil), nil
	}
	header := http.Header{}
	if off > 0 || n > 0 {
		r := "bytes=" + strconv.FormatInt(off, 10) + "-"
		if n > 0 && off+n > off {
			r += strconv.FormatInt(off+n-1, 10)
		}
		header["Range"] = []string{r}
	}
	resp, err := c.get(ctx, key, header, http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable)
	if err != nil {
		return nil, err
	}
	defer discard(resp)
	switch resp.StatusCode {
	case http.StatusRequestedRangeNotSatisfiable:
		size, err := strconv.ParseInt(strings.TrimPrefix(resp.Header.Get("Content-Range"), "bytes */"), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%w: offset %d", connectors.ErrInvalidRange, off)
		}
		part, err := connectors.ClipRange(size, off, n) // an empty part at the very end is one
		if err != nil {
			return nil, err
		}
		if part > 0 {
			return nil, fmt.Errorf("%w: the endpoint has %d bytes and refuses the %d from %d", connectors.ErrCorrupt, size, part, off)
		}
		return transport.FromBytes(nil), nil
	case http.StatusPartialContent:
		most := c.opts.MaxBytes
		if n >= 0 {
			most = n
		}
		if !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", off)) {
			return nil, fmt.Errorf("%w: asked for bytes from %d, the endpoint answers with %.60q", connectors.ErrCorrupt, off, resp.Header.Get("Content-Range"))
		}
		return c.read(ctx, resp, most)
	}
	whole, err := c.read(ctx, resp, c.opts.MaxBytes) // a ProxyStore endpoint, which has no ranges
	if err != nil {
		return nil, err
	}
	defer whole.Release()
	if n, err = connectors.ClipRange(int64(whole.Len()), off, n); err != nil {
		return nil, err
	}
	return whole.Slice(int(off), int(n)), nil
}

// Exists implements [connectors.Connector].
func (c *Connector) Exists(ctx context.Context, key connectors.Key) (bool, error) {
	if err := c.enter(ctx, "exists", key); err != nil {
		return false, err
	}
	defer c.gate.Leave()
	ok, err := c.exists(ctx, key, 0)
	return ok, wrap("exists", key, err)
}

// exists asks, and lets an endpoint of ours wait for so many seconds until the object is there.
func (c *Connector) exists(ctx context.Context, key connectors.Key, wait int) (bool, error) {
	q, err := query(key)
	if err != nil {
		return false, err
	}
	if wait > 0 {
		q.Set("wait", strconv.Itoa(wait))
	}
	req, err := c.request(ctx, http.MethodGet, "/exists", q, nil)
	if err != nil {
		return false, err
	}
	var answer struct {
		Exists *bool `json:"exists"`
	}
	if err := c.json(req, &answer); err != nil {
		return false, err
	}
	if answer.Exists == nil {
		return false, fmt.Errorf("%w: the endpoint does not say whether it exists", connectors.ErrCorrupt)
	}
	return *answer.Exists, nil
}

// json sends a request whose answer is JSON.
func (c *Connector) json(req *http.Request, into any) error {
	resp, err := c.send(req, http.StatusOK)
	if err != nil {
		return err
	}
	defer discard(resp)
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return c.broken(req.Context(), err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%w: the endpoint's answer: %w", connectors.ErrCorrupt, err)
	}
	return nil
}

// Evict implements [connectors.Connector].
func (c *Connector) Evict(ctx context.Context, key connectors.Key) error {
	if err := c.enter(ctx, "evict", key); err != nil {
		return err
	}
	defer c.gate.Leave()
	return wrap("evict", key, c.evict(ctx, key))
}

func (c *Connector) evict(ctx context.Context, key connectors.Key) error {
	q, err := query(key)
	if err != nil {
		return err
	}
	req, err := c.request(ctx, http.MethodPost, "/evict", q, nil)
	if err != nil {
		return err
	}
	req.Header["Idempotency-Key"] = nil // may be sent twice
	resp, err := c.send(req, http.StatusOK)
	if err != nil {
		return err
	}
	discard(resp)
	return nil
}

// Stat implements [connectors.Stater]. It is errors.ErrUnsupported with an endpoint of ProxyStore's.
func (c *Connector) Stat(ctx context.Context, key connectors.Key) (connectors.Info, error) {
	if err := c.enter(ctx, "stat", key); err != nil {
		return connectors.Info{}, err
	}
	defer c.gate.Leave()
	info, err := c.stat(ctx, key)
	return info, wrap("stat", key, err)
}

func (c *Connector) stat(ctx context.Context, key connectors.Key) (connectors.Info, error) {
	q, err := query(key)
	if err != nil {
		return connectors.Info{}, err
	}
	if !c.home.ours {
		return connectors.Info{}, fmt.Errorf("%w: ProxyStore's endpoints do not tell an object's size", errors.ErrUnsupported)
	}
	req, err := c.request(ctx, http.MethodHead, "/get", q, nil)
	if err != nil {
		return connectors.Info{}, err
	}
	resp, err := c.send(req, http.StatusOK)
	if err != nil {
		return connectors.Info{}, err
	}
	defer discard(resp)
	if resp.ContentLength < 0 {
		return connectors.Info{}, fmt.Errorf("%w: the endpoint does not tell the object's size", errors.ErrUnsupported)
	}
	info := connectors.Info{Size: resp.ContentLength}
	if t, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		info.ModTime = t
	}
	return info, nil
}

const (
	waitSeconds = 30 // of one request
	pollFirst   = 20 * time.Millisecond
	pollMost    = time.Second
)

// Wait implements [connectors.Waiter]: by event with an endpoint of ours, by asking again with one of ProxyStore's.
func (c *Connector) Wait(ctx context.Context, key connectors.Key) error {
	if err := c.enter(ctx, "wait", key); err != nil {
		return err
	}
	defer c.gate.Leave()
	inner, cancel := c.lifetime(ctx)
	defer cancel()
	pause := pollFirst
	for {
		wait := 0
		if c.home.ours {
			wait = waitSeconds
		}
		ok, err := c.exists(inner, key, wait)
		if err == nil && !ok && wait == 0 {
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-inner.Done():
			}
			timer.Stop()
			pause = min(2*pause, pollMost)
		}
		switch {
		case err == nil && ok:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case c.gate.Closed():
			return wrap("wait", key, connectors.ErrClosed)
		case err != nil:
			return wrap("wait", key, err)
		}
	}
}

// Status returns what the local endpoint says of itself: its storage, relay and peers, as JSON. It is errors.ErrUnsupported with one of ProxyStore's.
func (c *Connector) Status(ctx context.Context) (json.RawMessage, error) {
	if err := c.enter(ctx, "status", nil); err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	if !c.home.ours {
		return nil, fmt.Errorf("%w: ProxyStore's endpoints have no status", errors.ErrUnsupported)
	}
	req, err := c.request(ctx, http.MethodGet, "/status", nil, nil)
	if err != nil {
		return nil, wrap("status", nil, err)
	}
	var raw json.RawMessage
	return raw, wrap("status", nil, c.json(req, &raw))
}
