package multi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/proxyplane/proxyplane/connectors"
)

var class = connectors.Class{Module: "proxystore.connectors.multi", Name: "MultiConnector"}

// Driver returns the driver of this package, for a Registry that also has the children's drivers.
func Driver() connectors.Driver {
	return connectors.Driver{Kind: "multi", Class: class, Travel: travel, Open: open, Locations: locations}
}

// entry is one child in the options: [class path, {options}, {policy}].
type entry struct {
	name   string
	config connectors.Config
	policy Policy
	raw    any
	onHost bool
}

// maxDepth bounds how deep multi connectors may nest, as it is bounded for their keys.
const maxDepth = 8

// parse reads the options, sorted by name. The entries are copies.
func parse(o *connectors.Options, hostname string) ([]entry, error) {
	opts := connectors.Config{Options: o.All()}.Clone().Options
	if len(opts) == 0 {
		return nil, fmt.Errorf("%w: a multi connector needs at least one child: name = [class path, {options}, {policy}]", connectors.ErrConfig)
	}
	if nesting(opts) > maxDepth {
		return nil, fmt.Errorf("%w: multi connectors nested more than %d deep", connectors.ErrConfig, maxDepth)
	}
	var entries []entry
	for _, name := range slices.Sorted(maps.Keys(opts)) {
		e, err := parseEntry(name, opts[name])
		if err == nil {
			e.onHost, err = e.policy.ValidOnHost(hostname)
		}
		if err != nil {
			return nil, fmt.Errorf("child %.200q: %w", name, err)
		}
		entries = append(entries, e)
	}
	return entries, o.Err()
}

func parseEntry(name string, v any) (entry, error) {
	e := entry{name: name, raw: v}
	kind, opts, pol, ok := split(v)
	if !ok {
		return e, fmt.Errorf("%w: must be [class path, {options}, {policy}], not %.200s", connectors.ErrConfig, fmt.Sprint(v))
	}
	e.config = connectors.Config{Kind: kind, Options: opts}
	var err error
	e.policy, err = parsePolicy(pol)
	return e, err
}

func split(v any) (kind string, opts, policy map[string]any, ok bool) {
	l, _ := v.([]any)
	if len(l) != 3 {
		return "", nil, nil, false
	}
	kind, ok1 := l[0].(string)
	opts, ok2 := l[1].(map[string]any)
	policy, ok3 := l[2].(map[string]any)
	return kind, opts, policy, ok1 && ok2 && ok3
}

// nesting returns how many levels of multi connectors the options have.
func nesting(opts map[string]any) int {
	deepest := 0
	for _, v := range opts {
		kind, inner, _, ok := split(v)
		if known, found := connectors.LookupKind(kind); ok && found && known.Class == class {
			deepest = max(deepest, nesting(inner))
		}
	}
	return 1 + deepest
}

// open opens the children that are for this host: now, or on demand if the configuration came in a proxy.
func open(ctx context.Context, o *connectors.Options, env *connectors.Env) (connectors.Connector, error) {
	m, err := newConnector()
	if err != nil {
		return nil, err
	}
	entries, err := parse(o, m.hostname)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.onHost {
			m.dormant[e.name] = dormant{e.raw, e.policy}
			continue
		}
		c := &child{name: e.name, policy: e.policy, onHost: true, class: keyClass(e.config.Kind)}
		openChild := func(ctx context.Context) (connectors.Connector, error) { return env.Registry.Open(ctx, e.config, env) }
		if env.Received {
			c.raw, c.open, c.opening = e.raw, openChild, make(chan struct{}, 1)
		} else {
			conn, err := openChild(ctx)
			if err != nil {
				m.beginEnd(connectors.ErrClosed)
				return nil, errors.Join(fmt.Errorf("child %q: %w", e.name, err), closeAll(context.WithoutCancel(ctx), m.children))
			}
			c.conn.Store(&conn)
		}
		m.children[e.name] = c
	}
	return m, m.ready()
}

// closeAll takes back what open has opened.
func closeAll(ctx context.Context, children map[string]*child) error {
	var errs []error
	for _, c := range children {
		errs = append(errs, (*c.conn.Load()).Close(ctx))
	}
	return errors.Join(errs...)
}

// locations returns those of the children that are for this host: dormant ones touch nothing.
func locations(o *connectors.Options, env *connectors.Env) ([]connectors.Location, error) {
	host, err := hostname()
	if err != nil {
		return nil, err
	}
	entries, err := parse(o, host)
	if err != nil {
		return nil, err
	}
	var all []connectors.Location
	for _, e := range entries {
		if !e.onHost {
			continue
		}
		if _, err := env.Registry.Driver(e.config.Kind); err != nil && env.Received {
			continue // it cannot be opened here, and must not keep its siblings from being so
		}
		l, err := env.Registry.Locations(e.config, env)
		if err != nil {
			return nil, fmt.Errorf("child %q: %w", e.name, err)
		}
		all = append(all, l...)
	}
	return all, nil
}

// travel applies each child's rules to its options. That holds for dormant children too: one whose driver is not registered makes it fail,
// since nobody here can tell which of its options are secret.
func travel(r *connectors.Registry, opts map[string]any, python bool) (map[string]any, error) {
	if nesting(opts) > maxDepth {
		return nil, fmt.Errorf("%w: multi connectors nested more than %d deep", connectors.ErrConfig, maxDepth)
	}
	for _, name := range slices.Sorted(maps.Keys(opts)) {
		e, err := parseEntry(name, opts[name])
		if err != nil {
			return nil, fmt.Errorf("child %.200q: %w", name, err)
		}
		cfg, err := r.Travelling(e.config, python)
		if err != nil {
			return nil, fmt.Errorf("child %q: %w", name, err)
		}
		opts[name] = []any{cfg.Kind, orEmpty(cfg.Options), opts[name].([]any)[2]}
	}
	return opts, nil
}
