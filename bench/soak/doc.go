// Package soak holds the runs that are worth their length: whether memory stays bounded while an object larger than memory passes through, whether
// an acknowledged object survives kill -9, and whether thousands of random operations by many goroutines ever give a wrong answer. `go test` runs
// a short form of each; `make soak` (scripts/soak) the long ones:
//
//	go test ./bench/soak -timeout 30m -args -size 10G -for 2m
//
// stream_linux_test.go: huge objects in bounded memory; kill_test.go: kill -9; model_test.go: random histories against a model, and the same
// history on every kind of store; server_test.go: object servers with many clients, and killed under load; leak_test.go: what must be given back at the
// end. Everything random follows from -seed, which each test logs.
package soak
