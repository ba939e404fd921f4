// Package fuzz is the map of what is fuzzed. The targets stand beside the parsers they attack, with their corpora in testdata/fuzz, where go test
// runs the corpora every time; scripts/fuzz (make fuzz) runs every target for a while. This folder holds the targets that span packages: whole
// proxies and whole objects, from hostile bytes to what a program would see.
package fuzz
