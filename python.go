package proxyplane

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/serialize"
	"github.com/proxyplane/proxyplane/serialize/pickle"
)

// The classes and functions of ProxyStore that a pickled proxy names. They are the same in 0.6.5 and 1.1.0, except where they say so.
// Sources: proxystore.proxy.Proxy.__reduce__, proxystore.store.ref.BaseRefProxy.__reduce__, proxystore.store.factory.StoreFactory.
var (
	pyProxy      = pickle.Global{Module: "proxystore.proxy", Name: "_proxy_trampoline"}
	pyRef        = pickle.Global{Module: "proxystore.store.ref", Name: "_proxy_trampoline"}         // 1.1.0: the class name is the first argument
	pyOwned06    = pickle.Global{Module: "proxystore.store.ref", Name: "_owned_proxy_trampoline"}   // 0.6.5: one function for each class,
	pyRefOnly06  = pickle.Global{Module: "proxystore.store.ref", Name: "_ref_proxy_trampoline"}     // with the factory as only argument
	pyRefMut06   = pickle.Global{Module: "proxystore.store.ref", Name: "_ref_mut_proxy_trampoline"} //
	pyFactory    = pickle.Global{Module: "proxystore.store.factory", Name: "StoreFactory"}
	pyPolling    = pickle.Global{Module: "proxystore.store.factory", Name: "PollingStoreFactory"}
	pyConfig     = pickle.Global{Module: "proxystore.store.config", Name: "StoreConfig"} // 1.1.0: 0.6.5 has a plain dict
	pyValidate   = pickle.Global{Module: "proxystore.store.config", Name: "StoreConfig.model_validate"}
	pyConnector  = pickle.Global{Module: "proxystore.store.config", Name: "ConnectorConfig"}
	pyPartial    = pickle.Global{Module: "functools", Name: "partial"}
	pyFromConfig = pickle.Global{Module: "proxystore.connectors.multi", Name: "MultiConnector.from_config"}
)

// flavours06 are the functions that make 0.6.5's reference proxies.
var flavours06 = map[Flavour]pickle.Global{OwnedFlavour: pyOwned06, RefFlavour: pyRefOnly06, RefMutFlavour: pyRefMut06}

// A PickleOption changes how a proxy is pickled.
type PickleOption func(*pickleOptions)

type pickleOptions struct{ format serialize.Format }

// For writes the pickle for readers of another version: For(serialize.ProxyStore06) for ProxyStore 0.6.5. The object itself must have been
// put in that version's format too ([As]).
func For(f serialize.Format) PickleOption { return func(o *pickleOptions) { o.format = f } }

// Pickle returns the proxy as Python's pickle: there it is a transparent proxystore.proxy.Proxy that resolves lazily, for pickle, dill and cloudpickle
// alike. Secrets are left out, and so are options that only this module knows; if Python could not reach the objects without one, the error
// is connectors.ErrNotForPython.
func (p *Proxy[T]) Pickle(opts ...PickleOption) ([]byte, error) {
	var o pickleOptions
	for _, opt := range opts {
		opt(&o)
	}
	v, err := p.travelling().pickle(o.format)
	if err != nil {
		return nil, err
	}
	return pickle.Marshal(v)
}

// MarshalPickle returns what stands for the proxy within a larger pickle, so that containers of proxies can be put into a store.
func (p *Proxy[T]) MarshalPickle() (any, error) { return p.travelling().pickle(serialize.ProxyStore11) }

func (r *reference) pickle(f serialize.Format) (any, error) {
	cfg, err := r.config(true)
	if err != nil {
		return nil, err
	}
	if r.foreign != "" {
		return nil, fmt.Errorf("%w for the deserializer %s: it came by name only and cannot be written back", connectors.ErrNotForPython, r.foreign)
	}
	key, err := pickleKey(r.key, 0)
	if err != nil {
		return nil, err
	}
	var config any
	if f == serialize.ProxyStore06 {
		config, err = pickleConfig06(cfg)
	} else {
		config, err = pickleConfig(cfg)
	}
	if err != nil {
		return nil, err
	}
	state := dict("key", key, "store_config", config, "evict", r.evict, "deserializer", nil, "_obj_future", nil)
	class := pyFactory
	if r.polling != nil {
		class = pyPolling
		j := futureInfo(*r.polling)
		state.Set("_polling_interval", j.Interval)
		state.Set("_polling_backoff_factor", j.Backoff)
		state.Set("_polling_interval_limit", orNone(j.Limit))
		state.Set("_polling_timeout", orNone(j.Timeout))
	}
	factory := &pickle.Object{Callable: class, New: true, State: state, HasState: true}
	var target any
	if r.class != (connectors.Class{}) {
		target = pickle.Global{Module: r.class.Module, Name: r.class.Name}
	}
	switch {
	case r.flavour == Plain:
		return &pickle.Object{Callable: pyProxy, Args: pickle.Tuple{factory, target, nil}}, nil
	case f == serialize.ProxyStore06:
		return &pickle.Object{Callable: flavours06[r.flavour], Args: pickle.Tuple{factory}}, nil
	}
	return &pickle.Object{Callable: pyRef, Args: pickle.Tuple{r.flavour.String(), factory, target, nil}}, nil
}

func orNone(f *float64) any {
	if f == nil {
		return nil
	}
	return *f
}

// dict returns a Python dict of alternating keys and values.
func dict(kv ...any) *pickle.Dict {
	d := pickle.NewDict()
	for i := 0; i < len(kv); i += 2 {
		d.Set(kv[i], kv[i+1])
	}
	return d
}

// maxKeyNesting bounds multi keys within multi keys.
const maxKeyNesting = 8

// pickleKey returns a key as the NamedTuple that it is in Python.
func pickleKey(key Key, depth int) (any, error) {
	if depth > maxKeyNesting {
		return nil, fmt.Errorf("%w: nested more than %d deep", connectors.ErrInvalidKey, maxKeyNesting)
	}
	args := pickle.Tuple{}
	for _, f := range key.Tuple() {
		switch f := f.(type) {
		case Key:
			inner, err := pickleKey(f, depth+1)
			if err != nil {
				return nil, err
			}
			args = append(args, inner)
		case []string:
			t := make(pickle.Tuple, len(f))
			for i, s := range f {
				t[i] = s
			}
			args = append(args, t)
		default:
			args = append(args, f)
		}
	}
	class := key.Class()
	return &pickle.Object{Callable: pickle.Global{Module: class.Module, Name: class.Name}, New: true, Args: args}, nil
}

// pickleConfig returns 1.1.0's StoreConfig, made by its own validation so that nothing depends on pydantic's internals.
func pickleConfig(c Config) (any, error) {
	kind, options, err := pickleOptionsOf(c.Connector, false)
	if err != nil {
		return nil, err
	}
	var connector any = dict("kind", kind.Class.String(), "options", options)
	if kind.Kind == "multi" {
		// ConnectorConfig.get_connector calls MultiConnector(**options), which does not take what MultiConnector.config() returns, so that
		// Python's own proxies of a multi store resolve in no other process. from_config takes it: the object carries that call instead
		// of the method, and makes it as late as the method would. A ConnectorConfig passes validation as it is.
		call := &pickle.Object{Callable: pyPartial, Args: pickle.Tuple{pyFromConfig, options}}
		connector = &pickle.Object{Callable: pyConnector, New: true, HasState: true, State: dict(
			"__dict__", dict("kind", kind.Class.String(), "options", options, "get_connector", call),
			"__pydantic_extra__", nil,
			"__pydantic_fields_set__", &pickle.Set{Items: []any{"kind", "options"}},
			"__pydantic_private__", nil)}
	}
	return &pickle.Object{Callable: pyValidate, Args: pickle.Tuple{dict(
		"name", c.Name, "connector", connector, "serializer", nil, "deserializer", nil, "cache_size", c.CacheSize,
		"metrics", c.Metrics, "populate_target", c.PopulateTarget, "auto_register", c.AutoRegister)}}, nil
}

// pickleConfig06 returns 0.6.5's StoreConfig, a dict.
func pickleConfig06(c Config) (any, error) {
	kind, options, err := pickleOptionsOf(c.Connector, true)
	if err != nil {
		return nil, err
	}
	return dict("name", c.Name, "connector_type", kind.Class.String(), "connector_config", options, "serializer", nil, "deserializer", nil,
		"cache_size", c.CacheSize, "metrics", c.Metrics, "populate_target", c.PopulateTarget, "register", c.AutoRegister), nil
}

// since1 are the connector options that ProxyStore 0.6.5 does not know yet.
var since1 = map[string]string{"file": "buffering", "globus": "buffering", "local": "include_data_in_config"}

// pickleOptionsOf returns a connector's options as Python's constructor (or from_config, for multi) takes them.
func pickleOptionsOf(c connectors.Config, v06 bool) (connectors.Known, *pickle.Dict, error) {
	kind, ok := connectors.LookupKind(c.Kind)
	if !ok {
		// A connector of the user's own: Python needs one of the same path.
		dot := strings.LastIndexByte(c.Kind, '.')
		if dot < 0 {
			return kind, nil, fmt.Errorf("%w for connector kind %q", connectors.ErrNotForPython, c.Kind)
		}
		kind = connectors.Known{Kind: c.Kind, Class: connectors.Class{Module: c.Kind[:dot], Name: c.Kind[dot+1:]}}
	}
	options := pickle.NewDict()
	for name, v := range sorted(c.Options) {
		if v06 && since1[kind.Kind] == name {
			continue
		}
		if kind.Kind == "multi" {
			child, err := pickleChild(name, v, v06)
			if err != nil {
				return kind, nil, err
			}
			options.Set(name, child)
			continue
		}
		if data, ok := v.(map[string]any); ok && kind.Kind == "local" && name == "store_dict" {
			objects := pickle.NewDict()
			for id, obj := range sorted(data) {
				key, _ := pickleKey(connectors.LocalKey{ID: id}, 0)
				objects.Set(key, obj)
			}
			v = objects
		}
		options.Set(name, v)
	}
	return kind, options, nil
}

// pickleChild returns one connector of a multi connector: the tuple (path, options, policy) of MultiConnector.config().
func pickleChild(name string, v any, v06 bool) (any, error) {
	l, ok := v.([]any)
	if !ok || len(l) != 3 {
		return nil, fmt.Errorf("%w: connector %q of a multi connector is not [path, options, policy]", ErrConfig, name)
	}
	path, ok1 := l[0].(string)
	opts, ok2 := l[1].(map[string]any)
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("%w: connector %q of a multi connector is not [path, options, policy]", ErrConfig, name)
	}
	kind, options, err := pickleOptionsOf(connectors.Config{Kind: path, Options: opts}, v06)
	if err != nil {
		return nil, fmt.Errorf("connector %q: %w", name, err)
	}
	return pickle.Tuple{kind.Class.String(), options, l[2]}, nil
}

// parsePickle decodes a pickled proxy. Nothing in it is executed or looked up: it is compared with the forms above.
func parsePickle(data []byte) (reference, error) {
	if len(data) > maxProxySize {
		return reference{}, fmt.Errorf("%w: %d bytes; a proxy has at most %d", ErrBadProxy, len(data), maxProxySize)
	}
	v, err := pickle.Decode(data)
	if err != nil {
		return reference{}, fmt.Errorf("%w: neither JSON, text nor binary form, and as a pickle: %w", ErrBadProxy, err)
	}
	return fromPickle(v)
}

// fromPickle reads a decoded pickle as a proxy.
func fromPickle(v any) (reference, error) {
	o, ok := v.(*pickle.Object)
	if !ok {
		return reference{}, fmt.Errorf("%w: a pickled %s", ErrBadProxy, describe(v))
	}
	callable, _ := o.Class()
	r := reference{form: "pickle"}
	args := o.Args
	switch callable {
	case pyProxy:
	case pyRef:
		name, ok := arg(args, 0).(string)
		if !ok {
			return r, fmt.Errorf("%w: %s without a class name", ErrBadProxy, callable)
		}
		var err error
		if r.flavour, err = parseFlavour(name); err != nil {
			return r, err
		}
		args = args[1:]
	case pyOwned06:
		r.flavour = OwnedFlavour
	case pyRefOnly06:
		r.flavour = RefFlavour
	case pyRefMut06:
		r.flavour = RefMutFlavour
	default:
		return r, fmt.Errorf("%w: a pickled %s; a proxy calls %s", ErrBadProxy, describe(v), pyProxy)
	}
	if err := r.fromFactory(arg(args, 0)); err != nil {
		return r, err
	}
	if class, ok := arg(args, 1).(pickle.Global); ok {
		r.class = connectors.Class{Module: class.Module, Name: class.Name}
	}
	return r, nil // the third argument is a cached hash, of no use here
}

func arg(args pickle.Tuple, i int) any {
	if i < len(args) {
		return args[i]
	}
	return nil
}

// describe names a decoded value for messages.
func describe(v any) string {
	switch v := v.(type) {
	case *pickle.Object:
		if class, ok := v.Class(); ok {
			return "call of " + describe(class)
		}
		return "object"
	case pickle.Global:
		return fmt.Sprintf("%.100s.%.100s", v.Module, v.Name) // a hostile one may be a megabyte
	case nil:
		return "None"
	}
	return strings.TrimPrefix(strings.TrimPrefix(fmt.Sprintf("%T", v), "*"), "pickle.")
}

// fromFactory reads a StoreFactory or PollingStoreFactory.
func (r *reference) fromFactory(v any) error {
	o, ok := v.(*pickle.Object)
	class, _ := o.Class()
	if !ok || class != pyFactory && class != pyPolling {
		return fmt.Errorf("%w: its factory is a %s; only proxies of a Store (%s) can be resolved without Python", ErrBadProxy, describe(v), pyFactory)
	}
	state, ok := o.State.(*pickle.Dict)
	if !ok {
		return fmt.Errorf("%w: a %s without state", ErrBadProxy, class.Name)
	}
	field := func(name string) any { v, _ := state.GetString(name); return v }
	var err error
	if r.key, err = keyFromPickle(field("key"), 0); err != nil {
		return fmt.Errorf("%w: %w", ErrBadProxy, err)
	}
	var storeDeserializer any
	if r.received, storeDeserializer, err = configFromPickle(field("store_config")); err != nil {
		return err
	}
	if _, plain := field("store_config").(*pickle.Dict); plain {
		r.form = "pickle-0.6"
	}
	if evict, ok := field("evict").(bool); ok {
		r.evict = evict
	}
	if d := field("deserializer"); d != nil { // as in StoreFactory, its own comes before the store's
		r.foreign = describe(d)
	} else if storeDeserializer != nil {
		r.foreign = describe(storeDeserializer)
	}
	if class == pyPolling {
		return r.fromPolling(field)
	}
	return nil
}

func (r *reference) fromPolling(field func(string) any) error {
	j := FutureInfo{Interval: 1, Backoff: 1}
	read := func(name string) *float64 {
		switch v := field(name).(type) {
		case int64:
			f := float64(v)
			return &f
		case float64:
			return &v
		}
		return nil
	}
	set(&j.Interval, read("_polling_interval"))
	set(&j.Backoff, read("_polling_backoff_factor"))
	j.Limit, j.Timeout = read("_polling_interval_limit"), read("_polling_timeout")
	for _, f := range []**float64{&j.Limit, &j.Timeout} {
		if *f != nil && math.IsInf(**f, 1) {
			*f = nil // no limit
		}
	}
	var err error
	r.polling, err = j.polling()
	// Python waits for ever where there is no timeout, and not at all for a timeout of 0.
	if err == nil && j.Timeout != nil && *j.Timeout == 0 {
		r.polling.Timeout = time.Nanosecond
	}
	return err
}

// keyFromPickle reads a NamedTuple.
func keyFromPickle(v any, depth int) (Key, error) {
	if depth > maxKeyNesting {
		return nil, fmt.Errorf("%w: nested more than %d deep", connectors.ErrInvalidKey, maxKeyNesting)
	}
	o, ok := v.(*pickle.Object)
	class, ok2 := o.Class()
	if !ok || !ok2 {
		return nil, fmt.Errorf("%w: %s, not a NamedTuple", connectors.ErrInvalidKey, describe(v))
	}
	tuple := make([]any, len(o.Args))
	for i, a := range o.Args {
		switch a := a.(type) {
		case *pickle.Object:
			inner, err := keyFromPickle(a, depth+1)
			if err != nil {
				return nil, err
			}
			tuple[i] = inner
		case pickle.Tuple:
			ids := make([]string, len(a))
			for j, id := range a {
				if ids[j], ok = id.(string); !ok {
					return nil, fmt.Errorf("%w: %s with a tuple of %T", connectors.ErrInvalidKey, class.Name, id)
				}
			}
			tuple[i] = ids
		default:
			tuple[i] = a
		}
	}
	return connectors.NewKeyFromTuple(connectors.Class{Module: class.Module, Name: class.Name}, tuple)
}

// configFromPickle reads a StoreConfig: 0.6.5's dict, 1.1.0's pydantic object, or the call of model_validate that we write. It also returns the
// store's own deserializer, nil for ProxyStore's.
func configFromPickle(v any) (*Config, any, error) {
	fields, old := v.(*pickle.Dict)
	if o, ok := v.(*pickle.Object); ok {
		fields = fieldsOf(o, pyConfig, pyValidate)
	}
	if fields == nil {
		return nil, nil, fmt.Errorf("%w: its store_config is a %s; expected %s (or a dict, from 0.6.5)", ErrBadProxy, describe(v), pyConfig)
	}
	field := func(name string) any { v, _ := fields.GetString(name); return v }
	kind, options, register := field("connector_type"), field("connector_config"), field("register")
	if !old {
		connector, ok := field("connector").(*pickle.Dict)
		if o, isObject := field("connector").(*pickle.Object); isObject {
			connector = fieldsOf(o, pyConnector, pickle.Global{Module: pyConnector.Module, Name: "ConnectorConfig.model_validate"})
			ok = connector != nil
		}
		if !ok {
			return nil, nil, fmt.Errorf("%w: its connector is a %s; expected %s", ErrBadProxy, describe(field("connector")), pyConnector)
		}
		kind, _ = connector.GetString("kind")
		options, _ = connector.GetString("options")
		register = field("auto_register")
	}
	name, ok1 := field("name").(string)
	path, ok2 := kind.(string)
	if !ok1 || !ok2 {
		return nil, nil, fmt.Errorf("%w: its store has no name or no connector kind", ErrBadProxy)
	}
	opts, err := optionsFromPickle(path, options)
	if err != nil {
		return nil, nil, err
	}
	c := NewConfig(name, connectors.Config{Kind: path, Options: opts})
	if n, ok := field("cache_size").(int64); ok {
		c.CacheSize = int(min(max(n, 0), math.MaxInt32))
	}
	c.Metrics, _ = field("metrics").(bool)
	c.PopulateTarget, _ = field("populate_target").(bool)
	c.AutoRegister, _ = register.(bool)
	return &c, field("deserializer"), nil
}

// fieldsOf returns the fields of a pydantic model that was pickled as class with a state, or as a call of validate with a dict.
func fieldsOf(o *pickle.Object, class, validate pickle.Global) *pickle.Dict {
	switch g, _ := o.Class(); g {
	case class:
		fields, _ := o.Fields()
		return fields
	case validate:
		fields, _ := arg(o.Args, 0).(*pickle.Dict)
		return fields
	}
	return nil
}

// optionsFromPickle returns a connector's options in the form of connectors.Config.
func optionsFromPickle(path string, v any) (map[string]any, error) {
	d, ok := v.(*pickle.Dict)
	if v != nil && !ok {
		return nil, fmt.Errorf("%w: its connector's options are a %s; expected a dict", ErrBadProxy, describe(v))
	}
	if d == nil {
		return map[string]any{}, nil
	}
	if kind, ok := connectors.LookupKind(path); ok && kind.Kind == "local" {
		if err := localObjects(d); err != nil {
			return nil, err
		}
	}
	plain, err := pickle.ToGo(d)
	if err != nil {
		return nil, fmt.Errorf("%w: its connector's options: %w", ErrBadProxy, err)
	}
	options, ok := plain.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%w: its connector's options have names that are no strings", ErrBadProxy)
	}
	if options, err = connectors.NormalizeOptions(options); err != nil {
		return nil, fmt.Errorf("%w: its connector's options: %w", ErrBadProxy, err)
	}
	return options, nil
}

// localObjects replaces the LocalKeys in a local connector's store_dict by their ids.
func localObjects(options *pickle.Dict) error {
	v, _ := options.GetString("store_dict")
	if v == nil {
		return nil
	}
	objects, ok := v.(*pickle.Dict)
	if !ok {
		return fmt.Errorf("%w: its store_dict is a %s", ErrBadProxy, describe(v))
	}
	byID := pickle.NewDict()
	for k, obj := range objects.All() {
		key, err := keyFromPickle(k, 0)
		if err != nil {
			return fmt.Errorf("%w: store_dict: %w", ErrBadProxy, err)
		}
		byID.Set(key.Identity(), obj)
	}
	options.Set("store_dict", byID)
	return nil
}

// UnmarshalPickleFor makes p the proxy that is part of a larger pickle, so that containers of proxies can be got from a store. Such a proxy finds its
// own store where the one around it came from, under the same policy.
func (p *Proxy[T]) UnmarshalPickleFor(owner, v any) error {
	r, err := fromPickle(v)
	if stores, ok := owner.(*Stores); ok && p.ref.stores == nil {
		p.ref.stores = stores
	}
	return p.receive(r, err)
}
