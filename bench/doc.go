// Package bench measures us beside a rival and a floor in the same run: Python's ProxyStore on the same connector, and the least that the machine
// must do for the operation (memcpy, a write or mmap system call, a raw Redis exchange).
//
//	go test -run '^$' -bench . ./bench/...                      all of it, some minutes
//	go test -run '^$' -bench . ./bench/ -args -sizes 1000       one size
//	go test -run '^$' -bench . ./bench/ -args -quick            two sizes and few rounds
//	go test -run '^$' -bench 'conn=file' -count 6 ./bench/ | go tool benchstat -col /impl -
//	go test -run '^$' -bench Transport -benchtime 10x ./bench/ -args -sizes 1000,1000000,1000000000
//
// BenchmarkTransport compares the transports below the stores: ours beside a raw Go socket, the transport's own C library (libzmq by
// peers/zmqfloor.c, UCX by ucx_perftest) and Python's connector, with one and with many requests in flight, every server in a process of its own, and
// the rivals taking turns. -tags ucx adds UCX; PROXYPLANE_PYTHON_UCX names an interpreter with ucx-py, if there is one. The lines after its table say how
// far we are from what we aim at.
//
// Names are key=value, so that benchstat can pivot them. After the benchmarks a table tells each ratio. Machines are noisy: quote ratios of one run,
// never absolute times of two. Nothing here asserts a time; allocation budgets are tests in the packages themselves.
package bench
