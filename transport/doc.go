// Package transport holds the bytes of objects: [Buffer] (reference-counted memory of any origin), [Slices] (one object in several parts) and
// [Pool] (memory that is used again). Transports that move those bytes between processes are its subpackages.
//
// # Ownership
//
// Three words, used in every comment that takes or returns bytes:
//
//   - borrows: the callee reads the bytes until it returns, and neither keeps nor changes them.
//   - takes: the callee owns the buffer from the call on and releases it, on error too.
//   - lends: the returned bytes are valid until the stated moment, and are read-only unless it says otherwise.
//
// A call that fails leaves the caller nothing to release.
package transport
