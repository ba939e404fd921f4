package connectors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// A Driver opens connectors of one kind. It is a value without state; put it in a [Registry].
type Driver struct {
	// Kind is the short name, and Class the Python class that has the same options and keys; the zero Class if Python has none.
	Kind  string
	Class Class

	// PythonOptions are the options that the Python class's constructor takes. Others are ours alone: a proxy for Python leaves them out.
	PythonOptions []string
	// Essential are options of ours without which Python would reach the wrong thing or nothing (a unix socket, a TLS switch): a proxy for
	// Python fails to be written if one is set, and says so.
	Essential []string
	// Secret are options that never travel in a proxy, such as passwords.
	Secret []string

	// Travel, if not nil, replaces the three lists above: it returns the options as they may leave the process, by the rules of
	// [Registry.Travelling]. The multi connector needs it, since its options hold those of other drivers. It may change opts.
	Travel func(r *Registry, opts map[string]any, python bool) (map[string]any, error)

	// Open returns a connector. It must call o.Err and refuse what it does not know. env is never nil.
	Open func(ctx context.Context, o *Options, env *Env) (Connector, error)

	// Locations says what a configuration would touch, for the policy on received proxies; it contacts nothing.
	Locations func(o *Options, env *Env) ([]Location, error)
}

// Location is a place that a connector would open: exactly one of Host, Dir and File is set, or none for one that stays in the process.
type Location struct {
	Kind string // short kind of the connector
	Host string // host name or address without a port
	Dir  string // absolute directory, or the path of a unix socket
	File string // a file that is read to open the connector: a password, a key
}

// Env is what a driver may use of the process it runs in. It never travels.
type Env struct {
	Registry *Registry    // opens inner connectors; never nil in a Driver's Open
	Logger   *slog.Logger // never nil in a Driver's Open
	// Received is set when the configuration came in a proxy, and so from anybody: the driver must not create anything (a directory, say) to satisfy
	// it, delete or replace anything that is no object, nor let it choose bounds or see this process's own objects.
	Received bool
	// Confirm, if not nil, is asked once more with what was really opened, links resolved: what Locations named may have been swapped since. The
	// driver must close it and return the error.
	Confirm func(Location) error
	// Secrets gives secret options that did not travel, by kind and then by name. May be nil.
	Secrets func(kind string, c Config) map[string]any
}

// A Registry opens connectors by kind. The zero Registry is empty and ready; all methods may be called at once by many goroutines once
// registration is over. There is no global one: connectors/all returns a Registry with every driver of this module.
type Registry struct{ drivers []Driver }

// Register adds a driver. A second driver for a kind or class is a programming error, and panics.
func (r *Registry) Register(d Driver) {
	if d.Kind == "" || d.Open == nil || d.Locations == nil {
		panic(fmt.Sprintf("connectors: driver %q lacks Kind, Open or Locations", d.Kind))
	}
	for _, e := range r.drivers {
		if e.Kind == d.Kind || e.Class == d.Class && d.Class != (Class{}) {
			panic(fmt.Sprintf("connectors: a driver for kind %q (%s) is registered already", d.Kind, d.Class))
		}
	}
	r.drivers = append(r.drivers, d)
}

// Kinds returns the short names of the registered drivers, sorted.
func (r *Registry) Kinds() []string {
	var names []string
	for _, d := range r.drivers {
		names = append(names, d.Kind)
	}
	slices.Sort(names)
	return names
}

// Driver returns the driver for a kind: its short name, class name or full Python path. An unknown kind is an [ErrConfig] that lists the known
// ones; one that ProxyStore has and this program has not is [ErrNotBuilt].
func (r *Registry) Driver(kind string) (*Driver, error) {
	short := kind
	known, ok := LookupKind(kind)
	if ok {
		short = known.Kind
	}
	for i, d := range r.drivers {
		if d.Kind == short || d.Class != (Class{}) && d.Class.String() == kind {
			return &r.drivers[i], nil
		}
	}
	if ok {
		return nil, fmt.Errorf("%w: this program has no %s connector; it has %s", ErrNotBuilt, known.Kind, strings.Join(r.Kinds(), ", "))
	}
	return nil, fmt.Errorf("%w: unknown connector kind %.200q; use one of %s", ErrConfig, kind, strings.Join(r.Kinds(), ", "))
}

// Open opens the connector that cfg describes. It borrows cfg. env may be nil.
func (r *Registry) Open(ctx context.Context, cfg Config, env *Env) (Connector, error) {
	d, o, env, err := r.prepare(cfg, env)
	if err != nil {
		return nil, err
	}
	c, err := d.Open(ctx, o, env)
	if err != nil {
		return nil, WrapError("open", d.Kind, nil, err)
	}
	return c, nil
}

// Locations returns what opening cfg would touch, without touching it.
func (r *Registry) Locations(cfg Config, env *Env) ([]Location, error) {
	d, o, env, err := r.prepare(cfg, env)
	if err != nil {
		return nil, err
	}
	return d.Locations(o, env)
}

func (r *Registry) prepare(cfg Config, env *Env) (*Driver, *Options, *Env, error) {
	d, err := r.Driver(cfg.Kind)
	if err != nil {
		return nil, nil, nil, err
	}
	opts, err := NormalizeOptions(cfg.Options)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("connector %s: %w", d.Kind, err)
	}
	e := Env{}
	if env != nil {
		e = *env
	}
	if e.Registry == nil {
		e.Registry = r
	}
	if e.Logger == nil {
		e.Logger = slog.New(slog.DiscardHandler)
	}
	if e.Secrets != nil {
		for k, v := range e.Secrets(d.Kind, cfg) {
			if !slices.Contains(d.Secret, k) {
				return nil, nil, nil, fmt.Errorf("%w: %s is not a secret option of connector %s", ErrConfig, k, d.Kind)
			}
			opts[k] = v
		}
	}
	return d, NewOptions(d.Kind, opts), &e, nil
}

// ErrNotForPython is the error for a configuration that no Python connector can open.
var ErrNotForPython = errors.New("Python has no counterpart")

// Travelling returns cfg as it may leave the process: without secrets, and for Python also without the options that only we know. It fails
// with [ErrNotForPython] if Python would miss something essential.
func (r *Registry) Travelling(cfg Config, python bool) (Config, error) {
	d, err := r.Driver(cfg.Kind)
	if err != nil {
		return Config{}, err
	}
	out := cfg.Clone()
	if python && d.Class != (Class{}) {
		out.Kind = d.Class.String()
	}
	if d.Travel != nil {
		out.Options, err = d.Travel(r, out.Options, python)
		return out, err
	}
	for name, v := range out.Options {
		if python && slices.Contains(d.Essential, name) && !isZeroOption(v) {
			return Config{}, fmt.Errorf("%w for option %s of connector %s; write the proxy as JSON for Go readers, or use a connector without it",
				ErrNotForPython, name, d.Kind)
		}
		if slices.Contains(d.Secret, name) || python && !slices.Contains(d.PythonOptions, name) {
			delete(out.Options, name)
		}
	}
	return out, nil
}

func isZeroOption(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return v == "" || v == false || v == int64(0) || v == float64(0)
}
