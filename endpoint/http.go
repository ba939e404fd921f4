package endpoint

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/endpoint/config"
	"github.com/proxyplane/proxyplane/transport"
)

// route is what a path does. get is also for HEAD.
type route struct {
	op        string
	get, post func(*exchange)
}

var routes = map[string]route{
	"/":             {op: "home", get: (*exchange).home},
	"/endpoint":     {op: "endpoint", get: (*exchange).endpoint},
	"/exists":       {op: "exists", get: (*exchange).exists},
	"/get":          {op: "get", get: (*exchange).get},
	"/set":          {op: "set", post: (*exchange).set},
	"/evict":        {op: "evict", post: (*exchange).evict},
	"/batch/exists": {op: "batch_exists", post: (*exchange).batchExists},
	"/batch/evict":  {op: "batch_evict", post: (*exchange).batchEvict},
	"/batch/get":    {op: "batch_get", post: (*exchange).batchGet},
	"/batch/set":    {op: "batch_set", post: (*exchange).batchSet},
	"/health":       {op: "health", get: (*exchange).health},
	"/status":       {op: "status", get: (*exchange).status},
	"/metrics":      {op: "metrics", get: (*exchange).metricsText},
}

// Handler returns the HTTP API. It wants the server's own ResponseWriter, not one that wraps it, to send files by sendfile and to set deadlines.
func (e *Endpoint) Handler() http.Handler { return http.HandlerFunc(e.serveHTTP) }

func (e *Endpoint) serveHTTP(w http.ResponseWriter, r *http.Request) {
	rt, known := routes[r.URL.Path]
	if !known {
		rt.op = "other"
	}
	x := &exchange{e: e, w: w, r: r, rc: http.NewResponseController(w), start: time.Now()}
	if !e.running.Enter() {
		panic(http.ErrAbortHandler)
	}
	defer e.running.Leave()
	e.metrics.begin()
	defer func() {
		failure := recover()
		status := strconv.Itoa(x.code)
		if failure != nil {
			status = "aborted"
		}
		e.metrics.end(rt.op, status, time.Since(x.start), x.in, x.out)
		if e.log.Enabled(r.Context(), slog.LevelDebug) {
			e.log.Debug("request", "op", rt.op, "status", status, "in", x.in, "out", x.out, "took", time.Since(x.start), "from", r.RemoteAddr)
		}
		if failure != nil {
			panic(failure)
		}
	}()
	x.readBy(e.o.Stall)
	x.writeBy(e.o.Stall)
	x.serve(rt, known)
}

func (x *exchange) serve(rt route, known bool) {
	e, r := x.e, x.r
	if r.Header.Get("Origin") != "" || !slices.Contains([]string{"", "none"}, r.Header.Get("Sec-Fetch-Site")) {
		x.text(http.StatusForbidden, "requests by web pages are refused")
		return
	}
	if e.token != nil && rt.op != "health" {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
		if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(sum[:], e.token[:]) != 1 {
			x.w.Header().Set("WWW-Authenticate", "Bearer")
			x.text(http.StatusUnauthorized, "this endpoint wants its token: Authorization: Bearer TOKEN")
			return
		}
	}
	if !known {
		x.text(http.StatusNotFound, "no such path")
		return
	}
	allow := "GET, HEAD, OPTIONS"
	if rt.post != nil {
		allow = "POST, OPTIONS"
	}
	var run func(*exchange)
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		run = rt.get
	case http.MethodPost:
		run = rt.post
	case http.MethodOptions:
		x.w.Header().Set("Allow", allow)
		x.text(http.StatusOK, "")
		return
	}
	if run == nil {
		x.w.Header().Set("Allow", allow)
		x.text(http.StatusMethodNotAllowed, "method not allowed; use "+allow)
		return
	}
	slots := e.slots
	if rt.op == "exists" && strings.Contains(r.URL.RawQuery, "wait=") {
		slots = e.waits
	}
	if rt.op != "health" && rt.op != "metrics" {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			x.w.Header().Set("Retry-After", "1")
			x.text(http.StatusServiceUnavailable, "too many requests at once; try again, or raise max_concurrent in "+config.ExtraFile)
			return
		}
	}
	run(x)
}

// exchange is one request and its answer. It belongs to one goroutine.
type exchange struct {
	e       *Endpoint
	w       http.ResponseWriter
	r       *http.Request
	rc      *http.ResponseController
	start   time.Time
	code    int
	in, out int64 // bytes of the bodies

	readUntil, writeUntil time.Time
}

// readBy and writeBy give the client until then to send or take the next piece. Errors are of servers that know no deadlines, as in tests.
func (x *exchange) readBy(d time.Duration) {
	if now := time.Now(); x.readUntil.Sub(now) < d-d/8 { // setting it each time would cost more than reading does
		x.readUntil = now.Add(d)
		_ = x.rc.SetReadDeadline(x.readUntil)
	}
}

func (x *exchange) writeBy(d time.Duration) {
	if now := time.Now(); x.writeUntil.Sub(now) < d-d/8 {
		x.writeUntil = now.Add(d)
		_ = x.rc.SetWriteDeadline(x.writeUntil)
	}
}

// header sends the status; the header must be complete.
func (x *exchange) header(code int) {
	x.code = code
	x.writeBy(x.e.o.Stall)
	x.w.WriteHeader(code)
}

// text answers with a text, of Quart's type.
func (x *exchange) text(code int, s string) {
	x.answer(code, "text/html; charset=utf-8", s)
}

func (x *exchange) answer(code int, contentType, s string) {
	h := x.w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(s)))
	h.Set("X-Content-Type-Options", "nosniff")
	x.header(code)
	if x.r.Method != http.MethodHead {
		n, _ := io.WriteString(x.w, s)
		x.out += int64(n)
	}
}

func (x *exchange) json(code int, s string) { x.answer(code, "application/json", s) }

func (x *exchange) jsonValue(code int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		x.text(http.StatusInternalServerError, err.Error())
		return
	}
	x.json(code, string(data)+"\n")
}

// statusOf maps an error.
func statusOf(err error) int {
	var client *bodyError
	switch {
	case errors.As(err, &client) && errors.Is(err, os.ErrDeadlineExceeded):
		return http.StatusRequestTimeout
	case errors.As(err, &client):
		return http.StatusBadRequest
	case errors.Is(err, errEmpty), errors.Is(err, transport.ErrInvalidKey):
		return http.StatusBadRequest
	case errors.Is(err, errExists):
		return http.StatusPreconditionFailed
	case errors.Is(err, transport.ErrTooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, transport.ErrFull), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return http.StatusInsufficientStorage
	case errors.Is(err, transport.ErrInvalidRange):
		return http.StatusRequestedRangeNotSatisfiable
	case errors.Is(err, transport.ErrDenied):
		return http.StatusForbidden
	}
	return http.StatusInternalServerError
}

// fail answers with an error; nothing must have been sent yet.
func (x *exchange) fail(err error) {
	if x.r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		panic(http.ErrAbortHandler) // the client is gone
	}
	code := statusOf(err)
	if code == http.StatusInternalServerError {
		x.e.log.Warn("request failed", "path", x.r.URL.Path, "error", err)
	}
	if client := new(bodyError); x.r.Method == http.MethodPost && !errors.As(err, &client) {
		x.drain()
	}
	x.text(code, err.Error())
}

// abort ends an answer whose header is sent, so that the client cannot take what came for the whole.
func (x *exchange) abort(err error) {
	if x.r.Context().Err() == nil {
		x.e.log.Warn("answer broken off", "path", x.r.URL.Path, "error", err)
	}
	panic(http.ErrAbortHandler)
}

// drain reads some of what the client still sends of a refused body: one that is in the middle of sending gets a broken connection instead of the
// answer when the server hangs up first, and many look for an answer only then.
func (x *exchange) drain() {
	const most, limit = 64 << 20, 5 * time.Second
	x.readUntil = time.Time{}
	x.readBy(limit)
	_, _ = io.CopyN(io.Discard, x.r.Body, most)
}

// query returns a parameter of the query as Werkzeug does: the first of that name, "+" for a space, escapes that are none left as they are.
// Source: werkzeug.sansio.request.Request.args, urllib.parse.parse_qsl.
func query(raw, name string) (value string, ok bool) {
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		if pair == "" {
			continue
		}
		k, v, _ := strings.Cut(pair, "=")
		if unescape(k) == name {
			return unescape(v), true
		}
	}
	return "", false
}

func unescape(s string) string {
	if !strings.ContainsAny(s, "%+") && utf8.ValidString(s) {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '+':
			b = append(b, ' ')
		case s[i] == '%' && i+2 < len(s) && ishex(s[i+1]) && ishex(s[i+2]):
			v, _ := strconv.ParseUint(s[i+1:i+3], 16, 8)
			b = append(b, byte(v))
			i += 2
		default:
			b = append(b, s[i])
		}
	}
	if utf8.Valid(b) {
		return string(b)
	}
	// What is not UTF-8 stays escaped, so that keys are text, and different ones stay different.
	var out strings.Builder
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&out, "%%%02X", b[0])
		} else {
			out.Write(b[:n])
		}
		b = b[n:]
	}
	return out.String()
}

func ishex(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
}

// target reads key and endpoint, and answers if they are wrong.
func (x *exchange) target() (key string, at uuid.UUID, ok bool) {
	key, ok = query(x.r.URL.RawQuery, "key")
	if !ok {
		x.refuse("request missing key")
		return "", at, false
	}
	if s, given := query(x.r.URL.RawQuery, "endpoint"); given {
		var err error
		if at, err = config.ParseUUID4(s); err != nil {
			x.refuse(s + " is not a valid UUID4")
			return "", at, false
		}
	}
	return key, x.e.canonical(at), true
}

// refuse answers 400, after reading what is left of the request.
func (x *exchange) refuse(why string) {
	if x.r.Method == http.MethodPost {
		x.drain()
	}
	x.text(http.StatusBadRequest, why)
}

func (x *exchange) home() { x.text(http.StatusOK, "") }

func (x *exchange) endpoint() {
	x.json(http.StatusOK, `{"uuid": "`+x.e.o.UUID.String()+`", "proxyplane": 1}`)
}

// maxWait bounds how long /exists waits.
const maxWait = 300 * time.Second

func (x *exchange) exists() {
	key, at, ok := x.target()
	if !ok {
		return
	}
	found, err := false, error(nil)
	if s, wait := query(x.r.URL.RawQuery, "wait"); wait {
		seconds, perr := strconv.ParseFloat(s, 64)
		if perr != nil || !(seconds >= 0) {
			x.text(http.StatusBadRequest, "wait is a number of seconds, not "+strconv.Quote(s))
			return
		}
		ctx, cancel := context.WithTimeout(x.r.Context(), time.Duration(min(seconds, maxWait.Seconds())*float64(time.Second)))
		stop := context.AfterFunc(x.e.ended, cancel)
		err = x.e.Wait(ctx, key, at)
		stop()
		found = err == nil
		if x.r.Context().Err() == nil && ctx.Err() != nil && err != nil {
			err = nil // it was waited for long enough
		}
		cancel()
	} else {
		found, err = x.e.Exists(x.r.Context(), key, at)
	}
	if err != nil {
		x.fail(err)
		return
	}
	x.json(http.StatusOK, `{"exists": `+strconv.FormatBool(found)+`}`)
}

func (x *exchange) evict() {
	key, at, ok := x.target()
	if !ok {
		return
	}
	if err := x.e.Evict(x.r.Context(), key, at); err != nil {
		x.fail(err)
		return
	}
	x.text(http.StatusOK, "")
}

func (x *exchange) set() {
	key, at, ok := x.target()
	if !ok {
		return
	}
	o := setOptions{empty: x.r.Header.Get("Proxyplane-Empty") == "1"}
	switch v := x.r.Header.Get("If-None-Match"); v {
	case "":
	case "*":
		o.absent = true
	default:
		x.refuse("If-None-Match of a set can only be *")
		return
	}
	if err := x.e.set(x.r.Context(), key, at, x.r.ContentLength, bodyReader{x}, o); err != nil {
		x.fail(err)
		return
	}
	x.text(http.StatusOK, "")
}

// bodyError is a request's body that did not come whole.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "the request's body did not come: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// bodyReader reads a request's body: it counts, and each read has its time.
type bodyReader struct{ x *exchange }

func (b bodyReader) Read(p []byte) (int, error) {
	b.x.readBy(b.x.e.o.Stall)
	n, err := b.x.r.Body.Read(p)
	b.x.in += int64(n)
	if err != nil && err != io.EOF {
		err = &bodyError{err}
	}
	return n, err
}

// bodyWriter writes an answer's body likewise.
type bodyWriter struct{ x *exchange }

func (b bodyWriter) Write(p []byte) (n int, err error) {
	for {
		b.x.writeBy(b.x.e.o.Stall)
		m, err := b.x.w.Write(p[:min(len(p), piece)])
		b.x.out += int64(m)
		n += m
		if p = p[m:]; err != nil || len(p) == 0 {
			return n, err
		}
	}
}

// file sends n bytes of f from where it is, by sendfile where the connection has it.
func (b bodyWriter) file(f *os.File, n int64) error {
	for n > 0 {
		b.x.writeBy(b.x.e.o.Stall)
		m, err := io.CopyN(b.x.w, f, min(n, 4*piece))
		b.x.out += m
		n -= m
		if err != nil {
			return unexpected(err)
		}
	}
	return nil
}
