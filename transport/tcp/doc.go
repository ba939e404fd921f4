// Package tcp carries the native protocol (package native) over TCP, unix sockets and TLS.
//
// # Addresses
//
// "tcp://host:port", "tls://host:port" and "unix:///path"; a bare "host:port" is TCP. IPv6 hosts stand in brackets. [Listen] takes loopback where no
// host is given, and refuses to serve other hosts without TLS client certificates or a token.
//
// # Wire format
//
// Frames follow each other without anything between them; docs/protocol.md has them, and, under "TCP, unix sockets and TLS", what is special here.
//
// # Same host
//
// On Linux a TCP server also listens on a unix socket of its own, and says so when it welcomes a client. A client that runs under the same kernel
// moves there, if it may: see [DialOptions.NoSameHost]. Over a unix socket objects are handed over as open files, so that getting a large one is a
// map and not a copy: some 20 µs, whatever the size. A round trip is a third shorter, too.
//
// # Buffers
//
// A frame leaves by one writev, from where the caller's bytes are. Frames of up to 4 KiB that meet a write under way are copied and leave together
// with the next one. Of a received body at most the first 32 KiB pass through another buffer; the rest is read straight to where it
// belongs. No frame costs an allocation.
//
// # Busy polling
//
// A goroutine that waits for a socket is woken by the scheduler, on a processor that may be asleep: that can cost more than the round trip itself.
// On an idle machine of 2 cores a byte and back took 44 µs over TCP, and 10 µs when both ends looked again and again for some µs before they
// waited (3 µs over a unix socket). BusyPoll does that. It burns up to that much processor time per wait, whether bytes come or not, and is for
// programs with a core to spare: where other programs want all cores it gains little (a get of 1 kB over a unix socket 15 µs instead of 22, over
// TCP nothing). It is off unless asked for, on Linux only, and does nothing with GOMAXPROCS=1. At most half of the program's processors spin, they
// yield between tries, and stop as soon as somebody else has used that. 20 to 100 µs are useful values.
package tcp
