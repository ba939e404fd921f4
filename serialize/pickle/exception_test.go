package pickle_test

import (
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/serialize/pickle"
)

func TestException(t *testing.T) {
	long := strings.Repeat("x", 5000)
	exception := func(module, name string, args ...any) *pickle.Object {
		return &pickle.Object{Callable: pickle.Global{Module: module, Name: name}, Args: args}
	}
	for _, c := range []struct {
		v           any
		class, text string
	}{
		{exception("builtins", "ValueError", "no"), "ValueError", "no"},
		{exception("a.b", "Error", "x", int64(1), nil, true, []byte{1}), "a.b.Error", "x, 1, <nil>, true, ([]uint8)"},
		{exception("builtins", "KeyError"), "KeyError", ""},
		{&pickle.Object{}, "an unknown exception", ""},
		{"text", "something that is no exception (string)", ""},
		{nil, "something that is no exception (<nil>)", ""},
		{exception("m", long, long, long), "m." + long[:198] + "...", long[:2000] + "..."},
	} {
		class, text := pickle.Exception(c.v)
		if class != c.class || text != c.text {
			t.Errorf("%v: %.300q, %.60q (%d bytes)", c.v, class, text, len(text))
		}
	}
}
