// Package ucx carries the native protocol over UCX: TCP, InfiniBand and RoCE, and shared memory on one host, whatever UCX finds best, with the usual
// environment variables to tell it otherwise (UCX_TLS, UCX_NET_DEVICES, ...).
//
// # Wire format
//
// docs/protocol.md, section UCX: a native frame is one active message or a few; long bodies go by UCX's rendezvous, from where the sender has
// them to where the receiver wants them, without a copy. The same listener serves Python's UCXConnector (ucx-py), told apart by the client id of the
// connection request.
//
// # Shared memory
//
// UCX (as of 1.13) uses shared memory only for endpoints that cannot tell when their peer dies. So a connection always begins over what the
// address says, and stays: its end is noticed. Two sides that find themselves on one host make a second endpoint over shared memory and send frames
// there. UCX_TLS must therefore name a network transport beside the others: "tcp,posix,cma,self" and not "posix,cma,self".
//
// There UCX has the receiver of a long body copy it out of the sender's memory, when it likes. A sender that closes waits for that, but for a second only;
// then it ends the lease that it gave the peer, who looks after each copy whether the lease is good, and takes no byte if not.
//
// # Waiting
//
// There are no threads of our own between a call and UCX: who waits for something drives the worker. With BusyPoll it looks for so long before it
// sleeps on the worker's event descriptor; each sleep costs a system call and a wakeup, and 5 to 50 µs of latency.
//
// All connections of a Server share one worker. With ListenOptions.Workers as many have one of their own, and with it shared memory on one host. That is
// for trusted clients that do not come and go: UCX 1.13 makes the endpoint of a connection request on another worker than the listener's without
// keeping its own thread out, and a client that hangs up in that moment can crash the process (seen in 4 of 40 runs of a test that does nothing else, on a busy
// machine). Our own clients never do: they wait for the server's first words. In Go plugins and shared libraries several workers may abort the process,
// too (package cgo/ucx, Several workers): have one Server or Client there.
//
// # Security
//
// UCX itself neither authenticates nor encrypts, and trusts what its peers send it. Listen at loopback, or within a network that only trusted
// machines can reach. The Token keeps out who does not know it, not who attacks UCX. Python's clients know no token, so there are none where one
// is required.
//
// # IPv6
//
// UCX's TCP does not use the address ::1, which Listen and Dial refuse. On other IPv6 addresses both sides are told to prefer IPv6.
//
// # Build tags
//
// Tag ucx; see package [github.com/proxyplane/proxyplane/cgo/ucx]. Without it Listen and Dial return an error that matches transport.ErrNotBuilt.
package ucx
