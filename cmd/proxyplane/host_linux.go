package main

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// freeBytes returns the space that a directory's file system has for this user.
func freeBytes(dir string) (int64, bool) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, false
	}
	return int64(st.Bavail) * st.Bsize, true
}

// hostFacts returns what matters for objects in files.
func hostFacts() []fact {
	var facts []fact
	if free, ok := freeBytes("/dev/shm"); ok {
		f := fact{Name: "/dev/shm", Value: formatBytes(free) + " free"}
		if free < 1<<30 {
			f.Advice = "small for object stores; use another directory for large objects"
		}
		facts = append(facts, f)
	} else {
		facts = append(facts, fact{"/dev/shm", "missing", "the file connector is fastest on a RAM disk"})
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil {
		f := fact{Name: "open files", Value: fmt.Sprintf("%d (at most %d)", limit.Cur, limit.Max)}
		if limit.Cur < 4096 {
			f.Advice = "raise with ulimit -n if many streams or connections are open at once"
		}
		facts = append(facts, f)
	}
	low := func(name, path string, least int, advice string) {
		v := readFact(path)
		if v == "" {
			return
		}
		f := fact{Name: name, Value: v}
		if n, err := strconv.Atoi(v); err == nil && n < least {
			f.Advice = advice
		}
		facts = append(facts, f)
	}
	low("mappings per process", "/proc/sys/vm/max_map_count", 65530, "each large object in use is one; raise vm.max_map_count")
	low("inotify instances", "/proc/sys/fs/inotify/max_user_instances", 128, "futures of a file store need one per store, else they poll")
	low("inotify watches", "/proc/sys/fs/inotify/max_user_watches", 8192, "futures of a file store need one per directory, else they poll")
	if v := readFact("/proc/sys/kernel/osrelease"); v != "" {
		facts = append(facts, fact{Name: "kernel", Value: v})
	}
	return facts
}
