package config

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// isZombieOrThread reports what /proc knows and kill does not: the number may be a thread's, or that of a process which has ended already.
func isZombieOrThread(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false // ended in between, or /proc is not for us to see
	}
	for line := range bytes.Lines(data) {
		if v, ok := bytes.CutPrefix(line, []byte("State:")); ok && bytes.HasPrefix(bytes.TrimSpace(v), []byte("Z")) {
			return true
		}
		if v, ok := bytes.CutPrefix(line, []byte("Tgid:")); ok && string(bytes.TrimSpace(v)) != strconv.Itoa(pid) {
			return true
		}
	}
	return false
}

// processStart returns when a process was started, by this host's clock.
// Source: proc(5): field 22 of /proc/PID/stat, in ticks of 1/100 s since boot, and btime of /proc/stat.
func processStart(pid int) (time.Time, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return time.Time{}, false
	}
	_, rest, ok := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" ")) // the name may hold anything
	fields := bytes.Fields(rest)
	if !ok || len(fields) < 20 {
		return time.Time{}, false
	}
	ticks, err := strconv.ParseInt(string(fields[19]), 10, 64)
	if err != nil {
		return time.Time{}, false
	}
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}, false
	}
	for line := range bytes.Lines(data) {
		if v, ok := bytes.CutPrefix(line, []byte("btime ")); ok {
			boot, err := strconv.ParseInt(string(bytes.TrimSpace(v)), 10, 64)
			return time.Unix(boot, 0).Add(time.Duration(ticks) * 10 * time.Millisecond), err == nil
		}
	}
	return time.Time{}, false
}
