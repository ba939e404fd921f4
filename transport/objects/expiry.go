package objects

import (
	"container/heap"
	"sync"
	"time"
)

// expiry deletes objects whose time has come: one heap and one timer for all of them, and no goroutine while none is due.
type expiry struct {
	start  time.Time
	expire func(*entry)
	mu     sync.Mutex
	heap   byTime
	timer  *time.Timer
	at     int64 // when timer fires; 0 if it is not set
	closed bool
}

// now is the time by a clock that nobody sets.
func (x *expiry) now() int64 { return int64(time.Since(x.start)) }

func (x *expiry) add(e *entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return
	}
	heap.Push(&x.heap, e)
	x.arm()
}

func (x *expiry) remove(e *entry) {
	if e.expires == 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if e.heapAt >= 0 {
		heap.Remove(&x.heap, e.heapAt)
	}
}

// arm sets the timer for the first object, unless it fires before that anyway.
func (x *expiry) arm() {
	if len(x.heap) == 0 || x.at != 0 && x.at <= x.heap[0].expires {
		return
	}
	x.at = x.heap[0].expires
	d := time.Duration(x.at - x.now())
	if x.timer == nil {
		x.timer = time.AfterFunc(d, x.run)
		return
	}
	x.timer.Reset(d)
}

func (x *expiry) run() {
	var due []*entry
	x.mu.Lock()
	x.at = 0
	for now := x.now(); len(x.heap) > 0 && x.heap[0].expires <= now; {
		due = append(due, heap.Pop(&x.heap).(*entry))
	}
	if !x.closed {
		x.arm()
	}
	x.mu.Unlock()
	for _, e := range due {
		x.expire(e)
	}
}

func (x *expiry) close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed = true
	if x.timer != nil {
		x.timer.Stop()
	}
}

// byTime is a heap of the objects that expire, the first to go first.
type byTime []*entry

func (h byTime) Len() int           { return len(h) }
func (h byTime) Less(i, j int) bool { return h[i].expires < h[j].expires }
func (h byTime) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapAt, h[j].heapAt = i, j
}

func (h *byTime) Push(x any) {
	e := x.(*entry)
	e.heapAt = len(*h)
	*h = append(*h, e)
}

func (h *byTime) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	e.heapAt = -1
	return e
}
