//go:build race

package faults

// raceEnabled: the program under test has the race detector too.
const raceEnabled = true

// Everything is some ten times as slow with it.
const (
	large    = 15_000_000
	thousand = 300
)
