package endpoint

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"sync"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/endpoint/config"
	"github.com/proxyplane/proxyplane/transport"
)

// missing is the length of an object that does not exist, in the frames of /batch/get.
const missing = math.MaxUint64

const (
	maxBatchJSON = 16 << 20 // bytes
	maxBatchKeys = 1 << 16
	batchAhead   = 8 // requests to a peer at once, and objects of /batch/get that are open
)

// batch is the JSON of a batch request.
type batch struct {
	Keys     []string `json:"keys"`
	Endpoint *string  `json:"endpoint"` // nil: this one
	at       uuid.UUID
}

// parseBatch reads it. Errors are the client's.
func parseBatch(data []byte) (*batch, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var b batch
	if err := dec.Decode(&b); err != nil {
		return nil, fmt.Errorf("not a batch request: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("not a batch request: something follows the JSON")
	}
	if b.Keys == nil {
		return nil, errors.New("request missing keys")
	}
	if len(b.Keys) > maxBatchKeys {
		return nil, fmt.Errorf("%d keys are too many; send at most %d at once", len(b.Keys), maxBatchKeys)
	}
	if b.Endpoint != nil {
		var err error
		if b.at, err = config.ParseUUID4(*b.Endpoint); err != nil {
			return nil, fmt.Errorf("%s is not a valid UUID4", *b.Endpoint)
		}
	}
	for _, k := range b.Keys {
		if err := checkKey(k); err != nil {
			return nil, err
		}
	}
	return &b, nil
}

// batchBody reads the JSON that is the whole request.
func (x *exchange) batchBody() (*batch, bool) {
	data, err := io.ReadAll(io.LimitReader(bodyReader{x}, maxBatchJSON+1))
	if err != nil {
		x.fail(err)
		return nil, false
	}
	if len(data) > maxBatchJSON {
		x.fail(fmt.Errorf("%w: a batch request has at most %d bytes of JSON", transport.ErrTooLarge, maxBatchJSON))
		return nil, false
	}
	b, err := parseBatch(data)
	if err != nil {
		x.refuse(err.Error())
		return nil, false
	}
	b.at = x.e.canonical(b.at)
	return b, true
}

// each calls f for all keys, several at once if they are a peer's, and returns the first error.
func (x *exchange) each(b *batch, f func(ctx context.Context, i int, key string) error) error {
	if x.e.local(b.at) {
		for i, k := range b.Keys {
			if err := f(x.r.Context(), i, k); err != nil {
				return err
			}
		}
		return nil
	}
	ctx, cancel := context.WithCancelCause(x.r.Context())
	defer cancel(nil)
	var wg sync.WaitGroup
	slots := make(chan struct{}, batchAhead)
	for i, k := range b.Keys {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			if err := f(ctx, i, k); err != nil {
				cancel(err)
			}
			<-slots
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

func (x *exchange) batchExists() {
	b, ok := x.batchBody()
	if !ok {
		return
	}
	found := make([]bool, len(b.Keys))
	err := x.each(b, func(ctx context.Context, i int, key string) (err error) {
		found[i], err = x.e.Exists(ctx, key, b.at)
		return err
	})
	if err != nil {
		x.fail(err)
		return
	}
	x.jsonValue(http.StatusOK, map[string][]bool{"exists": found})
}

func (x *exchange) batchEvict() {
	b, ok := x.batchBody()
	if !ok {
		return
	}
	if err := x.each(b, func(ctx context.Context, _ int, key string) error { return x.e.Evict(ctx, key, b.at) }); err != nil {
		x.fail(err)
		return
	}
	x.json(http.StatusOK, "{}")
}

// opened is an object of /batch/get, or why there is none.
type opened struct {
	obj *object
	err error
}

// batchGet sends objects in the order of their keys. Those of a peer are asked for some ahead, so that each does not wait for a round trip.
func (x *exchange) batchGet() {
	b, ok := x.batchBody()
	if !ok {
		return
	}
	ahead := 1
	if !x.e.local(b.at) {
		ahead = batchAhead
	}
	ctx, cancel := context.WithCancel(x.r.Context())
	queue := make(chan chan opened, ahead)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(queue)
		for _, key := range b.Keys {
			one := make(chan opened, 1)
			select {
			case queue <- one:
			case <-ctx.Done():
				return
			}
			open := func() {
				obj, err := x.e.open(ctx, key, b.at, 0, -1)
				one <- opened{obj, err}
			}
			if ahead == 1 {
				open()
			} else {
				wg.Go(open)
			}
		}
	})
	defer func() {
		cancel()
		for one := range queue {
			if o := <-one; o.obj != nil {
				o.obj.close()
			}
		}
		wg.Wait()
	}()

	sent := false
	w := bodyWriter{x}
	var frame [8]byte
	for one := range queue {
		o := <-one
		absent := errors.Is(o.err, transport.ErrNotFound) || errors.Is(o.err, transport.ErrInvalidKey)
		if o.err != nil && !absent {
			if !sent {
				x.fail(o.err)
				return
			}
			x.abort(o.err)
		}
		if !sent {
			sent = true
			x.w.Header().Set("Content-Type", "application/octet-stream")
			x.header(http.StatusOK)
		}
		length := uint64(missing)
		if o.obj != nil {
			length = uint64(o.obj.info.Size)
		}
		binary.BigEndian.PutUint64(frame[:], length)
		_, err := w.Write(frame[:])
		if o.obj != nil {
			if err == nil {
				err = x.body(o.obj, 0, o.obj.info.Size)
			}
			o.obj.close()
		}
		if err != nil {
			x.abort(err)
		}
	}
	if ctx.Err() != nil && x.out == 0 {
		panic(http.ErrAbortHandler)
	}
	if !sent {
		x.w.Header().Set("Content-Type", "application/octet-stream")
		x.header(http.StatusOK)
	}
}

// readFrame reads the length of the next frame.
func readFrame(r io.Reader) (uint64, error) {
	var frame [8]byte
	if _, err := io.ReadFull(r, frame[:]); err != nil {
		return 0, unexpected(err)
	}
	return binary.BigEndian.Uint64(frame[:]), nil
}

// frameReader reads the bytes of one frame, of a body that has no right to end before.
type frameReader struct {
	r    io.Reader
	left int64
}

func (f *frameReader) Read(p []byte) (int, error) {
	if f.left == 0 {
		return 0, io.EOF
	}
	n, err := f.r.Read(p[:min(int64(len(p)), f.left)])
	f.left -= int64(n)
	if err == io.EOF && f.left > 0 {
		err = &bodyError{io.ErrUnexpectedEOF}
	}
	return n, err
}

// readBatch reads what comes before the objects of /batch/set. Errors are the client's.
func readBatch(r io.Reader) (*batch, error) {
	n, err := readFrame(r)
	if err != nil {
		return nil, err
	}
	if n > maxBatchJSON {
		return nil, fmt.Errorf("not a batch request: its JSON claims %d bytes, at most %d are possible", n, maxBatchJSON)
	}
	data, err := io.ReadAll(io.LimitReader(r, int64(n))) // memory as it comes, not as it is claimed
	if err != nil {
		return nil, err
	}
	if uint64(len(data)) < n {
		return nil, io.ErrUnexpectedEOF
	}
	return parseBatch(data)
}

// batchSet stores objects one after the other. If one cannot be stored those before it stay; the text says how many they are.
func (x *exchange) batchSet() {
	body := bodyReader{x}
	b, err := readBatch(body)
	if err != nil {
		if code := new(bodyError); errors.As(err, &code) {
			x.fail(err)
			return
		}
		x.refuse(err.Error())
		return
	}
	b.at = x.e.canonical(b.at)
	o := setOptions{empty: x.r.Header.Get("Proxyplane-Empty") == "1"}
	for i, key := range b.Keys {
		n, err := readFrame(body)
		switch {
		case err != nil:
			err = &bodyError{err}
		case n > math.MaxInt64:
			err = fmt.Errorf("%w: an object of %d bytes", transport.ErrTooLarge, n)
		default:
			one := &frameReader{r: body, left: int64(n)}
			if err = x.e.set(x.r.Context(), key, b.at, int64(n), one, o); err == nil && one.left > 0 {
				err = fmt.Errorf("%d bytes of the object were not taken", one.left)
			}
		}
		if err != nil {
			x.fail(fmt.Errorf("object %d of %d, key %q: %w; those before it are stored", i+1, len(b.Keys), key, err))
			return
		}
	}
	if n, err := body.Read(make([]byte, 1)); n > 0 {
		x.refuse("bytes follow the last object; all objects are stored")
		return
	} else if err != nil && err != io.EOF {
		x.fail(err)
		return
	}
	x.json(http.StatusOK, `{"stored": `+strconv.Itoa(len(b.Keys))+`}`)
}
