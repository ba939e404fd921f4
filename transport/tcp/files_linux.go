package tcp

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fileQueue holds the descriptors that came and whose frame is not done.
//
// The kernel gives a file no later than with the first byte that was sent with it, and no byte of a later message along with it. So a file belongs to
// the frame in which the read ended that brought it: files are kept with that place in the stream until the frame is known that covers it.
type fileQueue struct {
	mu      sync.Mutex
	closed  bool
	fresh   [maxFiles]int // came with the read under way
	nfresh  int
	waiting []waitingFile // of frames that were not begun, in order
	current int           // of the current frame; 0: none, else the descriptor plus one
}

type waitingFile struct {
	end uint64 // where the read ended
	fd  int
}

// maxWaiting is how many files may wait for their frames. Honest peers have two at most: those of a frame whose header is here in part, and of the
// next.
const maxWaiting = 4

// received takes the files of a control message.
func (q *fileQueue) received(oob []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(oob) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
		size := int(h.Len)
		if size < unix.SizeofCmsghdr || size > len(oob) {
			return
		}
		if h.Level == unix.SOL_SOCKET && h.Type == unix.SCM_RIGHTS {
			for data := oob[unix.CmsgLen(0):size]; len(data) >= 4; data = data[4:] {
				fd := int(*(*int32)(unsafe.Pointer(&data[0])))
				if q.closed || q.nfresh == len(q.fresh) {
					unix.Close(fd)
					continue
				}
				q.fresh[q.nfresh] = fd
				q.nfresh++
			}
		}
		oob = oob[min(len(oob), unix.CmsgSpace(size-unix.CmsgLen(0))):]
	}
}

// arrived says that the read that brought the fresh files ended there.
func (q *fileQueue) arrived(end uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, fd := range q.fresh[:q.nfresh] {
		if i > 0 || q.closed || len(q.waiting) == maxWaiting { // one file per frame
			unix.Close(fd)
			continue
		}
		q.waiting = append(q.waiting, waitingFile{end, fd})
	}
	q.nfresh = 0
}

// begin gives the frame between those places in the stream its file, and closes what came without the beginning of a frame.
func (q *fileQueue) begin(start, end uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for _, f := range q.waiting {
		if f.end > end {
			break
		}
		n++
		if f.end <= start || q.current != 0 {
			unix.Close(f.fd)
			continue
		}
		q.current = f.fd + 1
	}
	q.waiting = append(q.waiting[:0], q.waiting[n:]...)
}

// take returns the current frame's file, or -1.
func (q *fileQueue) take() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	fd := q.current - 1
	q.current = 0
	return fd
}

// drop closes the current frame's file if nobody took it.
func (q *fileQueue) drop() {
	if fd := q.take(); fd >= 0 {
		unix.Close(fd)
	}
}

// close closes all that came, and all that a read under way may bring yet.
func (q *fileQueue) close() {
	q.drop()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, fd := range q.fresh[:q.nfresh] {
		unix.Close(fd)
	}
	for _, f := range q.waiting {
		unix.Close(f.fd)
	}
	q.nfresh, q.waiting = 0, nil
}
