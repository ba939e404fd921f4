package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/transport"
)

// The demonstration's second process. It reads one JSON request a line from its standard input and answers each by one JSON line; bytes that are
// passed by value follow their request. It knows nothing of the objects but what the proxies say.

// demoRequest is what the first process asks for. Which fields count depends on Op.
type demoRequest struct {
	Op      string   `json:"op"` // receive, resolve, value, range, future, evicting
	Proxies [][]byte `json:"proxies,omitempty"`
	Index   int      `json:"index,omitempty"`
	Repeat  int      `json:"repeat,omitempty"`
	Off     int64    `json:"off,omitempty"`
	Size    int64    `json:"size,omitempty"`
}

// demoReply is the answer.
type demoReply struct {
	Error    string  `json:"error,omitempty"`
	NS       int64   `json:"ns,omitempty"`
	Resolved int     `json:"resolved,omitempty"`
	Cold     []int64 `json:"cold,omitempty"`
	Mapped   []int64 `json:"mapped,omitempty"`
	Cached   []int64 `json:"cached,omitempty"`
	SHA256   string  `json:"sha256,omitempty"`
	Type     string  `json:"type,omitempty"`
	Size     int64   `json:"size,omitempty"`
	At       int64   `json:"at,omitempty"` // Unix nanoseconds
	Missing  bool    `json:"missing,omitempty"`
}

// demoWorkerName is the hidden command's name.
const demoWorkerName = "demo-worker"

func (a *app) demoWorkerCmd() *cobra.Command {
	return &cobra.Command{
		Use:    demoWorkerName,
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// It holds nothing that needs cleaning up: a signal, or the end of the first process, just ends it.
			signal.Reset(syscall.SIGINT, syscall.SIGTERM)
			w := &demoWorker{in: bufio.NewReaderSize(a.in, 64<<10), ctx: cmd.Context()}
			out := json.NewEncoder(a.out)
			for {
				line, err := w.in.ReadBytes('\n')
				if err == io.EOF {
					return nil
				}
				var req demoRequest
				if err == nil {
					err = json.Unmarshal(line, &req)
				}
				if err != nil {
					return err
				}
				reply, err := w.do(req)
				if err != nil {
					reply = demoReply{Error: err.Error()}
				}
				if err := out.Encode(reply); err != nil {
					return err
				}
			}
		},
	}
}

type demoWorker struct {
	in      *bufio.Reader
	ctx     context.Context // the lifetime of the process
	pickles [][]byte
	proxies []*proxyplane.Proxy[any]
}

func (w *demoWorker) do(req demoRequest) (demoReply, error) {
	switch req.Op {
	case "receive":
		return w.receive(req)
	case "value":
		return w.value(req)
	case "resolve":
		return w.resolve(req)
	case "range":
		return w.readRange(req)
	case "future":
		return w.future(req)
	case "evicting":
		return w.evicting(req)
	}
	return demoReply{}, fmt.Errorf("unknown request %q", req.Op)
}

// receive decodes proxies and does nothing else.
func (w *demoWorker) receive(req demoRequest) (demoReply, error) {
	start := time.Now()
	var reply demoReply
	for _, data := range req.Proxies {
		p, err := proxyplane.ParseProxy[any](data)
		if err != nil {
			return reply, err
		}
		w.proxies = append(w.proxies, p)
		reply.Size += int64(len(data))
		if p.Resolved() {
			reply.Resolved++
		}
	}
	reply.NS = time.Since(start).Nanoseconds()
	w.pickles = append(w.pickles, req.Proxies...)
	return reply, nil
}

// value asks for bytes by value, as often as told, and times until they are in memory.
func (w *demoWorker) value(req demoRequest) (demoReply, error) {
	var reply demoReply
	for range req.Repeat {
		start := time.Now()
		if err := json.NewEncoder(os.Stdout).Encode(demoReply{}); err != nil { // now
			return reply, err
		}
		data := make([]byte, req.Size)
		if _, err := io.ReadFull(w.in, data); err != nil {
			return reply, err
		}
		reply.Cold = append(reply.Cold, time.Since(start).Nanoseconds())
		reply.SHA256 = sum(data)
	}
	return reply, nil
}

func sum(data ...[]byte) string {
	h := sha256.New()
	for _, d := range data {
		h.Write(d)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// resolve times the ways to an object: opening its store, which is done once; then, with the store open and nothing cached, fetching a value of
// one's own (cold) and getting a view of the connector's memory (mapped); and resolving the same proxy again (cached). It returns the sum of
// the last value, having compared it with the mapped ones.
func (w *demoWorker) resolve(req demoRequest) (reply demoReply, err error) {
	stores := proxyplane.NewStores(proxyplane.WithStoreOptions(proxyplane.WithCacheBytes(0)))
	defer func() { err = errors.Join(err, stores.Close(w.ctx)) }()
	timed := func(list *[]int64, fn func() error) error {
		start := time.Now()
		err := fn()
		*list = append(*list, time.Since(start).Nanoseconds())
		return err
	}
	for i := range req.Repeat {
		p, err := proxyplane.ParseProxy[any](w.pickles[req.Index])
		if err != nil {
			return reply, err
		}
		p.Bind(stores)
		if i == 0 {
			start := time.Now()
			if _, err := p.Store(w.ctx); err != nil {
				return reply, err
			}
			reply.NS = time.Since(start).Nanoseconds()
		}
		var v any
		if err := timed(&reply.Cold, func() (err error) { v, err = p.Resolve(w.ctx); return err }); err != nil {
			return reply, err
		}
		if err := timed(&reply.Cached, func() error { _, err := p.Resolve(w.ctx); return err }); err != nil {
			return reply, err
		}
		view, err := proxyplane.ParseProxy[*serialize.Opaque](w.pickles[req.Index])
		if err != nil {
			return reply, err
		}
		view.Bind(stores)
		var o *serialize.Opaque
		if err := timed(&reply.Mapped, func() (err error) { o, err = view.Resolve(w.ctx); return err }); err != nil {
			return reply, err
		}
		mapped := sum(o.Payload())
		o.Release()
		view.Forget()
		if reply.SHA256, reply.Type, reply.Size, err = digest(v); err != nil {
			return reply, err
		}
		if mapped != reply.SHA256 {
			return reply, errors.New("the mapped object differs from the fetched one")
		}
	}
	return reply, nil
}

// digest returns the sum, Python type and length of a resolved value; for an array of the .npy file that it is.
func digest(v any) (hash, kind string, size int64, err error) {
	var parts transport.Slices
	switch v := v.(type) {
	case []byte:
		parts, kind = transport.Slices{v}, "bytes"
	case string:
		parts, kind = transport.Slices{[]byte(v)}, "str"
	case *serialize.Array:
		kind = "ndarray"
		if parts, err = serialize.Encode(v); err != nil {
			return "", "", 0, err
		}
		parts[0] = parts[0][serialize.TagLen:]
	default:
		return "", "", 0, fmt.Errorf("resolved to a %T", v)
	}
	return sum(parts...), kind, parts.Len(), nil
}

// readRange reads part of an object that has not been resolved.
func (w *demoWorker) readRange(req demoRequest) (demoReply, error) {
	p := w.proxies[req.Index]
	start := time.Now()
	buf, err := p.ReadRange(w.ctx, req.Off, req.Size)
	if err != nil {
		return demoReply{}, err
	}
	defer buf.Release()
	reply := demoReply{NS: time.Since(start).Nanoseconds(), Size: int64(buf.Len()), SHA256: sum(buf.Bytes())}
	if p.Resolved() {
		reply.Resolved = 1
	}
	return reply, nil
}

// future answers at once and, when the value is there, a second time.
func (w *demoWorker) future(req demoRequest) (demoReply, error) {
	p, err := proxyplane.ParseProxy[any](req.Proxies[0])
	if err != nil {
		return demoReply{}, err
	}
	if err := json.NewEncoder(os.Stdout).Encode(demoReply{At: time.Now().UnixNano()}); err != nil {
		return demoReply{}, err
	}
	v, err := p.Resolve(w.ctx)
	if err != nil {
		return demoReply{}, err
	}
	reply := demoReply{At: time.Now().UnixNano()}
	reply.SHA256, reply.Type, reply.Size, err = digest(v)
	return reply, err
}

// evicting resolves a proxy that evicts its object, and then a second copy of it.
func (w *demoWorker) evicting(req demoRequest) (demoReply, error) {
	stores := proxyplane.NewStores(proxyplane.WithStoreOptions(proxyplane.WithCacheBytes(0)))
	defer stores.Close(w.ctx)
	var reply demoReply
	for i := range 2 {
		p, err := proxyplane.ParseProxy[any](req.Proxies[0])
		if err != nil {
			return reply, err
		}
		p.Bind(stores)
		v, err := p.Resolve(w.ctx)
		if i == 1 {
			reply.Missing = errors.Is(err, proxyplane.ErrNotFound)
			break
		}
		if err != nil {
			return reply, err
		}
		if reply.SHA256, reply.Type, reply.Size, err = digest(v); err != nil {
			return reply, err
		}
	}
	return reply, nil
}
