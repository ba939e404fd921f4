//go:build !race

package soak

// gets is how many TestManyClients has under way at once.
const gets = 10_000
