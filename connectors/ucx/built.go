//go:build cgo && ucx

package ucx

// Built reports whether this program can speak UCX.
const Built = true
