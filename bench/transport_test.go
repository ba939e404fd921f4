//go:build unix

package bench

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

// A net is one way between two processes of a machine, with all who measure it.
type netCase struct {
	name   string
	ops    []string
	rivals []rivalOf
	flight int // the most requests in flight that the second row of each size has
}

// rivalOf opens one rival for objects like obj. It returns nil where the rival is not there: no libzmq, no Python, ...
type rivalOf struct {
	name string
	open func(b *testing.B, obj []byte) (rival, error)
}

// A rival does the same as the others: put or get objects of one size, with flight requests under way, for as long as until and at least once.
type rival interface {
	round(op string, flight int, until time.Duration) (sample, error)
	close()
}

// The rivals' names, which are the table's columns.
const (
	rivalRaw    = "raw"    // a Go socket with memory that is used again
	rivalNative = "native" // the transport's own C library
	rivalPython = "python" // ProxyStore's connector
	rivalCopy   = "copy"   // memcpy, which is what a mapping saves
)

// nets is filled by the files that know one, so that a build tag brings its transport along.
var nets []netCase

// sample is what one rival did in some time.
type sample struct {
	took    []time.Duration
	elapsed time.Duration
	ops     int
}

// keep bounds the single times that are remembered; past it all operations count, but for the percentiles one in some.
const keep = 100_000

func (s *sample) add(d time.Duration) {
	if s.ops++; len(s.took) < keep {
		s.took = append(s.took, d)
	} else {
		s.took[s.ops%keep] = d
	}
}

func (s *sample) merge(o sample) {
	s.took = append(s.took, o.took...)
	s.elapsed += o.elapsed
	s.ops += o.ops
}

// sequential does f again and again.
func sequential(until time.Duration, f func() error) (sample, error) {
	var s sample
	for start := time.Now(); s.ops == 0 || s.elapsed < until; {
		begin := time.Now()
		if err := f(); err != nil {
			return s, err
		}
		s.add(time.Since(begin))
		s.elapsed = time.Since(start)
	}
	return s, nil
}

// parallel does f in that many goroutines, whose number it is given.
func parallel(flight int, until time.Duration, f func(worker int) error) (sample, error) {
	if flight == 1 {
		return sequential(until, func() error { return f(0) })
	}
	samples, errs := make([]sample, flight), make([]error, flight)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range flight {
		wg.Go(func() { samples[i], errs[i] = sequential(until, func() error { return f(i) }) })
	}
	wg.Wait()
	all := sample{}
	for i, s := range samples {
		all.merge(s)
		if errs[i] != nil {
			return all, errs[i]
		}
	}
	all.elapsed = time.Since(start)
	return all, nil
}

// figure is what a rival's rounds of one row add up to.
type figure struct {
	p50, p99, perOp time.Duration
	mbps            float64
}

func (s sample) figure(size int) figure {
	slices.Sort(s.took)
	return figure{s.took[len(s.took)/2], s.took[len(s.took)*99/100], s.elapsed / time.Duration(s.ops), float64(size) * float64(s.ops) / s.elapsed.Seconds() / 1e6}
}

// row is one line of the table.
type row struct {
	net, op string
	size    int
	flight  int
}

var rows = map[row]map[string]figure{}

// rounds bounds what -benchtime asks for, with other benchmarks in mind: more make no row better.
func rounds() int {
	if *quickFlag {
		return 3
	}
	return 20
}

// inFlight is how many requests for objects of that size may be under way without taking the machine's memory.
func inFlight(most, size int) int { return max(1, min(most, (256<<20)/size)) }

// BenchmarkTransport measures ours, the raw socket, the C library and Python's connector on each transport. Servers are processes of their own. One
// iteration is a round in which each rival has a turn of -slice, so that whatever else the machine does hits all of them; -benchtime 10x is ten
// rounds. ns/op is ours: the median with one request in flight, the time per request with more.
func BenchmarkTransport(b *testing.B) {
	for _, n := range nets {
		b.Run("net="+n.name, func(b *testing.B) {
			for _, op := range n.ops {
				b.Run("op="+op, func(b *testing.B) {
					for _, size := range sizes() {
						b.Run("size="+sizeName(size), func(b *testing.B) { benchmarkRow(b, n, op, size) })
					}
				})
			}
		})
	}
}

func benchmarkRow(b *testing.B, n netCase, op string, size int) {
	obj := payload(size)
	var names []string
	var all []rival
	b.Cleanup(func() {
		for _, r := range all {
			r.close()
		}
	})
	for _, open := range n.rivals {
		if open.name == rivalCopy && op != "map" {
			continue // only what moves no bytes is compared with those that do
		}
		r, err := open.open(b, obj)
		if err != nil {
			b.Fatalf("%s: %v", open.name, err)
		}
		if r == nil {
			continue
		}
		names, all = append(names, open.name), append(all, r)
		for range 2 { // connections, code and pages are warm before anything counts
			if _, err := r.round(op, 1, 0); err != nil {
				b.Fatalf("%s: %v", open.name, err)
			}
		}
	}
	flights := []int{1}
	if f := inFlight(n.flight, size); f > 1 {
		flights = append(flights, f)
	}
	for _, flight := range flights {
		b.Run("flight="+strconv.Itoa(flight), func(b *testing.B) {
			samples := make([]sample, len(all))
			for i, r := range all { // more requests in flight need more memory, which is cold the first time
				if _, err := r.round(op, flight, 0); err != nil {
					b.Fatalf("%s: %v", names[i], err)
				}
			}
			b.ResetTimer()
			for round := range min(b.N, rounds()) {
				for turn := range all { // who begins changes
					i := (round + turn) % len(all)
					s, err := all[i].round(op, flight, *sliceFlag)
					if err != nil {
						b.Fatalf("%s: %v", names[i], err)
					}
					samples[i].merge(s)
				}
			}
			b.StopTimer()
			figures := map[string]figure{}
			for i, s := range samples {
				figures[names[i]] = s.figure(size)
			}
			rows[row{n.name, op, size, flight}] = figures
			o := figures[ours]
			b.ReportMetric(float64(cost(o, flight).Nanoseconds()), "ns/op")
			b.ReportMetric(float64(o.p99.Nanoseconds()), "p99-ns/op")
			b.ReportMetric(o.mbps, "MB/s")
			for name, f := range figures {
				if name != ours && o.perOp > 0 {
					b.ReportMetric(float64(cost(o, flight))/float64(cost(f, flight)), "ours/"+name)
				}
			}
		})
	}
}

// cost is what is compared: how long one waits for an answer, or how often answers come.
func cost(f figure, flight int) time.Duration {
	if flight == 1 {
		return f.p50
	}
	return f.perOp
}

func printTransports() {
	if len(rows) == 0 {
		return
	}
	fmt.Printf("\n%s, %d cores, %s. flight: requests under way. ours, raw (Go socket), native (the C library), python (its connector, never more than one in "+
		"flight), copy (memcpy): median for flight 1, else time per request. Ratios below 1 are in our favour, but in python/ours.\n",
		runtime.Version(), runtime.NumCPU(), runtime.GOOS+"/"+runtime.GOARCH)
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "net\top\tsize\tflight\tours\tp99\tMB/s\traw\tp99\tnative\tp99\tpython\tp99\tcopy\tours/raw\tours/native\tpython/ours\tours/copy\t")
	order := slices.SortedFunc(maps.Keys(rows), func(a, b row) int {
		return cmp.Or(strings.Compare(a.net, b.net), strings.Compare(a.op, b.op), a.size-b.size, a.flight-b.flight)
	})
	for _, r := range order {
		f := rows[r]
		o, okO := f[ours]
		at := func(name string) (string, string) {
			c, ok := f[name]
			return show(cost(c, r.flight), ok), show(c.p99, ok)
		}
		over := func(name string) string {
			c, ok := f[name]
			return ratio(cost(o, r.flight), cost(c, r.flight), ok && okO)
		}
		mine, p99 := at(ours)
		rawT, raw99 := at(rivalRaw)
		nat, nat99 := at(rivalNative)
		py, py99 := at(rivalPython)
		cp, _ := at(rivalCopy)
		p, okP := f[rivalPython]
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%.0f\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", r.net, r.op, sizeName(r.size), r.flight, mine, p99, o.mbps,
			rawT, raw99, nat, nat99, py, py99, cp, over(rivalRaw), over(rivalNative), ratio(cost(p, r.flight), cost(o, r.flight), okP && okO), over(rivalCopy))
	}
	w.Flush()
	printAims(order)
}

// printAims says how far what we promise is true in this run.
func printAims(order []row) {
	type aim struct {
		what  string
		bound float64
		least bool // the bound is the least, not the most
		value func(r row, f map[string]figure) (float64, bool)
	}
	over := func(r row, f map[string]figure, a, b string) (float64, bool) {
		x, okX := f[a]
		y, okY := f[b]
		return float64(cost(x, r.flight)) / float64(max(1, cost(y, r.flight))), okX && okY
	}
	// floorOf compares with the transport's own library, where it has one, else with the socket.
	floorOf := func(r row, f map[string]figure) (float64, bool) {
		if v, ok := over(r, f, ours, rivalNative); ok {
			return v, true
		}
		return over(r, f, ours, rivalRaw)
	}
	aims := []aim{
		{"from 1 MB up, many in flight: time over that of the transport itself", 1 / 0.9, false, func(r row, f map[string]figure) (float64, bool) {
			v, ok := floorOf(r, f)
			return v, ok && r.size >= 1e6 && r.flight > 1 && r.op != "map"
		}},
		{"from 1 MB up, one in flight: time over that of the transport itself", 1 / 0.9, false, func(r row, f map[string]figure) (float64, bool) {
			v, ok := floorOf(r, f)
			return v, ok && r.size >= 1e6 && r.flight == 1 && r.op != "map"
		}},
		{"1 kB get, one in flight: time over that of the transport itself", 1.3, false, func(r row, f map[string]figure) (float64, bool) {
			v, ok := floorOf(r, f)
			return v, ok && r.size == 1000 && r.flight == 1 && r.op == "get"
		}},
		{"ZeroMQ: Python's time over ours", 5, true, func(r row, f map[string]figure) (float64, bool) {
			v, ok := over(r, f, rivalPython, ours)
			return v, ok && r.net == "zmq"
		}},
		{"same host: time to map over that to get by a raw socket, one in flight", 1, false, func(r row, f map[string]figure) (float64, bool) {
			v, ok := over(r, f, ours, rivalRaw)
			return v, ok && r.op == "map" && r.flight == 1
		}},
		{"same host, from 10 MB up: time to map over that of a memcpy", 1, false, func(r row, f map[string]figure) (float64, bool) {
			v, ok := over(r, f, ours, rivalCopy)
			return v, ok && r.op == "map" && r.size >= 1e7
		}},
	}
	fmt.Println()
	for _, a := range aims {
		var met, all int
		var worst float64
		var where row
		for _, r := range order {
			v, ok := a.value(r, rows[r])
			if !ok {
				continue
			}
			if all++; a.least == (v >= a.bound) {
				met++
			}
			if all == 1 || a.least == (v < worst) {
				worst, where = v, r
			}
		}
		if all > 0 {
			sign := map[bool]string{false: "at most", true: "at least"}[a.least]
			fmt.Printf("%s: %s %.2f in %d of %d rows; the worst is %.2f (%s %s %s, %d in flight)\n", a.what, sign, a.bound, met, all, worst, where.net, where.op,
				sizeName(where.size), where.flight)
		}
	}
}
