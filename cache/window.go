package cache

import "sync"

// place says who answers for a node.
type place uint8

const (
	fresh    place = iota // in the table, on its way into the window
	windowed              // in the window
	offered               // out of the window; the policy's
	gone                  // out of the table
)

// window is a queue of the newest entries, which the policy does not see yet.
type window struct {
	limit int64

	mu          sync.Mutex
	bytes       int64
	first, last *node // the oldest and the newest
}

// push appends n, unless it is gone already, and returns the nodes that have to leave for it, linked by next. They are the caller's to offer.
func (w *window) push(n *node) (leaving *node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n.where == gone {
		return nil
	}
	n.where = windowed
	n.prev = w.last
	if w.last != nil {
		w.last.next = n
	} else {
		w.first = n
	}
	w.last = n
	w.bytes += n.cost

	var tail *node
	for w.bytes > w.limit {
		n := w.first
		w.unlink(n)
		n.where = offered
		if tail == nil {
			leaving = n
		} else {
			tail.next = n
		}
		tail = n
	}
	return leaving
}

// leave marks n as gone and returns where it was.
func (w *window) leave(n *node) place {
	w.mu.Lock()
	defer w.mu.Unlock()
	was := n.where
	if was == windowed {
		w.unlink(n)
	}
	n.where = gone
	return was
}

// at returns where n is.
func (w *window) at(n *node) place {
	w.mu.Lock()
	defer w.mu.Unlock()
	return n.where
}

func (w *window) unlink(n *node) {
	if n.prev != nil {
		n.prev.next = n.next
	} else {
		w.first = n.next
	}
	if n.next != nil {
		n.next.prev = n.prev
	} else {
		w.last = n.prev
	}
	n.prev, n.next = nil, nil
	w.bytes -= n.cost
}
