package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
)

// policyFlags are the flags of what a received proxy may open.
type policyFlags struct{ hosts, dirs, kinds []string }

func (f *policyFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.hosts, "allow-host", nil,
		"host that the proxy may contact besides this one: a name, an address, 10.1.0.0/16, *.example.org, or * (repeatable; also $PROXYPLANE_ALLOW_HOSTS, separated by commas)")
	cmd.Flags().StringArrayVar(&f.dirs, "allow-dir", nil,
		"directory that the proxy may read besides your own, or * (repeatable; also $PROXYPLANE_ALLOW_DIRS, separated like $PATH)")
	cmd.Flags().StringArrayVar(&f.kinds, "allow-kind", nil,
		"the only kinds of connector that the proxy may use (repeatable; also $PROXYPLANE_ALLOW_KINDS, separated by commas; default: all)")
	cmd.MarkFlagDirname("allow-dir")
	cmd.RegisterFlagCompletionFunc("allow-kind", cobra.FixedCompletions(connectors.KnownKinds(), cobra.ShellCompDirectiveNoFileComp))
}

func (f *policyFlags) policy() (proxyplane.Policy, error) {
	commas := func(name string) []string {
		return strings.FieldsFunc(os.Getenv(name), func(r rune) bool { return r == ',' || r == ' ' })
	}
	p := proxyplane.Policy{
		Hosts: append(commas("PROXYPLANE_ALLOW_HOSTS"), f.hosts...),
		Dirs:  slices.Clone(f.dirs),
	}
	for _, d := range filepath.SplitList(os.Getenv("PROXYPLANE_ALLOW_DIRS")) {
		if d != "" {
			p.Dirs = append(p.Dirs, d)
		}
	}
	for i, d := range p.Dirs {
		if d == "*" {
			continue
		}
		abs, err := filepath.Abs(d)
		if err != nil {
			return p, err
		}
		p.Dirs[i] = abs
	}
	for _, k := range append(commas("PROXYPLANE_ALLOW_KINDS"), f.kinds...) {
		known, ok := connectors.LookupKind(k)
		if !ok {
			return p, fail(exitUsage, "--allow-kind %q: use one of %s", k, strings.Join(connectors.KnownKinds(), ", "))
		}
		p.Kinds = append(p.Kinds, known.Kind)
	}
	return p, nil
}

// maxProxyFile bounds a proxy file, as proxyplane.ParseProxy does.
const maxProxyFile = 64 << 20

// readProxy reads PROXYFILE or "-".
func (a *app) readProxy(ctx context.Context, path string) (data []byte, err error) {
	if path == "-" {
		data, err = io.ReadAll(io.LimitReader(contextReader(ctx, a.in), maxProxyFile+1))
	} else {
		data, err = readBounded(path, maxProxyFile)
	}
	if err != nil {
		return nil, err
	}
	if len(data) == 0 {
		return nil, fail(exitBadInput, "the proxy is empty; was the command that should write it run?")
	}
	return data, nil
}

func (a *app) resolveCmd() *cobra.Command {
	var storePath, as, part string
	var raw bool
	var wait time.Duration
	var allow policyFlags
	var o output
	cmd := &cobra.Command{
		Use:   "resolve {PROXYFILE|-} [-o FILE]",
		Short: "Fetch the object that a proxy stands for",
		Long: `Fetch the object that a proxy stands for and write it: bytes and str as they are, arrays as .npy, other values as JSON; --as and --raw as in get.
The proxy may come from Python (pickle, dill, cloudpickle; ProxyStore 1.1.0 or 0.6.5) or from Go (pickle, JSON, text, binary). Nothing in it is
executed.

A proxy of a future waits until its value is set. One that was made with --evict deletes its object once it has been written as a whole.

A proxy names any server and directory it likes, so resolve opens only those of this machine (loopback) and of this user, unless --allow-... says
otherwise. With --store, a proxy of that store uses the store as it is configured here, passwords included.`,
		Example: "  proxyplane resolve results.proxy -o results.bin\n  proxyplane resolve --range 1000000:4096 - < results.proxy\n" +
			"  proxyplane resolve --allow-host redis.cluster.example job.proxy",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			ctx := cmd.Context()
			if raw {
				if as != "" && as != "raw" {
					return fail(exitUsage, "--raw and --as %s exclude each other", as)
				}
				as = "raw"
			}
			if as != "" {
				if err := checkForm(as); err != nil {
					return err
				}
			}
			rng, err := parseRange(part, as)
			if err != nil {
				return err
			}
			policy, err := allow.policy()
			if err != nil {
				return err
			}
			data, err := a.readProxy(ctx, args[0])
			if err != nil {
				return err
			}
			info, err := proxyplane.Inspect(data)
			if err != nil {
				return fail(exitBadInput, "%s: %w (proxyplane inspect shows what it is)", args[0], err)
			}
			if info.Deserializer != "" && as != "raw" && rng == nil {
				return fail(exitBadInput, "%s: its object needs the Python function %s to be read; fetch it as it is stored with --raw", args[0], info.Deserializer)
			}
			stores := proxyplane.NewStores(proxyplane.WithPolicy(policy), proxyplane.WithRegistry(visitors()),
				proxyplane.WithStoreOptions(proxyplane.WithCacheBytes(0), proxyplane.WithPopulateTarget(false)))
			defer func() {
				if cerr := stores.Close(context.WithoutCancel(ctx)); cerr != nil {
					err = errors.Join(err, cerr)
				}
			}()
			if storePath != "" {
				cfg, err := readStoreConfig(storePath)
				if err != nil {
					return err
				}
				own, err := stores.GetOrCreate(ctx, cfg, proxyplane.WithCacheBytes(0))
				if err != nil {
					return err
				}
				defer closeStore(ctx, own, &err)
			}
			p, err := proxyplane.ParseProxy[any](data)
			if err != nil {
				return err
			}
			p.Bind(stores)
			s, err := p.Store(ctx)
			if err != nil {
				return asBadInput(err)
			}
			w, err := a.load(ctx, s, p.Key(), as, rng, o)
			if errors.Is(err, connectors.ErrNotFound) && info.Future != nil {
				if err := connectors.Wait(ctx, s.Connector(), p.Key(), polling(info, wait)); err != nil {
					return err
				}
				w, err = a.load(ctx, s, p.Key(), as, rng, o)
			}
			if errors.Is(err, connectors.ErrNotFound) {
				return fail(exitNotFound, "%w (was it evicted, or resolved before with evict-on-resolve?)", err)
			}
			if err != nil {
				return asBadInput(err)
			}
			if p.Evicts() && rng == nil {
				if err := s.Evict(ctx, p.Key()); err != nil {
					a.warn("the object was written, but could not be evicted as its proxy asks: %v", err)
				}
			}
			return a.summary(w, o)
		},
	}
	asFlag(cmd, &as, "", "form of the output: bytes, str, npy, json or raw (default: by the object's own kind)")
	cmd.Flags().BoolVar(&raw, "raw", false, "the object as it is stored, tag included; the same as --as raw")
	rangeFlag(cmd, &part)
	cmd.Flags().DurationVar(&wait, "timeout", 0, "give up on a future's value after this long, for example 30s (default: as the proxy says)")
	cmd.Flags().StringVarP(&storePath, "store", "s", "", "TOML file of a store whose proxies are trusted")
	cmd.MarkFlagFilename("store", "toml")
	allow.add(cmd)
	outputFlags(cmd, &o)
	return cmd
}

// asBadInput gives a bad key or configuration that came in a proxy its exit code: the user's command line was right.
func asBadInput(err error) error {
	if code := exitCode(err); code == exitUsage && (errors.Is(err, connectors.ErrInvalidKey) || errors.Is(err, connectors.ErrConfig)) {
		return fail(exitBadInput, "the proxy is wrong: %w", err)
	}
	return err
}

// polling returns how a future's proxy wants to wait.
func polling(info proxyplane.ProxyInfo, timeout time.Duration) connectors.Polling {
	seconds := func(s *float64) time.Duration {
		if s == nil {
			return 0
		}
		return time.Duration(*s * float64(time.Second))
	}
	f := info.Future
	p := connectors.Polling{Interval: seconds(&f.Interval), Backoff: f.Backoff, Limit: seconds(f.Limit), Timeout: seconds(f.Timeout)}
	if timeout > 0 {
		p.Timeout = timeout
	}
	return p
}
