package connectortest

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
)

// backings are those whose memory somebody must give back.
var backings = []transport.Backing{transport.Pooled, transport.Mapped, transport.CMemory, transport.Registered}

// inventory is what a process holds at one moment.
type inventory struct {
	goroutines map[string]string // stacks by number
	files      map[string]string // targets by descriptor; empty where the system has no /proc
	buffers    [][2]int64        // count and bytes by backing
	held       int64             // of the default pool
}

func takeInventory() inventory {
	inv := inventory{goroutines: goroutines(), files: openFiles(), held: transport.DefaultPool.Stats().Held}
	for _, b := range backings {
		n, size := transport.Live(b)
		inv.buffers = append(inv.buffers, [2]int64{n, size})
	}
	return inv
}

// patience is how long something may take to end after the Close that ends it. The suite's own tests, whose connectors leak for certain, have less.
var patience = 3 * time.Second

// compare fails t if there is more than there was, or a buffer less. What is on its way out gets a little time.
func (before inventory) compare(t testing.TB) {
	t.Helper()
	var left []string
	for start, pause := time.Now(), 100*time.Microsecond; time.Since(start) < patience; pause *= 2 {
		if left = before.left(); len(left) == 0 {
			return
		}
		time.Sleep(pause)
	}
	for _, l := range left {
		t.Error(l)
	}
}

func (before inventory) left() []string {
	now := takeInventory()
	var left []string
	for id, stack := range now.goroutines {
		if _, ok := before.goroutines[id]; !ok {
			left = append(left, "goroutine still runs at the end:\n"+stack)
		}
	}
	for fd, target := range now.files {
		if was, ok := before.files[fd]; !ok || was != target {
			left = append(left, fmt.Sprintf("file descriptor %s is still open at the end: %s", fd, target))
		}
	}
	for i, b := range backings {
		if was, is := before.buffers[i], now.buffers[i]; was != is {
			left = append(left, fmt.Sprintf("buffers of %s memory: %d with %d bytes at the end, %d with %d bytes before", b, is[0], is[1], was[0], was[1]))
		}
	}
	if now.held != before.held {
		left = append(left, fmt.Sprintf("transport.DefaultPool: %d buffers out at the end, %d before; fewer than before means freed twice", now.held, before.held))
	}
	return left
}

// goroutines returns the stacks of all goroutines but the runtime's and the test framework's own.
func goroutines() map[string]string {
	buf := make([]byte, 64<<10)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	all := map[string]string{}
	for stack := range bytes.SplitSeq(buf, []byte("\n\n")) {
		s := string(stack)
		id, _, _ := strings.Cut(strings.TrimPrefix(s, "goroutine "), " ")
		if strings.Contains(s, "connectortest.goroutines(") || strings.Contains(s, "created by os/signal.Notify") ||
			strings.Contains(s, "created by runtime.") || strings.Contains(s, "testing.(*T).Run(") {
			continue
		}
		all[id] = s
	}
	return all
}

// openFiles returns what /proc/self/fd says, without what the runtime opens for itself when it first needs it.
func openFiles() map[string]string {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // not Linux
	}
	files := map[string]string{}
	for _, e := range entries {
		target, err := os.Readlink(dir + "/" + e.Name())
		if err != nil || strings.HasPrefix(target, "anon_inode:[event") || strings.HasSuffix(target, "/fd") {
			continue // the last is the directory that we are reading
		}
		files[e.Name()] = target
	}
	return files
}
