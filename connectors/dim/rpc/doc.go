// Package rpc is the request and response that ProxyStore's distributed in-memory connectors (zmq, ucx, margo) exchange with their servers: two
// Python dataclasses, pickled. It has both ends: a [objects.Handler] that serves Python's clients from a Store, and a [objects.Client] for Python's
// servers.
//
// # Sources
//
// proxystore_ex.connectors.dim.models (DIMKey, RPC, RPCResponse), proxystore_ex.connectors.dim.zmq and .ucx (ZeroMQServer.handle_rpc,
// ZeroMQConnector._send_rpcs), proxystore.serialize (the tag before the pickle). Messages are read structurally by package serialize/pickle: whatever
// a pickle names, nothing is looked up, imported or run.
//
// # Wire format
//
// A message is "PK\n" and a pickle of protocol 5, or "CP\n" where pickle refused and cloudpickle did not (a memoryview as data). Who writes "03\n"
// or "04\n", as ProxyStore 0.6 does, is answered with "03\n", since that reads nothing else. The object is RPC(operation, key, data) or
// RPCResponse(operation, key, data, exists, exception), and key is DIMKey(dim_type, obj_id, size, peer_host, peer_port). Operations are "exists",
// "evict", "get" and "put". How a message travels is the transport's: one ZeroMQ message in frames of 64 KiB, one object of ucx-py.
//
// Python gives a get's data back as the very object that was put, so a bytearray stays one. Here every object is bytes, which is what Python's
// deserialize wants as much. An str is refused: Python would store it, but no store could read it.
//
// A response to a message that is a pickle but no RPC has an exception and no key. Python's server dies of such a message; a client that waits for an
// answer, as REQ sockets do, should better get one.
//
// # Buffers
//
// No object is copied. The data of a received message is a view into it, and a message that is sent has the object's own bytes between its head and
// its tail. Only objects that are small beside the rest of their message are copied when they are stored, since a view keeps the whole message alive.
package rpc
