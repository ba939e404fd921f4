package storage

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/objects"
)

// childVar makes this program a child that puts and deletes in the store it names until it is killed.
const childVar = "PROXYPLANE_STORAGE_TEST_CHILD"

// killed are the object sizes of the child; FileAbove is 4096.
var killed = []int{0, 1, 300, 4000, 4096, 50_000, 1_500_000}

// child tells its standard output what it is about to do, and when it is done: "+ key seed size" and "- key", then the same with "!". Each
// goroutine has keys of its own.
func child(path string) {
	s, err := Open(context.Background(), Options{Path: path, FileAbove: 4096})
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	var out sync.Mutex
	say := func(line string) {
		out.Lock()
		defer out.Unlock()
		_, _ = os.Stdout.WriteString(line + "\n")
	}
	say("open")
	for g := range 4 {
		go func() {
			r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), uint64(g)))
			for {
				key := fmt.Sprintf("%d/%d", g, r.IntN(5))
				if r.IntN(4) == 0 {
					say("- " + key)
					if _, err := s.Remove(key); err != nil {
						fmt.Fprintln(os.Stderr, "child:", err)
						os.Exit(1)
					}
					say("!- " + key)
					continue
				}
				seed, n := r.Uint64N(1<<20), killed[r.IntN(len(killed))]
				line := fmt.Sprintf("+ %s %d %d", key, seed, n)
				say(line)
				data := content(seed, n)
				var err error
				switch r.IntN(3) {
				case 0:
					err = s.Put(key, transport.FromBytes(data), objects.PutOptions{})
				case 1:
					err = put(s, key, int64(n), data, 100_000)
				default:
					err = put(s, key, -1, data, 100_000)
				}
				if err != nil {
					fmt.Fprintln(os.Stderr, "child:", err)
					os.Exit(1)
				}
				say("!" + line)
			}
		}()
	}
	select {}
}

// state is what may be under a key: what was acknowledged last, or what was on its way then.
type state struct{ acked, pending string } // "" is nothing acknowledged, nothing on its way; "-" a deletion; "seed size" an object

// A process that is killed at any moment has lost nothing that it acknowledged, and left nothing half.
func TestKill(t *testing.T) {
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	kill(t, rounds, nil)
}

// What is in the database after a kill, Python reads too, before or instead of us.
func TestKillPython(t *testing.T) {
	p := startPython(t)
	n := 0
	kill(t, 2, func(path string, want map[string]*state) {
		p.open(path)
		if r := p.do("check", nil); r != "ok" {
			t.Errorf("integrity_check: %v", r)
		}
		for key, w := range want {
			text, size, ok := strings.Cut(w.acked, " ")
			seed, _ := strconv.ParseUint(text, 10, 64)
			if m, _ := strconv.Atoi(size); ok && m < 4096 && w.pending == "" {
				p.check(key, content(seed, m))
				n++
			}
		}
		p.set("python", 1, 100)
		p.do("close", nil)
		verifyPython(t, path)
	})
	if n == 0 {
		t.Error("nothing was compared")
	}
}

// verifyPython looks for what TestKillPython has Python store, and deletes it.
func verifyPython(t *testing.T, path string) {
	t.Helper()
	s := mustOpen(t, Options{Path: path, FileAbove: 4096})
	check(t, s, "python", pythonNoise(1, 100))
	s.Evict("python")
	mustClose(t, s)
}

// kill runs the child and kills it, as often as rounds says, and compares; inspect comes first.
func kill(t *testing.T, rounds int, inspect func(path string, want map[string]*state)) {
	path := filepath.Join(t.TempDir(), "blobs.db")
	want := map[string]*state{}
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	puts := 0
	for range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childVar+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		stop := 5 + r.IntN(300)
		for n := 0; lines.Scan(); n++ {
			if n == stop { // then what is in the pipe already still counts
				time.Sleep(time.Duration(r.IntN(3000)) * time.Microsecond)
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			if lines.Text() == "open" {
				continue
			}
			verb, rest, _ := strings.Cut(lines.Text(), " ")
			key, what, _ := strings.Cut(rest, " ")
			if want[key] == nil {
				want[key] = &state{}
			}
			switch w := want[key]; verb {
			case "+":
				w.pending = what
			case "-":
				w.pending = "-"
			case "!+":
				w.acked, w.pending = what, ""
				puts++
			case "!-":
				w.acked, w.pending = "-", ""
			}
		}
		_ = cmd.Wait()
		if inspect != nil {
			inspect(path, want)
		}
		verify(t, Options{Path: path, FileAbove: 4096}, want)
	}
	t.Logf("%d puts were acknowledged", puts)
	if puts == 0 {
		t.Error("the child did nothing")
	}
}

// verify opens the store and compares; what turned out to be there is acknowledged from then on.
func verify(t *testing.T, o Options, want map[string]*state) {
	t.Helper()
	l := &logs{}
	o.Logger = l.logger()
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, s)
	if strings.Contains(l.String(), "lost") {
		t.Errorf("an object without its file:\n%s", l)
	}
	n, inFiles := 0, 0
	for key, w := range want {
		is := "-"
		if s.Exists(key) {
			n++
			b, err := s.Get(key)
			if err != nil {
				t.Fatalf("Get %s: %v", key, err)
			}
			if b.Len() >= int(o.FileAbove) {
				inFiles++
			}
			for _, may := range []string{w.acked, w.pending} {
				text, size, ok := strings.Cut(may, " ")
				seed, _ := strconv.ParseUint(text, 10, 64)
				if m, _ := strconv.Atoi(size); ok && string(b.Bytes()) == string(content(seed, m)) {
					is = may
				}
			}
			b.Release()
			if is == "-" {
				t.Fatalf("%s has %d bytes that nobody put: %+v", key, b.Len(), *w)
			}
		}
		if acked := w.acked; is != acked && is != w.pending && !(acked == "" && is == "-") {
			t.Fatalf("%s is %q, acknowledged was %q, under way %q", key, is, w.acked, w.pending)
		}
		w.acked, w.pending = is, ""
	}
	if u := s.Usage(); u.Objects != int64(n) || u.Files != int64(inFiles) || len(files(t, o)) != inFiles {
		t.Fatalf("%+v and %d files, want %d objects, %d of them files", u, len(files(t, o)), n, inFiles)
	}
}
