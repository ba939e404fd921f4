package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/all"
)

// app is one run of the program.
type app struct {
	in       io.Reader
	out, err io.Writer
	outTTY   bool // standard output is a terminal
	errTTY   bool

	json    bool   // --json
	started bool   // a command's own code runs; errors before are the command line's
	named   string // the command, for the hint to its help

	moreGrace atomic.Int64 // time.Duration that the command may take to end after a signal, beyond grace
}

// extendGrace gives the command more time to end after a signal.
func (a *app) extendGrace(d time.Duration) { a.moreGrace.Store(int64(d)) }

func newApp() *app {
	return &app{in: os.Stdin, out: os.Stdout, err: os.Stderr,
		outTTY: term.IsTerminal(int(os.Stdout.Fd())), errTTY: term.IsTerminal(int(os.Stderr.Fd()))}
}

const rootHelp = `proxyplane passes large objects between Go services and Python workers by reference, compatible with Python's ProxyStore.

Start with:  proxyplane demo

A store is described by a small TOML file, the same that ProxyStore's StoreConfig reads and writes:

  proxyplane config new --kind file --option store_dir=/scratch/me/objects -o store.toml
  export PROXYPLANE_STORE=store.toml
  key=$(proxyplane put results.bin)
  proxyplane get --key "$key" -o copy.bin
  proxyplane proxy results.bin -o results.proxy     # a few hundred bytes; Python unpickles them to a proxystore Proxy
  proxyplane resolve results.proxy -o copy.bin`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:              "proxyplane",
		Short:            "Pass large objects by reference between Go and Python",
		Long:             rootHelp,
		SilenceErrors:    true,
		SilenceUsage:     true,
		Args:             cobra.NoArgs,
		PersistentPreRun: func(*cobra.Command, []string) { a.started = true },
		RunE:             func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print results and errors as JSON")
	root.AddGroup(&cobra.Group{ID: "objects", Title: "Objects:"}, &cobra.Group{ID: "proxies", Title: "Proxies:"},
		&cobra.Group{ID: "servers", Title: "Object servers:"}, &cobra.Group{ID: "sites", Title: "Between sites:"},
		&cobra.Group{ID: "operate", Title: "Looking and configuring:"})
	for group, cmds := range map[string][]*cobra.Command{
		"objects": {a.putCmd(), a.getCmd(), a.existsCmd(), a.evictCmd()},
		"proxies": {a.proxyCmd(), a.resolveCmd(), a.inspectCmd()},
		"servers": {a.serveCmd(), a.pingCmd()},
		"sites":   {a.endpointCmd(), a.relayCmd()},
		"operate": {a.demoCmd(), a.configCmd(), a.doctorCmd(), a.versionCmd()},
	} {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	root.SetHelpCommandGroupID("operate")
	root.SetCompletionCommandGroupID("operate")
	root.AddCommand(exitCodesTopic(), a.demoWorkerCmd())
	return root
}

// printJSON prints v as one line.
func (a *app) printJSON(v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := a.out.Write(b.Bytes())
	return err
}

// warn tells of something that went wrong after the job was done.
func (a *app) warn(format string, args ...any) {
	fmt.Fprintln(a.err, "proxyplane: warning:", printable(fmt.Sprintf(format, args...)))
}

// storeFlag adds --store.
func storeFlag(cmd *cobra.Command, path *string, why string) {
	cmd.Flags().StringVarP(path, "store", "s", os.Getenv("PROXYPLANE_STORE"), "TOML file of the store"+why+" (default $PROXYPLANE_STORE)")
	cmd.Flag("store").DefValue = "" // the help must not depend on the environment
	cmd.MarkFlagFilename("store", "toml")
}

// readStoreConfig reads the file of --store.
func readStoreConfig(path string) (proxyplane.Config, error) {
	if path == "" {
		return proxyplane.Config{}, fail(exitUsage, "no store given: name its TOML file by --store FILE or PROXYPLANE_STORE; "+
			"make one with: proxyplane config new --kind file --option store_dir=DIR -o FILE")
	}
	cfg, err := proxyplane.ReadConfig(path)
	if errors.Is(err, os.ErrNotExist) {
		return cfg, fail(exitUsage, "store file %s: no such file; make one with: proxyplane config new --kind file --option store_dir=DIR -o %s", path, path)
	}
	if err != nil {
		return cfg, fail(exitUsage, "store file: %w", err)
	}
	return cfg, nil
}

// visitors returns the drivers of a program that is about to end: a connector to object servers starts none here, since its objects would end with the
// command.
func visitors() *connectors.Registry {
	from, r := all.Registry(), &connectors.Registry{}
	for _, kind := range from.Kinds() {
		found, err := from.Driver(kind)
		if err != nil {
			panic(err) // it has just been listed
		}
		d := *found
		if slices.Contains(d.Secret, "connect_only") {
			d.Open = func(ctx context.Context, o *connectors.Options, env *connectors.Env) (connectors.Connector, error) {
				opts := maps.Clone(o.All())
				opts["connect_only"] = true
				return found.Open(ctx, connectors.NewOptions(kind, opts), env)
			}
		}
		r.Register(d)
	}
	return r
}

// withStore opens the store of --store for the time of fn. Its objects stay, whatever its configured clear says.
func (a *app) withStore(ctx context.Context, path string, fn func(*proxyplane.Store) error) (err error) {
	cfg, err := readStoreConfig(path)
	if err != nil {
		return err
	}
	if k, ok := connectors.LookupKind(cfg.Connector.Kind); ok && k.Kind == "local" {
		return fail(exitUsage, "store file %s: a local connector keeps objects in the memory of one process, and this process is about to end; "+
			"use a file, redis or multi connector", path)
	}
	// Stores of its own, so that auto_register does no harm and still travels in proxies as it is configured.
	s, err := proxyplane.Open(ctx, cfg, proxyplane.WithCacheBytes(0), proxyplane.WithStores(proxyplane.NewStores()), proxyplane.WithDrivers(visitors()))
	if err != nil {
		return err
	}
	defer closeStore(ctx, s, &err)
	return fn(s)
}

// closeStore closes a store for a deferring caller. Objects stay.
func closeStore(ctx context.Context, s *proxyplane.Store, err *error) {
	if cerr := s.CloseClear(context.WithoutCancel(ctx), false); cerr != nil {
		*err = errors.Join(*err, cerr)
	}
}

// keyFlag adds --key.
func keyFlag(cmd *cobra.Command, key *string) {
	cmd.Flags().StringVarP(key, "key", "k", "", `key as JSON: what put printed, {"kind":...,"key":[...]}, or ["..."]; @FILE or - reads it from there`)
}

// maxKeySize bounds a key from a file; keys have some hundred bytes.
const maxKeySize = 1 << 20

// readKey reads the value of --key. The bare tuple is of the store's own kind.
func (a *app) readKey(ctx context.Context, value string, s *proxyplane.Store) (connectors.Key, error) {
	data := []byte(value)
	var err error
	switch path, isFile := strings.CutPrefix(value, "@"); {
	case value == "":
		return nil, fail(exitUsage, `no key given: use --key '["..."]' or the line that put printed`)
	case value == "-":
		data, err = io.ReadAll(io.LimitReader(contextReader(ctx, a.in), maxKeySize+1))
	case isFile:
		data, err = readBounded(path, maxKeySize)
	}
	if err != nil {
		return nil, err
	}
	if len(data) > maxKeySize {
		return nil, fail(exitUsage, "the key is longer than %d bytes", maxKeySize)
	}
	kind := s.Connector().Config().Kind
	if k, ok := connectors.LookupKind(kind); ok {
		kind = k.Kind
	}
	key, err := connectors.UnmarshalKey(bytes.TrimSpace(data), kind)
	if err != nil {
		return nil, fail(exitUsage, "--key: %w", err)
	}
	return key, nil
}

// readBounded reads a small file of the user's.
func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, inputError(path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, inputError(path, err)
	}
	if int64(len(data)) > most {
		return nil, fail(exitBadInput, "%s: more than %d bytes", path, most)
	}
	return data, nil
}

// contextReader returns r, with reads that end when ctx does: a process that waits for its standard input must still notice ctrl-C and clean
// up. It reads ahead, so r must not be read afterwards.
func contextReader(ctx context.Context, r io.Reader) io.Reader {
	c := &ctxReader{ctx: ctx, chunks: make(chan []byte), free: make(chan []byte, 2), done: make(chan struct{})}
	c.free <- make([]byte, 256<<10)
	c.free <- make([]byte, 256<<10)
	go c.run(r)
	return c
}

type ctxReader struct {
	ctx    context.Context // the lifetime of the reader
	chunks chan []byte
	free   chan []byte
	done   chan struct{}
	err    error // set before done is closed
	cur    []byte
	rest   []byte
}

// run reads until the end; if ctx ends first it is left behind in its last Read, which only the end of the process ends.
func (c *ctxReader) run(r io.Reader) {
	defer close(c.done)
	for buf := range c.free {
		n, err := r.Read(buf)
		if n > 0 {
			select {
			case c.chunks <- buf[:n]:
			case <-c.ctx.Done():
				c.err = context.Cause(c.ctx)
				return
			}
		} else {
			c.free <- buf
		}
		if err != nil {
			c.err = err
			return
		}
	}
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(c.rest) == 0 {
		if c.cur != nil {
			c.free <- c.cur[:cap(c.cur)]
			c.cur = nil
		}
		select {
		case c.cur = <-c.chunks:
			c.rest = c.cur
		case <-c.done:
			return 0, c.err
		case <-c.ctx.Done():
			return 0, context.Cause(c.ctx)
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// checkOneOf checks the value of a flag.
func checkOneOf(flag, v string, allowed []string) error {
	if !slices.Contains(allowed, v) {
		return fail(exitUsage, "%s %q: use one of %s", flag, v, strings.Join(allowed, ", "))
	}
	return nil
}
