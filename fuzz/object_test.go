package fuzz

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/transport"
)

// budget bounds what one call may allocate for an object of that size: a flat part, since a pickle may say by a few bytes that a value is there many
// times (pickle.Limits bounds how many), and a part for what is really there.
func budget(size int) uint64 { return 512<<20 + 1024*uint64(size) }

// FuzzObject puts any bytes where a store has its objects and reads them in every way. Nothing panics, takes memory beyond bounds or leaks; errors
// are the documented ones; the ways agree with each other; and what can be read can be stored again and is the same.
func FuzzObject(f *testing.F) {
	for _, o := range recorded(f) {
		f.Add(o)
	}
	for _, s := range []string{"", "B", "BS", "BS\n", "US\n\xff", "PK\n.", "PK\n\x80\x05N.", "NP\n\x93NUMPY\x01\x00\x10\x00{'descr':'<f8'}\n", "XX\nx", "\x80\x05."} {
		f.Add([]byte(s))
	}
	// Lists that each hold the one before twice: a hundred bytes that mean 2^30 values to whoever walks them.
	laughs := []byte("PK\n\x80\x04]\x94")
	for i := range byte(30) {
		laughs = append(laughs, ']', '\x94', '(', 'h', i, 'h', i, 'e')
	}
	f.Add(append(laughs, '.'))
	ctx := context.Background()
	dir := f.TempDir()
	s, err := proxyplane.Open(ctx, proxyplane.NewConfig("", proxyplane.FileConnector(dir)), proxyplane.WithCacheBytes(0),
		proxyplane.WithStores(proxyplane.NewStores()))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := s.Close(ctx); err != nil {
			f.Error(err)
		}
	})
	key := connectors.FileKey{Filename: "object"}
	path := filepath.Join(dir, key.Filename)
	f.Fuzz(func(t *testing.T, data []byte) {
		// As Python's connector writes: a file and its marker.
		if err := errors.Join(os.WriteFile(path, data, 0o600), os.WriteFile(path+".ready", nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		tag, body, tagErr := serialize.Tag(data)

		before := allocated()
		v, err := s.Get(ctx, key)
		checkError(t, "get", err)
		if took := allocated() - before; took > budget(len(data)) {
			t.Errorf("get of %d bytes allocated %d", len(data), took)
		}
		if tagErr != nil && !errors.Is(err, serialize.ErrUnknownTag) {
			t.Errorf("get of an object without a known tag: %v", err)
		}
		if err == nil {
			checkAgain(t, ctx, s, v)
		}
		release(v)

		b, err := proxyplane.Get[[]byte](ctx, s, key)
		checkError(t, "get []byte", err)
		if isBytes := tag == serialize.TagBytes || tag == serialize.TagBytes06; isBytes && (err != nil || !bytes.Equal(b, body)) {
			t.Errorf("get []byte: %q, %v; the object is %q", b, err, data)
		}
		view, err := proxyplane.Get[*transport.Buffer](ctx, s, key)
		checkError(t, "get *Buffer", err)
		view.Release()
		_, err = proxyplane.Get[string](ctx, s, key)
		checkError(t, "get string", err)
		_, err = proxyplane.Get[map[string][]float64](ctx, s, key)
		checkError(t, "get map", err)
		a, err := proxyplane.Get[*serialize.Array](ctx, s, key)
		checkError(t, "get *Array", err)
		if err == nil {
			checkAgain(t, ctx, s, a)
			a.Release()
		}

		// An opaque object is stored again unchanged, whatever is in it.
		o, err := proxyplane.Get[*serialize.Opaque](ctx, s, key)
		checkError(t, "get *Opaque", err)
		if (err == nil) != (tagErr == nil) {
			t.Errorf("get *Opaque: %v; tag: %v", err, tagErr)
		}
		if err == nil {
			again, err := s.Put(ctx, o)
			o.Release()
			if err != nil {
				t.Fatalf("put *Opaque: %v", err)
			}
			whole, err := s.GetObject(ctx, again)
			if err != nil || !bytes.Equal(whole.Bytes(), data) {
				t.Errorf("stored again: %q, %v; was %q", whole.Bytes(), err, data)
			}
			whole.Release()
			if err := s.Evict(ctx, again); err != nil {
				t.Error(err)
			}
		}

		checkParts(t, ctx, s, key, data, tagErr)
		checkMemory(t)
	})
}

// checkParts reads an object's body by stream and by ranges.
func checkParts(t *testing.T, ctx context.Context, s *proxyplane.Store, key proxyplane.Key, data []byte, tagErr error) {
	r, err := s.OpenReader(ctx, key)
	checkError(t, "open reader", err)
	if (err == nil) != (tagErr == nil) {
		t.Errorf("open reader: %v; tag: %v", err, tagErr)
	}
	if err == nil {
		body, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(body, data[serialize.TagLen:]) || r.Size() != int64(len(body)) {
			t.Errorf("reader gives %q of size %d, %v; the object is %q", body, r.Size(), err, data)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	size := int64(len(data)) - serialize.TagLen
	for _, off := range []int64{0, 1, size - 1, size, size + 1, -1, 1<<63 - 1} {
		for _, n := range []int64{-1, 0, 2, 1<<63 - 1} {
			part, err := s.GetRange(ctx, key, off, n)
			checkError(t, "get range", err)
			if valid := off >= 0 && off <= size; valid != (err == nil) {
				t.Errorf("range of %d from %d of %d bytes: %v", n, off, size, err)
			}
			if err != nil {
				continue
			}
			if n < 0 || n > size-off {
				n = size - off
			}
			if !bytes.Equal(part.Bytes(), data[serialize.TagLen+off:serialize.TagLen+off+n]) {
				t.Errorf("range of %d from %d of %q is %q", n, off, data, part.Bytes())
			}
			part.Release()
		}
	}
}

// checkAgain stores a value that was read, reads it, stores that and so on: what was written can be read, what is read can be written, and from the
// second time on it is the same bytes. (At first it may not be: many pickles say the same thing, and the Go form keeps only what they say.) What
// Go cannot write, it must refuse with a documented error.
func checkAgain(t *testing.T, ctx context.Context, s *proxyplane.Store, v any) {
	parts, err := serialize.Encode(v)
	if err != nil {
		checkError(t, "store again", err)
		return
	}
	var objects [3][]byte
	for i := range objects {
		objects[i] = parts.Join()
		key, err := s.Put(ctx, objects[i], proxyplane.Raw())
		if err != nil {
			t.Fatal(err)
		}
		w, err := s.Get(ctx, key)
		if err := errors.Join(err, s.Evict(ctx, key)); err != nil {
			t.Errorf("%.200q was written for a %T and cannot be read: %v", objects[i], v, err)
			return
		}
		parts, err = serialize.Encode(w)
		if err != nil {
			t.Errorf("%.200q was written for a %T and read as a %T that cannot be written: %v", objects[i], v, w, err)
			return
		}
		parts = transport.Slices{parts.Join()} // before its memory goes
		release(w)
	}
	if !bytes.Equal(objects[1], objects[2]) {
		t.Errorf("a %T is written as %.300q, then as %.300q and then as %.300q", v, objects[0], objects[1], objects[2])
	}
}

func release(v any) {
	if r, ok := v.(interface{ Release() }); ok {
		r.Release()
	}
}
