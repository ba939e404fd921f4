package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
)

func (a *app) getCmd() *cobra.Command {
	var storePath, key, as, part string
	var o output
	cmd := &cobra.Command{
		Use:   "get --store FILE --key KEY [-o FILE]",
		Short: "Write an object to standard output or a file",
		Long: `Write an object to standard output or a file.

Without --as, by what it is: bytes and str as they are, arrays as .npy, other values as JSON. With --as bytes, str, npy or json it is converted, or
the command fails and says why; --as raw is the object as it is stored, tag included. JSON has sorted keys, bytes in base64, and arrays as lists.`,
		Example: `  proxyplane get --store store.toml --key '["3d6c..."]' -o copy.bin
  proxyplane put -s store.toml data.bin | proxyplane get -s store.toml --key - > copy.bin`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if as != "" {
				if err := checkForm(as); err != nil {
					return err
				}
			}
			rng, err := parseRange(part, as)
			if err != nil {
				return err
			}
			return a.withStore(cmd.Context(), storePath, func(s *proxyplane.Store) error {
				k, err := a.readKey(cmd.Context(), key, s)
				if err != nil {
					return err
				}
				w, err := a.load(cmd.Context(), s, k, as, rng, o)
				if err != nil {
					return err
				}
				return a.summary(w, o)
			})
		},
	}
	storeFlag(cmd, &storePath, "")
	keyFlag(cmd, &key)
	asFlag(cmd, &as, "", "form of the output: bytes, str, npy, json or raw (default: by the object's own kind)")
	rangeFlag(cmd, &part)
	outputFlags(cmd, &o)
	return cmd
}

func rangeFlag(cmd *cobra.Command, part *string) {
	cmd.Flags().StringVar(part, "range", "", "only LEN bytes from offset OFF of the content: OFF:LEN, or OFF: for all from there")
}

// parseRange reads the value of --range; nil without one.
func parseRange(v, as string) (*span, error) {
	if v == "" {
		return nil, nil
	}
	if as != "" {
		return nil, fail(exitUsage, "--range gives bytes of the stored content; use it without --as or --raw")
	}
	off, n, ok := strings.Cut(v, ":")
	s := span{n: -1}
	var err error
	if s.off, err = strconv.ParseInt(off, 10, 64); err == nil && n != "" {
		s.n, err = strconv.ParseInt(n, 10, 64)
		ok = ok && s.n >= 0
	}
	if err != nil || !ok || s.off < 0 {
		return nil, fail(exitUsage, "--range %q: expected OFF:LEN or OFF:, two numbers of bytes that are not negative", v)
	}
	return &s, nil
}

// summary prints under --json what was written: to standard output, unless the object went there.
func (a *app) summary(w written, o output) error {
	if !a.json {
		return nil
	}
	if o.path == "" || o.path == "-" {
		_, err := fmt.Fprintf(a.err, "{\"type\":%q,\"tag\":%q,\"size\":%d}\n", w.Type, w.Tag, w.Size)
		return err
	}
	w.Output = o.path
	return a.printJSON(w)
}

func (a *app) existsCmd() *cobra.Command {
	var storePath, key string
	cmd := &cobra.Command{
		Use:     "exists --store FILE --key KEY",
		Short:   "Tell by the exit code whether an object exists",
		Long:    "Tell by the exit code whether an object exists: 0 if it does, 1 if not, another on errors. Prints nothing, or {\"exists\":true} with --json.",
		Example: `  if proxyplane exists -s store.toml --key "$key"; then echo there; fi`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withStore(cmd.Context(), storePath, func(s *proxyplane.Store) error {
				k, err := a.readKey(cmd.Context(), key, s)
				if err != nil {
					return err
				}
				ok, err := s.Exists(cmd.Context(), k)
				if err != nil {
					return err
				}
				if a.json {
					if err := a.printJSON(map[string]bool{"exists": ok}); err != nil {
						return err
					}
				}
				if !ok {
					return errNo
				}
				return nil
			})
		},
	}
	storeFlag(cmd, &storePath, "")
	keyFlag(cmd, &key)
	return cmd
}

func (a *app) evictCmd() *cobra.Command {
	var storePath, key string
	cmd := &cobra.Command{
		Use:   "evict --store FILE --key KEY",
		Short: "Delete an object; one that is not there is no error",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withStore(cmd.Context(), storePath, func(s *proxyplane.Store) error {
				k, err := a.readKey(cmd.Context(), key, s)
				if err != nil {
					return err
				}
				if err := s.Evict(cmd.Context(), k); err != nil {
					return err
				}
				if a.json {
					return a.printJSON(struct {
						Evicted string `json:"evicted"`
					}{connectors.FormatKey(k)})
				}
				return nil
			})
		},
	}
	storeFlag(cmd, &storePath, "")
	keyFlag(cmd, &key)
	return cmd
}
