// Package ucx keeps objects in the memory of the nodes that made them and moves them over UCX: Python's proxystore_ex.connectors.dim.ucx.UCXConnector,
// class and keys alike. It is package connectors/dim over package transport/ucx; without the build tag over package transport/tcp.
//
// # Wire format
//
// The native protocol (docs/protocol.md) in UCX's active messages; a server that is started here also serves Python's clients (pickled RPCs of
// proxystore_ex.connectors.dim.models over ucx-py), unless it has a token, which they cannot show.
//
// # Keys
//
// [connectors.DIMKey] with dim_type "ucx". Without the build tag objects move over the native TCP transport and their keys have dim_type "tcp"; a key
// with dim_type "ucx" is then connectors.ErrNotBuilt, with the tag and the package to install. With the tag both are good.
//
// # Servers
//
// As package connectors/dim says. Without option address or interface the address is this machine's own, as in Python, and a server that others can
// reach needs option token or insecure.
//
// # Capabilities
//
// All but Tagger and ClearCloser. Mapper works for a server in this process, and without the build tag on the server's host.
//
// # Close
//
// A server that was started in this process goes on until the process ends, as with Python's close(kill_server=False), its default: other connectors,
// here and elsewhere, may use it. dim.StopServers ends it.
//
// # Buffers
//
// Get receives into pooled memory of the object's size.
//
// # Build tags
//
// Tag ucx, which needs cgo and libucx (BUILD.md). Which devices it uses is UCX's choice, by its environment variables.
package ucx
