package redis

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/internal/uuid4"
	"github.com/proxyplane/proxyplane/transport"
)

const (
	// streamChunk is what a Writer of unknown size collects before it sends, and so the most memory that it takes.
	streamChunk = 4 << 20
	// copyChunk is what goes through memory at once between a connection and another reader or writer.
	copyChunk = 256 << 10
	// partTTL is how long the server keeps the unfinished object of a Writer that fell silent.
	partTTL = 10 * time.Minute
)

// stream is what Reader and both Writers have in common: an operation that lives for many calls.
type stream struct {
	ctx  context.Context // the stream's lifetime, as GetStream and PutStream say
	c    *Connector
	op   string
	key  connectors.Key // nil for a Writer
	id   string
	cn   *conn       // its own connection; nil when it has none (any more)
	stop func() bool // ends the watch on ctx
	err  error       // why it failed; it stays failed
}

// hold watches ctx for the connection that the stream goes on using.
func (s *stream) hold(cn *conn) {
	s.cn = cn
	s.stop = context.AfterFunc(s.ctx, cn.interrupt)
}

// drop gives the connection back, for others to use if it is clean.
func (s *stream) drop(clean bool) {
	if s.cn == nil {
		return
	}
	if !s.stop() || !clean {
		s.cn.broken = true
	}
	s.cn.keep = false
	s.c.pool.put(s.cn)
	s.cn = nil
}

// enter begins a call on the stream; without error the caller must call c.gate.Leave.
func (s *stream) enter() error {
	if err := s.c.enter(s.ctx, s.op, s.key); err != nil {
		return err
	}
	if s.err != nil {
		s.c.gate.Leave()
		return s.err
	}
	return nil
}

// fail makes err the stream's end.
func (s *stream) fail(err error) error {
	if e := ended(s.ctx); e != nil {
		err = e
	} else {
		addr := ""
		if s.cn != nil {
			addr = s.cn.addr
		}
		err = wrap(s.op, s.key, explain(err, addr))
	}
	s.drop(false)
	s.err = err
	return err
}

// reader reads one GET as it comes in: the server took the object at one moment, so that a later Set or Evict does not show.
type reader struct {
	stream
	size, left int64
}

// GetStream implements [connectors.StreamGetter]. The object is that of the moment of the call, whatever is set or evicted later. The Reader has a
// connection of its own until its end or Close, and the server keeps what is not read yet: read on, or close. After the connector's Close
// it fails.
func (c *Connector) GetStream(ctx context.Context, key connectors.Key) (connectors.Reader, error) {
	id, err := c.start(ctx, "get_stream", key)
	if err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	r := &reader{stream: stream{ctx: ctx, c: c, op: "get_stream", key: key, id: id}}
	err = c.query(ctx, "GET", id, func(cn *conn) (err error) {
		if r.size, err = cn.bulkHead(1 << 40); err != nil || r.size < 0 {
			return err
		}
		cn.keep = true
		r.cn = cn
		return nil
	})
	if err != nil {
		return nil, wrap("get_stream", key, err)
	}
	if r.size < 0 {
		return nil, c.missing("get_stream", key)
	}
	r.left = r.size
	r.hold(r.cn)
	if r.size == 0 {
		if err := r.end(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// end reads what is behind the value.
func (r *reader) end() error {
	if err := r.cn.endOfValue(); err != nil {
		return r.fail(err)
	}
	r.drop(true)
	return nil
}

func (r *reader) Size() int64 { return r.size }

func (r *reader) Read(p []byte) (int, error) {
	if err := r.enter(); err != nil {
		return 0, err
	}
	defer r.c.gate.Leave()
	return r.read(p)
}

func (r *reader) read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := r.cn.br.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF // the object is longer
	}
	if err != nil {
		return n, r.fail(err)
	}
	if r.left == 0 {
		return n, r.end()
	}
	return n, nil
}

func (r *reader) WriteTo(w io.Writer) (int64, error) { return copyPooled(w, r) }

// Close hangs up if not everything was read: that is cheaper than reading the rest.
func (r *reader) Close() error {
	r.drop(false)
	if r.err == nil {
		r.err = closedReader
	}
	return nil
}

var closedReader = &connectors.OpError{Op: "get_stream", Kind: kind, Err: fmt.Errorf("read after the Reader's Close: %w", connectors.ErrClosed)}

var errDone = &connectors.OpError{Op: "put_stream", Kind: kind, Err: fmt.Errorf("the Writer was committed or aborted: %w", connectors.ErrClosed)}

// PutStream implements [connectors.StreamPutter]. An object of up to 4 MiB is collected and put at Commit. A larger one of known size is one SET whose
// value leaves as it is written, on a connection of its own: nothing is stored unless all of it came. One of unknown size is collected on the
// server, 4 MiB at a time, under another key that expires 10 minutes after the last write, and is renamed at Commit.
func (c *Connector) PutStream(ctx context.Context, size int64) (connectors.Writer, error) {
	if err := c.enter(ctx, "put_stream", nil); err != nil {
		return nil, err
	}
	defer c.gate.Leave()
	if err := c.checkSize(size); err != nil {
		return nil, wrap("put_stream", nil, err)
	}
	s := stream{ctx: ctx, c: c, op: "put_stream", id: uuid4.New()}
	if size <= streamChunk {
		return &partWriter{stream: s, size: size}, nil
	}
	w := &setWriter{stream: s, size: size}
	// Nobody can be redirected, or turned away, in the middle of a value: ask first.
	err := c.query(ctx, "EXISTS", s.id, func(cn *conn) error {
		if _, err := cn.int(); err != nil {
			return err
		}
		cn.keep = true
		w.cn = cn
		return nil
	})
	if err != nil {
		return nil, wrap("put_stream", nil, err)
	}
	w.hold(w.cn)
	args := 3
	if c.opts.TTL > 0 {
		args = 5
	}
	w.cn.command(args, "SET")
	w.cn.arg(s.id)
	w.cn.head('$', int(size))
	return w, nil
}

// setWriter writes the value of one SET.
type setWriter struct {
	stream
	size, got int64
}

func (w *setWriter) Write(p []byte) (int, error) {
	if err := w.enter(); err != nil {
		return 0, err
	}
	defer w.c.gate.Leave()
	return w.write(p)
}

func (w *setWriter) write(p []byte) (int, error) {
	if int64(len(p)) > w.size-w.got {
		return 0, w.fail(connectors.CheckSize(w.size, w.got+int64(len(p))))
	}
	w.got += int64(len(p))
	if len(p) <= gather && len(w.cn.out) < 4*gather {
		w.cn.out = append(w.cn.out, p...) // small writes leave together
		return len(p), nil
	}
	w.cn.cuts = append(w.cn.cuts, cut{len(w.cn.out), p})
	if err := w.cn.flush(); err != nil {
		return 0, w.fail(err)
	}
	return len(p), nil
}

func (w *setWriter) ReadFrom(r io.Reader) (int64, error) { return copyPooled(w, r) }

// copyPooled copies from r to w, through pooled memory.
func copyPooled(w io.Writer, r io.Reader) (int64, error) {
	chunk := transport.DefaultPool.Get(copyChunk)
	defer chunk.Release()
	var total int64
	for {
		n, err := r.Read(chunk.Bytes())
		if n > 0 {
			m, werr := w.Write(chunk.Bytes()[:n])
			total += int64(m)
			if werr != nil {
				return total, werr
			}
			if m < n {
				return total, io.ErrShortWrite
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

func (w *setWriter) Commit() (connectors.Key, error) {
	if err := w.enter(); err != nil {
		w.drop(false)
		return nil, err
	}
	defer w.c.gate.Leave()
	if err := connectors.CheckSize(w.size, w.got); err != nil {
		return nil, w.fail(err)
	}
	w.c.made.add(w.id)
	w.cn.out = append(w.cn.out, "\r\n"...)
	w.c.writeTTL(w.cn)
	err := w.cn.flush()
	if err == nil {
		if err = w.cn.status("OK"); err != nil && w.cn.broken {
			w.cn.takeBack(w.id)
		}
	}
	if err != nil {
		return nil, w.fail(err)
	}
	w.drop(true)
	w.err = errDone
	return connectors.RedisKey{RedisKey: w.id}, nil
}

// leftBehind adds to err that taking back failed too.
func leftBehind(err, undo error) error {
	if undo == nil || errors.Is(undo, connectors.ErrClosed) {
		return err
	}
	return errors.Join(err, fmt.Errorf("what was written may stay behind: %w", undo))
}

// Abort hangs up: a SET that is not complete is none.
func (w *setWriter) Abort() error {
	w.drop(false)
	if w.err == nil {
		w.err = errDone
	}
	return nil
}

// partWriter collects an object, on the server if it turns out to be large.
type partWriter struct {
	stream
	size  int64             // as announced, up to streamChunk; negative if unknown
	chunk *transport.Buffer // what is not sent yet; nil before the first byte
	fill  int
	sent  int64
}

// part is the key of the unfinished object: in the same slot of a cluster as the object, so that it can be renamed.
func (w *partWriter) part() string { return "{" + w.id + "}.part" }

func (w *partWriter) Write(p []byte) (int, error) {
	if err := w.enter(); err != nil {
		return 0, err
	}
	defer w.c.gate.Leave()
	total := w.sent + int64(w.fill) + int64(len(p))
	err := w.c.checkSize(total)
	if w.size >= 0 && total > w.size {
		err = connectors.CheckSize(w.size, total)
	}
	if err != nil {
		return 0, w.end(wrap(w.op, nil, err))
	}
	done := 0
	for len(p) > 0 {
		if w.chunk == nil {
			n := streamChunk
			if w.size >= 0 {
				n = int(w.size)
			}
			w.chunk = transport.DefaultPool.Get(n)
		}
		if w.fill == streamChunk {
			if err := w.send(); err != nil {
				return done, err
			}
		}
		n := copy(w.chunk.Bytes()[w.fill:], p)
		w.fill += n
		done += n
		p = p[n:]
	}
	return done, nil
}

func (w *partWriter) ReadFrom(r io.Reader) (int64, error) { return copyPooled(w, r) }

// errVanished is why an unfinished object is no more.
var errVanished = fmt.Errorf("%w: what was written before is gone: the server evicted it, or %v passed without a write; put it again",
	connectors.ErrUnavailable, partTTL)

// send sends the chunk. It is safe to do twice: SETRANGE, not APPEND.
func (w *partWriter) send() error {
	value := transport.Slices{w.chunk.Bytes()[:w.fill]}
	ms := partTTL.Milliseconds()
	err := w.c.exec(w.ctx, w.part(), func(cn *conn) error {
		defer func() {
			if cn.broken {
				cn.takeBack(w.part())
			}
		}()
		if w.sent == 0 {
			cn.command(5, "SET")
			cn.arg(w.part())
			cn.value(value)
			cn.arg("PX")
			cn.number(ms)
			if err := cn.flush(); err != nil {
				return err
			}
			return cn.status("OK")
		}
		// PEXPIRE first: it tells that the key is there, and keeps it there. SETRANGE on a key that expired would begin with zeros.
		cn.command(3, "PEXPIRE")
		cn.arg(w.part())
		cn.number(ms)
		cn.command(4, "SETRANGE")
		cn.arg(w.part())
		cn.number(w.sent)
		cn.value(value)
		if err := cn.flush(); err != nil {
			return err
		}
		alive, err := cn.int()
		if cn.broken {
			return err
		}
		length, err2 := cn.int()
		switch {
		case err != nil:
			return err
		case err2 != nil:
			return err2
		case alive == 0 || length != w.sent+int64(w.fill):
			return errVanished
		}
		return nil
	})
	if err != nil {
		return w.end(wrap(w.op, nil, err))
	}
	w.sent += int64(w.fill)
	w.fill = 0
	return nil
}

// end makes err the Writer's end and deletes what the server has of it.
func (w *partWriter) end(err error) error {
	w.chunk.Release()
	w.chunk = nil
	w.err = err
	if w.sent == 0 {
		return err // nothing was sent, or send has taken it back
	}
	undo, cancel := afterwards(w.ctx)
	defer cancel()
	w.err = leftBehind(err, w.c.evictMany(undo, []string{w.part()}))
	return w.err
}

func (w *partWriter) Commit() (connectors.Key, error) {
	if err := w.enter(); err != nil {
		if w.err == nil {
			w.end(err)
		}
		return nil, err
	}
	defer w.c.gate.Leave()
	if err := connectors.CheckSize(w.size, w.sent+int64(w.fill)); err != nil {
		return nil, w.end(wrap(w.op, nil, err))
	}
	w.c.made.add(w.id)
	if w.sent == 0 { // small after all
		obj := transport.Slices{nil}
		if w.chunk != nil {
			obj[0] = w.chunk.Bytes()[:w.fill]
		}
		if err := w.c.set(w.ctx, w.op, nil, w.id, obj, true); err != nil {
			return nil, w.end(err)
		}
		return w.finish()
	}
	if err := w.send(); err != nil {
		return nil, err
	}
	err := w.c.exec(w.ctx, w.id, func(cn *conn) (first error) {
		defer func() {
			if cn.broken {
				cn.takeBack(w.id)
			}
		}()
		cn.command(1, "MULTI")
		cn.command(3, "RENAME")
		cn.arg(w.part())
		cn.arg(w.id)
		if ttl := w.c.opts.TTL; ttl > 0 {
			cn.command(3, "PEXPIRE")
			cn.arg(w.id)
			cn.number(ttl.Milliseconds())
		} else {
			cn.command(2, "PERSIST")
			cn.arg(w.id)
		}
		cn.command(1, "EXEC")
		if err := cn.flush(); err != nil {
			return err
		}
		note := func(err error) {
			if first == nil {
				first = err
			}
		}
		for _, want := range []string{"OK", "QUEUED", "QUEUED"} {
			note(cn.status(want))
			if cn.broken {
				return first
			}
		}
		done, err := cn.array(2)
		note(err)
		if !done || err != nil {
			if first == nil {
				first = errVanished
			}
			return first
		}
		if err := cn.status("OK"); err != nil {
			var se *serverError
			if errors.As(err, &se) && se.code() == "ERR" { // no such key
				err = errVanished
			}
			note(err)
		}
		if !cn.broken {
			kept, err := cn.int()
			note(err)
			if kept == 0 {
				note(errVanished)
			}
		}
		return first
	})
	if err != nil {
		return nil, w.end(wrap(w.op, nil, err))
	}
	return w.finish()
}

func (w *partWriter) finish() (connectors.Key, error) {
	w.chunk.Release()
	w.chunk = nil
	w.err = errDone
	return connectors.RedisKey{RedisKey: w.id}, nil
}

// Abort deletes what the server has.
func (w *partWriter) Abort() error {
	if w.err != nil {
		return nil
	}
	if err := w.end(errDone); err != error(errDone) {
		w.err = errDone
		return wrap(w.op, nil, err)
	}
	return nil
}
