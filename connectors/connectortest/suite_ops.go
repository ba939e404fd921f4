package connectortest

import (
	"context"
	"errors"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

// one makes an object of one part.
func one(data []byte) transport.Slices { return transport.Slices{data} }

// put stores an object, or ends the check.
func (s *suite) put(c connectors.Connector, data []byte) connectors.Key {
	s.Helper()
	key, err := c.Put(s.ctx, one(data))
	if err != nil {
		s.Fatalf("Put of %d bytes: %v", len(data), err)
	}
	if key == nil {
		s.Fatalf("Put of %d bytes: nil key without an error", len(data))
	}
	return key
}

// get fetches an object, or ends the check. The check must Release it.
func (s *suite) get(c connectors.Connector, key connectors.Key) *transport.Buffer {
	s.Helper()
	b, err := c.Get(s.ctx, key)
	if err != nil {
		s.Fatalf("Get(%s): %v", connectors.FormatKey(key), err)
	}
	if b == nil {
		s.Fatalf("Get(%s): nil Buffer without an error; a missing object is ErrNotFound", connectors.FormatKey(key))
	}
	return b
}

// holds checks that an object is there, by Exists and by Get.
func (s *suite) holds(c connectors.Connector, key connectors.Key, data []byte) {
	s.Helper()
	if ok, err := c.Exists(s.ctx, key); err != nil || !ok {
		s.Errorf("Exists(%s) = %t, %v; want true", connectors.FormatKey(key), ok, err)
	}
	b := s.get(c, key)
	defer b.Release()
	if d := differ(b.Bytes(), data); d != "" {
		s.Errorf("Get(%s): %s", connectors.FormatKey(key), d)
	}
}

// lacks checks that an object is not there, by Exists and by Get.
func (s *suite) lacks(c connectors.Connector, key connectors.Key) {
	s.Helper()
	if ok, err := c.Exists(s.ctx, key); err != nil || ok {
		s.Errorf("Exists(%s) of a missing object = %t, %v; want false", connectors.FormatKey(key), ok, err)
	}
	b, err := c.Get(s.ctx, key)
	if why := isErr(c, err, connectors.ErrNotFound); why != "" {
		s.Errorf("Get(%s) of a missing object: %s", connectors.FormatKey(key), why)
	}
	if b != nil {
		s.Errorf("Get(%s) of a missing object gives a Buffer", connectors.FormatKey(key))
		b.Release()
	}
}

// evict deletes an object, or fails the check.
func (s *suite) evict(c connectors.Connector, key connectors.Key) {
	s.Helper()
	if err := c.Evict(s.ctx, key); err != nil {
		s.Errorf("Evict(%s): %v", connectors.FormatKey(key), err)
	}
}

// missing returns a key that the connector made and that has no object.
func (s *suite) missing(c connectors.Connector) connectors.Key {
	s.Helper()
	key := s.put(c, []byte("soon gone"))
	s.evict(c, key)
	return key
}

// count returns the number of stored objects, -1 if the harness cannot tell.
func (s *suite) count() int {
	if s.Objects == nil {
		return -1
	}
	return s.Objects(s)
}

// counted checks that as many objects are stored as at an earlier count.
func (s *suite) counted(want int, when string) {
	s.Helper()
	if n := s.count(); n != want {
		s.Errorf("%s there are %d objects in the storage, want %d", when, n, want)
	}
}

// defers reports whether the connector has deferred keys. It fails if it must and has not.
func (s *suite) defers(c connectors.Connector) bool {
	s.Helper()
	_, err := connectors.NewKey(s.ctx, c)
	if errors.Is(err, errors.ErrUnsupported) {
		if s.wants("Deferrer") {
			s.Errorf("NewKey: %v; Want names Deferrer", err)
		}
		return false
	}
	if err != nil {
		s.Fatalf("NewKey: %v", err)
	}
	return true
}

// newKey makes a deferred key, or ends the check.
func (s *suite) newKey(c connectors.Connector) connectors.Key {
	s.Helper()
	key, err := connectors.NewKey(s.ctx, c)
	if err != nil || key == nil {
		s.Fatalf("NewKey = %v, %v", key, err)
	}
	return key
}

// set stores the object of a key, or ends the check.
func (s *suite) set(c connectors.Connector, key connectors.Key, data []byte) {
	s.Helper()
	if err := connectors.Set(s.ctx, c, key, one(data)); err != nil {
		s.Fatalf("Set(%s) of %d bytes: %v", connectors.FormatKey(key), len(data), err)
	}
}

// polling is for connectors that are no Waiter.
var polling = connectors.Polling{Interval: time.Millisecond}

// operation is one call on a connector. call must release what it gets, and returns the call's error.
type operation struct {
	name     string
	keyed    bool // uses key
	write    bool // uses obj
	deferred bool // needs deferred keys
	call     func(ctx context.Context, c connectors.Connector, key connectors.Key, obj transport.Slices) error
}

// errLeftover is the error of an operation that fails and yet gives something.
var errLeftover = errors.New("the call failed and gave a result all the same")

// released drops a result. It complains about one that came with an error.
func released(err error, bufs ...*transport.Buffer) error {
	for _, b := range bufs {
		if b != nil && err != nil {
			err = errors.Join(err, errLeftover)
		}
		b.Release()
	}
	return err
}

// dropped evicts what a call that did not fail has put, so that calls in great number do not fill the storage. The call's error is all that counts:
// the connector may be closed by now.
func dropped(ctx context.Context, c connectors.Connector, err error, keys ...connectors.Key) error {
	if err == nil {
		for _, key := range keys {
			c.Evict(context.WithoutCancel(ctx), key)
		}
	}
	return err
}

// operations are all methods and capabilities but Config and Close.
var operations = []operation{
	{name: "Put", write: true, call: func(ctx context.Context, c connectors.Connector, _ connectors.Key, obj transport.Slices) error {
		key, err := c.Put(ctx, obj)
		return dropped(ctx, c, err, key)
	}},
	{name: "Get", keyed: true, call: func(ctx context.Context, c connectors.Connector, key connectors.Key, _ transport.Slices) error {
		b, err := c.Get(ctx, key)
		return released(err, b)
	}},
	{name: "Exists", keyed: true, call: func(ctx context.Context, c connectors.Connector, key connectors.Key, _ transport.Slices) error {
		_, err := c.Exists(ctx, key)
		return err
	}},
	{name: "NewKey", deferred: true, call: func(ctx context.Context, c connectors.Connector, _ connectors.Key, _ transport.Slices) error {
		_, err := connectors.NewKey(ctx, c)
		return err
	}},
	{name: "Set", keyed: true, write: true, deferred: true,
		call: func(ctx context.Context, c connectors.Connector, key connectors.Key, obj transport.Slices) error {
			return connectors.Set(ctx, c, key, obj)
		}},
	{name: "PutBatch", write: true, call: func(ctx context.Context, c connectors.Connector, _ connectors.Key, obj transport.Slices) error {
		keys, err := connectors.PutBatch(ctx, c, []transport.Slices{obj, obj})
		return dropped(ctx, c, err, keys...)
	}},
	{name: "GetBatch", keyed: true, call: func(ctx context.Context, c connectors.Connector, key connectors.Key, _ transport.Slices) error {
		bufs, err := connectors.GetBatch(ctx, c, []connectors.Key{key, key})
		return released(err, bufs...)
	}},
	{name: "GetRange", keyed: true, call: func(ctx context.Context, c connectors.Connector, key connectors.Key, _ transport.Slices) error {
		b, err := connectors.GetRange(ctx, c, key, 1, 1)
		return released(err, b)
	}},
	{name: "GetBytes", keyed: true, call: func(ctx context.Context, c connectors.Connector, key connectors.Key, _ transport.Slices) error {
		_, err := connectors.GetBytes(ctx, c, key)
		return err
	}},
	{name: "Map", keyed: true, call: func(ctx context.Context, c connectors.Connector, key connectors.Key, _ transport.Slices) error {
		b, err := connectors.Map(ctx, c, key)
		return released(err, b)
	}},
	{name: "Stat", keyed: true, call: func(ctx context.Context, c connectors.Connector, key connectors.Key, _ transport.Slices) error {
		_, err := connectors.Stat(ctx, c, key)
		return err
	}},
	{name: "PutStream", write: true, call: func(ctx context.Context, c connectors.Connector, _ connectors.Key, obj transport.Slices) error {
		w, err := connectors.PutStream(ctx, c, obj.Len())
		if err != nil {
			return err
		}
		defer w.Abort()
		if _, err := obj.WriteTo(w); err != nil {
			return err
		}
		key, err := w.Commit()
		return dropped(ctx, c, err, key)
	}},
	{name: "GetStream", keyed: true, call: func(ctx context.Context, c connectors.Connector, key connectors.Key, _ transport.Slices) error {
		r, err := connectors.GetStream(ctx, c, key)
		if err != nil {
			return err
		}
		return r.Close()
	}},
	{name: "Wait", keyed: true, call: func(ctx context.Context, c connectors.Connector, key connectors.Key, _ transport.Slices) error {
		return connectors.Wait(ctx, c, key, polling)
	}},
	{name: "EvictBatch", keyed: true, call: func(ctx context.Context, c connectors.Connector, key connectors.Key, _ transport.Slices) error {
		return connectors.EvictBatch(ctx, c, []connectors.Key{key, key})
	}},
	{name: "Evict", keyed: true, call: func(ctx context.Context, c connectors.Connector, key connectors.Key, _ transport.Slices) error {
		return c.Evict(ctx, key)
	}},
}

// applicable returns the operations that the connector has.
func (s *suite) applicable(c connectors.Connector) []operation {
	deferred := s.defers(c)
	var ops []operation
	for _, op := range operations {
		if deferred || !op.deferred {
			ops = append(ops, op)
		}
	}
	return ops
}
