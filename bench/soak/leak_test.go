package soak

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
)

// inventory is what the process holds and must have given back when a store is closed.
type inventory struct {
	goroutines int
	files      map[string]string // targets by descriptor; nil where the system does not tell
	buffers    [transport.Registered + 1][2]int64
	held       int64 // of the default pool
}

func takeInventory() inventory {
	inv := inventory{goroutines: runtime.NumGoroutine(), held: transport.DefaultPool.Stats().Held}
	for b := transport.Pooled; b <= transport.Registered; b++ {
		inv.buffers[b][0], inv.buffers[b][1] = transport.Live(b)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return inv // not Linux
	}
	inv.files = map[string]string{}
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || strings.HasPrefix(target, "anon_inode:[event") { // the runtime's own
			continue
		}
		inv.files[e.Name()] = target
	}
	return inv
}

// compare fails t if there is more than there was. What is on its way out gets a little time.
func (before inventory) compare(t *testing.T) {
	t.Helper()
	var left []string
	for range 200 {
		if left = before.left(); len(left) == 0 {
			return
		}
		runtime.GC() // the memory of dropped proxies and views goes back with them
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("at the end: %s", strings.Join(left, "; "))
}

func (before inventory) left() (left []string) {
	now := takeInventory()
	if now.goroutines > before.goroutines {
		stacks := make([]byte, 1<<20)
		left = append(left, fmt.Sprintf("%d goroutines, %d before:\n%s", now.goroutines, before.goroutines, stacks[:runtime.Stack(stacks, true)]))
	}
	for fd, target := range now.files {
		if was, ok := before.files[fd]; (!ok || was != target) && !strings.HasSuffix(target, "/fd") {
			left = append(left, fmt.Sprintf("descriptor %s is open: %s", fd, target))
		}
	}
	for b := transport.Pooled; b <= transport.Registered; b++ {
		if now.buffers[b] != before.buffers[b] {
			left = append(left, fmt.Sprintf("%v buffers and bytes of %s memory, %v before", now.buffers[b], b, before.buffers[b]))
		}
	}
	if now.held != before.held {
		left = append(left, fmt.Sprintf("%d buffers out of the default pool, %d before", now.held, before.held))
	}
	return left
}
