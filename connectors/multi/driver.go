package multi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

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

// What a configuration may have, with the multi connectors in it. The depth is bounded for keys too. Patterns are compiled before any policy on
// received proxies is asked, so that all of them together must be cheap.
const (
	maxDepth    = 8
	maxChildren = 256
	maxPatterns = 256
)

// parse reads the options, sorted by name. The entries are copies.
func parse(o *connectors.Options, hostname string) ([]entry, error) {
	opts := connectors.Config{Options: o.All()}.Clone().Options
	if len(opts) == 0 {
		return nil, fmt.Errorf("%w: a multi connector needs at least one child: name = [class path, {options}, {policy}]", connectors.ErrConfig)
	}
	if err := measure(opts).check(); err != nil {
		return nil, err
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
		return e, fmt.Errorf("%w: must be [class path, {options}, {policy}], not %s", connectors.ErrConfig, shape(v))
	}
	e.config = connectors.Config{Kind: kind, Options: opts}
	var err error
	e.policy, err = parsePolicy(pol)
	return e, err
}

// shape says what somebody wrote without its contents, which may be a password.
func shape(v any) string {
	switch v := v.(type) {
	case []any:
		parts := make([]string, 0, len(v))
		for _, e := range v[:min(len(v), 4)] {
			parts = append(parts, typeName(e))
		}
		if len(v) > 4 {
			parts = append(parts, "...")
		}
		return "[" + strings.Join(parts, ", ") + "]"
	default:
		return typeName(v)
	}
}

func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "nothing"
	case string:
		return "a string"
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return fmt.Sprintf("%T", v)
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

// extent is how much there is in the options of a multi connector, of the ones within them too.
type extent struct{ depth, children, patterns int }

func measure(opts map[string]any) extent {
	e := extent{children: len(opts)}
	for _, v := range opts {
		kind, inner, policy, ok := split(v)
		if !ok {
			continue
		}
		if l, ok := policy["host_pattern"].([]any); ok {
			e.patterns += len(l)
		} else if policy["host_pattern"] != nil {
			e.patterns++
		}
		if known, found := connectors.LookupKind(kind); found && known.Class == class {
			in := measure(inner)
			e.depth = max(e.depth, in.depth)
			e.children += in.children
			e.patterns += in.patterns
		}
	}
	e.depth++
	return e
}

func (e extent) check() error {
	switch {
	case e.depth > maxDepth:
		return fmt.Errorf("%w: multi connectors nested more than %d deep", connectors.ErrConfig, maxDepth)
	case e.children > maxChildren:
		return fmt.Errorf("%w: a multi connector of %d children; the most is %d", connectors.ErrConfig, e.children, maxChildren)
	case e.patterns > maxPatterns:
		return fmt.Errorf("%w: a multi connector with %d host patterns; the most is %d, so write several as one with |", connectors.ErrConfig,
			e.patterns, maxPatterns)
	}
	return nil
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
	if err := measure(opts).check(); err != nil {
		return nil, err
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
