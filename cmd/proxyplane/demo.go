package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/internal/dataset"
	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/transport"
)

func (a *app) demoCmd() *cobra.Command {
	var dir, python string
	var size int
	cmd := &cobra.Command{
		Use:   "demo [FILE...]",
		Short: "Show it all on real files, with a second process; leaves nothing behind",
		Long: `Show what proxyplane does on real files: those given, or else a small dataset that is part of the program. It stores them, hands proxies to a second
process, lets it resolve them in all ways, checks every byte by SHA-256 and shows the times beside those of the same bytes passed by value. It needs
no server, takes some seconds, and removes everything it made, also when it is interrupted.`,
		Example: "  proxyplane demo\n  proxyplane demo *.csv --size 256\n  proxyplane demo --python .venv/bin/python",
		RunE: func(cmd *cobra.Command, args []string) error {
			if size < 1 || size > 4096 {
				return fail(exitUsage, "--size %d: expected 1 to 4096 MiB", size)
			}
			d := &demo{a: a, size: int64(size) << 20, python: python}
			err := d.run(cmd.Context(), dir, args)
			if err == nil && a.json {
				err = a.printJSON(d.report)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "make the store in this directory (default: /dev/shm if it is there and large enough, else $TMPDIR)")
	cmd.Flags().IntVar(&size, "size", 64, "MiB of the generated object")
	cmd.Flags().StringVar(&python, "python", "", "a Python with proxystore; it resolves one of the proxies too")
	cmd.MarkFlagDirname("dir")
	return cmd
}

// demo is one demonstration.
type demo struct {
	a      *app
	size   int64
	python string

	items  []demoItem
	step   int
	outErr error // the first failure to print
	report demoReport
}

// demoItem is one object that is shown.
type demoItem struct {
	name   string
	data   []byte
	kind   string // bytes, str or ndarray
	sum    string
	pickle []byte // of its proxy
}

// demoReport is the result for --json. Times are nanoseconds.
type demoReport struct {
	Version  buildVersion `json:"version"`
	Dir      string       `json:"dir"`
	Received struct {
		Proxies int   `json:"proxies"`
		Bytes   int64 `json:"bytes"`
		NS      int64 `json:"ns"`
		Objects int64 `json:"object_bytes"`
	} `json:"received"`
	OpenNS int64       `json:"open_store_ns"`
	Files  []demoTimes `json:"files"`
	Range  struct {
		Of    string `json:"of"`
		Off   int64  `json:"offset"`
		Bytes int64  `json:"bytes"`
		NS    int64  `json:"ns"`
	} `json:"range"`
	Future struct {
		WaitedNS int64 `json:"waited_ns"`
		WokeNS   int64 `json:"woke_after_set_ns"`
	} `json:"future"`
	Evicted bool   `json:"evicted_on_resolve"`
	Python  string `json:"python,omitempty"`
	Checked int    `json:"sha256_checks"`
	Clean   bool   `json:"nothing_left_behind"`
}

// demoTimes are one file's medians.
type demoTimes struct {
	Name    string `json:"name"`
	Type    string `json:"type"`
	Bytes   int64  `json:"bytes"`
	PutNS   int64  `json:"put_ns"`
	ValueNS int64  `json:"by_value_ns"`
	ColdNS  int64  `json:"cold_ns"`
	MapNS   int64  `json:"mapped_ns"`
	CacheNS int64  `json:"cached_ns"`
	LocalNS int64  `json:"in_process_ns"`
}

func (d *demo) say(format string, args ...any) {
	if !d.a.json && d.outErr == nil {
		_, d.outErr = fmt.Fprintf(d.a.out, format+"\n", args...)
	}
}

func (d *demo) title(format string, args ...any) {
	d.step++
	d.say("\n%d. "+format, append([]any{d.step}, args...)...)
}

func (d *demo) run(ctx context.Context, dir string, files []string) (err error) {
	if err := d.load(files); err != nil {
		return err
	}
	if dir == "" {
		dir = d.chooseDir()
	}
	root, err := os.MkdirTemp(dir, "proxyplane-demo-")
	if err != nil {
		return fail(exitIO, "make a directory for the demonstration (--dir names another place): %w", err)
	}
	defer func() {
		rerr := os.RemoveAll(root)
		if _, serr := os.Stat(root); rerr == nil && !errors.Is(serr, os.ErrNotExist) {
			rerr = fmt.Errorf("%s is still there", root)
		}
		d.report.Clean = rerr == nil
		if rerr != nil {
			err = errors.Join(err, fail(exitIO, "clean up: %w", rerr))
		} else if err == nil {
			d.say("\nAll %d checks by SHA-256 passed. %s is removed; nothing is left behind.", d.report.Checked, root)
			d.next()
		}
	}()
	v, _ := readVersion()
	d.report.Version, d.report.Dir = v, root
	d.say("proxyplane %s (%s %s)", v.Version, v.Go, v.Platform)
	return d.steps(ctx, root)
}

// load reads the files and makes the generated object.
func (d *demo) load(files []string) error {
	add := func(name string, data []byte) {
		it := demoItem{name: filepath.Base(name), data: data, kind: "bytes", sum: sum(data)}
		switch ext := strings.ToLower(filepath.Ext(name)); {
		case ext == ".npy":
			if npy(data) != nil {
				it.kind = "ndarray"
			}
		case ext != "" && utf8.Valid(data):
			it.kind = "str"
		}
		d.items = append(d.items, it)
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return inputError(path, err)
		}
		add(path, data)
	}
	if len(files) == 0 {
		for _, name := range dataset.Names() {
			data, err := dataset.Read(name)
			if err != nil {
				return err
			}
			add(name, data)
		}
	}
	// Random bytes, the same each time, which nothing on the way can compress.
	data := make([]byte, d.size)
	rand.NewChaCha8([32]byte{}).Read(data)
	add(fmt.Sprintf("(generated %s)", formatBytes(d.size)), data)
	slices.SortStableFunc(d.items, func(x, y demoItem) int { return len(x.data) - len(y.data) })
	return nil
}

// npy returns the array of an .npy file, nil if it is none that is written back byte for byte.
func npy(data []byte) *serialize.Array {
	v, err := serialize.Decode(transport.FromBytes(append([]byte(serialize.TagNumPy+"\n"), data...)))
	if err != nil {
		return nil
	}
	array, ok := v.(*serialize.Array)
	if !ok {
		return nil
	}
	if again, _, _, err := digest(array); err != nil || again != sum(data) {
		return nil
	}
	return array
}

// value is what is put into the store.
func (it demoItem) value() any {
	switch it.kind {
	case "str":
		return string(it.data)
	case "ndarray":
		return npy(it.data)
	}
	return it.data
}

func (d *demo) total() (n int64) {
	for _, it := range d.items {
		n += int64(len(it.data))
	}
	return n
}

// chooseDir prefers memory that is a file system, where it can hold everything twice over.
func (d *demo) chooseDir() string {
	const shm = "/dev/shm"
	if free, ok := freeBytes(shm); ok && free > 2*d.total()+64<<20 {
		if probe, err := os.MkdirTemp(shm, "proxyplane-demo-"); err == nil {
			os.Remove(probe)
			return shm
		}
	}
	return os.TempDir()
}

func (d *demo) steps(ctx context.Context, root string) (err error) {
	objects := filepath.Join(root, "objects")
	cfg := proxyplane.NewConfig("", proxyplane.FileConnector(objects))
	s, err := proxyplane.Open(ctx, cfg, proxyplane.WithPopulateTarget(false), proxyplane.WithCacheBytes(0))
	if err != nil {
		return err
	}
	defer closeStore(ctx, s, &err)

	d.title("Store %d objects, %s in all, in a file store on %s.", len(d.items), formatBytes(d.total()), filepath.Dir(root))
	if err := d.put(ctx, s); err != nil {
		return err
	}

	d.title("Within one process, a local store hands the object itself over: no copy, whatever its size.")
	if err := d.local(ctx); err != nil {
		return err
	}

	w, err := startWorker(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.stop(err == nil)) }()

	d.title("Hand all %d proxies to a second process (pid %d) through its standard input.", len(d.items), w.cmd.Process.Pid)
	if err := d.handOver(w); err != nil {
		return err
	}
	d.title("The second process resolves them, and gets the same bytes by value through the pipe for comparison.")
	if err := d.resolve(w); err != nil {
		return err
	}
	d.title("Read part of a large object without the rest.")
	if err := d.readRange(w); err != nil {
		return err
	}
	d.title("Hand over a proxy of a value that does not exist yet.")
	if err := d.future(ctx, s, w); err != nil {
		return err
	}
	d.title("Evict on resolve: an object that goes away once it has been used.")
	if err := d.evict(ctx, s, w); err != nil {
		return err
	}
	if d.python != "" {
		d.title("Hand one of the same proxies to Python.")
		return d.toPython(ctx)
	}
	return nil
}

func (d *demo) put(ctx context.Context, s *proxyplane.Store) error {
	var proxies int64
	start := time.Now()
	for i := range d.items {
		it := &d.items[i]
		v := it.value()
		begin := time.Now()
		p, err := proxyplane.NewProxy(ctx, s, v)
		if err != nil {
			return err
		}
		took := time.Since(begin)
		if it.pickle, err = p.Pickle(); err != nil {
			return err
		}
		proxies += int64(len(it.pickle))
		d.report.Files = append(d.report.Files, demoTimes{Name: it.name, Type: it.kind, Bytes: int64(len(it.data)), PutNS: took.Nanoseconds()})
	}
	d.say("   Stored in %s. Each is now a file that any process, Go or Python, can read. The %d proxies of them take %s.",
		formatTime(time.Since(start).Nanoseconds()), len(d.items), formatBytes(proxies))
	return nil
}

func (d *demo) local(ctx context.Context) (err error) {
	s, err := proxyplane.Open(ctx, proxyplane.NewConfig("", proxyplane.LocalConnector()), proxyplane.WithPopulateTarget(false))
	if err != nil {
		return err
	}
	defer closeStore(ctx, s, &err)
	for i, it := range d.items {
		p, err := proxyplane.NewProxy(ctx, s, it.data)
		if err != nil {
			return err
		}
		start := time.Now()
		got, err := p.Resolve(ctx)
		d.report.Files[i].LocalNS = time.Since(start).Nanoseconds()
		if err != nil {
			return err
		}
		if err := d.check(it.name, sum(got), it.sum); err != nil {
			return err
		}
		if err := p.Evict(ctx); err != nil {
			return err
		}
	}
	first, last := d.report.Files[0], d.report.Files[len(d.report.Files)-1]
	d.say("   First resolve of %s (%s): %s; of %s (%s): %s.", first.Name, formatBytes(first.Bytes), formatTime(first.LocalNS),
		last.Name, formatBytes(last.Bytes), formatTime(last.LocalNS))
	return nil
}

// check compares sums.
func (d *demo) check(name, got, want string) error {
	if got != want {
		return fail(exitBadInput, "%s arrived changed: SHA-256 %s, was %s; please report this", name, got, want)
	}
	d.report.Checked++
	return d.outErr
}

func (d *demo) handOver(w *worker) error {
	req := demoRequest{Op: "receive"}
	for _, it := range d.items {
		req.Proxies = append(req.Proxies, it.pickle)
	}
	reply, err := w.ask(req)
	if err != nil {
		return err
	}
	r := &d.report.Received
	r.Proxies, r.Bytes, r.NS, r.Objects = len(d.items), reply.Size, reply.NS, d.total()
	if reply.Resolved != 0 {
		return fail(exitBadInput, "%d proxies were resolved merely by receiving them; please report this", reply.Resolved)
	}
	d.say("   It decoded %s of proxies in %s and has fetched nothing: no store is open there, and 0 of %s have moved.",
		formatBytes(r.Bytes), formatTime(r.NS), formatBytes(r.Objects))
	return nil
}

// demoRepeats is how often each time is taken; the median is shown.
const demoRepeats = 5

func (d *demo) resolve(w *worker) error {
	var open []int64
	for i, it := range d.items {
		value, err := w.sendValue(it.data, demoRepeats)
		if err != nil {
			return err
		}
		if err := d.check(it.name, value.SHA256, it.sum); err != nil {
			return err
		}
		reply, err := w.ask(demoRequest{Op: "resolve", Index: i, Repeat: demoRepeats})
		if err != nil {
			return err
		}
		if err := d.check(it.name, reply.SHA256, it.sum); err != nil {
			return err
		}
		open = append(open, reply.NS)
		f := &d.report.Files[i]
		f.ValueNS, f.ColdNS, f.MapNS, f.CacheNS = median(value.Cold), median(reply.Cold), median(reply.Mapped), median(reply.Cached)
		if reply.Type != it.kind {
			return fail(exitBadInput, "%s arrived as %s, was %s; please report this", it.name, reply.Type, it.kind)
		}
	}
	d.report.OpenNS = median(open)
	if d.a.json {
		return nil
	}
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 0, 3, ' ', tabwriter.AlignRight)
	row := func(cells ...string) { fmt.Fprintf(t, "%s\t\n", strings.Join(cells, "\t")) }
	row("object", "type", "size", "by value", "by proxy", "ratio", "mapped", "again")
	for _, f := range d.report.Files {
		row(printable(f.Name), f.Type, formatBytes(f.Bytes), formatTime(f.ValueNS)+rate(f.Bytes, f.ValueNS), formatTime(f.ColdNS)+rate(f.Bytes, f.ColdNS),
			fmt.Sprintf("%.1fx", float64(f.ValueNS)/float64(max(f.ColdNS, 1))), formatTime(f.MapNS), formatTime(f.CacheNS))
	}
	t.Flush()
	d.say("%s", strings.TrimRight(b.String(), "\n"))
	d.say(`   by value: the second process asks and gets all bytes through the pipe. by proxy: it resolves, and has the value in its own memory.
   mapped: it resolves to a view of the store's memory, and nothing is copied. again: it resolves the same proxy once more.
   Medians of %d. Opening the store took %s, once.`, demoRepeats, formatTime(d.report.OpenNS))
	return nil
}

// rate returns MB/s in brackets for objects large enough to have one.
func rate(n, ns int64) string {
	if n < 1<<20 || ns <= 0 {
		return ""
	}
	return fmt.Sprintf(" (%.0f MB/s)", float64(n)/1e6/(float64(ns)/1e9))
}

func (d *demo) readRange(w *worker) error {
	last := len(d.items) - 1
	it := d.items[last]
	n := int64(min(4096, len(it.data)))
	off := (int64(len(it.data)) - n) / 2
	reply, err := w.ask(demoRequest{Op: "range", Index: last, Off: off, Size: n})
	if err != nil {
		return err
	}
	if reply.Resolved != 0 {
		return fail(exitBadInput, "reading a range resolved the proxy; please report this")
	}
	if err := d.check("the range of "+it.name, reply.SHA256, sum(it.data[off:off+n])); err != nil {
		return err
	}
	r := &d.report.Range
	r.Of, r.Off, r.Bytes, r.NS = it.name, off, reply.Size, reply.NS
	d.say("   %s from the middle of %s in %s, opening the store included; the other %s were not touched.", formatBytes(r.Bytes), it.name, formatTime(r.NS),
		formatBytes(int64(len(it.data))-n))
	return nil
}

// demoDelay is how long the future's value takes.
const demoDelay = 300 * time.Millisecond

func (d *demo) future(ctx context.Context, s *proxyplane.Store, w *worker) error {
	// A polling interval that would be seen: whoever polled would be late.
	f, err := proxyplane.NewFuture[string](ctx, s, proxyplane.Polling{Interval: 10 * time.Second, Timeout: time.Minute})
	if err != nil {
		return err
	}
	data, err := f.Proxy().Pickle()
	if err != nil {
		return err
	}
	waiting, err := w.ask(demoRequest{Op: "future", Proxies: [][]byte{data}})
	if err != nil {
		return err
	}
	select {
	case <-time.After(demoDelay):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	const value = "the answer, some time later"
	if err := f.Set(ctx, value); err != nil {
		return err
	}
	set := time.Now().UnixNano()
	reply, err := w.receive()
	if err != nil {
		return err
	}
	if err := d.check("the future's value", reply.SHA256, sum([]byte(value))); err != nil {
		return err
	}
	r := &d.report.Future
	r.WaitedNS, r.WokeNS = reply.At-waiting.At, reply.At-set
	when := formatTime(r.WokeNS) + " after"
	if r.WokeNS <= 0 {
		when = "even before"
	}
	d.say("   The second process resolved it and waited %s; it had the value %s the call that set it returned.\n"+
		"   It was woken by an event: its polling interval is 10 s.", formatTime(r.WaitedNS), when)
	return nil
}

func (d *demo) evict(ctx context.Context, s *proxyplane.Store, w *worker) error {
	p, err := proxyplane.NewProxy(ctx, s, "use once", proxyplane.Evict())
	if err != nil {
		return err
	}
	data, err := p.Pickle()
	if err != nil {
		return err
	}
	reply, err := w.ask(demoRequest{Op: "evicting", Proxies: [][]byte{data}})
	if err != nil {
		return err
	}
	if err := d.check("the evicted object", reply.SHA256, sum([]byte("use once"))); err != nil {
		return err
	}
	there, err := s.Exists(ctx, p.Key())
	if err != nil {
		return err
	}
	if there || !reply.Missing {
		return fail(exitBadInput, "the object is still there after it was resolved; please report this")
	}
	d.report.Evicted = true
	d.say("   It was there for the first resolve; then it was gone, and a second copy of the proxy got \"no such object\".")
	return nil
}

// toPython lets Python unpickle and resolve one of the proxies.
func (d *demo) toPython(ctx context.Context) error {
	i := slices.IndexFunc(d.items, func(it demoItem) bool { return it.kind == "str" })
	if i < 0 {
		i = len(d.items) - 1
	}
	const script = `import hashlib, pickle, sys
p = pickle.loads(sys.stdin.buffer.read())
name = type(p).__module__ + '.' + type(p).__name__
data = p.encode() if isinstance(p, str) else bytes(p) if isinstance(p, bytes) else None
print(name, len(p), hashlib.sha256(data).hexdigest() if data is not None else '-')
`
	cmd := exec.CommandContext(ctx, d.python, "-c", script)
	cmd.Stdin = bytes.NewReader(d.items[i].pickle)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		return fail(exitUnavailable, "%s could not resolve the proxy (%w): %s; it needs proxystore: pip install proxystore==1.1.0", d.python, err, lines[len(lines)-1])
	}
	fields := strings.Fields(string(out))
	if len(fields) != 3 {
		return fail(exitUnavailable, "%s printed %q", d.python, out)
	}
	if fields[2] != "-" {
		if err := d.check("the object in Python", fields[2], d.items[i].sum); err != nil {
			return err
		}
	}
	d.report.Python = fields[0]
	d.say("   Python unpickled a %s, which resolved to %s: %s characters or items, the same content.", fields[0], d.items[i].name, fields[1])
	return nil
}

func (d *demo) next() {
	d.say(`
Try next:
  proxyplane config new --kind file --option store_dir=$HOME/objects -o store.toml
  proxyplane proxy --store store.toml README.md -o readme.proxy
  proxyplane inspect readme.proxy
  proxyplane resolve readme.proxy
  python3 -c "import pickle; print(bytes(pickle.load(open('readme.proxy', 'rb'))).decode())"    # after: pip install proxystore==1.1.0`)
}

// worker is the second process.
type worker struct {
	ctx    context.Context // its lifetime
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr bytes.Buffer
}

func startWorker(ctx context.Context) (*worker, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w := &worker{ctx: ctx, cmd: exec.CommandContext(ctx, self, demoWorkerName)}
	w.cmd.Cancel = func() error { return w.cmd.Process.Signal(syscall.SIGTERM) }
	w.cmd.WaitDelay = 2 * time.Second
	w.cmd.Stderr = &w.stderr
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.out = bufio.NewReader(out)
	if err := w.cmd.Start(); err != nil {
		return nil, fail(exitIO, "start the second process: %w", err)
	}
	return w, nil
}

func (w *worker) ask(req demoRequest) (demoReply, error) {
	line, err := json.Marshal(req)
	if err != nil {
		return demoReply{}, err
	}
	if _, err := w.in.Write(append(line, '\n')); err != nil {
		return demoReply{}, w.failed(err)
	}
	return w.receive()
}

func (w *worker) receive() (demoReply, error) {
	var reply demoReply
	line, err := w.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &reply)
	}
	if err != nil {
		return reply, w.failed(err)
	}
	if reply.Error != "" {
		return reply, fail(exitIO, "the second process: %s", reply.Error)
	}
	return reply, nil
}

// failed says why the conversation broke off.
func (w *worker) failed(err error) error {
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	return fail(exitIO, "the second process broke off: %w", err)
}

// sendValue passes the bytes themselves, each time that the second process asks for them.
func (w *worker) sendValue(data []byte, repeat int) (demoReply, error) {
	line, err := json.Marshal(demoRequest{Op: "value", Size: int64(len(data)), Repeat: repeat})
	if err != nil {
		return demoReply{}, err
	}
	if _, err := w.in.Write(append(line, '\n')); err != nil {
		return demoReply{}, w.failed(err)
	}
	for range repeat {
		if _, err := w.receive(); err != nil {
			return demoReply{}, err
		}
		if _, err := w.in.Write(data); err != nil {
			return demoReply{}, w.failed(err)
		}
	}
	return w.receive()
}

// stop ends the second process. well is false if something failed before, so that how it ends no longer matters.
func (w *worker) stop(well bool) error {
	w.in.Close()
	io.Copy(io.Discard, w.out)
	if err := w.cmd.Wait(); err != nil && well {
		return fail(exitIO, "the second process ended badly: %w: %s", err, strings.TrimSpace(w.stderr.String()))
	}
	return nil
}

func median(ns []int64) int64 {
	if len(ns) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(ns))
	return s[len(s)/2]
}

// formatTime returns nanoseconds with three digits and a unit.
func formatTime(ns int64) string {
	f := float64(ns)
	for _, u := range []struct {
		size float64
		name string
	}{{1e9, "s"}, {1e6, "ms"}, {1e3, "µs"}} {
		if f >= u.size {
			v := f / u.size
			digits := 2
			if v >= 100 {
				digits = 0
			} else if v >= 10 {
				digits = 1
			}
			return fmt.Sprintf("%.*f %s", digits, v, u.name)
		}
	}
	return fmt.Sprintf("%d ns", ns)
}

// formatBytes returns a length with a unit.
func formatBytes(n int64) string {
	f := float64(n)
	for _, u := range []struct {
		size float64
		name string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if f >= u.size {
			return strings.TrimSuffix(fmt.Sprintf("%.1f", f/u.size), ".0") + " " + u.name
		}
	}
	return fmt.Sprintf("%d bytes", n)
}
