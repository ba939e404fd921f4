//go:build cgo && zmq

package interop

func init() { tags = append(tags, "zmq") }
