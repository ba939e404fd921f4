package redis

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

const (
	// readBuffer holds a reply's head; of a value only what comes in the same read is copied out of it.
	readBuffer = 16 << 10
	// gather is the size up to which parts are copied behind the command's head and leave by plain write: cheaper than one more iovec.
	gather = 8 << 10
	// writeStep is how much may leave before the deadline is moved: the timeout is for lack of progress, not for the whole value.
	writeStep = 8 << 20
	// trustOwn is how much memory a server that this program chose may have us allocate by the head of a value, before any byte of it came: all that
	// Redis takes by default, so that nothing is copied. trustReceived is the same for a server that a received proxy names.
	trustOwn, trustReceived = defaultMaxBytes, 64 << 20
	// maxLine bounds a reply's line; longer ones are no Redis.
	maxLine = readBuffer
)

// conn is one connection that speaks RESP 2 (and, for a watcher, 3). It belongs to one goroutine at a time, but for abort.
type conn struct {
	raw  net.Conn // what is under TLS; closing it ends everything at once
	nc   net.Conn
	br   *bufio.Reader
	addr string

	timeout  time.Duration // most time without progress; 0: none
	readMark time.Time     // when the read deadline was last moved
	trust    int64         // how much memory a value gets because its head says so; more comes as its bytes do
	peek     peek          // looks for bytes while nobody reads
	cluster  bool          // the server is one of a cluster, whose slots may move

	asking bool // each command needs ASKING before it: the slot is moving to this server
	multi  bool // MULTI was sent, which takes ASKING for all that follows
	asks   int  // ASKINGs whose answer was not read: one before each reply, or, with MULTI, one before the first

	out  []byte      // heads of the commands that are not sent yet, with small parts among them
	cuts []cut       // large parts, each with its place in out
	vec  net.Buffers // memory for a vectored write, used again

	used   time.Time   // when it was put back
	got    bool        // whether a byte of a reply came since it was taken
	stop   atomic.Bool // interrupt was called
	broken bool        // it must not be used again
	torn   bool        // a command was sent in part, so that whatever is sent now becomes part of it
	keep   bool        // whoever ran a call on it goes on using it, and puts it back later
}

// cut is a large part that is sent after out[:at].
type cut struct {
	at   int
	part []byte
}

func newConn(raw, nc net.Conn, addr string, timeout time.Duration) *conn {
	c := &conn{raw: raw, nc: nc, addr: addr, timeout: timeout, trust: trustOwn}
	c.peek.init(raw)
	c.br = bufio.NewReaderSize(c, readBuffer)
	return c
}

// abort ends whatever the connection is doing. Any goroutine may call it.
func (c *conn) abort() { c.raw.Close() }

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// interrupt makes the reads and writes under way, and those to come, time out. Unlike abort it leaves the connection open, so that what was sent can
// be taken back on it. Any goroutine may call it.
func (c *conn) interrupt() {
	c.stop.Store(true)
	c.raw.SetDeadline(past)
}

// takeBack deletes keys that a command may have set whose answer did not come. It uses the same connection, since the server may read another one
// before this. The connection is good for nothing afterwards. It gives up soon: it is called when the caller wants no more of us.
func (c *conn) takeBack(ids ...string) {
	c.broken = true
	if c.torn {
		return // what is incomplete, the server forgets
	}
	c.stop.Store(false)
	c.timeout = 0
	c.raw.SetDeadline(time.Now().Add(time.Second))
	c.out = c.out[:0]
	for _, id := range ids {
		c.command(2, "DEL")
		c.arg(id)
	}
	if _, err := c.nc.Write(c.out); err != nil {
		return // the server is gone, or hung up on us
	}
	// It has done as we said when it answers; what exactly does not matter.
	c.CloseWrite()
	io.Copy(io.Discard, c.nc)
}

// CloseWrite tells the server that nothing more comes, whereupon it answers what it has and hangs up.
func (c *conn) CloseWrite() {
	if w, ok := c.raw.(interface{ CloseWrite() error }); ok {
		w.CloseWrite()
	}
}

// Read reads from the network, for br.
func (c *conn) Read(p []byte) (int, error) {
	if c.timeout > 0 {
		if now := time.Now(); now.Sub(c.readMark) > c.timeout/8 {
			c.readMark = now
			if err := c.nc.SetReadDeadline(now.Add(c.timeout)); err != nil {
				return 0, err
			}
			if c.stop.Load() { // an interrupt from just before would be undone
				c.nc.SetReadDeadline(past)
			}
		}
	}
	n, err := c.nc.Read(p)
	c.got = c.got || n > 0
	return n, err
}

// quiet reports whether the connection, which is idle, is still of use: open, and without bytes that nobody asked for, which would be the next
// command's answer.
func (c *conn) quiet() bool {
	if !c.peek.silent() {
		return false
	}
	if c.nc == c.raw {
		return true
	}
	// TLS may have read more from the socket than it gave us. It gives that without looking at the deadline.
	c.nc.SetReadDeadline(past)
	var b [1]byte
	n, err := c.nc.Read(b[:])
	return n == 0 && timedOut(err)
}

// command starts a command of so many arguments, its name included.
func (c *conn) command(args int, name string) {
	if c.asking {
		if !c.multi {
			c.out = append(c.out, "*1\r\n$6\r\nASKING\r\n"...) // it is for one command only
			c.asks++
		}
		c.multi = name == "MULTI" || c.multi && name != "EXEC"
	}
	c.head('*', args)
	c.arg(name)
}

func (c *conn) head(mark byte, n int) {
	c.out = append(c.out, mark)
	c.out = strconv.AppendInt(c.out, int64(n), 10)
	c.out = append(c.out, '\r', '\n')
}

// arg adds one argument.
func (c *conn) arg(s string) {
	c.head('$', len(s))
	c.out = append(c.out, s...)
	c.out = append(c.out, '\r', '\n')
}

// number adds one argument.
func (c *conn) number(n int64) {
	var b [20]byte
	s := strconv.AppendInt(b[:0], n, 10)
	c.head('$', len(s))
	c.out = append(c.out, s...)
	c.out = append(c.out, '\r', '\n')
}

// value adds an object as one argument. It borrows obj until flush.
func (c *conn) value(obj transport.Slices) {
	c.head('$', int(obj.Len()))
	for _, part := range obj {
		if len(part) <= gather {
			c.out = append(c.out, part...)
		} else {
			c.cuts = append(c.cuts, cut{len(c.out), part})
		}
	}
	c.out = append(c.out, '\r', '\n')
}

// flush sends all commands. On error the server may have seen any part of them.
func (c *conn) flush() error {
	err := c.send()
	c.out = c.out[:0]
	if cap(c.out) > 1<<20 {
		c.out = nil
	}
	clear(c.cuts)
	c.cuts = c.cuts[:0]
	if err == nil {
		return nil
	}
	c.broken, c.torn = true, true
	if c.stop.Load() {
		return err
	}
	// A server that refuses what it is being sent says why and hangs up; the reason is worth more than "broken pipe".
	c.nc.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	c.readMark = time.Now().Add(time.Hour)
	var refused *serverError
	if _, _, _, rerr := c.reply(); errors.As(rerr, &refused) {
		return refused
	}
	return err
}

func (c *conn) send() error {
	if len(c.cuts) == 0 {
		return c.write(c.out)
	}
	c.vec = c.vec[:0]
	size, from := 0, 0
	add := func(p []byte) error {
		for len(p) > 0 {
			n := min(len(p), writeStep-size)
			c.vec = append(c.vec, p[:n])
			p, size = p[n:], size+n
			if size == writeStep {
				size = 0
				if err := c.writeVec(); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for _, cut := range c.cuts {
		if err := add(c.out[from:cut.at]); err != nil {
			return err
		}
		if err := add(cut.part); err != nil {
			return err
		}
		from = cut.at
	}
	if err := add(c.out[from:]); err != nil {
		return err
	}
	return c.writeVec()
}

// writeVec sends vec by one writev where the connection has that, and empties it.
func (c *conn) writeVec() error {
	if err := c.writeDeadline(); err != nil {
		return err
	}
	all := c.vec
	_, err := c.vec.WriteTo(c.nc) // eats vec, which is why all is kept
	clear(all)
	c.vec = all[:0]
	return err
}

// write sends p.
func (c *conn) write(p []byte) error {
	for len(p) > 0 {
		if err := c.writeDeadline(); err != nil {
			return err
		}
		n, err := c.nc.Write(p[:min(len(p), writeStep)])
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

func (c *conn) writeDeadline() error {
	if c.timeout <= 0 {
		return nil
	}
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return err
	}
	if c.stop.Load() {
		return c.nc.SetWriteDeadline(past)
	}
	return nil
}

// serverError is an error reply. The connection is in order after it.
type serverError struct {
	text    string
	cluster bool // of a connector with option cluster
}

func (e *serverError) Error() string { return "the server says: " + e.text }

// code is the first word: "WRONGTYPE", "ERR", ...
func (e *serverError) code() string {
	for i := range len(e.text) {
		if e.text[i] == ' ' {
			return e.text[:i]
		}
	}
	return e.text
}

// strange is the error for bytes that are no reply to what was asked. The connection is out of step after it.
func (c *conn) strange(format string, args ...any) error {
	c.broken = true
	return fmt.Errorf("%w: the reply from %s is not what Redis answers: %s; is that a Redis server, and is tls set as it needs?",
		connectors.ErrCorrupt, c.addr, fmt.Sprintf(format, args...))
}

// reply reads the head of a reply: its mark, its number (for ':', '$', '*' and '>'; -1 for nil) or its line (for '+'), which is valid until the
// next read. An error reply is a *serverError.
func (c *conn) reply() (mark byte, n int64, line []byte, err error) {
	if c.asks > 0 {
		c.asks--
		if mark, _, line, err = c.readHead(); err == nil && (mark != '+' || string(line) != "OK") {
			err = c.strange("%q where the answer to ASKING belongs", mark)
		}
		if err != nil {
			c.broken = true // the answer to the command itself is still to come
			return 0, 0, nil, err
		}
	}
	return c.readHead()
}

// readHead reads one head, as reply says, of whatever comes.
func (c *conn) readHead() (mark byte, n int64, line []byte, err error) {
	line, err = c.br.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		return 0, 0, nil, c.strange("a line of more than %d bytes", maxLine)
	}
	if err != nil {
		c.broken = true
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // it hung up on us
		}
		return 0, 0, nil, err
	}
	if len(line) < 3 || line[len(line)-2] != '\r' {
		return 0, 0, nil, c.strange("%.40q", line)
	}
	mark, line = line[0], line[1:len(line)-2]
	switch mark {
	case '+':
		return mark, 0, line, nil
	case '-':
		return mark, 0, nil, &serverError{string(line[:min(len(line), 300)]), c.cluster}
	case '_': // nil in RESP 3
		return '$', -1, nil, nil
	case ':', '$', '*', '>':
		n, ok := integer(line)
		if !ok || mark != ':' && n < -1 {
			return 0, 0, nil, c.strange("%.40q", line)
		}
		return mark, n, nil, nil
	}
	return 0, 0, nil, c.strange("it begins with %q", mark)
}

// integer parses a decimal number as Redis writes it.
func integer(s []byte) (int64, bool) {
	neg := len(s) > 0 && s[0] == '-'
	if neg {
		s = s[1:]
	}
	if len(s) == 0 || len(s) > 18 {
		return 0, false
	}
	var n int64
	for _, d := range s {
		if d < '0' || d > '9' {
			return 0, false
		}
		n = n*10 + int64(d-'0')
	}
	if neg {
		n = -n
	}
	return n, true
}

// skip reads a reply of any kind, of RESP 3 too, and forgets it. An error reply is returned.
func (c *conn) skip(depth int) error {
	const maxDepth, maxItems = 8, 10_000 // what Redis says of itself is far below
	mark, err := c.br.Peek(1)
	if err != nil {
		_, _, _, err = c.reply() // says it right
		return err
	}
	var n int64
	switch mark[0] {
	case '$':
		return c.discard(readBuffer)
	case '%', '~', '#', ',', '(', '=': // map, set, boolean, double, big number, verbatim text: heads like those of RESP 2
		kind := mark[0]
		line, err := c.br.ReadSlice('\n')
		if err != nil {
			c.broken = true
			return err
		}
		if kind == '#' || kind == ',' || kind == '(' {
			return nil
		}
		var ok bool
		if n, ok = integer(bytes.TrimSuffix(line[1:], []byte("\r\n"))); !ok || n < 0 || n > maxItems {
			return c.strange("%.40q", line)
		}
		if kind == '=' {
			c.br.Discard(int(n)) // an error shows in the next read
			return c.endOfValue()
		}
		if kind == '%' {
			n *= 2
		}
	default:
		var kind byte
		if kind, n, _, err = c.reply(); err != nil {
			return err
		}
		if kind != '*' && kind != '>' {
			return nil
		}
	}
	if depth >= maxDepth || n > maxItems {
		return c.strange("a reply of %d parts at depth %d", n, depth)
	}
	for range n {
		if err := c.skip(depth + 1); err != nil {
			c.broken = true // the rest of the list is still to come
			return err
		}
	}
	return nil
}

// status reads a reply that must be the line want.
func (c *conn) status(want string) error {
	mark, _, line, err := c.reply()
	if err != nil {
		return err
	}
	if mark != '+' || string(line) != want {
		return c.strange("%q where %s belongs", mark, want)
	}
	return nil
}

// int reads a number.
func (c *conn) int() (int64, error) {
	mark, n, _, err := c.reply()
	if err != nil {
		return 0, err
	}
	if mark != ':' {
		return 0, c.strange("%q where a number belongs", mark)
	}
	return n, nil
}

// array reads the head of a list of want replies; false means that it is nil.
func (c *conn) array(want int64) (bool, error) {
	mark, n, _, err := c.reply()
	if err != nil {
		return false, err
	}
	if mark != '*' || n != want && n != -1 {
		return false, c.strange("%q of %d where %d replies belong", mark, n, want)
	}
	return n >= 0, nil
}

// bulkHead reads the length of a value that must be no longer than limit; -1 is nil.
func (c *conn) bulkHead(limit int64) (int64, error) {
	mark, n, _, err := c.reply()
	if err != nil {
		return 0, err
	}
	if mark != '$' {
		return 0, c.strange("%q where a value belongs", mark)
	}
	if n > limit {
		c.broken = true // the value is still to come, and nobody wants it
		return 0, fmt.Errorf("%w: the value has %d bytes, and at most %d are taken here; raise max_bytes, or read it by range or as a stream",
			connectors.ErrTooLarge, n, limit)
	}
	return n, nil
}

// fill fills p with a value's bytes. Bytes that br does not hold yet go from the socket to p directly.
func (c *conn) fill(p []byte) error {
	if _, err := io.ReadFull(c.br, p); err != nil {
		c.broken = true
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return nil
}

func (c *conn) endOfValue() error {
	end, err := c.br.Peek(2)
	if err != nil {
		c.broken = true
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if !bytes.Equal(end, []byte("\r\n")) {
		return c.strange("%q after a value", end)
	}
	c.br.Discard(2)
	return nil
}

// memory returns a Buffer of n bytes with undefined content.
func memory(n int64) *transport.Buffer {
	if n < pooled {
		return transport.FromBytes(make([]byte, n))
	}
	return transport.DefaultPool.Get(int(n))
}

// buffer reads a value into pooled memory (or, if it is small, the garbage collector's). found is false for nil.
func (c *conn) buffer(limit int64) (b *transport.Buffer, found bool, err error) {
	n, err := c.bulkHead(limit)
	if err != nil || n < 0 {
		return nil, false, err
	}
	size := min(n, c.trust)
	b = memory(size)
	for from := int64(0); ; {
		if err := c.fill(b.Bytes()[from:]); err != nil {
			b.Release()
			return nil, false, err
		}
		if size == n {
			break
		}
		from, size = size, min(n, 2*size) // so much came: it may well be true
		more := memory(size)
		copy(more.Bytes(), b.Bytes())
		b.Release()
		b = more
	}
	if err := c.endOfValue(); err != nil {
		b.Release()
		return nil, false, err
	}
	return b, true, nil
}

// bytes reads a value into the garbage collector's memory.
func (c *conn) bytes(limit int64) (p []byte, found bool, err error) {
	n, err := c.bulkHead(limit)
	if err != nil || n < 0 {
		return nil, false, err
	}
	p = make([]byte, min(n, c.trust))
	for from := 0; ; {
		if err := c.fill(p[from:]); err != nil {
			return nil, false, err
		}
		if int64(len(p)) == n {
			return p, true, c.endOfValue()
		}
		more := make([]byte, min(n, 2*int64(len(p))))
		from = copy(more, p)
		p = more
	}
}

// discard reads a value and forgets it.
func (c *conn) discard(limit int64) error {
	n, err := c.bulkHead(limit)
	if err != nil || n < 0 {
		return err
	}
	if _, err := io.CopyN(io.Discard, c.br, n); err != nil {
		c.broken = true
		return err
	}
	return c.endOfValue()
}
