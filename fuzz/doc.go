// Package fuzz is the map of what is fuzzed. The targets stand beside the parsers they attack, with their corpora in testdata/fuzz, where go test
// runs the corpora every time; scripts/fuzz (make fuzz) runs every target for a while. This folder holds the targets that span packages: whole
// proxies and whole objects, from hostile bytes to what a program would see.
//
//	FuzzObject        any bytes where a store has its objects, read in every way and stored again
//	FuzzProxyResolve  any bytes as a proxy, resolved under a policy that allows one directory among secrets
//	FuzzKeyJSON       any JSON as a key, and all that a store can do to it
//	FuzzPython        any value that we write, read and written again by the real ProxyStore
package fuzz
