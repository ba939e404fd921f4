//go:build unix && !linux

package rawmem

const noReserve = 0

func advise([]byte) {}

func remapPages([]byte, int) []byte { return nil }
