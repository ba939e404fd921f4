// Package cgo is the folder of the C bindings and holds no code itself. Each subpackage wraps one C library thinly, under a build tag of the same
// name, and knows nothing of connectors or stores: zmq is libzmq, ucx is libucp. A build without tags needs no C at all.
package cgo
