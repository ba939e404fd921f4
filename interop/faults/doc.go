// Package faults breaks what endpoints stand on, and proves that nothing acknowledged is lost, that nothing wrong is ever served, that errors say what to do, and
// that everything goes on when the fault is over. It runs the real program, as relay and as endpoints, on loopback; where an address changes or a link is cut, in
// network namespaces (package netlab). There is no code here but tests.
//
// What belongs here: faults of processes, networks, disks and configurations, seen from outside by HTTP, exit code, log and `status`. Faults within one package,
// such as hostile messages or torn files, are tested there.
//
// `go test ./interop/faults -run TestEndpointFlatMemory -timeout 2h` with SIZE=100G relays that many bytes between two endpoints; make soak does so.
package faults
