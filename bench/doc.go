// Package bench measures us beside a rival and a floor in the same run: Python's ProxyStore on the same connector, and the least that the machine
// must do for the operation (memcpy, a write or mmap system call, a raw Redis exchange).
//
//	go test -run '^$' -bench . ./bench/...                      all of it, some minutes
//	go test -run '^$' -bench . ./bench/ -args -sizes 1000       one size
//	go test -run '^$' -bench 'conn=file' -count 6 ./bench/ | go tool benchstat -col /impl -
//
// Names are key=value, so that benchstat can pivot them. After the benchmarks a table tells each ratio. Machines are noisy: quote ratios of one run,
// never absolute times of two. Nothing here asserts a time; allocation budgets are tests in the packages themselves.
package bench
