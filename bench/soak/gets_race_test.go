//go:build race

package soak

// gets is how many TestManyClients has under way at once: the race detector ends a program with more than 8128 goroutines.
const gets = 2_000
