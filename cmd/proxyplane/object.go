package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/internal/atomicfile"
	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/transport"
)

// forms are the values of --as.
var forms = []string{"bytes", "str", "npy", "json", "raw"}

func asFlag(cmd *cobra.Command, as *string, def, usage string) {
	cmd.Flags().StringVar(as, "as", def, usage)
	cmd.RegisterFlagCompletionFunc("as", cobra.FixedCompletions(forms, cobra.ShellCompDirectiveNoFileComp))
}

func checkForm(as string) error { return checkOneOf("--as", as, forms) }

// input is a file or standard input to be stored.
type input struct {
	name string
	r    io.Reader
	size int64 // -1: unknown
	read int64 // so far
	bar  *progress
	f    *os.File // to close, or nil
}

// openInput opens FILE or "-". The caller must close it.
func (a *app) openInput(ctx context.Context, path string) (*input, error) {
	if path == "-" {
		in := &input{name: "standard input", size: -1, r: contextReader(ctx, a.in)}
		if f, ok := a.in.(*os.File); ok {
			// A redirected file has a size and needs no goroutine.
			if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
				in.r = f
				if at, err := f.Seek(0, io.SeekCurrent); err == nil && st.Size() > at {
					in.size = st.Size() - at
				}
			}
		}
		in.bar = a.progress(in.size)
		return in, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, inputError(path, err)
	}
	in := &input{name: path, r: f, f: f, size: -1}
	st, err := f.Stat()
	switch {
	case err != nil || st.IsDir():
		f.Close()
		if err == nil {
			return nil, fail(exitIO, "%s is a directory; pack it first, for example: tar c %s | proxyplane put -", path, path)
		}
		return nil, inputError(path, err)
	case !st.Mode().IsRegular():
		in.r = contextReader(ctx, f) // a FIFO or device may block for ever
	case st.Size() > 0: // files of /proc say 0 and have content
		in.size = st.Size()
	}
	in.bar = a.progress(in.size)
	return in, nil
}

func (in *input) Read(p []byte) (int, error) {
	n, err := in.r.Read(p)
	in.read += int64(n)
	in.bar.set(in.read)
	if err != nil && err != io.EOF {
		err = fail(exitIO, "read %s: %w", in.name, err)
	}
	return n, err
}

func (in *input) close() {
	in.bar.finish()
	if in.f != nil {
		in.f.Close()
	}
}

// all reads everything.
func (in *input) all() ([]byte, error) {
	var b bytes.Buffer
	if in.size > 0 {
		b.Grow(int(min(in.size+bytes.MinRead, 1<<30)))
	}
	_, err := b.ReadFrom(in)
	return b.Bytes(), err
}

// textReader passes UTF-8 on and fails at the first byte that is none.
type textReader struct {
	r    io.Reader
	what string
	at   int64
	tail []byte // the beginning of a character, whose rest comes with the next read
}

func (t *textReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if cerr := t.check(p[:n], err == io.EOF); cerr != nil {
		return 0, cerr
	}
	return n, err
}

// check looks at the next bytes, the last ones if end.
func (t *textReader) check(p []byte, end bool) error {
	at := t.at
	for len(t.tail) > 0 && len(p) > 0 && !utf8.FullRune(t.tail) {
		t.tail, p, at = append(t.tail, p[0]), p[1:], at+1
	}
	if len(t.tail) > 0 && utf8.FullRune(t.tail) {
		if !utf8.Valid(t.tail) {
			return t.bad(at - int64(len(t.tail)))
		}
		t.tail = nil
	}
	if len(p) > 0 {
		whole := len(p)
		// Keep the start of a character that may be completed by what comes next.
		for back := 1; back < utf8.UTFMax && back <= len(p); back++ {
			if c := p[len(p)-back]; utf8.RuneStart(c) {
				if c >= utf8.RuneSelf && !utf8.FullRune(p[len(p)-back:]) {
					whole = len(p) - back
				}
				break
			}
		}
		if !utf8.Valid(p[:whole]) {
			for i := 0; i < whole; {
				c, size := utf8.DecodeRune(p[i:whole])
				if c == utf8.RuneError && size <= 1 {
					return t.bad(at + int64(i))
				}
				i += size
			}
		}
		t.tail = append(t.tail, p[whole:]...)
		at += int64(len(p))
	}
	t.at = at
	if end && len(t.tail) > 0 {
		return t.bad(at - int64(len(t.tail)))
	}
	return nil
}

func (t *textReader) bad(at int64) error {
	return fail(exitBadInput, "%s is not UTF-8 text: bad byte at offset %d; use --as bytes", t.what, at)
}

// target is what storing an input gave.
type target struct {
	key connectors.Key
	tag string // of ProxyStore 1.1.0, also where the object has that of 0.6.5
	// value is what was parsed, for as npy and json, so that a proxy can tell its class.
	value any
}

// store puts an input into a store in the form that --as names.
func (in *input) store(ctx context.Context, s *proxyplane.Store, as string, format serialize.Format) (target, error) {
	var t target
	var err error
	old := format == serialize.ProxyStore06
	switch as {
	case "bytes":
		t.tag = serialize.TagBytes
		if f, ok := in.r.(*os.File); ok && in.size >= 0 && in.bar == nil {
			// Nothing looks at the bytes, so that the kernel can move them from file to file.
			t.key, err = s.PutReader(ctx, f, in.size, proxyplane.As(format))
			in.read = in.size
			break
		}
		t.key, err = in.stream(ctx, s, in, tagLine(serialize.TagBytes, serialize.TagBytes06, old))
	case "str":
		t.tag = serialize.TagString
		t.key, err = in.stream(ctx, s, &textReader{r: in, what: in.name}, tagLine(serialize.TagString, serialize.TagString06, old))
	case "raw":
		head := make([]byte, serialize.TagLen)
		n, rerr := io.ReadFull(in, head)
		if rerr != nil && rerr != io.EOF && rerr != io.ErrUnexpectedEOF {
			return t, rerr
		}
		if t.tag, _, err = serialize.PayloadOffset(head[:n]); err != nil {
			return t, fail(exitBadInput, "%s is no stored object: %w; without --as raw it is stored as bytes", in.name, err)
		}
		in.size = max(-1, in.size-int64(n))
		t.key, err = in.stream(ctx, s, in, string(head))
	case "npy":
		t, err = in.storeArray(ctx, s, format)
	case "json":
		var data []byte
		if data, err = in.all(); err != nil {
			return t, err
		}
		if t.value, err = parseJSON(data); err != nil {
			return t, fail(exitBadInput, "%s: %w", in.name, err)
		}
		t.tag = serialize.TagPickle
		t.key, err = s.Put(ctx, t.value, proxyplane.As(format))
	}
	if err != nil {
		return t, fmt.Errorf("store %s: %w", in.name, err)
	}
	if innermost(t.key).Kind() == "local" {
		return t, fail(exitUsage, "the store's policies sent the object to a local connector, whose objects end with this process; give another child a policy that takes it")
	}
	return t, nil
}

func innermost(k connectors.Key) connectors.Key {
	for {
		m, ok := k.(connectors.MultiKey)
		if !ok || m.ConnectorKey == nil {
			return k
		}
		k = m.ConnectorKey
	}
}

func tagLine(new, old string, want06 bool) string {
	if want06 {
		return old + "\n"
	}
	return new + "\n"
}

// stream stores tag and r as one object in bounded memory.
func (in *input) stream(ctx context.Context, s *proxyplane.Store, r io.Reader, tag string) (connectors.Key, error) {
	size := in.size
	if size >= 0 {
		size += int64(len(tag))
	}
	return s.PutReader(ctx, io.MultiReader(strings.NewReader(tag), r), size, proxyplane.Raw())
}

// storeArray checks that the input is a whole .npy file before it stores it.
func (in *input) storeArray(ctx context.Context, s *proxyplane.Store, format serialize.Format) (target, error) {
	t := target{tag: serialize.TagNumPy}
	data, err := in.all()
	if err != nil {
		return t, err
	}
	object := transport.Slices{[]byte(serialize.TagNumPy + "\n"), data}
	v, err := serialize.Decode(transport.FromBytes(object.Join()))
	if err != nil {
		return t, fail(exitBadInput, "%s is no .npy file: %w", in.name, err)
	}
	t.value = v
	if format == serialize.ProxyStore06 {
		t.key, err = s.Put(ctx, v, proxyplane.As(format)) // 0.6.5 pickles arrays
	} else {
		t.key, err = s.Put(ctx, object, proxyplane.Raw())
	}
	return t, err
}

// output is where an object goes.
type output struct {
	path  string // of -o; empty or "-" is standard output
	force bool
}

func outputFlags(cmd *cobra.Command, o *output) {
	cmd.Flags().StringVarP(&o.path, "output", "o", "", "write to FILE, whole or not at all, instead of standard output")
	cmd.Flags().BoolVar(&o.force, "force", false, "write binary data to a terminal")
}

// write calls fill with the output. A file is complete or unchanged afterwards.
func (a *app) write(o output, fill func(w io.Writer) error) error {
	if o.path == "" || o.path == "-" {
		w := a.out
		if a.outTTY && !o.force {
			w = &terminalGuard{w: w}
		}
		return fill(w)
	}
	return writeFile(o.path, 0o666&^umask(), fill)
}

// writeFile writes a file as a whole. A link stays, and its target is replaced; a device or FIFO is written to, and not replaced by a file.
func writeFile(path string, perm os.FileMode, fill func(w io.Writer) error) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	st, err := os.Stat(path)
	if err == nil && st.IsDir() {
		return fail(exitIO, "%s is a directory; name a file in it", path)
	}
	if err == nil && !st.Mode().IsRegular() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(fill(f), f.Close())
	}
	if err == nil {
		perm = st.Mode().Perm()
	}
	err = atomicfile.WriteFunc(path, perm, fill)
	if errors.Is(err, os.ErrNotExist) {
		return fail(exitIO, "write %s: its directory does not exist: %w", path, err)
	}
	return err
}

// terminalGuard refuses binary data, which would garble a terminal or even drive it.
type terminalGuard struct {
	w    io.Writer
	text textReader // only its check
}

func (g *terminalGuard) Write(p []byte) (int, error) {
	bad := g.text.check(p, false) != nil
	for _, c := range p {
		bad = bad || c < ' ' && c != '\n' && c != '\t' && c != '\r' || c == 0x7f
	}
	if bad {
		return 0, fail(exitUsage, "the object is binary and standard output is a terminal; use -o FILE, a pipe, or --force")
	}
	return g.w.Write(p)
}

// copyChunk is the unit of copying, and of noticing that ctx has ended.
const copyChunk = 1 << 20

// copyTo copies r to w in bounded memory and returns the number of bytes.
func copyTo(ctx context.Context, w io.Writer, r io.Reader, bar *progress) (n int64, err error) {
	defer bar.finish()
	if src, ok := r.(io.WriterTo); ok && bar == nil {
		if f, ok := w.(*os.File); ok {
			return src.WriteTo(f) // within the kernel where both sides are files
		}
	}
	buf := make([]byte, copyChunk)
	for {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		m, err := r.Read(buf)
		if m > 0 {
			if _, err := w.Write(buf[:m]); err != nil {
				return n, err
			}
			n += int64(m)
			bar.set(n)
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// span is a --range.
type span struct{ off, n int64 }

// written tells what a get or resolve wrote.
type written struct {
	Type   string `json:"type"` // bytes, str, npy, json, raw or range
	Tag    string `json:"tag,omitempty"`
	Size   int64  `json:"size"`
	Output string `json:"output,omitempty"`
}

// load writes an object to the output in the form as, or in its own if as is empty.
func (a *app) load(ctx context.Context, s *proxyplane.Store, key connectors.Key, as string, part *span, o output) (w written, err error) {
	switch {
	case part != nil:
		w.Type = "range"
		err = a.write(o, func(dst io.Writer) error {
			w.Size, err = copyRange(ctx, s, key, *part, dst)
			return err
		})
	case as == "raw":
		w.Type = "raw"
		r, err := connectors.GetStream(ctx, s.Connector(), key)
		if err != nil {
			return w, err
		}
		defer r.Close()
		err = a.write(o, func(dst io.Writer) error {
			w.Size, err = copyTo(ctx, dst, r, a.progress(r.Size()))
			return err
		})
		return w, err
	default:
		w, err = a.loadValue(ctx, s, key, as, o)
	}
	return w, err
}

func copyRange(ctx context.Context, s *proxyplane.Store, key connectors.Key, part span, dst io.Writer) (n int64, err error) {
	for part.n < 0 || n < part.n {
		want := int64(8 << 20)
		if part.n >= 0 {
			want = min(want, part.n-n)
		}
		buf, err := s.GetRange(ctx, key, part.off+n, want)
		if err != nil {
			return n, err
		}
		_, err = dst.Write(buf.Bytes())
		got := int64(buf.Len())
		buf.Release()
		n += got
		if err != nil || got < want {
			return n, err
		}
	}
	if part.n == 0 { // still an error for a missing object or a bad offset
		buf, err := s.GetRange(ctx, key, part.off, 0)
		buf.Release()
		return 0, err
	}
	return n, nil
}

// loadValue writes an object by its kind. Bytes and text pass through in bounded memory.
func (a *app) loadValue(ctx context.Context, s *proxyplane.Store, key connectors.Key, as string, o output) (w written, err error) {
	r, err := s.OpenReader(ctx, key)
	if err != nil {
		return w, err
	}
	defer r.Close()
	w.Tag = r.Tag()
	stream := func(form string, src io.Reader) (written, error) {
		w.Type = form
		err = a.write(o, func(dst io.Writer) error {
			w.Size, err = copyTo(ctx, dst, src, a.progress(r.Size()))
			return err
		})
		return w, err
	}
	isBytes := w.Tag == serialize.TagBytes || w.Tag == serialize.TagBytes06
	isText := w.Tag == serialize.TagString || w.Tag == serialize.TagString06
	switch {
	case isBytes && (as == "" || as == "bytes"):
		return stream("bytes", r)
	case isText && as == "bytes":
		return stream("bytes", r)
	case isText && (as == "" || as == "str"), isBytes && as == "str":
		return stream("str", &textReader{r: r, what: "object " + connectors.FormatKey(key)})
	}
	obj, err := s.GetObject(ctx, key)
	if err != nil {
		return w, err
	}
	defer obj.Release()
	v, err := serialize.Decode(obj)
	if err != nil {
		return w, fmt.Errorf("object %s: %w", connectors.FormatKey(key), err)
	}
	if v, ok := v.(interface{ Release() }); ok {
		defer v.Release()
	}
	array, isArray := v.(*serialize.Array)
	switch {
	case isArray && w.Tag == serialize.TagNumPy && (as == "" || as == "npy"):
		return stream("npy", r) // the body is a .npy file, checked by now
	case isArray && (as == "" || as == "npy"):
		parts, err := serialize.Encode(array)
		if err != nil {
			return w, err
		}
		src := parts.Reader()
		if _, err := io.CopyN(io.Discard, src, serialize.TagLen); err != nil {
			return w, err
		}
		return stream("npy", src)
	case as == "npy":
		return w, fail(exitBadInput, "object %s is %s and no array; --as npy needs an ndarray", connectors.FormatKey(key), describe(v))
	}
	if opaque, ok := v.(*serialize.Opaque); ok {
		return w, fail(exitBadInput, "object %s is a %s, which only Python can open; fetch it as it is stored with --as raw (resolve: --raw)",
			connectors.FormatKey(key), printable(opaque.String()))
	}
	switch v := v.(type) { // pickled
	case []byte:
		if as == "" || as == "bytes" || as == "str" && utf8.Valid(v) {
			return stream(cmp.Or(as, "bytes"), bytes.NewReader(v))
		}
	case string:
		if as != "json" {
			return stream(cmp.Or(as, "str"), strings.NewReader(v))
		}
	}
	if as == "bytes" || as == "str" {
		return w, fail(exitBadInput, "object %s is %s, which is not %s; leave --as out to get it by its own kind", connectors.FormatKey(key), describe(v), as)
	}
	data, err := formatJSON(v)
	if err != nil {
		return w, fail(exitBadInput, "object %s: %w; fetch it as it is stored with --as raw (resolve: --raw)", connectors.FormatKey(key), err)
	}
	return stream("json", bytes.NewReader(data))
}

// describe names a decoded value's kind in Python's words.
func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		return "a bool"
	case string:
		return "a str"
	case []byte:
		return "bytes"
	case int64:
		return "an int"
	case float64:
		return "a float"
	case []any:
		return "a list"
	case map[string]any, map[any]any:
		return "a dict"
	case *serialize.Array:
		return "an ndarray"
	case *serialize.Opaque:
		return "a " + printable(v.String())
	}
	return fmt.Sprintf("a %T", v)
}
