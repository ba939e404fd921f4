package testenv

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Netns tells that this process can make network namespaces and TUN devices, as internal/netlab does. No script can install that, so that the test is
// skipped without it under PROXYPLANE_REQUIRE too; scripts/allowed-skips.txt has the names.
func Netns(t testing.TB) {
	t.Helper()
	if err := FindNetns(); err != nil {
		t.Skip("no network namespaces: " + err.Error() + " (run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN, with /dev/net/tun, iproute2 and util-linux)")
	}
}

// FindNetns is Netns for who can do without: nil where namespaces can be made.
var FindNetns = sync.OnceValue(func() error {
	for _, program := range []string{"ip", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			return err
		}
	}
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	failed := errors.New("unshare did not return")
	done := make(chan error, 1)
	go func() {
		defer func() { done <- failed }()
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and the namespace with the thread
		if failed = os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNET)); failed != nil {
			return
		}
		var ifr *unix.Ifreq
		if ifr, failed = unix.NewIfreq("probe"); failed == nil {
			ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			var tun int
			if tun, failed = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0); failed == nil {
				failed = os.NewSyscallError("TUNSETIFF", unix.IoctlIfreq(tun, unix.TUNSETIFF, ifr))
				unix.Close(tun)
			}
		}
	}()
	return <-done
})
