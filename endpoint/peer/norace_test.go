//go:build !race && !invariants

package peer

// large is the size of objects that a path is cut under, in bytes.
const large = 50 << 20

// largePython is the largest object that goes to and from Python endpoints.
const largePython = 10_000_000
