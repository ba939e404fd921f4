//go:build unix

package file

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/transport"
)

const crashEnv = "PROXYPLANE_FILE_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashEnv); dir != "" {
		crashChild(dir)
		return
	}
	os.Exit(m.Run())
}

// sealed is an object that says itself whether it is whole: length, checksum, bytes.
func sealed(n int, seed byte) transport.Slices {
	body := bytes.Repeat([]byte{seed, 1, 2, 3, 5, 8, 13}, n/7+1)[:n]
	head := binary.BigEndian.AppendUint32(nil, uint32(n))
	return transport.Slices{binary.BigEndian.AppendUint32(head, crc32.ChecksumIEEE(body)), body}
}

func isWhole(b []byte) bool {
	return len(b) >= 8 && int(binary.BigEndian.Uint32(b)) == len(b)-8 && binary.BigEndian.Uint32(b[4:]) == crc32.ChecksumIEEE(b[8:])
}

// crashChild stores objects in every way until it is killed, and prints each key once it is acknowledged.
func crashChild(dir string) {
	c, err := New(Options{StoreDir: dir})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	if strings.HasSuffix(dir, "named") {
		c.dir.plain()
	}
	ctx := context.Background()
	fixed := connectors.FileKey{Filename: "0b54cb76-7f19-4b0c-8d5f-3c7e2d9a6a11"}
	for i := 0; ; i++ {
		o := sealed([]int{0, 100, 10_000, 1 << 20}[i%4], byte(i))
		var keys []connectors.Key
		var k connectors.Key
		switch i % 5 {
		case 0, 1:
			k, err = c.Put(ctx, o)
		case 2:
			k, err = fixed, c.Set(ctx, fixed, o)
		case 3:
			var w connectors.Writer
			if w, err = c.PutStream(ctx, -1); err == nil {
				for _, p := range o {
					w.Write(p)
				}
				k, err = w.Commit()
			}
		case 4:
			keys, err = c.PutBatch(ctx, []transport.Slices{o, sealed(50, 1), sealed(5000, 2)})
		}
		if err != nil {
			fmt.Println("error", err)
			return
		}
		if k != nil {
			keys = append(keys, k)
		}
		for _, k := range keys {
			fmt.Println("ok", k.(connectors.FileKey).Filename)
		}
	}
}

// TestKill kills a writer again and again. What it has acknowledged must be there and whole; whatever else is visible must be whole.
func TestKill(t *testing.T) {
	if !strings.Contains(os.Args[0], "test") {
		t.Fatal("not a test binary")
	}
	for _, mode := range []string{"anonymous", "named"} {
		dir := filepath.Join(tmpDir(t), mode)
		acked := 0
		for round := range 15 {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), crashEnv+"="+dir)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			var keys []connectors.Key
			var kill *time.Timer
			for lines.Scan() {
				if kill == nil { // it is at work
					kill = time.AfterFunc(time.Duration(rand.IntN(20_000))*time.Microsecond, func() { cmd.Process.Kill() })
				}
				state, name, _ := strings.Cut(lines.Text(), " ")
				if state != "ok" {
					t.Errorf("child: %s", lines.Text())
					break
				}
				keys = append(keys, connectors.FileKey{Filename: name})
			}
			if n := len(keys); n > 0 {
				keys = keys[:n-1] // the last line may be cut
			}
			cmd.Process.Kill()
			cmd.Wait()
			acked += len(keys)
			c := newConnector(t, Options{StoreDir: dir})
			for _, k := range keys {
				b, err := c.Get(context.Background(), k)
				if err != nil {
					t.Fatalf("round %d: acknowledged, and then: %v", round, err)
				}
				if !isWhole(b.Bytes()) {
					t.Fatalf("round %d: %v is torn", round, k)
				}
				b.Release()
			}
			for _, name := range list(t, dir) {
				base, marker := strings.CutSuffix(name, ready)
				if !marker {
					continue
				}
				b, err := os.ReadFile(filepath.Join(dir, base))
				if err != nil || !isWhole(b) {
					t.Fatalf("round %d: visible object %s has %d bytes and is not whole (%v)", round, base, len(b), err)
				}
			}
			if _, err := c.Sweep(context.Background(), -time.Hour); err != nil {
				t.Fatal(err)
			}
			whole := 0
			for _, name := range list(t, dir) {
				if base, marker := strings.CutSuffix(name, ready); marker {
					whole++
				} else if _, err := os.Stat(filepath.Join(dir, base+ready)); err != nil {
					t.Errorf("round %d: Sweep left %s", round, name)
				}
			}
			for _, k := range keys {
				if k.(connectors.FileKey).Filename != "fixed" {
					c.Evict(context.Background(), k)
				}
			}
			c.Close(context.Background())
		}
		if acked == 0 {
			t.Error("nothing was ever acknowledged")
		}
		t.Logf("%s: %d objects acknowledged before the kills", mode, acked)
	}
}
