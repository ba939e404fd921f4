package objects

import (
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// machineMemory returns how many bytes this process may use: the machine's, or less if its control group says so. 0 is unknown.
func machineMemory() int64 {
	var info unix.Sysinfo_t
	var total int64
	if unix.Sysinfo(&info) == nil {
		total = int64(info.Totalram) * int64(info.Unit) //nolint:unconvert // 32 bits on some architectures
	}
	groups, _ := os.ReadFile("/proc/self/cgroup")
	if limit := groupLimit(string(groups), func(name string) string {
		b, _ := os.ReadFile(name)
		return string(b)
	}); limit > 0 && (total == 0 || limit < total) {
		return limit
	}
	return total
}

// groupLimit returns the least memory limit of the control groups that /proc/self/cgroup lists and of those around them, or 0. A limit
// of 2^62 and more is none.
func groupLimit(groups string, read func(string) string) (limit int64) {
	for line := range strings.Lines(groups) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		root, file := "/sys/fs/cgroup", "memory.max" // version 2
		if parts[1] != "" {
			if !strings.Contains(","+parts[1]+",", ",memory,") {
				continue
			}
			root, file = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
		}
		for dir := path.Clean("/" + parts[2]); ; dir = path.Dir(dir) {
			n, err := strconv.ParseInt(strings.TrimSpace(read(path.Join(root, dir, file))), 10, 64)
			if err == nil && n > 0 && n < 1<<62 && (limit == 0 || n < limit) {
				limit = n
			}
			if dir == "/" {
				break
			}
		}
	}
	return limit
}
