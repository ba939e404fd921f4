package netlab

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The emulator is the same program again, so that it shares neither scheduler nor collector with the test, and nobody has to build or find it.
func init() {
	if os.Getenv(environment) == "" {
		return
	}
	signal.Ignore(os.Interrupt, unix.SIGHUP) // a terminal's ^C goes to the test too, whose end is ours
	if err := emulate(); err != nil {
		json.NewEncoder(os.Stdout).Encode(reply{Error: err.Error()})
		unix.Exit(1)
	}
	unix.Exit(0)
}

// emulator is all sites and what joins them.
type emulator struct {
	o     Options
	ports []*port
	stop  atomic.Bool
	wg    sync.WaitGroup
	end   sync.Once

	opened chan struct{} // closed when all devices are there, or never will be
	all    sync.Once
}

// port is one site: its device, and all that leaves by it.
type port struct {
	e     *emulator
	index int
	ns    int // file descriptors
	tun   int
	tid   int // of the thread in the namespace

	outer   atomic.Uint32 // IPv4 address
	inner   uint32
	nat     *nat // nil: none
	cut     atomic.Bool
	loss    atomic.Uint64 // a packet is lost if 32 random bits are below it
	packets atomic.Uint64
	bytes   atomic.Uint64
	full    atomic.Uint64
	lost    atomic.Uint64
	cuts    atomic.Uint64
	nats    atomic.Uint64
	unknown atomic.Uint64
}

func emulate() error {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	out := json.NewEncoder(os.Stdout)
	var first request
	if !in.Scan() {
		return nil
	}
	if err := json.Unmarshal(in.Bytes(), &first); err != nil || first.Options == nil {
		return fmt.Errorf("no options: %w", err)
	}
	e := &emulator{o: *first.Options, opened: make(chan struct{})}
	runtime.GOMAXPROCS(len(e.o.Sites) + 2) // one for each thread that forwards, since it does not yield in its system calls
	defer e.close()
	// At the end of its life too, the processes in the namespaces must go.
	time.AfterFunc(e.o.Life, func() { e.close(); unix.Exit(1) })
	var r reply
	for i, s := range e.o.Sites {
		p := &port{e: e, index: i, ns: -1, tun: -1, inner: word(s.Inner)}
		p.outer.Store(word(s.Addr))
		if s.NAT != NoNAT {
			p.nat = newNAT(s.NAT)
		}
		p.loss.Store(threshold(e.o.Loss))
		e.ports = append(e.ports, p)
	}
	for _, p := range e.ports {
		ready := make(chan error)
		e.wg.Add(1)
		go p.run(ready)
		if err := <-ready; err != nil {
			return fmt.Errorf("site %s: %w", e.o.Sites[p.index].Name, err)
		}
		r.FDs = append(r.FDs, p.ns)
	}
	e.all.Do(func() { close(e.opened) })
	if err := out.Encode(r); err != nil {
		return err
	}
	for in.Scan() {
		var q request
		err := json.Unmarshal(in.Bytes(), &q)
		var r reply
		if err == nil {
			err = e.do(q, &r)
		}
		if err != nil {
			r.Error = err.Error()
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
	return nil // the Lab closed its end, or its process is gone
}

func (e *emulator) do(q request, r *reply) error {
	if e.o.Direct {
		return errors.New("Options.Direct has no emulator")
	}
	ports := e.ports
	if q.Site >= 0 {
		ports = ports[q.Site : q.Site+1]
	}
	for _, p := range ports {
		switch q.Op {
		case "cut", "heal":
			p.cut.Store(q.Op == "cut")
		case "loss":
			p.loss.Store(threshold(q.Value))
			if err := p.offload(q.Value == 0); err != nil {
				return err
			}
		case "rebind":
			if p.nat == nil {
				return errors.New("no NAT there")
			}
			p.nat.flush()
			if q.Addr.Is4() {
				p.outer.Store(word(q.Addr))
			}
		case "stats":
			r.Stats = Stats{Packets: p.packets.Load(), Bytes: p.bytes.Load(), Full: p.full.Load(), Lost: p.lost.Load(), Cut: p.cuts.Load(), NAT: p.nats.Load(), Unknown: p.unknown.Load()}
		default:
			return errors.New("no such operation: " + q.Op)
		}
	}
	return nil
}

// close ends the threads and whatever runs in the namespaces.
func (e *emulator) close() {
	e.end.Do(func() {
		e.stop.Store(true)
		e.all.Do(func() { close(e.opened) })
		e.wg.Wait()
		var links []string
		for _, p := range e.ports {
			if p.ns >= 0 {
				if l, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(p.ns)); err == nil {
					links = append(links, l)
				}
			}
		}
		// The Lab's process is never one of them, though its first thread may have ended in a namespace (Lab.Do).
		mine := []int{os.Getpid(), os.Getppid()}
		for range 3 { // a process may be forking
			found, _ := filepath.Glob("/proc/[0-9]*/ns/net")
			for _, path := range found {
				pid, err := strconv.Atoi(strings.Split(path, "/")[2])
				if err != nil || slices.Contains(mine, pid) {
					continue
				}
				if l, err := os.Readlink(path); err == nil && slices.Contains(links, l) {
					unix.Kill(pid, unix.SIGKILL)
				}
			}
		}
	})
}

// run makes the site on a thread that stays in its namespace, says so, and forwards what leaves it until the end.
func (p *port) run(ready chan<- error) {
	defer p.e.wg.Done()
	runtime.LockOSThread() // for good
	err := p.open()
	ready <- err
	if err != nil {
		return
	}
	<-p.e.opened                                      // the others' devices, to which it writes
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1000, 0, 0, 0) // of waits: 1 µs, not 50
	if p.e.o.Direct {
		for !p.e.stop.Load() {
			time.Sleep(10 * time.Millisecond)
		}
		return
	}
	if err := p.forward(); err != nil {
		fmt.Fprintln(os.Stderr, "netlab:", err)
	}
}

func (p *port) open() (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	p.tid = unix.Gettid()
	if p.ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return os.NewSyscallError("open", err)
	}
	// No router solicitations nor link-local addresses on a link that knows IPv4 only. Where the kernel has no IPv6 there is no such file.
	os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
	const device = "eth0"
	steps := "link set lo up\n"
	if p.e.o.Direct {
		if p.index == 1 { // both ends, when both namespaces are there
			steps += fmt.Sprintf("link add %s type veth peer name %s netns %d\n", device, device, p.e.ports[0].tid)
		}
	} else if err := p.openTUN(device); err != nil {
		return err
	}
	configure := func(p *port) string {
		return fmt.Sprintf("addr add %s/32 dev %s\nlink set %s mtu %d txqueuelen 10000 up\nroute add default dev %s\n", address(p.inner), device, device, p.e.o.MTU, device)
	}
	if !p.e.o.Direct || p.index == 1 {
		steps += configure(p)
	}
	if err := ip(p.tid, steps); err != nil {
		return err
	}
	if p.e.o.Direct && p.index == 1 {
		return ip(p.e.ports[0].tid, configure(p.e.ports[0]))
	}
	return nil
}

// ip runs a batch of commands in the namespace of a thread of ours.
func ip(tid int, batch string) error {
	cmd := exec.Command("nsenter", "--net=/proc/"+strconv.Itoa(tid)+"/ns/net", "--", "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(batch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

func (p *port) openTUN(name string) (err error) {
	if p.tun, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("/dev/net/tun: %w", err)
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(p.tun, unix.TUNSETIFF, ifr); err != nil {
		return os.NewSyscallError("TUNSETIFF", err)
	}
	return p.offload(p.e.o.Loss == 0)
}

// offload turns segmentation offload on or off. Checksums are left to it always: they would only be computed here to be checked there.
func (p *port) offload(on bool) error {
	const csum, tso4, uso4, uso6 = unix.TUN_F_CSUM, unix.TUN_F_TSO4, 0x20, 0x40 // TUN_F_USO4, TUN_F_USO6 (Linux 6.2)
	if !on {
		return os.NewSyscallError("TUNSETOFFLOAD", unix.IoctlSetInt(p.tun, unix.TUNSETOFFLOAD, csum))
	}
	if unix.IoctlSetInt(p.tun, unix.TUNSETOFFLOAD, csum|tso4|uso4|uso6) == nil {
		return nil
	}
	return os.NewSyscallError("TUNSETOFFLOAD", unix.IoctlSetInt(p.tun, unix.TUNSETOFFLOAD, csum|tso4))
}

func threshold(fraction float64) uint64 { return uint64(fraction * (1 << 32)) }

func word(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func address(w uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(w >> 24), byte(w >> 16), byte(w >> 8), byte(w)})
}
