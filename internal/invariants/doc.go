// Package invariants holds checks that are worth their cost in tests only. They are on in builds with the race detector or with the tag
// "invariants", and compile to nothing otherwise.
package invariants
