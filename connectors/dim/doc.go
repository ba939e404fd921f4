// Package dim is the engine of the distributed in-memory connectors: objects live in the memory of an object server of the node that made them, and
// others fetch them from there. Packages tcp, zmq and ucx of connectors are this engine over one transport each; Python's are the modules
// proxystore_ex.connectors.dim.zmq and .ucx.
//
// # Keys
//
// [connectors.DIMKey]: the transport (dim_type), a random UUID (version 4), the object's size, and host and port of the server that has it. size is
// what the maker knew: 0 for a key that was made before its object. Nothing relies on it.
//
// # Servers
//
// A connector has a server for what it puts: that of its node. As in ProxyStore it is the one that answers at the configured address, and if none
// does within the timeout the connector starts one. Python's is a child process; this one is part of the process, and all its connectors
// with the same address share it. They must have the same token and certificates; limits (memory, spill_dir, ...) are those of the first, and one that asks
// for others gets a warning in its log. Where two processes start one at the same time, the second finds the port taken and uses the first's.
// With port 0 the process has a server of its own at a port that the system picks, one for all connectors that want the same address, credentials and
// limits; keys and Config have the real one.
//
// Objects of a server within the process are reached without the network: a get is a reference to the stored bytes.
//
// # Peers
//
// Everything but a put goes to the server that the key names. Connections are kept: a few for each of up to 512 servers, closed after a minute
// without use. A call whose connection breaks is repeated on a new one, three times at most, so that a Put or Set may be carried out more than once. A
// server that does not answer is dialed at most every half second, whoever asks. A Reader whose connection breaks goes on where it was if
// the object is still the same one (by size and time of storing).
//
// # Received configurations
//
// A configuration that came in a proxy starts no server and sees nothing of those in this process but over the network. Each server that a key
// names is confirmed before it is dialed.
//
// # What a hostile key can do
//
// A key leads to any host and port, and a connector that this process opened itself goes there without asking: a stranger who knows such a store's name and
// configuration can so make it connect to addresses within its network (the protocol's hello is all that they get), and answer for the object. Take keys and
// proxies for such stores only from those who may write to them, or let a firewall bound where the program can connect to.
//
// A token never travels, neither in a proxy nor to a server: both sides prove that they have it. But the client's proof goes to whoever answers at the
// key's address, and who has it can try out tokens at leisure. Make tokens at random (head -c 32 /dev/urandom | base64), not of words.
//
// # Close
//
// Close waits for calls in flight, ends waits, fails open Readers and Writers, and hangs up. A server within the process ends, with all its objects, when
// the last connector of the process that uses it is closed, unless Transport.KeepServer is set; [StopServers] ends those that are kept.
//
// # Capabilities
//
// All but Tagger and ClearCloser. What a peer cannot do (a server of Python knows put, get, exists and evict) is answered by
// errors.ErrUnsupported, and the functions of package connectors fall back.
package dim
