//go:build !unix

package rawmem

func mapPages(n int) []byte { return goMemory(n) }

func goMemory(n int) []byte { return Make(n)[:n:n] }

func unmapPages([]byte) {}

func remapPages([]byte, int) []byte { return nil }
