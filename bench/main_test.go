//go:build unix

package bench

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

var (
	sizesFlag = flag.String("sizes", "", "object sizes in bytes; default 1000,100000,1000000,100000000, with -quick 1000,1000000")
	quickFlag = flag.Bool("quick", false, "fewer sizes, and fewer rounds of BenchmarkTransport")
	heapFlag  = flag.Int("heap", 256, "MB of live memory that the process holds, as a service does; 0 makes the garbage collector run all the time")
	dirFlag   = flag.String("dir", "", "where the file connector works; default /dev/shm, or the temporary directory")
	pollFlag  = flag.Duration("poll", 0, "how long our TCP, unix and UCX clients and servers look for bytes before they wait; ucx_perftest then polls, too")
	sliceFlag = flag.Duration("slice", 50*time.Millisecond, "how long each rival's turn in a round of BenchmarkTransport is")
)

func sizes() []int {
	list := *sizesFlag
	switch {
	case list != "":
	case *quickFlag:
		list = "1000,1000000"
	default:
		list = "1000,100000,1000000,100000000"
	}
	var s []int
	for f := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < 1 {
			panic("bench: bad -sizes " + list)
		}
		s = append(s, n)
	}
	return s
}

// The three columns of every comparison.
const (
	ours   = "proxyplane"
	floor  = "floor"
	python = "python"
)

// cell is one measured figure.
type cell struct {
	conn, op string
	size     int
	impl     string
}

var results = map[cell]time.Duration{}

// report notes the time of one operation, replacing what an earlier, shorter run of the same benchmark noted.
func report(b *testing.B, c cell, total time.Duration) {
	per := total / time.Duration(b.N)
	if b.N > 1<<20 { // keep fractions of a nanosecond out of integers only where they do not matter
		per = time.Duration(float64(total) / float64(b.N))
	}
	results[c] = per
	b.ReportMetric(float64(total.Nanoseconds())/float64(b.N), "ns/op")
	b.ReportMetric(float64(c.size)*float64(b.N)/total.Seconds()/1e6, "MB/s")
}

// atEnd is called when all benchmarks are over.
var atEnd []func()

func TestMain(m *testing.M) {
	if role := os.Getenv(childVar); role != "" {
		flag.Parse()
		heap := make([]byte, 256<<20) // as a service has it
		err := runChild(role)
		runtime.KeepAlive(heap)
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	heap := make([]byte, *heapFlag<<20)
	code := m.Run()
	runtime.KeepAlive(heap)
	stopPeers()
	stopChildren()
	for _, f := range atEnd {
		f()
	}
	if len(results) > 0 {
		printTable()
	}
	printTransports()
	os.Exit(code)
}

func printTable() {
	fmt.Printf("\n%s, %d cores, %s, %d MB of live heap. Times per operation; ours/floor: 1 is as fast as the machine allows; python/ours: how many times faster we are.\n",
		runtime.Version(), runtime.NumCPU(), runtime.GOOS+"/"+runtime.GOARCH, *heapFlag)
	rows := map[cell]bool{}
	for c := range results {
		c.impl = ""
		rows[c] = true
	}
	order := slices.SortedFunc(maps.Keys(rows), func(a, b cell) int {
		if c := strings.Compare(a.conn, b.conn); c != 0 {
			return c
		}
		if c := strings.Compare(a.op, b.op); c != 0 {
			return c
		}
		return a.size - b.size
	})
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "connector\top\tsize\tours\tfloor\tpython\tours/floor\tpython/ours\t")
	for _, r := range order {
		get := func(impl string) (time.Duration, bool) {
			d, ok := results[cell{r.conn, r.op, r.size, impl}]
			return d, ok
		}
		o, okO := get(ours)
		f, okF := get(floor)
		p, okP := get(python)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", r.conn, r.op, sizeName(r.size), show(o, okO), show(f, okF), show(p, okP),
			ratio(o, f, okO && okF), ratio(p, o, okO && okP))
	}
	w.Flush()
}

func show(d time.Duration, ok bool) string {
	switch {
	case !ok:
		return "-"
	case d < 10*time.Microsecond:
		return fmt.Sprintf("%d ns", d.Nanoseconds())
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.0f µs", float64(d)/1e3)
	}
	return fmt.Sprintf("%.1f ms", float64(d)/1e6)
}

func ratio(a, b time.Duration, ok bool) string {
	if !ok || b == 0 {
		return "-"
	}
	r := float64(a) / float64(b)
	if r >= 20 {
		return fmt.Sprintf("%.0f", r)
	}
	return fmt.Sprintf("%.2f", r)
}

func sizeName(n int) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%gMB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%gkB", float64(n)/1e3)
	}
	return fmt.Sprintf("%dB", n)
}
