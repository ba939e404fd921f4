package native

import (
	"errors"
	"os"

	"github.com/proxyplane/proxyplane/transport"
)

// ErrInterrupted is what a blocked read of a Carrier returns after Interrupt. Nothing is lost: the next call goes on where this one stopped.
var ErrInterrupted = errors.New("read interrupted")

// A Carrier moves whole frames between two sessions, in order. Writing and reading may happen at the same time.
//
// Reading is done by one goroutine at a time, but not always by the same: ReadFrame, then ReadBody until the frame's body is read.
type Carrier interface {
	// ReadFrame returns the next frame's header and metadata. meta is lent until the next ReadFrame. It returns io.EOF where the peer closed
	// between two frames, and an error that matches transport.ErrUnavailable where the connection broke or transport.ErrCorrupt where the header
	// cannot be right (lengths beyond the limits). The header's lengths are checked against MaxMeta and MaxBody before any memory is taken.
	ReadFrame(h *Header) (meta []byte, err error)

	// ReadBody reads the next len(dst) bytes of the current frame's body straight into dst and returns how many it read: all, unless err is not
	// nil. After ErrInterrupted the caller goes on with the rest.
	ReadBody(dst []byte) (int, error)

	// WriteFrame sends one frame; h.Meta and h.Body are set by it from meta and body. It borrows all three until it returns. Frames of
	// different goroutines do not mix. It may block for as long as the peer does not read; Close ends that.
	WriteFrame(h *Header, meta []byte, body transport.Slices) error

	// Interrupt makes a read that blocks now, or the next one that would, return ErrInterrupted once. Any goroutine may call it.
	Interrupt()

	// MaxBody is the longest body of a frame, in bytes, that this Carrier writes and accepts.
	MaxBody() int

	// Trusted says that bytes cannot be damaged or read on the way unnoticed (TLS, a unix socket, loopback, shared memory): then chunks need no
	// checksum unless somebody asks for them.
	Trusted() bool

	// Close ends the connection, both ways, and every blocked call. Idempotent.
	Close() error
}

// A BodyTaker is a Carrier whose receive memory is the message itself: instead of copying by ReadBody, the body is taken as it is.
type BodyTaker interface {
	// TakeBody returns the whole body of the current frame, if none of it was read yet; the caller owns the Buffer. ok is false where it would
	// have to be copied: then use ReadBody.
	TakeBody() (b *transport.Buffer, ok bool)
}

// A WholeReader is a Carrier that moves a body straight to where it belongs only if it is read by one ReadBody; otherwise it has to be copied.
type WholeReader interface {
	ReadsWhole() bool
}

// A FilePasser is a Carrier that hands open files to the peer: a unix socket.
type FilePasser interface {
	// WriteFrameFile is WriteFrame with a file attached. It borrows f.
	WriteFrameFile(h *Header, meta []byte, f *os.File) error
	// TakeFile returns the file that came with the current frame, or nil. The caller owns it. A file that nobody takes is closed with the
	// next ReadFrame.
	TakeFile() *os.File
}
