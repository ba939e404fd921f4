package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/proxyplane/proxyplane/internal/netlab"
	"github.com/proxyplane/proxyplane/internal/testenv"
)

// profile is a link between the sites.
type profile struct {
	name string
	link netlab.Options
}

var profiles = []profile{
	{"lan", netlab.Options{Direct: true}},
	{"1g20", netlab.Options{Delay: 10 * time.Millisecond, Rate: 1e9, Queue: 12_500_000}},
	{"200m", netlab.Options{Delay: 10 * time.Millisecond, Rate: 200e6, Queue: 2_500_000}},
	{"200m-loss", netlab.Options{Delay: 10 * time.Millisecond, Rate: 200e6, Queue: 2_500_000, Loss: 0.001}},
}

// plan is what a run measures.
type plan struct {
	profiles []profile
	systems  []string
	ops      []string
	sizes    []int
	rounds   int
	json     io.Writer // nil: none
	keep     string    // where configurations and logs are, "" for a temporary directory
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == role {
		if err := serve(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "intersite:", err)
			os.Exit(1)
		}
		return
	}
	p, err := parse()
	if err == nil {
		err = p.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "intersite:", err)
		os.Exit(1)
	}
}

func parse() (*plan, error) {
	names := make([]string, len(profiles))
	for i, p := range profiles {
		names[i] = p.name
	}
	prof := flag.String("profiles", strings.Join(names, ","), "links, in this order")
	sys := flag.String("systems", strings.Join(systemNames(), ","), "what is measured")
	ops := flag.String("ops", "get,put", "operations")
	sizes := flag.String("sizes", "", "object sizes in bytes; default 1000,1000000,10000000,100000000, with -quick 1000,10000000")
	rounds := flag.Int("rounds", 0, "rounds; default 5, with -quick 2")
	quick := flag.Bool("quick", false, "fewer sizes and rounds")
	out := flag.String("json", "", "file for JSON lines with every sample, - for standard output")
	keep := flag.String("keep", "", "directory for configurations and logs, which stay; default a temporary one")
	flag.Parse()
	p := &plan{systems: strings.Split(*sys, ","), ops: strings.Split(*ops, ","), rounds: *rounds, keep: *keep}
	for name := range strings.SplitSeq(*prof, ",") {
		i := slices.Index(names, name)
		if i < 0 {
			return nil, fmt.Errorf("no profile %q: there are %s", name, strings.Join(names, ", "))
		}
		p.profiles = append(p.profiles, profiles[i])
	}
	for _, s := range p.systems {
		if !slices.Contains(systemNames(), s) {
			return nil, fmt.Errorf("no system %q: there are %s", s, strings.Join(systemNames(), ", "))
		}
	}
	for _, o := range p.ops {
		if o != get && o != put {
			return nil, fmt.Errorf("no operation %q: there are get, put", o)
		}
	}
	if p.rounds == 0 {
		p.rounds = 5
		if *quick {
			p.rounds = 2
		}
	}
	switch {
	case *sizes == "" && *quick:
		*sizes = "1000,10000000"
	case *sizes == "":
		*sizes = "1000,1000000,10000000,100000000"
	}
	for s := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 1<<30 {
			return nil, fmt.Errorf("bad size %q", s)
		}
		p.sizes = append(p.sizes, n)
	}
	switch *out {
	case "":
	case "-":
		p.json = os.Stdout
	default:
		f, err := os.Create(*out)
		if err != nil {
			return nil, err
		}
		p.json = f // closed by the end of the process
	}
	return p, nil
}

func (p *plan) run() error {
	if err := testenv.FindNetns(); err != nil {
		return fmt.Errorf("no network namespaces: %w (run as root)", err)
	}
	dir := p.keep
	if dir == "" {
		d, err := os.MkdirTemp("", "intersite-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(d)
		dir = d
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, unix.SIGTERM)
	programs, err := find()
	if err != nil {
		return err
	}
	for _, prof := range p.profiles {
		r, err := p.measure(prof, programs, dir, stop)
		if r != nil {
			r.table(os.Stdout)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", prof.name, err)
		}
	}
	return nil
}

// sample is one measured operation, as JSON.
type sample struct {
	Profile string  `json:"link"`
	System  string  `json:"name"`
	Op      string  `json:"op"`
	Size    int     `json:"size"`
	Micros  float64 `json:"us"`
}

// key is a line of the table, without the system.
type key struct {
	op   string
	size int
}

// results of one profile.
type results struct {
	profile profile
	systems []string // those that ran
	keys    []key
	times   map[key]map[string][]time.Duration
	notes   []string
}

// errStopped ends a run at a signal.
var errStopped = errors.New("stopped by a signal")

// measure runs all systems over one link.
func (p *plan) measure(prof profile, programs *programs, dir string, stop <-chan os.Signal) (*results, error) {
	link := prof.link
	link.Life = 2 * time.Hour
	lab, err := netlab.New(link)
	if err != nil {
		return nil, err
	}
	defer lab.Close()
	b, err := newBed(lab, programs, dir, prof.name)
	if err != nil {
		return nil, err
	}
	defer b.close()
	r := &results{profile: prof, times: map[key]map[string][]time.Duration{}}
	var running []system
	for _, name := range p.systems {
		s, err := b.start(name, slices.Max(p.sizes))
		if err == nil {
			// A first request makes the path. It may take what it takes; what comes is compared with what was put.
			err = check(s, p.ops, p.sizes)
		}
		if err != nil {
			r.notes = append(r.notes, fmt.Sprintf("%s left out: %v", name, err))
			fmt.Fprintf(os.Stderr, "intersite: %s: %s left out: %v\n", prof.name, name, err)
			continue
		}
		running = append(running, s)
		r.systems = append(r.systems, name)
	}
	for _, op := range p.ops {
		for _, size := range p.sizes {
			r.keys = append(r.keys, key{op, size})
			r.times[key{op, size}] = map[string][]time.Duration{}
		}
	}
	failed := map[string]bool{}
	for round := range p.rounds {
		for _, k := range r.keys {
			for i := range running { // each first once
				s := running[(i+round)%len(running)]
				select {
				case <-stop:
					return r, errStopped
				default:
				}
				if failed[s.name()] {
					continue
				}
				times, err := turn(s, k.op, k.size)
				if err != nil {
					failed[s.name()] = true
					r.notes = append(r.notes, fmt.Sprintf("%s failed in round %d, %s of %d bytes, and was left out from there: %v", s.name(), round, k.op, k.size, err))
					continue
				}
				r.times[k][s.name()] = append(r.times[k][s.name()], times...)
				if p.json != nil {
					for _, t := range times {
						json.NewEncoder(p.json).Encode(sample{Profile: prof.name, System: s.name(), Op: k.op, Size: k.size, Micros: float64(t.Nanoseconds()) / 1e3})
					}
				}
			}
		}
		fmt.Fprintf(os.Stderr, "intersite: %s: round %d of %d\n", prof.name, round+1, p.rounds)
	}
	for _, s := range running {
		if n := s.note(); n != "" {
			r.notes = append(r.notes, s.name()+": "+n)
		}
	}
	return r, nil
}

// turn measures one system once: warmed up, since its windows may have closed while the others had their turns.
func turn(s system, op string, size int) ([]time.Duration, error) {
	if _, err := s.do(op, min(size, 10_000_000), true); err != nil {
		return nil, err
	}
	n := max(1, min(10, 2_000_000/size))
	times := make([]time.Duration, n)
	for i := range times {
		var err error
		if times[i], err = s.do(op, size, false); err != nil {
			return nil, err
		}
	}
	return times, nil
}

// check runs each operation once, and compares what comes.
func check(s system, ops []string, sizes []int) error {
	for _, op := range ops {
		for _, size := range sizes {
			if size > 10_000_000 && len(sizes) > 1 {
				continue // the smaller ones have shown it
			}
			if _, err := s.do(op, size, true); err != nil {
				return fmt.Errorf("%s of %d bytes: %w", op, size, err)
			}
		}
	}
	return nil
}
