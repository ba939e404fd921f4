package rpc

import (
	"bytes"
	"context"
	"errors"
	"log/slog"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// HandlerOptions are choices of a Handler. The zero value is ready for use.
type HandlerOptions struct {
	Put    objects.PutOptions // of every object that is put; the protocol has none of its own
	Logger *slog.Logger       // hears of requests that make no sense; default: nobody
}

// NewHandler returns the Handler that answers ProxyStore's pickled RPCs from the Store, as Python's own servers do. An operation that fails is
// answered with a built-in Python exception whose text says why: MemoryError where the Store is full, OverflowError where the object is too large for
// it, ValueError, TypeError, ConnectionError.
//
// The Handler returns an error, and no reply, only for messages that are no pickle at all, but "ping", which it answers with "pong".
func NewHandler(store objects.Store, o HandlerOptions) objects.Handler {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return func(ctx context.Context, req *transport.Buffer) (transport.Slices, func(), error) {
		defer req.Release()
		if string(req.Bytes()) == "ping" { // before anything else Python's clients ask whether somebody is there
			return transport.Slices{[]byte("pong")}, nil, nil
		}
		r, err := DecodeRequest(req)
		defer r.Release()
		if errors.Is(err, errTag) {
			return nil, nil, err
		}
		answer := reply{op: r.Op, form: r.form}
		if r.Key.DIMType != "" || r.Key.ObjID != "" {
			answer.key = &r.Key
		}
		var obj *transport.Buffer
		if err != nil {
			o.Logger.LogAttrs(ctx, slog.LevelWarn, "refused a request", slog.Any("error", err))
		} else {
			obj, err = serve(store, &r, &answer, req.Len(), o.Put)
		}
		if err != nil {
			answer.class, answer.text = exception(err)
		}
		if obj == nil {
			return answer.encode(nil, false), nil, nil
		}
		return answer.encode(obj.Bytes(), true), obj.Release, nil
	}
}

// serve does what the request asks. The caller owns the object of a get.
func serve(store objects.Store, r *Request, answer *reply, msgLen int, o objects.PutOptions) (*transport.Buffer, error) {
	id := r.Key.ObjID
	switch r.Op {
	case OpExists:
		answer.exists = -1
		if store.Exists(id) {
			answer.exists = 1
		}
	case OpEvict:
		store.Evict(id)
	case OpGet:
		obj, err := store.Get(id)
		if errors.Is(err, transport.ErrNotFound) {
			return nil, nil
		}
		return obj, err
	case OpPut:
		if r.Data == nil {
			return nil, corrupt("a put without data")
		}
		if err := checkID(id, objects.MaxID); err != nil {
			return nil, err
		}
		obj := r.Data
		r.Data = nil
		if extra := msgLen - obj.Len(); extra > obj.Len()/8 {
			own := transport.FromBytes(bytes.Clone(obj.Bytes())) // the message would cost more than the copy
			obj.Release()
			obj = own
		}
		return nil, store.Put(id, obj, o)
	default:
		return nil, corrupt("unknown operation %.40q: this server knows exists, evict, get and put", r.Op)
	}
	return nil, nil
}
