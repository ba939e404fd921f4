package soak

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane"
	"github.com/proxyplane/proxyplane/connectors"
)

// maxGrowth is how much resident memory one object may cost, whatever its size.
const maxGrowth = 64 << 20

// TestHugeObject passes an object through each streaming path in a process of its own, whose peak of resident memory is therefore that path's, and
// compares every byte that comes back. In the normal run the object is four times what the process may grow by; make soak takes 10 GiB.
func TestHugeObject(t *testing.T) {
	size := int64(objectSize)
	measure := func(place, dir string) {
		t.Run("conn=file/on="+place, func(t *testing.T) { hugeObject(t, proxyplane.FileConnector(dir), size) })
		t.Run("conn=multi/on="+place, func(t *testing.T) { hugeObject(t, multiFile(dir), size) })
	}
	measure("disk", t.TempDir())
	if shm := sharedMemory(t, size); shm != "" {
		measure("tmpfs", shm)
	} else {
		t.Logf("no room for %d bytes in /dev/shm: not measured there", size)
	}
}

// sharedMemory returns a directory in RAM if the object fits there with room to spare for everybody else, or "".
func sharedMemory(t *testing.T, size int64) string {
	var fs syscall.Statfs_t
	if err := syscall.Statfs("/dev/shm", &fs); err != nil || int64(fs.Bavail)*fs.Bsize < 3*size/2 || meminfo(t, "MemAvailable") < size+4<<30 {
		return ""
	}
	dir, err := os.MkdirTemp("/dev/shm", "proxyplane-soak-")
	if err != nil {
		return ""
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func hugeObject(t *testing.T, cfg connectors.Config, size int64) {
	config, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, pass := range []string{"put", "put-unknown-size", "open", "range", "proxy"} {
		if pass == "put-unknown-size" && size > 1<<30 {
			continue // the same path as put but for one number; in the long run that would only double the disk traffic
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childVar+"=stream", "SOAK_CONFIG="+string(config), "SOAK_PASS="+pass, "SOAK_SIZE="+strconv.FormatInt(size, 10))
		cmd.Stderr = os.Stderr
		start := time.Now()
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", pass, err, out)
		}
		var r streamReport
		if err := json.Unmarshal(out, &r); err != nil {
			t.Fatalf("%s: %v\n%s", pass, err, out)
		}
		t.Logf("%-16s %8.1f MB/s (checked), resident memory %5.1f -> peak %5.1f MB", pass, float64(r.Bytes)/1e6/time.Since(start).Seconds(),
			float64(r.Before)/1e6, float64(r.Peak)/1e6)
		if growth := r.Peak - r.Before; growth > maxGrowth {
			t.Errorf("%s: resident memory grew by %d bytes while %d passed; at most %d", pass, growth, r.Bytes, maxGrowth)
		}
		switch pass {
		case "put":
			config, err = json.Marshal(map[string]any{"Kind": cfg.Kind, "Options": cfg.Options, "Proxy": r.Proxy})
			if err != nil {
				t.Fatal(err)
			}
		case "put-unknown-size": // a second object, checked by the child that put it; the first stays for the next passes
		}
	}
	p, err := proxyplane.ParseProxy[[]byte](proxyIn(t, config))
	if err != nil {
		t.Fatal(err)
	}
	r := proxyplane.NewStores()
	p.Bind(r)
	if err := errors.Join(p.Evict(context.Background()), r.Close(context.Background())); err != nil {
		t.Error(err)
	}
}

func proxyIn(t *testing.T, config []byte) []byte {
	var c struct{ Proxy string }
	if err := json.Unmarshal(config, &c); err != nil {
		t.Fatal(err)
	}
	return []byte(c.Proxy)
}

// streamReport is what the child prints.
type streamReport struct {
	Bytes        int64
	Before, Peak int64 // resident memory
	Proxy        string
}

func init() { children["stream"] = streamChild }

func streamChild() int {
	r, err := streamPass(context.Background(), os.Getenv("SOAK_PASS"))
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "stream child:", err)
		return 1
	}
	return 0
}

func streamPass(ctx context.Context, pass string) (r streamReport, err error) {
	var cfg struct {
		Kind    string
		Options map[string]any
		Proxy   string
	}
	if err := json.Unmarshal([]byte(os.Getenv("SOAK_CONFIG")), &cfg); err != nil {
		return r, err
	}
	size, err := strconv.ParseInt(os.Getenv("SOAK_SIZE"), 10, 64)
	if err != nil {
		return r, err
	}
	s, err := proxyplane.Open(ctx, proxyplane.NewConfig("", connectors.Config{Kind: cfg.Kind, Options: cfg.Options}))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.Close(ctx)) }()
	var p *proxyplane.Proxy[[]byte]
	if cfg.Proxy != "" {
		if p, err = proxyplane.ParseProxy[[]byte]([]byte(cfg.Proxy)); err != nil {
			return r, err
		}
	}
	check := &verifier{}
	r.Before = resident("VmRSS")
	switch pass {
	case "put", "put-unknown-size":
		announced := size
		if pass != "put" {
			announced = -1
		}
		key, err := s.PutReader(ctx, io.LimitReader(&generator{}, size), announced)
		if err != nil {
			return r, err
		}
		r.Bytes = size
		if p, err = proxyplane.ProxyFromKey[[]byte](s, key); err != nil {
			return r, err
		}
		if pass != "put" {
			defer func() { err = errors.Join(err, s.Evict(ctx, key)) }()
			if err := copyAll(check, size, func() (*proxyplane.ObjectReader, error) { return s.OpenReader(ctx, key) }); err != nil {
				return r, err
			}
		}
		text, err := p.MarshalText()
		if err != nil {
			return r, err
		}
		r.Proxy = string(text)
	case "open":
		err = copyAll(check, size, func() (*proxyplane.ObjectReader, error) { return s.OpenReader(ctx, p.Key()) })
		r.Bytes = size
	case "proxy":
		err = copyAll(check, size, func() (*proxyplane.ObjectReader, error) { return p.Open(ctx) })
		r.Bytes = size
	case "range": // an eighth of the object, in places all over it, the ends included
		const step = 1 << 20
		rng := rand.New(rand.NewPCG(1, 1))
		for i := range max(size/step/8, 2) {
			off := rng.Int64N(max(size-step, 1))
			switch i {
			case 0:
				off = 0
			case 1:
				off = max(size-step/2, 0)
			}
			b, err := s.GetRange(ctx, p.Key(), off, step)
			if err != nil {
				return r, err
			}
			want := min(step, size-off)
			check.at = off
			if _, err = check.Write(b.Bytes()); err == nil && int64(b.Len()) != want {
				err = fmt.Errorf("range at %d has %d bytes, not %d", off, b.Len(), want)
			}
			r.Bytes += int64(b.Len())
			b.Release()
			if err != nil {
				return r, err
			}
		}
	}
	r.Peak = resident("VmHWM")
	return r, err
}

// copyAll reads an object to its end through check.
func copyAll(check *verifier, size int64, open func() (*proxyplane.ObjectReader, error)) (err error) {
	o, err := open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.Close()) }()
	if o.Size() != size {
		return fmt.Errorf("the reader says that the object has %d bytes, not %d", o.Size(), size)
	}
	if n, err := io.Copy(check, o); err != nil || n != size {
		return fmt.Errorf("read %d bytes of %d: %w", n, size, err)
	}
	return nil
}

// verifier fails at the first byte that differs from the stream: more than a checksum would say.
type verifier struct {
	at   int64
	want [64 << 10]byte
}

func (v *verifier) Write(p []byte) (n int, err error) {
	for n < len(p) {
		k := min(len(p)-n, len(v.want))
		fill(v.want[:k], v.at)
		if !bytes.Equal(v.want[:k], p[n:n+k]) {
			return n, fmt.Errorf("wrong bytes between %d and %d", v.at, v.at+int64(k))
		}
		n += k
		v.at += int64(k)
	}
	return n, nil
}

// resident returns a line of /proc/self/status in bytes.
func resident(name string) int64 { return must(procBytes("/proc/self/status", name)) }

func meminfo(t *testing.T, name string) int64 {
	n, err := procBytes("/proc/meminfo", name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func procBytes(file, name string) (int64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, name)
}
