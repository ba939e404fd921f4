// Package connectortest is the conformance suite of connectors: what package connectors promises, as tests. A connector's own test file needs ten
// lines: make a [Harness], call [Run] and [Bench]. A decorator calls [RunDecorator].
//
// The suite goes through the functions of package connectors wherever a capability is optional, so that a connector without it is tested with
// the fallback. Harness.Want says which capabilities there must be: losing one fails, and so does gaining one unsaid.
//
// Every subtest has a fresh Harness, and ends with a look at what is left: goroutines, open files, buffers of any backing. The suite therefore
// must not run beside other tests of the same process: no t.Parallel.
package connectortest
