package main

import (
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"
)

// median of times; 0 if there are none.
func median(times []time.Duration) time.Duration {
	if len(times) == 0 {
		return 0
	}
	t := slices.Clone(times)
	slices.Sort(t)
	if n := len(t); n%2 == 0 {
		return (t[n/2-1] + t[n/2]) / 2
	}
	return t[len(t)/2]
}

func (r *results) median(k key, system string) time.Duration { return median(r.times[k][system]) }

// ratio tells how many times faster than b a is, "" if one is missing.
func ratio(a, b time.Duration) string {
	if a == 0 || b == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", b.Seconds()/a.Seconds())
}

// table prints medians with their ratios, and then what we aim at.
func (r *results) table(out io.Writer) {
	l := r.profile.link
	link := fmt.Sprintf("%.0f Mbit/s, %v round trip, %.2g %% loss", l.Rate/1e6, 2*l.Delay, l.Loss*100)
	if l.Direct {
		link = "veth, no limit"
	}
	fmt.Fprintf(out, "\n%s (%s), %d cores, %s. Medians; of TCP: 1 is as fast as one TCP connection; of Python: how many times faster than two Python endpoints.\n",
		r.profile.name, link, runtime.NumCPU(), runtime.Version())
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "op\tsize\tsystem\tms\tMbit/s\tof TCP\tof Python\tlowest ms\thighest ms\tn\t")
	for _, k := range r.keys {
		for _, s := range r.systems {
			m := r.median(k, s)
			if m == 0 {
				continue
			}
			times := r.times[k][s]
			fmt.Fprintf(w, "%s\t%d\t%s\t%.2f\t%.1f\t%s\t%s\t%.2f\t%.2f\t%d\t\n", k.op, k.size, s, ms(m), float64(k.size)*8/m.Seconds()/1e6,
				ratio(m, r.median(k, sysTCP)), ratio(m, r.median(k, sysPython)), ms(slices.Min(times)), ms(slices.Max(times)), len(times))
		}
	}
	w.Flush()
	for _, a := range r.aims() {
		fmt.Fprintln(out, a)
	}
	for _, n := range r.notes {
		fmt.Fprintln(out, "note:", n)
	}
}

func ms(d time.Duration) float64 { return d.Seconds() * 1e3 }

// aims compares the figures with what the endpoints are to reach, where they are there.
func (r *results) aims() (lines []string) {
	aim := func(what string, got, want float64, atMost bool) {
		verdict := "reached"
		got = math.Round(got*100) / 100 // as it is printed
		if got < want && !atMost || got > want && atMost {
			verdict = "MISSED"
		}
		lines = append(lines, fmt.Sprintf("aim: %s: %.2f of %.2f: %s", what, got, want, verdict))
	}
	times := func(k key, a, b string) (float64, bool) { // how many times faster a is than b
		x, y := r.median(k, a), r.median(k, b)
		return y.Seconds() / max(x, 1).Seconds(), x > 0 && y > 0
	}
	big := key{get, 100_000_000}
	if v, ok := times(big, sysOurs, sysTCP); ok {
		switch r.profile.name {
		case "1g20":
			aim("100 MB at 1 Gbit/s and 20 ms, of TCP", v, 0.95, false)
		case "200m-loss":
			aim("100 MB at 200 Mbit/s with loss, of TCP", v, 1, false)
		}
	}
	if v, ok := times(big, sysOurs, sysPython); ok {
		switch r.profile.name {
		case "1g20":
			aim("100 MB at 1 Gbit/s and 20 ms, of Python", v, 6, false)
		case "lan":
			aim("100 MB without limit, of Python", v, 10, false)
		}
	}
	if m := r.median(key{get, 1000}, sysOurs); m > 0 && r.profile.link.Delay > 0 {
		aim("get of 1 kB, in round trips", m.Seconds()/(2*r.profile.link.Delay.Seconds()), 1.1, true)
	}
	for _, k := range r.keys {
		for _, mixed := range []string{sysOursPython, sysPythonOurs} {
			if v, ok := times(k, mixed, sysPython); ok {
				aim(fmt.Sprintf("%s %s of %d bytes, of Python", mixed, k.op, k.size), v, 1, false)
			}
		}
	}
	return lines
}
