package pickle

import (
	"bytes"
	"fmt"
	"math"
	"math/big"
)

// differ compares two decoded values as graphs: equal values with equal sharing of mutable containers along the way. It
// returns "" when they are equal, else where they are not.
func differ(a, b any) string {
	c := comparison{pairs: make(map[any]any)}
	return c.differ("", a, b)
}

type comparison struct{ pairs map[any]any }

func (c *comparison) differ(path string, a, b any) string {
	if fmt.Sprintf("%T", a) != fmt.Sprintf("%T", b) {
		return fmt.Sprintf("at %q: %T against %T", path, a, b)
	}
	if id := identity(a); id != nil {
		other := identity(b)
		if seen, ok := c.pairs[id]; ok {
			if seen == other {
				return ""
			}
			if _, tuple := a.(Tuple); !tuple {
				return fmt.Sprintf("at %q: shared differently", path)
			}
		}
		c.pairs[id] = other
	}
	same := true
	switch a := a.(type) {
	case Tuple:
		return c.items(path, a, b.(Tuple))
	case *List:
		return c.items(path, a.Items, b.(*List).Items)
	case *Set:
		if a.Frozen != b.(*Set).Frozen {
			return fmt.Sprintf("at %q: frozen", path)
		}
		return c.items(path, a.Items, b.(*Set).Items)
	case *Dict:
		return c.dict(path, a, b.(*Dict))
	case *Object:
		b := b.(*Object)
		if a.New != b.New || a.HasState != b.HasState {
			return fmt.Sprintf("at %q: %v %v against %v %v", path, a.New, a.HasState, b.New, b.HasState)
		}
		for _, part := range [][3]any{
			{"callable", a.Callable, b.Callable}, {"args", a.Args, b.Args}, {"kwargs", a.Kwargs, b.Kwargs},
			{"items", Tuple(a.Items), Tuple(b.Items)}, {"pairs", a.Pairs, b.Pairs}, {"state", a.State, b.State},
		} {
			if d := c.differ(path+"."+part[0].(string), part[1], part[2]); d != "" {
				return d
			}
		}
		return ""
	case PersistentID:
		return c.differ(path+".id", a.ID, b.(PersistentID).ID)
	case float64:
		same = math.Float64bits(a) == math.Float64bits(b.(float64)) || math.IsNaN(a) && math.IsNaN(b.(float64))
	case *big.Int:
		same = a.Cmp(b.(*big.Int)) == 0
	case []byte:
		same = bytes.Equal(a, b.([]byte))
	case ByteArray:
		same = bytes.Equal(a, b.(ByteArray))
	default:
		same = a == b
	}
	if !same {
		return fmt.Sprintf("at %q: %.80v against %.80v", path, a, b)
	}
	return ""
}

func (c *comparison) items(path string, a, b []any) string {
	if len(a) != len(b) {
		return fmt.Sprintf("at %q: %d items against %d", path, len(a), len(b))
	}
	for i := range a {
		if d := c.differ(fmt.Sprintf("%s[%d]", path, i), a[i], b[i]); d != "" {
			return d
		}
	}
	return ""
}

func (c *comparison) dict(path string, a, b *Dict) string {
	if (a == nil) != (b == nil) || a.Len() != b.Len() {
		return fmt.Sprintf("at %q: dict of %d against %d", path, a.Len(), b.Len())
	}
	if a == nil {
		return ""
	}
	for i := range a.pairs {
		if d := c.differ(fmt.Sprintf("%s{key %d}", path, i), a.pairs[i].k, b.pairs[i].k); d != "" {
			return d
		}
		if d := c.differ(fmt.Sprintf("%s{%d}", path, i), a.pairs[i].v, b.pairs[i].v); d != "" {
			return d
		}
	}
	return ""
}

// dictOf returns a Dict of alternating keys and values.
func dictOf(kv ...any) *Dict {
	d := NewDict()
	for i := 0; i < len(kv); i += 2 {
		d.Set(kv[i], kv[i+1])
	}
	return d
}

func bigOf(s string) *big.Int {
	n, ok := new(big.Int).SetString(s, 0)
	if !ok {
		panic("no integer: " + s)
	}
	return n
}
