package objects

import (
	"errors"
	"fmt"
	"math"

	"github.com/proxyplane/proxyplane/transport"
)

// incoming is an object on its way into a Table.
type incoming struct {
	t     *Table
	id    string
	o     PutOptions
	size  int64 // announced; negative if not
	taken int64 // bytes counted against the limit
	off   int   // bytes that Next has given out
	mem   []byte
	err   error // why Next failed, or errEnded
}

var errEnded = errors.New("the object was committed or dropped before")

// Create implements [Store].
func (t *Table) Create(id string, size int64, o PutOptions) (Incoming, error) {
	if err := t.admit(id, size); err != nil {
		return nil, err
	}
	in := &incoming{t: t, id: id, o: o, size: max(size, -1)}
	if size > 0 {
		if err := t.reserve(size); err != nil {
			return nil, err
		}
		in.taken = size
		t.mem.reserved.Add(size)
	}
	return in, nil
}

func (in *incoming) Next(n int) ([]byte, error) {
	if in.err != nil {
		return nil, in.err
	}
	n = max(n, 1)
	if in.size >= 0 {
		left := in.size - int64(in.off)
		if left == 0 {
			return nil, fmt.Errorf("%w: more bytes than the %d that were announced", transport.ErrTooLarge, in.size)
		}
		n = int(min(int64(n), left))
		if in.mem == nil {
			if in.mem = in.t.mem.alloc(int(in.size)); in.mem == nil {
				return nil, in.t.noRun(in.size)
			}
		}
	} else if err := in.grow(n); err != nil {
		return nil, err
	}
	piece := in.mem[in.off : in.off+n : in.off+n]
	in.off += n
	return piece, nil
}

// grow makes room for n more bytes.
func (in *incoming) grow(n int) error {
	if n > math.MaxInt-in.off {
		return fmt.Errorf("%w: %d bytes", transport.ErrTooLarge, n)
	}
	need := int64(in.off + n)
	if err := in.t.fits(need); err != nil {
		return err
	}
	if err := in.t.reserve(int64(n)); err != nil {
		return err
	}
	in.taken += int64(n)
	in.t.mem.reserved.Add(int64(n))
	if need > int64(cap(in.mem)) {
		room := min(max(need, 2*int64(cap(in.mem))), max(need, in.t.o.MaxObject))
		mem := in.t.mem.resize(in.mem[:in.off], int(room))
		if mem == nil {
			return in.t.noRun(room)
		}
		in.mem = mem
	}
	in.mem = in.mem[:need]
	return nil
}

func (t *Table) noRun(n int64) error {
	t.refused.Add(1)
	return fmt.Errorf("%w: the system has no %d bytes in one run; cut the object, or allow the process more memory", transport.ErrFull, n)
}

func (in *incoming) Commit() error {
	if in.err != nil {
		return in.err
	}
	if in.size >= 0 && int64(in.off) != in.size {
		in.Abort()
		return fmt.Errorf("%w: %d bytes came, %d were announced; the object is dropped", transport.ErrCorrupt, in.off, in.size)
	}
	t := in.t
	in.err = errEnded
	mem := t.mem.fit(in.mem[:in.off])
	in.mem = nil
	t.mem.reserved.Add(-in.taken)
	e := &entry{id: in.id, size: int64(in.off), buf: t.mem.buffer(mem)}
	if err := t.publish(e, in.o); err != nil {
		e.buf.Release()
		return err
	}
	return nil
}

func (in *incoming) Abort() {
	if errors.Is(in.err, errEnded) {
		return
	}
	in.err = errEnded
	in.t.mem.reserved.Add(-in.taken)
	in.t.mem.recycle(in.mem)
	in.t.mem.giveBack(in.taken)
	in.mem = nil
}
