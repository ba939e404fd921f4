// Package ucx binds libucp, the upper layer of UCX, version 1.13 and newer. It is thin: it has no threads, no policy and no protocol.
//
// # Threads
//
// A [Worker] and everything that belongs to it (endpoints, listeners, operations, messages) may be used from any goroutine, but by one at a time:
// the caller holds a lock or owns it. [Worker.Signal] alone may be called at any time. A [Context] may be used by many goroutines at once.
//
// # Events
//
// C never calls Go. libucp's callbacks append to a ring in C memory, which [Worker.Progress] hands out as a slice of [Event]: the ends of
// operations, active messages, connection requests, failed endpoints. Who waits for an event calls Progress until it comes, and between calls may
// sleep: [Worker.Arm], then poll(2) on [Worker.FD].
//
// # Memory
//
// An operation that does not end at once goes on reading or writing the caller's bytes after the call has returned. They are C memory, or Go
// memory that stays pinned (runtime.Pinner) until the operation's Event came. To give up early, [Worker.Cancel] it and go on until that Event.
//
// libucp keeps registrations of memory for network devices in caches of its own, and empties them by watching the C library's munmap and madvise.
// It does not see the system calls of the Go runtime: after an operation on Go memory, call [Forget] before that memory can be freed, or a later
// transfer may go to pages that are no longer there. With devices that register nothing (TCP, shared memory) that costs next to nothing.
//
// # Several workers
//
// UCX (1.13, and as far as we know every other version) may abort a process in which one [Worker] closes a connection while another gets one: an event
// that the first has missed is found by its descriptor's number only, which may be the second's by then (assertion in ucs_async_poll_missed). This
// package keeps such events from being stored, by a definition of libucs's function for that (guard.c says why none is lost). It takes effect in
// programs, and not in Go plugins and shared libraries: [Guarded] tells. Where it does not, have one Worker in the process.
//
// # Accounting
//
// [Live] counts what is open, by purpose. After Close of the last Context it is zero.
//
// # Build tags
//
// Tag ucx, with CGO_ENABLED=1, libucp's headers and pkg-config (Debian: libucx-dev). Without it everything is there, and [Open] fails with
// [ErrNotBuilt].
package ucx
