//go:build unix && !linux

package rawmem

import "math"

const noReserve = 0

const maxMappings = math.MaxInt64 // no limit is known

func dontNeed([]byte) {}

func advise([]byte) {}

func remapPages([]byte, int) []byte { return nil }
