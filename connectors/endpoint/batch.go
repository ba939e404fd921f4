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
	"sync/atomic"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

// maxBatch is how many keys one request names.
const maxBatch = 1024

// names is what a batch request says: keys of one endpoint.
type names struct {
	Keys     []string `json:"keys"`
	Endpoint string   `json:"endpoint,omitempty"`
}

// groups splits keys into requests, each for one endpoint and of bounded length, and calls do with the positions of each.
func groups(keys []connectors.Key, do func(n names, at []int) error) error {
	by := map[string][]int{}
	var order []string
	for i, key := range keys {
		k, err := connectors.KeyAs[connectors.EndpointKey](kind, key)
		if err == nil {
			err = check(k)
		}
		if err != nil {
			return err
		}
		if by[k.EndpointID] == nil {
			order = append(order, k.EndpointID)
		}
		by[k.EndpointID] = append(by[k.EndpointID], i)
	}
	for _, id := range order {
		for at := by[id]; len(at) > 0; {
			part := at[:min(len(at), maxBatch)]
			at = at[len(part):]
			n := names{Endpoint: id}
			for _, i := range part {
				n.Keys = append(n.Keys, keys[i].(connectors.EndpointKey).ObjectID)
			}
			if err := do(n, part); err != nil {
				return err
			}
		}
	}
	return nil
}

// post sends names to a batch path.
func (c *Connector) post(ctx context.Context, path string, n names) (*http.Response, error) {
	raw, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	req, err := c.request(ctx, http.MethodPost, path, nil, nil)
	if err != nil {
		return nil, err
	}
	setBody(req, int64(len(raw)), func() io.Reader { return bytes.NewReader(raw) })
	req.Header.Set("Content-Type", "application/json")
	return c.send(req, http.StatusOK)
}

// GetBatch implements [connectors.BatchGetter].
func (c *Connector) GetBatch(ctx context.Context, keys []connectors.Key) ([]*transport.Buffer, error) {
	if err := c.enter(ctx, "get_batch", nil); err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	bufs := make([]*transport.Buffer, len(keys))
	err := groups(keys, func(n names, at []int) error {
		if !c.home.ours {
			for _, i := range at {
				resp, err := c.get(ctx, keys[i], nil, http.StatusOK)
				if errors.Is(err, connectors.ErrNotFound) {
					continue
				}
				if err != nil {
					return err
				}
				bufs[i], err = c.read(ctx, resp, c.opts.MaxBytes)
				discard(resp)
				if err != nil {
					return err
				}
			}
			return nil
		}
		resp, err := c.post(ctx, "/batch/get", n)
		if err != nil {
			return err
		}
		defer discard(resp)
		for _, i := range at {
			var head [8]byte
			if _, err := io.ReadFull(resp.Body, head[:]); err != nil {
				return c.broken(ctx, err)
			}
			size := binary.BigEndian.Uint64(head[:])
			if size == math.MaxUint64 {
				continue
			}
			if size > math.MaxInt64 {
				return fmt.Errorf("%w: an object of %d bytes", connectors.ErrCorrupt, size)
			}
			part := &http.Response{ContentLength: int64(size), Body: io.NopCloser(resp.Body)}
			if bufs[i], err = c.read(ctx, part, c.opts.MaxBytes); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		for _, b := range bufs {
			b.Release()
		}
		return nil, wrap("get_batch", nil, err)
	}
	return bufs, nil
}

// PutBatch implements [connectors.BatchPutter].
func (c *Connector) PutBatch(ctx context.Context, objs []transport.Slices) ([]connectors.Key, error) {
	if err := c.enter(ctx, "put_batch", nil); err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	keys := make([]connectors.Key, len(objs))
	for i := range objs {
		keys[i] = c.newKey()
	}
	err := groups(keys, func(n names, at []int) error {
		if !c.home.ours {
			for _, i := range at {
				if err := c.put(ctx, keys[i].(connectors.EndpointKey), objs[i]); err != nil {
					return err
				}
			}
			return nil
		}
		raw, err := json.Marshal(n)
		if err != nil {
			return err
		}
		all := transport.Slices{append(binary.BigEndian.AppendUint64(nil, uint64(len(raw))), raw...)}
		for _, i := range at {
			all = append(all, binary.BigEndian.AppendUint64(nil, uint64(objs[i].Len())))
			all = append(all, objs[i]...)
		}
		sent := &atomic.Bool{}
		inner, cancel := guard(ctx, sent)
		defer cancel()
		req, err := c.request(inner, http.MethodPost, "/batch/set", nil, nil)
		if err != nil {
			return err
		}
		setBody(req, all.Len(), func() io.Reader { return &counted{all.Reader(), all.Len(), sent} })
		resp, err := c.send(req, http.StatusOK)
		if err != nil {
			return err
		}
		discard(resp)
		return nil
	})
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		c.undo(ctx, keys...)
		return nil, wrap("put_batch", nil, err)
	}
	return keys, nil
}

// EvictBatch implements [connectors.BatchEvicter].
func (c *Connector) EvictBatch(ctx context.Context, keys []connectors.Key) error {
	if err := c.enter(ctx, "evict_batch", nil); err != nil {
		return err
	}
	defer c.gate.Leave()
	return wrap("evict_batch", nil, c.evictBatch(ctx, keys))
}

func (c *Connector) evictBatch(ctx context.Context, keys []connectors.Key) error {
	return groups(keys, func(n names, at []int) error {
		if !c.home.ours {
			var errs []error
			for _, i := range at {
				errs = append(errs, c.evict(ctx, keys[i]))
			}
			return errors.Join(errs...)
		}
		resp, err := c.post(ctx, "/batch/evict", n)
		if err != nil {
			return err
		}
		discard(resp)
		return nil
	})
}
