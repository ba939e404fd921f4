package observe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/connectortest"
	"github.com/proxyplane/proxyplane/connectors/local"
	"github.com/proxyplane/proxyplane/connectors/multi"
	"github.com/proxyplane/proxyplane/transport"
)

type mark struct{}

// recorder keeps calls, and checks that each End has the context of its Start.
type recorder struct {
	t      testing.TB
	mu     sync.Mutex
	starts int
	calls  []Call
}

func (r *recorder) hook() Hook {
	return Hook{
		Start: func(ctx context.Context, op string, key connectors.Key) context.Context {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.starts++
			return context.WithValue(ctx, mark{}, op)
		},
		End: func(ctx context.Context, c Call) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if op := ctx.Value(mark{}); op != c.Op {
				r.t.Errorf("the end of %s has the context of %v", c.Op, op)
			}
			r.calls = append(r.calls, c)
		},
	}
}

// take returns the one call since the last take.
func (r *recorder) take() Call {
	r.t.Helper()
	if len(r.calls) != 1 || r.starts != 1 {
		r.t.Errorf("%d starts and %d ends: %+v", r.starts, len(r.calls), r.calls)
		r.calls = append(r.calls, Call{})
	}
	c := r.calls[0]
	r.calls, r.starts = nil, 0
	return c
}

func TestDecorator(t *testing.T) {
	t.Run("hook", func(t *testing.T) {
		r := &recorder{t: t}
		connectortest.RunDecorator(t, func(c connectors.Connector) connectors.Connector { return Wrap(c, r.hook()) })
		if len(r.calls) == 0 || r.starts < len(r.calls) {
			t.Errorf("%d starts, %d ends", r.starts, len(r.calls))
		}
	})
	t.Run("no hook", func(t *testing.T) {
		connectortest.RunDecorator(t, func(c connectors.Connector) connectors.Connector { return Wrap(c, Hook{}) })
	})
}

// TestCalls makes every call there is and compares what the hook is told.
func TestCalls(t *testing.T) {
	ctx := t.Context()
	inner, err := multi.New(map[string]multi.Child{"child": {Connector: local.New(local.Options{})}}) // the one with tags
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{t: t}
	c := Wrap(inner, r.hook())
	obj := transport.Slices{[]byte("hello "), []byte("world")}
	var key connectors.Key
	check := func(what string, wantErr error, want Call) {
		t.Helper()
		got := r.take()
		if !errors.Is(got.Err, wantErr) || wantErr == nil && got.Err != nil || got.Duration < 0 {
			t.Errorf("%s: %+v, want error %v", what, got, wantErr)
		}
		got.Err, got.Duration = nil, 0
		if got != want {
			t.Errorf("%s: got %+v, want %+v", what, got, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	key, err = c.Put(ctx, obj)
	must(err)
	check("Put", nil, Call{Op: "put", Key: key, Objects: 1, Bytes: 11})
	tagged, err := connectors.PutTagged(ctx, c, obj, connectors.Tags{Subset: []string{}})
	must(err)
	check("PutTagged", nil, Call{Op: "put", Key: tagged, Objects: 1, Bytes: 11})
	b, err := c.Get(ctx, key)
	must(err)
	b.Release()
	check("Get", nil, Call{Op: "get", Key: key, Objects: 1, Bytes: 11})
	_, err = connectors.GetBytes(ctx, c, key)
	must(err)
	check("GetBytes", nil, Call{Op: "get", Key: key, Objects: 1, Bytes: 11})
	b, err = connectors.GetRange(ctx, c, key, 3, 4)
	must(err)
	b.Release()
	check("GetRange", nil, Call{Op: "get range", Key: key, Objects: 1, Bytes: 4})
	b, err = connectors.Map(ctx, c, key)
	must(err)
	b.Release()
	check("Map", nil, Call{Op: "map", Key: key, Objects: 1, Bytes: 11})
	_, err = connectors.Stat(ctx, c, key)
	must(err)
	check("Stat", nil, Call{Op: "stat", Key: key, Objects: 1})
	must(connectors.Wait(ctx, c, key, connectors.Polling{}))
	check("Wait", nil, Call{Op: "wait", Key: key, Objects: 1})
	_, err = c.Exists(ctx, key)
	must(err)
	check("Exists", nil, Call{Op: "exists", Key: key, Objects: 1})
	must(c.Evict(ctx, tagged))
	check("Evict", nil, Call{Op: "evict", Key: tagged, Objects: 1})
	_, err = c.Get(ctx, tagged)
	check("Get of nothing", connectors.ErrNotFound, Call{Op: "get", Key: tagged, Objects: 1})
	fresh, err := connectors.NewKey(ctx, c)
	must(err)
	check("NewKey", nil, Call{Op: "new key", Key: fresh, Objects: 1})
	must(connectors.Set(ctx, c, fresh, obj))
	check("Set", nil, Call{Op: "set", Key: fresh, Objects: 1, Bytes: 11})
	keys, err := connectors.PutBatch(ctx, c, []transport.Slices{obj, obj, nil})
	must(err)
	check("PutBatch", nil, Call{Op: "put batch", Objects: 3, Bytes: 22})
	bufs, err := connectors.GetBatch(ctx, c, append(keys, tagged))
	must(err)
	for _, b := range bufs {
		b.Release()
	}
	check("GetBatch", nil, Call{Op: "get batch", Objects: 4, Bytes: 22})
	must(connectors.EvictBatch(ctx, c, keys))
	check("EvictBatch", nil, Call{Op: "evict batch", Objects: 3})
	_, err = connectors.GetBatch(ctx, c, []connectors.Key{nil})
	check("GetBatch of nil", connectors.ErrInvalidKey, Call{Op: "get batch", Objects: 1})

	w, err := connectors.PutStream(ctx, c, -1)
	must(err)
	_, err = w.Write([]byte("12345"))
	must(err)
	_, err = w.ReadFrom(strings.NewReader("67"))
	must(err)
	if len(r.calls) != 0 {
		t.Errorf("told before the stream's end: %+v", r.calls)
	}
	streamed, err := w.Commit()
	must(err)
	must(w.Abort())
	check("PutStream", nil, Call{Op: "put stream", Key: streamed, Objects: 1, Bytes: 7})
	w, err = connectors.PutStream(ctx, c, -1)
	must(err)
	_, err = w.Write([]byte("123"))
	must(err)
	must(errors.Join(w.Abort(), w.Abort()))
	check("aborted", ErrAborted, Call{Op: "put stream", Objects: 1, Bytes: 3})
	w, err = connectors.PutStream(ctx, c, 3)
	must(err)
	_, err = w.Commit()
	check("too short", err, Call{Op: "put stream", Objects: 1})
	must(w.Abort())

	rd, err := connectors.GetStream(ctx, c, key)
	must(err)
	must(iotest.TestReader(readOnly{rd}, obj.Join()))
	must(errors.Join(rd.Close(), rd.Close()))
	check("GetStream", nil, Call{Op: "get stream", Key: key, Objects: 1, Bytes: 11})
	rd, err = connectors.GetStream(ctx, c, key)
	must(err)
	boom := errors.New("boom")
	if _, err := rd.WriteTo(failWriter{boom}); !errors.Is(err, boom) || rd.Size() != 11 {
		t.Errorf("%v, size %d", err, rd.Size())
	}
	must(rd.Close())
	check("WriteTo that fails", boom, Call{Op: "get stream", Key: key, Objects: 1})
	rd, err = connectors.GetStream(ctx, c, key)
	must(err)
	var sink bytes.Buffer
	_, err = rd.WriteTo(&sink)
	must(err)
	must(rd.Close())
	check("WriteTo", nil, Call{Op: "get stream", Key: key, Objects: 1, Bytes: 11})
	_, err = connectors.GetStream(ctx, c, tagged)
	check("GetStream of nothing", connectors.ErrNotFound, Call{Op: "get stream", Key: tagged, Objects: 1})

	if cfg := c.Config(); !cfg.Equal(inner.Config()) || r.starts != 0 {
		t.Errorf("Config: %v, %d starts", cfg, r.starts)
	}
	must(connectors.CloseClear(ctx, c, true))
	check("CloseClear", nil, Call{Op: "close"})
	must(c.Close(ctx))
	check("Close", nil, Call{Op: "close"})
	_, err = c.Put(ctx, obj)
	check("Put after Close", connectors.ErrClosed, Call{Op: "put", Objects: 1})
}

// readOnly hides WriteTo.
type readOnly struct{ io.Reader }

type failWriter struct{ err error }

func (w failWriter) Write([]byte) (int, error) { return 0, w.err }

// TestDuration: it is the time of the call, and of a stream until its end.
func TestDuration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{t: t}
		c := Wrap(local.New(local.Options{}), r.hook())
		defer c.Close(t.Context())
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := connectors.Wait(ctx, c, connectors.LocalKey{ID: "never"}, connectors.Polling{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if got := r.take(); got.Duration != time.Minute || !errors.Is(got.Err, context.DeadlineExceeded) {
			t.Errorf("Wait: %+v", got)
		}
		w, err := connectors.PutStream(t.Context(), c, -1)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if _, err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		if got := r.take(); got.Duration != time.Hour {
			t.Errorf("stream: %+v", got)
		}
	})
}

// ExampleWrap counts bytes by operation.
func ExampleWrap() {
	ctx := context.Background()
	moved := map[string]int64{}
	var mu sync.Mutex
	c := Wrap(local.New(local.Options{}), Hook{End: func(_ context.Context, call Call) {
		mu.Lock()
		defer mu.Unlock()
		moved[call.Op] += call.Bytes
	}})
	defer c.Close(ctx)
	key, err := c.Put(ctx, transport.Slices{[]byte("hello")})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 2 {
		b, err := c.Get(ctx, key)
		if err != nil {
			fmt.Println(err)
			return
		}
		b.Release()
	}
	fmt.Println(moved)
	// Output: map[get:10 put:5]
}
