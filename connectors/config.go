package connectors

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// Config is ProxyStore's ConnectorConfig: what it takes to open an equal connector somewhere else. Kind is a short name or a full Python path;
// connectors return the full path, which every version of ProxyStore understands. The values of Options are string, bool, int64, float64,
// nil, []byte, []any of these and map[string]any of these; [NormalizeOptions] brings decoded JSON or TOML to this form.
type Config struct {
	Kind    string         `json:"kind" toml:"kind"`
	Options map[string]any `json:"options" toml:"options"`
}

// String describes the configuration without its values, among which there may be secrets. Print Options for those.
func (c Config) String() string {
	return fmt.Sprintf("%s(%s)", c.Kind, strings.Join(slices.Sorted(maps.Keys(c.Options)), ", "))
}

// LogValue keeps secrets out of logs.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Clone returns a deep copy.
func (c Config) Clone() Config { return Config{c.Kind, cloneValue(c.Options).(map[string]any)} }

func cloneValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[k] = cloneValue(e)
		}
		return m
	case []any:
		l := make([]any, len(v))
		for i, e := range v {
			l[i] = cloneValue(e)
		}
		return l
	case []byte:
		return slices.Clone(v)
	}
	return v
}

// Canonical returns a form that is equal for equal configurations, however Kind is spelled: JSON with sorted keys and without nils.
func (c Config) Canonical() ([]byte, error) {
	kind := c.Kind
	if k, ok := LookupKind(kind); ok {
		kind = k.Path()
	}
	opts, err := NormalizeOptions(c.Options)
	if err != nil {
		return nil, err
	}
	return json.Marshal(Config{kind, WithoutNil(opts).(map[string]any)})
}

// WithoutNil drops nil values from maps at any depth, in place, and returns v: Python's None where a form like TOML has no null.
func WithoutNil(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if e == nil {
				delete(v, k)
			} else {
				v[k] = WithoutNil(e)
			}
		}
	case []any:
		for i, e := range v {
			v[i] = WithoutNil(e)
		}
	}
	return v
}

// UnmarshalJSON reads a Config without losing the precision of large integers.
func (c *Config) UnmarshalJSON(data []byte) error {
	var j struct {
		Kind    string         `json:"kind"`
		Options map[string]any `json:"options"`
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	dec.DisallowUnknownFields()
	if err := dec.Decode(&j); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	options, err := NormalizeOptions(j.Options)
	if err != nil {
		return err
	}
	*c = Config{j.Kind, options}
	return nil
}

// Equal reports whether both open equal connectors.
func (c Config) Equal(d Config) bool {
	a, err1 := c.Canonical()
	b, err2 := d.Canonical()
	return err1 == nil && err2 == nil && bytes.Equal(a, b)
}

// Options from outside are bounded: in depth (multi within multi within multi is 9), in values and in bytes, since shared parts of a pickle are many
// values here. The bytes are those of a local store that travels with its data.
const (
	maxOptionDepth  = 32
	maxOptionValues = 1 << 16
	maxOptionBytes  = 64 << 20
)

// NormalizeOptions returns a deep copy of options in the form that Config states: all integers int64, all lists []any, all maps
// map[string]any. json.Number becomes int64 or float64; a whole float64 stays a float64. Other types are an [ErrConfig].
func NormalizeOptions(options map[string]any) (map[string]any, error) {
	var n normalizer
	v, err := n.value(options, 0)
	if err != nil {
		return nil, err
	}
	return v.(map[string]any), nil
}

// normalizer counts what one NormalizeOptions has copied.
type normalizer struct{ values, bytes int }

func (n *normalizer) value(v any, depth int) (any, error) {
	n.values++
	switch v := v.(type) {
	case string:
		n.bytes += len(v)
	case []byte:
		n.bytes += len(v)
	}
	if depth > maxOptionDepth || n.values > maxOptionValues || n.bytes > maxOptionBytes {
		return nil, fmt.Errorf("%w: options are nested more than %d deep, or are more than %d values or %d bytes", ErrConfig, maxOptionDepth, maxOptionValues,
			maxOptionBytes)
	}
	switch v := v.(type) {
	case nil, string, bool, int64, float64:
		return v, nil
	case []byte:
		return slices.Clone(v), nil
	case int:
		return int64(v), nil
	case int32:
		return int64(v), nil
	case uint16:
		return int64(v), nil
	case uint32:
		return int64(v), nil
	case float32:
		return float64(v), nil
	case uint:
		return n.value(uint64(v), depth)
	case uint64:
		if v > math.MaxInt64 {
			return nil, fmt.Errorf("%w: integer %d is too large", ErrConfig, v)
		}
		return int64(v), nil
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n, nil
		}
		f, err := v.Float64()
		if err != nil {
			return nil, fmt.Errorf("%w: number %.50s: %v", ErrConfig, v, err)
		}
		return f, nil
	case []string:
		l := make([]any, len(v))
		for i, e := range v {
			l[i] = e
		}
		return l, nil
	case []map[string]any: // an array of tables in TOML
		l := make([]any, len(v))
		for i, e := range v {
			l[i] = e
		}
		return n.value(l, depth)
	case []any:
		l := make([]any, len(v))
		for i, e := range v {
			e, err := n.value(e, depth+1)
			if err != nil {
				return nil, err
			}
			l[i] = e
		}
		return l, nil
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			n.bytes += len(k)
			e, err := n.value(e, depth+1)
			if err != nil {
				return nil, fmt.Errorf("%.100s: %w", k, err)
			}
			m[k] = e
		}
		return m, nil
	}
	return nil, fmt.Errorf("%w: value of type %T", ErrConfig, v)
}

// Options is a driver's view of a Config's options. It remembers what was asked for and what was wrong, so that a driver asks for everything
// and then checks Err once; options nobody asked for are refused there and not ignored.
type Options struct {
	kind  string
	m     map[string]any
	asked map[string]bool
	errs  []string
}

// NewOptions returns options for a driver of that kind. It borrows m.
func NewOptions(kind string, m map[string]any) *Options {
	return &Options{kind: kind, m: m, asked: map[string]bool{}}
}

// Value returns an option as it is, nil if absent.
func (o *Options) Value(name string) any {
	o.asked[name] = true
	return o.m[name]
}

// Fail records that an option has a bad value; why completes the sentence "option NAME ...".
func (o *Options) Fail(name, why string, args ...any) {
	o.errs = append(o.errs, fmt.Sprintf("option %s ", name)+fmt.Sprintf(why, args...))
}

// Required records an error unless the options are all present and not nil.
func (o *Options) Required(names ...string) {
	for _, n := range names {
		if o.Value(n) == nil {
			o.Fail(n, "is required")
		}
	}
}

// option reads one value of type T, and def for an absent one or None.
func option[T any](o *Options, name string, def T, want string) T {
	v := o.Value(name)
	if v == nil {
		return def
	}
	t, ok := v.(T)
	if !ok {
		o.Fail(name, "must be %s, not %T", want, v)
	}
	return t
}

// String returns a string option.
func (o *Options) String(name, def string) string { return option(o, name, def, "a string") }

// Bool returns a boolean option.
func (o *Options) Bool(name string, def bool) bool { return option(o, name, def, "true or false") }

// Int returns an integer option, which must lie in [low, high].
func (o *Options) Int(name string, def, low, high int64) int64 {
	if f, ok := o.Value(name).(float64); ok && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		return o.inRange(name, int64(f), low, high) // JSON has one kind of number
	}
	return o.inRange(name, option(o, name, def, "an integer"), low, high)
}

func (o *Options) inRange(name string, n, low, high int64) int64 {
	if n < low || n > high {
		o.Fail(name, "must be from %d to %d, not %d", low, high, n)
	}
	return n
}

// Seconds returns a duration that is written as a number of seconds, as Python's options are. It must not be negative.
func (o *Options) Seconds(name string, def time.Duration) time.Duration {
	var s float64
	switch v := o.Value(name).(type) {
	case nil:
		return def
	case int64:
		s = float64(v)
	case float64:
		s = v
	default:
		o.Fail(name, "must be a number of seconds, not %T", v)
	}
	if !(s >= 0 && s < math.MaxInt64/float64(time.Second)) {
		o.Fail(name, "must be a number of seconds, not %v", s)
		return def
	}
	return time.Duration(s * float64(time.Second))
}

// Strings returns a list of strings; a single string is a list of one.
func (o *Options) Strings(name string) []string {
	switch v := o.Value(name).(type) {
	case nil:
		return nil
	case string:
		return []string{v}
	case []any:
		l := make([]string, 0, len(v))
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				o.Fail(name, "must be a list of strings; it has a %T", e)
				return nil
			}
			l = append(l, s)
		}
		return l
	default:
		o.Fail(name, "must be a list of strings, not %T", v)
		return nil
	}
}

// All returns every option and marks them as asked for. It lends the map.
func (o *Options) All() map[string]any {
	for k := range o.m {
		o.asked[k] = true
	}
	return o.m
}

// Err returns an [ErrConfig] that lists everything that was wrong, options unknown to the driver included; nil if nothing was.
func (o *Options) Err() error {
	errs := o.errs
	for _, name := range slices.Sorted(maps.Keys(o.m)) {
		if !o.asked[name] {
			errs = append(errs, fmt.Sprintf("option %.50s is unknown; known are %s", name, strings.Join(slices.Sorted(maps.Keys(o.asked)), ", ")))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("%w of connector %s: %s", ErrConfig, o.kind, strings.Join(errs, "; "))
}
