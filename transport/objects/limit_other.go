//go:build !linux

package objects

// machineMemory returns how many bytes this process may use; 0 is unknown.
func machineMemory() int64 { return 0 }
