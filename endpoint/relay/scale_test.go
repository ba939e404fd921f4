package relay

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

// TestClientsProcess is not a test: TestManyClients runs it as the process that holds the clients' ends, until its standard input ends.
func TestClientsProcess(t *testing.T) {
	var addr string
	var n int
	if _, err := fmt.Sscan(os.Getenv("PROXYPLANE_RELAY_HOLD"), &addr, &n); err != nil {
		return
	}
	conns := make([]*net.TCPConn, n)
	var wg sync.WaitGroup
	const workers = 16
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				conns[i] = handshake(t, addr, uuid.New())
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	os.Stdout.WriteString("ready\n")
	io.Copy(io.Discard, os.Stdin)
	for _, c := range conns {
		c.Close()
	}
}

// TestManyClients registers many clients that then do nothing, and says what one costs. `PROXYPLANE_RELAY_CLIENTS=10000 go test -run ManyClients -v` is the large
// one; it needs a file descriptor per client here and in the process that holds their other ends.
func TestManyClients(t *testing.T) {
	n := 2000
	if v := os.Getenv("PROXYPLANE_RELAY_CLIENTS"); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	if max := maxFiles(); max < n+100 {
		t.Logf("the limit is %d open files: fewer clients (ulimit -n)", max)
		n = max - 100
	}
	checkLeaks(t)
	// Silent clients are pinged, all of them: nothing may be held for that afterwards. They do not answer, and so must not be there long enough to be dead.
	s, addr := startServer(t, ServerOptions{Logger: slog.New(slog.DiscardHandler), HandshakesPerSecond: -1, KeepAlive: time.Hour})
	memory := func() (heap, stack int64) {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc), int64(m.StackInuse)
	}
	heap, stack := memory()
	goroutines := runtime.NumGoroutine()
	start := time.Now()
	clients := exec.Command(os.Args[0], "-test.run=^TestClientsProcess$")
	clients.Env = append(os.Environ(), fmt.Sprintf("PROXYPLANE_RELAY_HOLD=%s %d", addr, n))
	clients.Stderr = os.Stderr
	end, err := clients.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := clients.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := clients.Start(); err != nil {
		t.Fatal(err)
	}
	defer clients.Wait()
	defer end.Close()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the clients' process said %q, %v", line, err)
	}
	eventually(t, "all are registered", func() bool { return s.Stats().Clients == n })
	took := time.Since(start)
	var more int
	eventually(t, "one goroutine each", func() bool { more = runtime.NumGoroutine() - goroutines; return more <= n+10 })
	heap2, stack2 := memory()
	perHeap, perStack := (heap2-heap)/int64(n), (stack2-stack)/int64(n)
	t.Logf("%d clients registered in %v: per client %d B of heap and %d B of stacks, %.3f goroutines", n, took.Round(time.Millisecond),
		perHeap, perStack, float64(more)/float64(n))
	if !raceEnabled && perHeap+perStack > 16<<10 {
		t.Errorf("a client costs %d B", perHeap+perStack)
	}
	a, b := dialRaw(t, addr, http.Header{}).register(uuid.New()), dialRaw(t, addr, nil).register(uuid.New())
	const rounds = 200
	start = time.Now()
	for range rounds {
		a.send(a.offer(b.id))
		b.receive()
	}
	t.Logf("a message among them takes %v", time.Since(start)/rounds)
	end.Close()
	eventually(t, "all are unregistered", func() bool { return s.Stats().Connections == 2 })
}
