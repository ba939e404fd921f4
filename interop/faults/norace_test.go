//go:build !race

package faults

const raceEnabled = false

const (
	large    = 50_000_000 // bytes of objects in whose middle a fault comes
	thousand = 1000       // objects at once
)
