// Package tcp keeps objects in the memory of the nodes that made them and moves them by the native protocol over TCP, TLS and unix sockets. It is package
// connectors/dim over package transport/tcp, and the fastest of these connectors. Python has no counterpart: for stores that Python reads use
// package zmq.
//
// # Wire format
//
// docs/protocol.md.
//
// # Keys
//
// [connectors.DIMKey] with dim_type "tcp". For a server on a unix socket peer_host is "unix:///path" and peer_port 0.
//
// # Servers
//
// As package connectors/dim says: the server at address and port is used if one answers, else one is started in this process. Without option address or
// interface that is 127.0.0.1. A server that other machines can reach needs option token, client_ca_file or insecure.
//
// With option tls all servers are spoken to by TLS, those that keys name too, and a server that is started here needs cert_file and key_file.
//
// # Capabilities
//
// All but Tagger and ClearCloser. Mapper works on the server's host: clients there come through a unix socket, by which a get is a mapping of the
// server's memory, whatever the size (option no_same_host turns that off).
//
// # Close
//
// As package connectors/dim says: a server in this process ends, with its objects, when the last connector that uses it is closed.
//
// # Buffers
//
// Get reads from the socket into pooled memory of the object's size, or maps.
//
// # Build tags
//
// None.
package tcp
