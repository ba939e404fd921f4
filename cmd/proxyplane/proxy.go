package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/serialize/pickle"
)

// proxyFormats are the values of --format.
var proxyFormats = []string{"pickle", "pickle-0.6", "json", "text"}

// anyProxy is what the command needs of a proxy of any type.
type anyProxy interface {
	Pickle(opts ...proxyplane.PickleOption) ([]byte, error)
	json.Marshaler
	MarshalText() ([]byte, error)
}

func (a *app) proxyCmd() *cobra.Command {
	var storePath, as, format, key string
	var evict bool
	var o output
	cmd := &cobra.Command{
		Use:   "proxy --store FILE {FILE|-|--key KEY} [-o FILE]",
		Short: "Store an object and write its proxy",
		Long: `Store a file or standard input, as put does, and write a proxy of it: a few hundred bytes that stand for the object anywhere. With --key the
object is in the store already.

  --format pickle      for Python with ProxyStore 1.1.0 (pickle.loads gives a proxystore Proxy), and for resolve (the default)
  --format pickle-0.6  for ProxyStore 0.6.5; the object is stored in that version's format too
  --format json, text  for Go programs and resolve; text is one word without spaces

Passwords in the store's configuration are not written into proxies.`,
		Example: `  proxyplane proxy -s store.toml results.bin -o results.proxy
  python3 -c "import pickle; print(len(pickle.load(open('results.proxy', 'rb'))))"`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkForm(as); err != nil {
				return err
			}
			if err := checkOneOf("--format", format, proxyFormats); err != nil {
				return err
			}
			if (len(args) == 1) == (key != "") {
				return fail(exitUsage, "give either a FILE (- is standard input) to be stored or, with --key, an object that is in the store already")
			}
			ctx := cmd.Context()
			objects := serialize.ProxyStore11
			if format == "pickle-0.6" {
				objects = serialize.ProxyStore06
			}
			return a.withStore(ctx, storePath, func(s *proxyplane.Store) error {
				if key != "" {
					k, err := a.readKey(ctx, key, s)
					if err != nil {
						return err
					}
					return a.writeProxy(s, target{key: k}, evict, format, o)
				}
				in, err := a.openInput(ctx, args[0])
				if err != nil {
					return err
				}
				defer in.close()
				t, err := in.store(ctx, s, as, objects)
				if err != nil {
					return err
				}
				in.bar.finish()
				if err := a.writeProxy(s, t, evict, format, o); err != nil {
					// What nobody can name must not stay.
					if everr := s.Evict(context.WithoutCancel(ctx), t.key); everr != nil {
						a.warn("the object stays in the store: %v", everr)
					}
					return err
				}
				return nil
			})
		},
	}
	storeFlag(cmd, &storePath, "")
	asFlag(cmd, &as, "bytes", "what the input is: bytes, str, npy, json or raw")
	cmd.Flags().StringVar(&format, "format", "pickle", "form of the proxy: "+strings.Join(proxyFormats, ", "))
	cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(proxyFormats, cobra.ShellCompDirectiveNoFileComp))
	cmd.Flags().BoolVar(&evict, "evict", false, "the first resolve deletes the object")
	keyFlag(cmd, &key)
	outputFlags(cmd, &o)
	return cmd
}

// writeProxy writes the proxy of an object that is in the store.
func (a *app) writeProxy(s *proxyplane.Store, t target, evict bool, format string, o output) error {
	p, err := proxyFor(s, t, evict)
	if err != nil {
		return err
	}
	data, err := formatProxy(p, format)
	if err != nil {
		return err
	}
	if err := a.write(o, func(w io.Writer) error { _, err := w.Write(data); return err }); err != nil {
		return err
	}
	if !a.json || o.path == "" || o.path == "-" {
		return nil
	}
	line, err := keyLine(t.key, int64(len(data)))
	if err != nil {
		return err
	}
	return a.printJSON(struct {
		Output string          `json:"output"`
		Kind   json.RawMessage `json:"kind"`
		Key    json.RawMessage `json:"key"`
		Size   int64           `json:"size"` // of the proxy
	}{o.path, line.Kind, line.Key, line.Size})
}

func formatProxy(p anyProxy, format string) (data []byte, err error) {
	switch format {
	case "pickle":
		return p.Pickle()
	case "pickle-0.6":
		return p.Pickle(proxyplane.For(serialize.ProxyStore06))
	case "json":
		data, err = p.MarshalJSON()
	case "text":
		data, err = p.MarshalText()
	}
	return append(bytes.TrimSpace(data), '\n'), err
}

// proxyFor returns a proxy that tells the Python class of its target, so that isinstance there need not fetch it.
func proxyFor(s *proxyplane.Store, t target, evict bool) (anyProxy, error) {
	var opts []proxyplane.PutOption
	if evict {
		opts = append(opts, proxyplane.Evict())
	}
	switch t.tag {
	case serialize.TagBytes, serialize.TagBytes06:
		return proxyplane.ProxyFromKey[[]byte](s, t.key, opts...)
	case serialize.TagString, serialize.TagString06:
		return proxyplane.ProxyFromKey[string](s, t.key, opts...)
	case serialize.TagNumPy:
		return proxyplane.ProxyFromKey[*serialize.Array](s, t.key, opts...)
	}
	switch t.value.(type) {
	case *pickle.Dict:
		return proxyplane.ProxyFromKey[map[string]any](s, t.key, opts...)
	case *pickle.List:
		return proxyplane.ProxyFromKey[[]any](s, t.key, opts...)
	case string:
		return proxyplane.ProxyFromKey[string](s, t.key, opts...)
	case int64:
		return proxyplane.ProxyFromKey[int64](s, t.key, opts...)
	case float64:
		return proxyplane.ProxyFromKey[float64](s, t.key, opts...)
	case bool, nil:
		if t.tag == serialize.TagPickle && t.value != nil {
			return nil, fail(exitBadInput, "true and false cannot be behind a proxy, which Python would take for true in any case; use put")
		}
	}
	return proxyplane.ProxyFromKey[any](s, t.key, opts...)
}
