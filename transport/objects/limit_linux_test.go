package objects

import "testing"

func TestGroupLimit(t *testing.T) {
	files := map[string]string{
		"/sys/fs/cgroup/a/memory.max":                               "max\n",
		"/sys/fs/cgroup/a/b/memory.max":                             "1000\n",
		"/sys/fs/cgroup/a/b/c/memory.max":                           "2000\n",
		"/sys/fs/cgroup/memory/slurm/job/memory.limit_in_bytes":     "5000\n",
		"/sys/fs/cgroup/memory/memory.limit_in_bytes":               "9223372036854771712\n",
		"/sys/fs/cgroup/memory/docker/x/y/memory.limit_in_bytes":    "junk",
		"/sys/fs/cgroup/cpu,cpuacct/slurm/job/memory.limit_in_byte": "1",
	}
	for groups, want := range map[string]int64{
		"":                            0,
		"0::/\n":                      0,
		"0::/a\n":                     0,
		"0::/a/b/c\n":                 1000,
		"0::/a/b/c/d":                 1000,
		"junk\n::\n0::\n":             0,
		"0::../../a/b\n":              1000,
		"4:memory:/slurm/job/step\n":  5000,
		"4:cpu,cpuacct:/slurm/job\n":  0,
		"4:cpu,memory:/docker/x/y\n":  0,
		"1:memory:/slurm/job\n0::/\n": 5000,
	} {
		if got := groupLimit(groups, func(name string) string { return files[name] }); got != want {
			t.Errorf("%q: %d, want %d", groups, got, want)
		}
	}
	if n := defaultMemory(); n < 1<<20 {
		t.Errorf("the default is %d bytes", n)
	}
}
