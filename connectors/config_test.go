package connectors_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
)

func TestNormalizeOptions(t *testing.T) {
	in := map[string]any{
		"int": 1, "int32": int32(2), "uint16": uint16(3), "uint64": uint64(4), "int64": int64(5), "number": json.Number("6"),
		"decimal": json.Number("6.5"), "big": json.Number("1e300"), "float": 7.0, "none": nil, "bool": true, "text": "x", "bytes": []byte("y"),
		"texts": []string{"a", "b"}, "list": []any{1, []any{uint16(2)}}, "map": map[string]any{"deep": map[string]any{"n": 1}},
	}
	want := map[string]any{
		"int": int64(1), "int32": int64(2), "uint16": int64(3), "uint64": int64(4), "int64": int64(5), "number": int64(6),
		"decimal": 6.5, "big": 1e300, "float": 7.0, "none": nil, "bool": true, "text": "x", "bytes": []byte("y"),
		"texts": []any{"a", "b"}, "list": []any{int64(1), []any{int64(2)}}, "map": map[string]any{"deep": map[string]any{"n": int64(1)}},
	}
	got, err := connectors.NormalizeOptions(in)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %#v", got)
	}
	if again, err := connectors.NormalizeOptions(got); err != nil || !reflect.DeepEqual(again, got) {
		t.Errorf("not a fixed point: %#v, %v", again, err)
	}
	in["bytes"].([]byte)[0] = 'z'
	in["map"].(map[string]any)["deep"].(map[string]any)["n"] = 9
	if !reflect.DeepEqual(got, want) {
		t.Error("the result shares memory with its source")
	}
	if m, err := connectors.NormalizeOptions(nil); err != nil || m == nil || len(m) != 0 {
		t.Errorf("nil options: %v, %v", m, err)
	}
}

// nest returns options with n maps or lists inside one another.
func nest(n int, list bool) map[string]any {
	var v any = "end"
	for range n {
		if list {
			v = []any{v}
		} else {
			v = map[string]any{"x": v}
		}
	}
	return map[string]any{"x": v}
}

func TestNormalizeOptionsRefused(t *testing.T) {
	for name, m := range map[string]map[string]any{
		"struct":        {"x": struct{}{}},
		"channel":       {"x": make(chan int)},
		"deep in list":  {"x": []any{map[string]any{"y": func() {}}}},
		"uint64":        {"x": uint64(math.MaxInt64) + 1},
		"number":        {"x": json.Number("x")},
		"huge number":   {"x": json.Number("1e999")},
		"endless maps":  nest(40, false),
		"endless lists": nest(40, true),
	} {
		_, err := connectors.NormalizeOptions(m)
		if !errors.Is(err, connectors.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := connectors.NormalizeOptions(nest(30, false)); err != nil {
		t.Errorf("30 levels: %v", err)
	}
}

func TestConfigClone(t *testing.T) {
	c := connectors.Config{Kind: "file", Options: map[string]any{"a": []any{map[string]any{"b": []byte("x")}}, "n": int64(1)}}
	d := c.Clone()
	if !reflect.DeepEqual(c, d) {
		t.Fatalf("got %v", d)
	}
	d.Options["a"].([]any)[0].(map[string]any)["b"].([]byte)[0] = 'y'
	d.Options["new"] = true
	if got := string(c.Options["a"].([]any)[0].(map[string]any)["b"].([]byte)); got != "x" || len(c.Options) != 2 {
		t.Errorf("changing the clone changed the original: %v", c)
	}
	if e := (connectors.Config{Kind: "file"}).Clone(); len(e.Options) != 0 {
		t.Errorf("no options: %v", e)
	}
}

func TestConfigEqual(t *testing.T) {
	file := func(kind string, opts map[string]any) connectors.Config {
		return connectors.Config{Kind: kind, Options: opts}
	}
	full := "proxystore.connectors.file.FileConnector"
	for _, c := range []struct {
		a, b connectors.Config
		want bool
	}{
		{file("file", nil), file(full, map[string]any{}), true},
		{file("FileConnector", map[string]any{"x": 1}), file("FILE", map[string]any{"x": int64(1)}), true},
		{file("file", map[string]any{"x": nil}), file("file", nil), true},
		{file("file", map[string]any{"x": nil}), file("file", map[string]any{"x": false}), false},
		{file("file", nil), file("redis", nil), false},
		{file("a.b.C", nil), file("a.b.C", nil), true},
		{file("a.b.C", nil), file("a.b.c", nil), false},
		{file("file", map[string]any{"x": []string{"a"}}), file("file", map[string]any{"x": []any{"a"}}), true},
		{file("file", map[string]any{"x": struct{}{}}), file("file", map[string]any{"x": struct{}{}}), false},
		// A multi connector's policies hold None deep inside, which TOML cannot say.
		{file("multi", map[string]any{"a": []any{full, map[string]any{}, map[string]any{"host_pattern": nil}}}),
			file("multi", map[string]any{"a": []any{full, map[string]any{}, map[string]any{}}}), true},
	} {
		if got := c.a.Equal(c.b); got != c.want {
			t.Errorf("%v and %v: %v", c.a, c.b, got)
		}
	}
}

func TestOptions(t *testing.T) {
	o := connectors.NewOptions("test", map[string]any{"s": "x", "b": true, "i": int64(5), "whole": 6.0, "sec": 1.5, "isec": int64(2), "list": []any{"a", "b"},
		"one": "a", "none": nil, "any": []any{int64(1)}})
	check := func(name string, got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %#v, want %#v", name, got, want)
		}
	}
	check("s", o.String("s", "d"), "x")
	check("default string", o.String("absent", "d"), "d")
	check("None", o.String("none", "d"), "d")
	check("b", o.Bool("b", false), true)
	check("default bool", o.Bool("absent", true), true)
	check("i", o.Int("i", 0, 0, 10), int64(5))
	check("whole", o.Int("whole", 0, 0, 10), int64(6))
	check("default int", o.Int("absent", 3, 0, 10), int64(3))
	check("sec", o.Seconds("sec", 0), 1500*time.Millisecond)
	check("isec", o.Seconds("isec", 0), 2*time.Second)
	check("default seconds", o.Seconds("absent", time.Minute), time.Minute)
	check("list", o.Strings("list"), []string{"a", "b"})
	check("one", o.Strings("one"), []string{"a"})
	check("no list", o.Strings("absent"), []string(nil))
	check("any", o.Value("any"), []any{int64(1)})
	o.Required("s", "i")
	if err := o.Err(); err != nil {
		t.Error(err)
	}
	o = connectors.NewOptions("test", map[string]any{"anything": int64(1)})
	if len(o.All()) != 1 || o.Err() != nil {
		t.Errorf("All does not accept everything: %v", o.Err())
	}
}

func TestOptionsErrors(t *testing.T) {
	for name, c := range map[string]struct {
		m    map[string]any
		ask  func(o *connectors.Options)
		says string
	}{
		"unknown":      {map[string]any{"colour": "x"}, func(o *connectors.Options) { o.String("color", "") }, "option colour is unknown; known are color"},
		"string":       {map[string]any{"a": int64(1)}, func(o *connectors.Options) { o.String("a", "") }, "option a must be a string, not int64"},
		"bool":         {map[string]any{"a": "yes"}, func(o *connectors.Options) { o.Bool("a", false) }, "true or false"},
		"int":          {map[string]any{"a": "1"}, func(o *connectors.Options) { o.Int("a", 0, 0, 9) }, "an integer"},
		"fraction":     {map[string]any{"a": 1.5}, func(o *connectors.Options) { o.Int("a", 0, 0, 9) }, "an integer"},
		"range":        {map[string]any{"a": int64(10)}, func(o *connectors.Options) { o.Int("a", 0, 0, 9) }, "must be from 0 to 9, not 10"},
		"whole range":  {map[string]any{"a": 10.0}, func(o *connectors.Options) { o.Int("a", 0, 0, 9) }, "must be from 0 to 9"},
		"negative":     {map[string]any{"a": -0.5}, func(o *connectors.Options) { o.Seconds("a", 0) }, "number of seconds"},
		"not a number": {map[string]any{"a": math.NaN()}, func(o *connectors.Options) { o.Seconds("a", 0) }, "number of seconds"},
		"too long":     {map[string]any{"a": 1e300}, func(o *connectors.Options) { o.Seconds("a", 0) }, "number of seconds"},
		"seconds":      {map[string]any{"a": "1s"}, func(o *connectors.Options) { o.Seconds("a", 0) }, "number of seconds, not string"},
		"list":         {map[string]any{"a": []any{"x", int64(1)}}, func(o *connectors.Options) { o.Strings("a") }, "it has a int64"},
		"not a list":   {map[string]any{"a": true}, func(o *connectors.Options) { o.Strings("a") }, "list of strings"},
		"required":     {map[string]any{"a": nil}, func(o *connectors.Options) { o.Required("a", "b") }, "option a is required; option b is required"},
		"own":          {nil, func(o *connectors.Options) { o.Fail("a", "clashes with %s", "b") }, "option a clashes with b"},
	} {
		o := connectors.NewOptions("test", c.m)
		c.ask(o)
		err := o.Err()
		if !errors.Is(err, connectors.ErrConfig) || !strings.Contains(fmt.Sprint(err), c.says) || !strings.Contains(err.Error(), "connector test") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzConfig(f *testing.F) {
	for _, s := range []string{
		`{"kind":"file","options":{"store_dir":"/x","cache_size":16}}`,
		`{"kind":"RedisConnector","options":{"hostname":"h","port":6379,"kwargs":{"a":[1,2.5,null,true]}}}`,
		`{"kind":"proxystore.connectors.multi.MultiConnector","options":{"a":["x.Y",{},{"host_pattern":null}]}}`,
		`{"kind":"","options":null}`, `{}`, `{"kind":"\u0000","options":{"":1e400}}`, `{"options":{"x":9223372036854775808}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var c connectors.Config
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.UseNumber()
		if dec.Decode(&c) != nil {
			return
		}
		one, err := c.Canonical()
		if err != nil {
			if !errors.Is(err, connectors.ErrConfig) {
				t.Fatalf("not ErrConfig: %v", err)
			}
			return
		}
		if !c.Equal(c.Clone()) {
			t.Fatalf("%s is not equal to its clone", one)
		}
		opts, err := connectors.NormalizeOptions(c.Options)
		if err != nil {
			t.Fatal(err)
		}
		if two, err := (connectors.Config{Kind: c.Kind, Options: opts}).Canonical(); err != nil || !bytes.Equal(one, two) {
			t.Fatalf("normalized: %s, then %s, %v", one, two, err)
		}
		// Read back, it is the same again: what one process calls equal, another does.
		var d connectors.Config
		dec = json.NewDecoder(bytes.NewReader(one))
		dec.UseNumber()
		if err := dec.Decode(&d); err != nil {
			t.Fatal(err)
		}
		if three, err := d.Canonical(); err != nil || !bytes.Equal(one, three) {
			t.Fatalf("read back: %s, then %s, %v", one, three, err)
		}
	})
}
