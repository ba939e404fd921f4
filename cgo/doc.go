// Package cgo is the folder of the C bindings and holds no code itself. Each subpackage wraps one C library thinly, under a build tag of the same
// name, and knows nothing of connectors or stores. There are none yet: builds without tags need no C at all.
package cgo
