//go:build unix && !linux

package config

import "time"

func isZombieOrThread(int) bool { return false }

func processStart(int) (time.Time, bool) { return time.Time{}, false }
