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
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/all"
)

func (a *app) configCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Make, show and check store files",
		Long:  "Make, show and check store files: the TOML that ProxyStore's StoreConfig.from_toml and write_toml use.",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.configNewCmd(), a.configShowCmd(), a.configCheckCmd())
	return cmd
}

// shownConfig is a store configuration without secrets, for --json.
type shownConfig struct {
	Name           string         `json:"name"`
	Kind           string         `json:"kind"`
	Connector      string         `json:"connector"` // Python path
	Options        map[string]any `json:"options"`
	CacheSize      int            `json:"cache_size"`
	Metrics        bool           `json:"metrics"`
	PopulateTarget bool           `json:"populate_target"`
	AutoRegister   bool           `json:"auto_register"`
}

func shown(c proxyplane.Config) shownConfig {
	s := shownConfig{Name: c.Name, Kind: c.Connector.Kind, Connector: c.Connector.Kind, CacheSize: c.CacheSize, Metrics: c.Metrics,
		PopulateTarget: c.PopulateTarget, AutoRegister: c.AutoRegister}
	if k, ok := connectors.LookupKind(c.Connector.Kind); ok {
		s.Kind, s.Connector = k.Kind, k.Path()
	}
	s.Options = redact(s.Kind, c.Connector.Options)
	return s
}

func (a *app) configShowCmd() *cobra.Command {
	var storePath string
	cmd := &cobra.Command{
		Use:   "show --store FILE",
		Short: "Show a store file, without its passwords",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := readStoreConfig(storePath)
			if err != nil {
				return err
			}
			s := shown(cfg)
			if a.json {
				return a.printJSON(s)
			}
			var b bytes.Buffer
			w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
			row := func(name string, v any) { fmt.Fprintf(w, "%s\t%s\n", name, printable(fmt.Sprint(v))) }
			row("name", yesNo(s.Name == "", "(made from the connector)", s.Name))
			row("connector", s.Kind+" ("+s.Connector+")")
			for _, name := range slices.Sorted(maps.Keys(s.Options)) {
				row("  "+name, shorten(s.Options[name]))
			}
			row("cache_size", s.CacheSize)
			row("metrics", s.Metrics)
			row("populate_target", s.PopulateTarget)
			row("auto_register", s.AutoRegister)
			w.Flush()
			_, err = a.out.Write(b.Bytes())
			return err
		},
	}
	storeFlag(cmd, &storePath, "")
	return cmd
}

func (a *app) configCheckCmd() *cobra.Command {
	var storePath string
	var offline bool
	cmd := &cobra.Command{
		Use:   "check --store FILE",
		Short: "Check a store file, and that the store works",
		Long: `Check a store file, and then the store: open it, put an object of 1,000 bytes, get it, delete it. Exit code 0 if all of that works. With --offline
only the file is checked.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := readStoreConfig(storePath)
			if err != nil {
				return err
			}
			places, err := all.Registry().Locations(cfg.Connector, nil)
			if err != nil {
				return err
			}
			steps := []string{"configuration"}
			if !offline {
				if err := a.withStore(cmd.Context(), storePath, func(s *proxyplane.Store) error { return tryStore(cmd.Context(), s) }); err != nil {
					return err
				}
				steps = append(steps, "open", "put", "exists", "get", "evict")
			}
			where := []string{}
			for _, p := range places {
				where = append(where, strings.TrimSpace(p.Kind+" "+p.Host+p.Dir))
			}
			if a.json {
				return a.printJSON(map[string]any{"ok": true, "checked": steps, "places": where})
			}
			fmt.Fprintf(a.out, "ok: %s (%s)\n", strings.Join(steps, ", "), printable(strings.Join(where, "; ")))
			return nil
		},
	}
	storeFlag(cmd, &storePath, "")
	cmd.Flags().BoolVar(&offline, "offline", false, "check the file only; contact nothing")
	return cmd
}

// tryStore puts, gets and evicts a small object.
func tryStore(ctx context.Context, s *proxyplane.Store) (err error) {
	want := bytes.Repeat([]byte("proxyplane"), 100)
	key, err := s.Put(ctx, want)
	if err != nil {
		return fmt.Errorf("put: %w", err)
	}
	defer func() {
		if everr := s.Evict(context.WithoutCancel(ctx), key); everr != nil {
			err = errors.Join(err, fmt.Errorf("evict: %w", everr))
		}
	}()
	if ok, err := s.Exists(ctx, key); err != nil || !ok {
		return fmt.Errorf("exists right after put: %v, %w", ok, err)
	}
	got, err := proxyplane.Get[[]byte](ctx, s, key)
	if err != nil {
		return fmt.Errorf("get: %w", err)
	}
	if !bytes.Equal(got, want) {
		return fail(exitBadInput, "get returned other bytes than were put")
	}
	return nil
}

func (a *app) configNewCmd() *cobra.Command {
	var name, kind, path string
	var options []string
	var cacheSize int
	var force bool
	cmd := &cobra.Command{
		Use:   "new --kind KIND [--option NAME=VALUE ...] [-o FILE]",
		Short: "Write a store file",
		Long: `Write a store file for a connector. Values of options that are JSON (numbers, true, lists, "quoted text") are taken as that, others as text. A
relative store_dir is made absolute, since other processes run elsewhere. The file is readable by you only, as it may hold passwords.`,
		Example: `  proxyplane config new --kind file --option store_dir=/scratch/me/objects -o store.toml
  proxyplane config new --kind redis --option hostname=localhost --option port=6379 -o store.toml`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if kind == "" {
				return fail(exitUsage, "no --kind; this build has %s", strings.Join(all.Registry().Kinds(), ", "))
			}
			c := connectors.Config{Kind: kind, Options: map[string]any{}}
			if k, ok := connectors.LookupKind(kind); ok {
				c.Kind = k.Path()
				if k.Kind == "file" {
					// Python deletes the directory when a store is closed, unless it is told not to; a store that programs share must stay.
					c.Options["clear"] = false
				}
			}
			for _, o := range options {
				key, text, ok := strings.Cut(o, "=")
				if !ok || key == "" {
					return fail(exitUsage, "--option %q: expected NAME=VALUE", o)
				}
				c.Options[key] = optionValue(text)
			}
			if dir, ok := c.Options["store_dir"].(string); ok && dir != "" {
				abs, err := filepath.Abs(dir)
				if err != nil {
					return err
				}
				c.Options["store_dir"] = abs
			}
			normal, err := connectors.NormalizeOptions(c.Options)
			if err != nil {
				return err
			}
			c.Options = normal
			if _, err := all.Registry().Locations(c, nil); err != nil {
				return err
			}
			cfg := proxyplane.NewConfig(name, c)
			cfg.CacheSize = cacheSize
			if cacheSize < 0 {
				return fail(exitUsage, "--cache-size %d: use 0 to turn the cache off", cacheSize)
			}
			if cfg.Name == "" {
				// Python finds stores by name, so that there must be one, and another for every connector.
				canonical, err := c.Canonical()
				if err != nil {
					return err
				}
				cfg.Name = storeName(kind, canonical)
			}
			data, err := cfg.TOML()
			if err != nil {
				return err
			}
			if path == "" || path == "-" {
				if a.json {
					return a.printJSON(shown(cfg))
				}
				_, err = a.out.Write(data)
				return err
			}
			if _, err := os.Lstat(path); err == nil && !force {
				return fail(exitUsage, "%s exists; use --force to replace it", path)
			}
			if err := writeFile(path, 0o600, func(w io.Writer) error { _, err := w.Write(data); return err }); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(struct {
					Output string `json:"output"`
					shownConfig
				}{path, shown(cfg)})
			}
			fmt.Fprintf(a.out, "wrote %s; check it with: proxyplane config check --store %s\n", path, path)
			return nil
		},
	}
	cmd.Flags().StringVar(&kind, "kind", "", "connector: "+strings.Join(all.Registry().Kinds(), ", "))
	cmd.Flags().StringArrayVar(&options, "option", nil, "NAME=VALUE, an option of the connector (repeatable)")
	cmd.Flags().StringVar(&name, "name", "", "name of the store, by which Python finds it (default: made from the connector)")
	cmd.Flags().IntVar(&cacheSize, "cache-size", 16, "objects that Python keeps in its cache; 0 turns caches off")
	cmd.Flags().StringVarP(&path, "output", "o", "", "write to FILE instead of standard output")
	cmd.Flags().BoolVar(&force, "force", false, "replace FILE")
	cmd.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions(all.Registry().Kinds(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// optionValue reads the value of an option: JSON if it is that, else text.
func optionValue(text string) any {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return text
	}
	if _, err := dec.Token(); err != io.EOF {
		return text
	}
	return v
}
