package multi

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
)

// recorded is testdata/policies.json, which testdata/record.py wrote with the real ProxyStore.
type recorded struct {
	Hostname string
	Valid    struct {
		Sizes []*int64
		Tags  [][]string
		Rows  []struct {
			Policy map[string]any
			Valid  string
		}
	}
	Patterns struct {
		Hosts []string
		Rows  []struct {
			Pattern string
			Match   []string
		}
	}
	Routes struct {
		Policies map[string]map[string]any
		Rows     []struct {
			Size             int64
			Subset, Superset []string
			Child            *string
		}
	}
	Config map[string]any
}

func readRecorded(t *testing.T) recorded {
	t.Helper()
	data, err := os.ReadFile("testdata/policies.json")
	if err != nil {
		t.Fatal(err)
	}
	var r recorded
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.UseNumber()
	if err := dec.Decode(&r); err != nil {
		t.Fatal(err)
	}
	return r
}

func mustPolicy(t testing.TB, m map[string]any) Policy {
	t.Helper()
	m, err := connectors.NormalizeOptions(m)
	if err != nil {
		t.Fatal(err)
	}
	p, err := parsePolicy(m)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPolicyValidAsPython(t *testing.T) {
	r := readRecorded(t)
	for _, row := range r.Valid.Rows {
		p := mustPolicy(t, row.Policy)
		onHost, err := p.ValidOnHost(r.Hostname)
		if err != nil {
			t.Fatal(err)
		}
		i := 0
		for _, size := range r.Valid.Sizes {
			for _, sub := range r.Valid.Tags {
				for _, sup := range r.Valid.Tags {
					n := int64(-1)
					if size != nil {
						n = *size
					}
					got := onHost && p.Valid(n, connectors.Tags{Subset: sub, Superset: sup})
					if want := row.Valid[i] == '1'; got != want {
						t.Errorf("policy %v, size %d, subset %q, superset %q: %v, Python says %v", row.Policy, n, sub, sup, got, want)
					}
					i++
				}
			}
		}
		if i != len(row.Valid) {
			t.Fatalf("%d answers recorded for %d questions", len(row.Valid), i)
		}
	}
}

func TestPatternsAsPython(t *testing.T) {
	r := readRecorded(t)
	for _, row := range r.Patterns.Rows {
		p := Policy{HostPattern: []string{row.Pattern}}
		for _, host := range r.Patterns.Hosts {
			got, err := p.ValidOnHost(host)
			if err != nil {
				t.Fatal(err)
			}
			if want := slices.Contains(row.Match, host); got != want {
				t.Errorf("%q matches %q: %v, Python says %v", row.Pattern, host, got, want)
			}
		}
	}
}

func TestPatternRefused(t *testing.T) {
	for _, pattern := range []string{`a(?=b)`, `(?<!x)a`, `(a)\1`, `(?P<x>a)(?P=x)`, `a)(b`, `a)|(?:b`, `(`, `[`, `a++`, `(?>a)`, `\`} {
		_, err := Policy{HostPattern: []string{"fine", pattern}}.ValidOnHost("fine")
		if !errors.Is(err, connectors.ErrConfig) || !strings.Contains(err.Error(), "host_pattern") {
			t.Errorf("%q: %v", pattern, err)
		}
	}
}

// TestPatternBounds: what a stranger's patterns cost is bounded before they are compiled.
func TestPatternBounds(t *testing.T) {
	for _, pattern := range []string{strings.Repeat("a", 257), strings.Repeat("a{1000}", 20), `\w{1000}\pL{1000}\w{1000}\w{1000}\w{1000}`, `(((a{20}){20}){20})`} {
		if _, err := (Policy{HostPattern: []string{pattern}}).ValidOnHost("a"); !errors.Is(err, connectors.ErrConfig) {
			t.Errorf("%.50q: %v", pattern, err)
		}
	}
	for _, pattern := range []string{strings.Repeat("a", 256), `[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63}){0,10}`, `node-(\d{1,5}|login\d{,2})\.cluster`} {
		if _, err := (Policy{HostPattern: []string{pattern}}).ValidOnHost("a"); err != nil {
			t.Error(err)
		}
	}
	many := make([]any, maxPatterns)
	for i := range many {
		many[i] = "a{1000}"
	}
	children := func(n int, policy map[string]any) map[string]any {
		opts := map[string]any{}
		for i := range n {
			opts[strconv.Itoa(i)] = entryOf("local", map[string]any{}, policy)
		}
		return opts
	}
	policy := map[string]any{"host_pattern": many}
	one := map[string]any{"host_pattern": "x"}
	for name, tc := range map[string]struct {
		opts map[string]any
		fits bool
	}{
		"patterns":            {children(1, policy), true},
		"one pattern more":    {map[string]any{"a": children(1, policy)["0"], "b": children(1, one)["0"]}, false},
		"in nested ones":      {map[string]any{"a": entryOf("multi", children(1, policy), one)}, false},
		"children":            {children(maxChildren, map[string]any{}), true},
		"one child more":      {children(maxChildren+1, map[string]any{}), false},
		"children in nesting": {map[string]any{"a": entryOf("multi", children(maxChildren, map[string]any{}), map[string]any{})}, false},
	} {
		cfg := connectors.Config{Kind: "multi", Options: tc.opts}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := registry().Locations(cfg, &connectors.Env{Received: true})
		runtime.ReadMemStats(&after)
		if tc.fits != (err == nil) || err != nil && !errors.Is(err, connectors.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 256<<20 {
			t.Errorf("%s: %d MiB allocated", name, got>>20)
		} else {
			t.Logf("%s: %d KiB allocated", name, got>>10)
		}
	}
}

func TestPolicyOptionsRoundTrip(t *testing.T) {
	r := readRecorded(t)
	for _, row := range r.Valid.Rows {
		m, err := connectors.NormalizeOptions(row.Policy)
		if err != nil {
			t.Fatal(err)
		}
		if got := mustPolicy(t, m).options(); !reflect.DeepEqual(got, m) {
			t.Errorf("got %v, Python has %v", got, m)
		}
	}
	want := map[string]any{"priority": int64(0), "host_pattern": nil, "min_size_bytes": int64(0), "max_size_bytes": int64(math.MaxInt64),
		"subset_tags": []any{}, "superset_tags": []any{}}
	if got := (Policy{}).options(); !reflect.DeepEqual(got, want) {
		t.Errorf("zero Policy: got %v", got)
	}
	if got := mustPolicy(t, map[string]any{}); !reflect.DeepEqual(got.options(), want) {
		t.Errorf("absent fields: got %v", got.options())
	}
}

func TestPolicyMaxSizeAsFloat(t *testing.T) {
	for v, want := range map[float64]int64{float64(math.MaxInt64): math.MaxInt64, math.Inf(1): math.MaxInt64, 1e6: 1_000_000, 0: 0} {
		if got := mustPolicy(t, map[string]any{"max_size_bytes": v}).maxSize(); got != want {
			t.Errorf("%v: got %d", v, got)
		}
	}
}

func TestPolicyRefused(t *testing.T) {
	for name, m := range map[string]map[string]any{
		"unknown field":   {"prio": int64(1)},
		"tags as a text":  {"subset_tags": "ab"},
		"tags of numbers": {"superset_tags": []any{int64(1)}},
		"size as a text":  {"max_size_bytes": "10"},
		"size NaN":        {"max_size_bytes": math.NaN()},
		"broken priority": {"priority": 1.5},
		"pattern number":  {"host_pattern": int64(1)},
	} {
		if _, err := parsePolicy(m); !errors.Is(err, connectors.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzPattern compares translate with what it must not change, and checks that no pattern gets out of the group that anchors it.
func FuzzPattern(f *testing.F) {
	for _, s := range []string{"", "a", `node-\d+`, "[]a]", "[[:alpha:]]", "a{,2}", `\Z`, `a)|(b`, "[^]]", `[\]]`, "(?i)x", `\`} {
		f.Add(s, "node-1")
	}
	f.Fuzz(func(t *testing.T, pattern, host string) {
		if len(pattern) > 1000 {
			return
		}
		re, err := compile(pattern)
		if err != nil {
			if !errors.Is(err, connectors.ErrConfig) {
				t.Fatal(err)
			}
			return
		}
		if m := re.FindString(host); re.MatchString(host) && m != host {
			t.Fatalf("%q matches only %q of %q", pattern, m, host)
		}
		if !strings.ContainsAny(pattern, `\[{`) && translate(pattern) != pattern {
			t.Fatalf("%q became %q", pattern, translate(pattern))
		}
	})
}
