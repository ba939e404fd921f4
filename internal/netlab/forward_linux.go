package netlab

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	largest = 70000 // what one read may bring
	framing = 38    // what Ethernet adds to a packet: preamble, header, checksum, gap
	batch   = 64    // packets read before those due are looked at again
	nap     = 50 * time.Microsecond
)

// record is a packet under way, in the ring at start.
type record struct {
	at         time.Duration // when it arrives, since the emulator's start
	start, end uint64        // positions in the ring, which only grow
	size       int
	to         *port
}

// ring holds packets in the order in which they will arrive: all of one site have the same delay.
type ring struct {
	data       []byte // not of Go's heap; untouched pages take no memory
	head, tail uint64
	records    []record
	first, n   int
}

func newRing(size int) (*ring, error) {
	data, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("ring of %d bytes: %w", size, err)
	}
	return &ring{data: data, records: make([]record, 1<<16)}, nil
}

// space returns where the next packet goes, nil if there is no room.
func (r *ring) space() []byte {
	if r.n == 0 {
		r.head, r.tail = 0, 0 // the same memory again, while it is in the cache
	}
	at := r.tail % uint64(len(r.data))
	if rest := uint64(len(r.data)) - at; rest < largest {
		r.tail += rest
		at = 0
	}
	if r.n == len(r.records) || r.tail+largest-r.head > uint64(len(r.data)) {
		return nil
	}
	return r.data[at : at+largest]
}

// add takes the first size bytes of the last space.
func (r *ring) add(size int, at time.Duration, to *port) {
	end := r.tail + uint64(size+63)&^63
	r.records[(r.first+r.n)%len(r.records)] = record{at: at, start: r.tail, end: end, size: size, to: to}
	r.tail = end
	r.n++
}

func (r *ring) peek() *record { return &r.records[r.first] }

func (r *ring) packet(c *record) []byte {
	at := c.start % uint64(len(r.data))
	return r.data[at : at+uint64(c.size)]
}

func (r *ring) drop() {
	r.head = r.records[r.first].end
	r.first = (r.first + 1) % len(r.records)
	r.n--
}

// forward is the link away from a site: it reads the site's packets, keeps each until it has passed the queue and the delay, and writes it into the
// device of the site it is for.
func (p *port) forward() error {
	o := p.e.o
	size := 64 << 20 // without a rate: 10 Gbit/s for 50 ms
	if o.Rate > 0 {
		size = 2*(o.Queue+int(o.Rate/8*o.Delay.Seconds())) + 16*largest
	}
	r, err := newRing((size + 4095) &^ 4095)
	if err != nil {
		return err
	}
	defer unix.Munmap(r.data)
	spill := make([]byte, largest)
	random := rand.New(rand.NewPCG(o.Seed, uint64(p.index)))
	perByte := 0.0 // nanoseconds
	if o.Rate > 0 {
		perByte = 8e9 / o.Rate
	}
	var free time.Duration // when the sender of the link has sent all it was given
	epoch := time.Now()
	for !p.e.stop.Load() {
		moved := 0
		for now := time.Since(epoch); r.n > 0 && r.peek().at <= now; moved++ {
			c := r.peek()
			if !p.deliver(r.packet(c), c.to) {
				sleep(20 * time.Microsecond) // the device is full
				continue
			}
			r.drop()
		}
		for range batch {
			b := r.space()
			full := b == nil
			if full {
				b = spill
			}
			n, errno := read(p.tun, b)
			if errno != 0 || n <= vnetHeader {
				if errno == 0 || errno == unix.EAGAIN || errno == unix.EINTR {
					break
				}
				return os.NewSyscallError("read", errno)
			}
			moved++
			packet := b[vnetHeader:n]
			p.packets.Add(1)
			p.bytes.Add(uint64(len(packet)))
			if l := p.loss.Load(); l > 0 && uint64(random.Uint32()) < l {
				p.lost.Add(1)
				continue
			}
			if full {
				p.full.Add(1)
				continue
			}
			to := p.route(b[:vnetHeader], packet)
			if to == nil {
				continue
			}
			now := time.Since(epoch)
			at := now
			if o.Rate > 0 {
				if free < now {
					free = now
				} else if float64(free-now) > float64(o.Queue)*perByte {
					p.full.Add(1)
					continue
				}
				free += time.Duration(float64(onWire(b[:vnetHeader], len(packet))) * perByte)
				at = free
			}
			r.add(n, at+o.Delay, to)
			if o.Delay == 0 && o.Rate == 0 {
				break // straight on
			}
		}
		switch {
		case moved == 0:
			p.wait(r, epoch)
		case moved > 1 && o.Delay >= 20*nap:
			// Many small packets, and where it does not show: those of some 50 µs at once instead of one per wake-up.
			sleep(nap)
		}
	}
	return nil
}

// wait sleeps until a packet comes or one is due.
func (p *port) wait(r *ring, epoch time.Time) {
	t := 100 * time.Millisecond // to see stop
	if r.n > 0 {
		t = max(min(t, r.peek().at-time.Since(epoch)), nap/2)
	}
	poll(p.tun, t)
}

// onWire is what a packet takes of an Ethernet, after it was cut into segments.
func onWire(vnet []byte, size int) int {
	header, segment := int(binary.NativeEndian.Uint16(vnet[2:])), int(binary.NativeEndian.Uint16(vnet[4:]))
	if vnet[1] == 0 || segment == 0 || header >= size {
		return size + framing
	}
	n := (size - header + segment - 1) / segment
	return size + (n-1)*header + n*framing
}

// route finds whom a packet is for, and translates its source. nil: dropped.
func (p *port) route(vnet, packet []byte) *port {
	h, ok := parse(packet)
	if !ok {
		return nil // IPv6, or garbage
	}
	dst := binary.BigEndian.Uint32(packet[16:])
	var to *port
	for _, q := range p.e.ports {
		if q.outer.Load() == dst {
			to = q
		}
	}
	if p.cut.Load() {
		p.cuts.Add(1)
		return nil
	}
	if to == nil {
		p.unknown.Add(1)
		if answer := unreachable(packet, h); answer != nil {
			write(p.tun, answer)
		}
		return nil
	}
	if p.nat != nil && !p.nat.out(vnet, packet, h, p.outer.Load()) {
		p.nats.Add(1)
		return nil
	}
	return to
}

// deliver writes a packet into the device of its site. false: try again.
func (p *port) deliver(b []byte, to *port) bool {
	if p.cut.Load() || to.cut.Load() {
		p.cuts.Add(1)
		return true
	}
	if to.nat != nil {
		h, ok := parse(b[vnetHeader:])
		if !ok || !to.nat.in(b[:vnetHeader], b[vnetHeader:], h, to.inner) {
			to.nats.Add(1)
			return true
		}
	}
	return write(to.tun, b) != unix.EAGAIN // other errors are of the packet, or of a device that is down: it is lost
}

// The system calls of the loop do not tell Go's scheduler about themselves: there is a processor for each thread, and what they would make the scheduler's
// monitor do, twenty thousand times a second, took more than the packets.

func read(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), errno
}

func write(fd int, b []byte) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return errno
}

// poll waits for something to read, at most that long.
func poll(fd int, d time.Duration) {
	fds := unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	ts := unix.NsecToTimespec(int64(d))
	unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds)), 1, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
}

func sleep(d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
}
