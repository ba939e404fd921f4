package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/internal/dataset"
)

func TestPutPrintsOneLine(t *testing.T) {
	e := newEnv(t)
	out := e.ok("hello", "put", "-")
	line := unmarshal[map[string]json.RawMessage](t, out)
	if len(line) != 3 || string(line["kind"]) != `"file"` || string(line["size"]) != "5" || strings.Count(out, "\n") != 1 {
		t.Errorf("put printed %s", out)
	}
	if key := unmarshal[[]string](t, string(line["key"])); len(key) != 1 || len(key[0]) != 36 {
		t.Errorf("key %q", key)
	}
	if !strings.HasPrefix(out, `{"kind":"file","key":["`) {
		t.Errorf("the order of the fields changed: %s", out)
	}
}

// TestForms puts in every form and gets in every form.
func TestForms(t *testing.T) {
	e := newEnv(t)
	npy, err := dataset.Read("coordinates.npy")
	if err != nil {
		t.Fatal(err)
	}
	const big = "123456789012345678901234567890"
	for _, c := range []struct {
		as, in   string
		wantTag  string            // of the stored object
		want     map[string]string // by --as; "" is without; a missing one must fail with code 5
		wantType string
	}{
		{"bytes", "\x00\xff\n", "BS", map[string]string{"": "\x00\xff\n", "bytes": "\x00\xff\n", "json": `"AP8K"` + "\n"}, "bytes"},
		{"bytes", "text", "BS", map[string]string{"": "text", "bytes": "text", "str": "text", "json": `"dGV4dA=="` + "\n"}, "bytes"},
		{"bytes", "", "BS", map[string]string{"": "", "bytes": "", "str": "", "json": `""` + "\n"}, "bytes"},
		{"str", "é\n", "US", map[string]string{"": "é\n", "str": "é\n", "bytes": "é\n", "json": `"é\n"` + "\n"}, "str"},
		{"npy", string(npy), "NP", map[string]string{"": string(npy), "npy": string(npy)}, "npy"},
		{"json", `{"b": [1, 2.0, ` + big + `, null], "a": "<\u00e9>"}`, "PK",
			map[string]string{"": `{"a":"<é>","b":[1,2.0,` + big + `,null]}` + "\n", "json": `{"a":"<é>","b":[1,2.0,` + big + `,null]}` + "\n"}, "json"},
		{"json", `"just text"`, "US", map[string]string{"": "just text", "str": "just text", "bytes": "just text", "json": `"just text"` + "\n"}, "str"},
		{"json", "-0.5e3", "PK", map[string]string{"": "-500.0\n", "json": "-500.0\n"}, "json"},
		{"json", "null", "PK", map[string]string{"": "null\n", "json": "null\n"}, "json"},
		{"raw", "US\nwhole", "US", map[string]string{"": "whole", "str": "whole", "bytes": "whole", "json": `"whole"` + "\n"}, "str"},
		{"raw", "01\nold", "01", map[string]string{"": "old", "str": "old", "bytes": "old", "json": `"b2xk"` + "\n"}, "bytes"},
	} {
		e.write("in", c.in)
		key := e.ok("", "put", "--as", c.as, "in")
		if stdin := e.ok(c.in, "put", "--as", c.as, "-"); keyOf(t, stdin) == keyOf(t, key) {
			t.Errorf("two puts gave one key %s", key)
		}
		raw := e.ok("", "get", "--as", "raw", "--key", key)
		if !strings.HasPrefix(raw, c.wantTag+"\n") || c.as == "raw" && raw != c.in || c.as != "json" && c.as != "raw" && raw[3:] != c.in {
			t.Errorf("%s %.20q is stored as %.40q", c.as, c.in, raw)
		}
		for _, form := range []string{"", "bytes", "str", "npy", "json"} {
			args := []string{"get", "--key", key, "--force"}
			if form != "" {
				args = append(args, "--as", form)
			}
			want, ok := c.want[form]
			if form == "json" && c.as == "npy" {
				if got := e.ok("", args...); !strings.HasPrefix(got, "[[42.5,1.516667],[") {
					t.Errorf("array as JSON: %.60s", got)
				}
				continue
			}
			if !ok {
				e.fails(exitBadInput, "", "", args...)
				continue
			}
			if got := e.ok("", args...); got != want {
				t.Errorf("%s %.20q as %s: got %.60q, want %.60q", c.as, c.in, form, got, want)
			}
		}
		s := unmarshal[written](t, e.ok("", "get", "--key", key, "--json", "-o", "out"))
		if s.Type != c.wantType || s.Tag != c.wantTag || s.Output != "out" || s.Size != int64(len(c.want[""])) || e.read("out") != c.want[""] {
			t.Errorf("%s %.20q: summary %+v", c.as, c.in, s)
		}
	}
}

func TestPutRefuses(t *testing.T) {
	e := newEnv(t)
	e.fails(exitBadInput, "bad byte at offset 3", "abc\xff", "put", "--as", "str", "-")
	e.fails(exitBadInput, "offset 1", "a\xe2\x82", "put", "--as", "str", "-")
	e.fails(exitBadInput, "no .npy file", "abc", "put", "--as", "npy", "-")
	npy, _ := dataset.Read("coordinates.npy")
	e.fails(exitBadInput, "no .npy file", string(npy[:len(npy)-1]), "put", "--as", "npy", "-")
	e.fails(exitBadInput, "not JSON", `{"a":}`, "put", "--as", "json", "-")
	e.fails(exitBadInput, "ends too early", `{"a":[1`, "put", "--as", "json", "-")
	e.fails(exitBadInput, "more after", `1 2`, "put", "--as", "json", "-")
	e.fails(exitBadInput, "no stored object", "hello", "put", "--as", "raw", "-")
	e.fails(exitUsage, "--as", "", "put", "--as", "yaml", "-")
	e.fails(exitIO, "no such file", "", "put", "missing")
	e.fails(exitIO, "is a directory", "", "put", ".")
	e.fails(exitUsage, "see proxyplane put --help", "", "put")
	e.fails(exitUsage, "no such file; make one", "", "put", "--store", "missing.toml", "-")
	e.write("local.toml", "name = \"x\"\n[connector]\nkind = \"local\"\n")
	e.fails(exitUsage, "memory of one process", "", "put", "--store", "local.toml", "-")
	e.vars = []string{"PROXYPLANE_STORE="}
	e.fails(exitUsage, "config new", "", "put", "-")
	if left := e.stored(); len(left) > 0 {
		t.Errorf("refused inputs were stored: %v", left)
	}
}

func TestKeyForms(t *testing.T) {
	e := newEnv(t)
	line := strings.TrimSpace(e.ok("content", "put", "-"))
	fields := unmarshal[map[string]json.RawMessage](t, line)
	e.write("key", line+"\n")
	for _, key := range []string{line, line + "\n", string(fields["key"]), `{"kind":"file","key":` + string(fields["key"]) + `}`,
		`{"key":` + string(fields["key"]) + `,"kind":"proxystore.connectors.file.FileConnector","more":[1]}`, "@key"} {
		if got := e.ok("", "get", "--key", key); got != "content" {
			t.Errorf("key %s: %q", key, got)
		}
	}
	if got := e.ok(line, "get", "--key", "-"); got != "content" {
		t.Errorf("key from standard input: %q", got)
	}
	for _, key := range []string{"", "../..", `["../.."]`, `["../../etc/passwd"]`, `["a/b"]`, `["/etc/passwd"]`, `["."]`, `[".."]`, `[""]`, `["a\u0000b"]`, `["x.ready"]`,
		"[]", "{}", `["a","b"]`, `[1]`, `{"kind":"redis","key":["x"]}`, `{"kind":"nonsense","key":["x"]}`, strings.Repeat("[", 5000)} {
		for _, cmd := range []string{"get", "exists", "evict"} {
			e.fails(exitUsage, "key", "", cmd, "--key", key)
		}
	}
	e.fails(exitIO, "no such file", "", "get", "--key", "@missing")
}

func TestExistsAndEvict(t *testing.T) {
	e := newEnv(t)
	key := e.ok("x", "put", "-")
	if out := e.ok("", "exists", "--key", key); out != "" {
		t.Errorf("exists printed %q", out)
	}
	if out := e.ok("", "exists", "--key", key, "--json"); out != "{\"exists\":true}\n" {
		t.Errorf("exists printed %q", out)
	}
	if out := e.ok("", "evict", "--key", key); out != "" {
		t.Errorf("evict printed %q", out)
	}
	if r := e.run("", "exists", "--key", key); r != (result{code: exitNo}) {
		t.Errorf("exists after evict: %+v", r)
	}
	if r := e.run("", "exists", "--key", key, "--json"); r != (result{code: exitNo, out: "{\"exists\":false}\n"}) {
		t.Errorf("exists after evict: %+v", r)
	}
	if out := e.ok("", "evict", "--key", key, "--json"); !strings.HasPrefix(out, `{"evicted":"FileKey(`) {
		t.Errorf("second evict printed %q", out)
	}
	e.fails(exitNotFound, "no such object", "", "get", "--key", key)
	r := e.run("", "get", "--key", key, "--json")
	failure := unmarshal[struct {
		Error, Class string
		Code         int `json:"exit_code"`
	}](t, r.err)
	if r.code != exitNotFound || failure.Code != exitNotFound || failure.Class != "not-found" || !strings.Contains(failure.Error, "no such object") {
		t.Errorf("JSON error: %+v", r)
	}
}

func TestRange(t *testing.T) {
	e := newEnv(t)
	key := e.ok("0123456789", "put", "-")
	for rng, want := range map[string]string{"0:3": "012", "4:": "456789", "9:5": "9", "10:": "", "0:0": "", "2:1": "2"} {
		if got := e.ok("", "get", "--key", key, "--range", rng); got != want {
			t.Errorf("range %s: %q", rng, got)
		}
	}
	for _, rng := range []string{"11:1", "11:0", "-1:2", "1:-2", "x:1", "1:x", "5", ":", "99999999999999999999:1"} {
		e.fails(exitUsage, "range", "", "get", "--key", key, "--range="+rng)
	}
	e.fails(exitUsage, "without --as", "", "get", "--key", key, "--range", "0:1", "--as", "str")
}

func TestCorruptObjects(t *testing.T) {
	e := newEnv(t)
	npy, _ := dataset.Read("coordinates.npy")
	e.ok("x", "put", "-") // makes the directory
	for _, object := range []string{"", "B", "BS", "XX\nbody", "garbage without a tag", "NP\n" + string(npy[:200]), "NP\nabc", "PK\n\x80\x05", "PK\nnot a pickle",
		"US\nabc\xff", "PK\n\x80\x05cos\nsystem\n\x8c\x02id\x85R."} {
		for name, content := range map[string]string{"bad": object, "bad.ready": ""} {
			if err := os.WriteFile(filepath.Join(e.objects, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r := e.run("", "get", "--key", `["bad"]`, "-o", "out")
		if r.code != exitBadInput || r.err == "" {
			t.Errorf("object %q: %+v", object, r)
		}
		if _, err := os.Stat(filepath.Join(e.dir, "out")); err == nil {
			t.Errorf("object %q: an output file was written", object)
		}
		if raw := e.ok("", "get", "--key", `["bad"]`, "--as", "raw"); raw != object {
			t.Errorf("object %q as raw: %q", object, raw)
		}
	}
}

func TestOutputFile(t *testing.T) {
	e := newEnv(t)
	key := e.ok("new", "put", "-")
	e.write("target", "old")
	if err := os.Chmod(filepath.Join(e.dir, "target"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("target", filepath.Join(e.dir, "link")); err != nil {
		t.Fatal(err)
	}
	e.fails(exitNotFound, "", "", "get", "--key", `["none"]`, "-o", "link")
	if e.read("target") != "old" {
		t.Error("a failed get changed its output file")
	}
	e.ok("", "get", "--key", key, "-o", "link")
	info, err := os.Lstat(filepath.Join(e.dir, "link"))
	if err != nil || info.Mode()&os.ModeSymlink == 0 || e.read("target") != "new" {
		t.Errorf("the link became %v (%v), its target is %q", info.Mode(), err, e.read("target"))
	}
	if info, _ := os.Stat(filepath.Join(e.dir, "target")); info.Mode().Perm() != 0o640 {
		t.Errorf("permissions became %v", info.Mode())
	}
	e.ok("", "get", "--key", key, "-o", os.DevNull)
	if info, err := os.Stat(os.DevNull); err != nil || info.Mode().IsRegular() {
		t.Fatalf("%s is now %v (%v)", os.DevNull, info.Mode(), err)
	}
	e.fails(exitIO, "directory does not exist", "", "get", "--key", key, "-o", "no/such/dir")
	e.fails(exitIO, "is a directory", "", "get", "--key", key, "-o", ".")
}
