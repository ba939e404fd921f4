// Package zmq binds the part of libzmq (4.3 or newer) that moves large messages without copying them: contexts, sockets, options, monitors, and
// messages that are sent from the caller's memory and received in libzmq's own. It has no code without build tag zmq (and cgo); package
// transport/zmq speaks the same wire in Go then.
//
// # Why not pebbe/zmq4
//
// github.com/pebbe/zmq4 is complete and well tried, and the tests here use it as the peer that knows nothing of us. But its Socket gives no way to a
// zmq_msg_t: SendBytes copies into one, RecvBytes copies out of one, through lengths of C.int, which end at 2 GiB; and each blocking call holds a
// thread of the operating system.
//
// # Threads
//
// No call here blocks but [Context.Close]. Sends and receives return [ErrAgain] instead, and [Ready] parks a goroutine in Go's own poller until
// the socket's descriptor says that something changed. So a socket needs neither a thread nor a goroutine of its own: whoever has its lock uses it,
// which libzmq allows (one thread at a time, with a full fence between two), and a request needs no hand-off from goroutine to goroutine. What must
// be known is that any call on a socket may swallow the signal of its descriptor: who has sent asks [Socket.Events] before letting go, and wakes the
// goroutine that waits for messages if there are any.
//
// # Memory
//
// A part that is sent by reference stays where it is, pinned, until libzmq has written it. libzmq says so on its own I/O thread. No Go code runs
// there: such a callback has to wait for a free processor of Go's scheduler, while every connection of the context stands still. A few lines of C
// count the part's [Ticket] down and, at zero, put it on a list and write a byte to a pipe; a goroutine of the Context reads that and wakes
// the sender.
// Nothing else calls back, so that all calls are marked nocallback.
//
// A received part is a [Message], whose bytes are libzmq's memory until Close. Everything that lives in C is counted: [Live].
package zmq
