package proxyplane

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/proxyplane/proxyplane/connectors"
)

// ErrDenied is the error of resolving a received proxy whose store the policy does not allow. The message says what would allow it.
var ErrDenied = connectors.ErrDenied

// A Policy says what a received proxy may open. A proxy names any host and any directory it likes, so this is what stands between a stranger
// and the files and servers that this process can reach. Stores that this process registered itself are not subject to it.
//
// The zero Policy allows every connector kind, hosts only if they are this machine's loopback, and directories only if they exist and belong to
// the user of this process. In no case is anything created to satisfy a received proxy, a key never leaves its directory, and nothing in an
// object is executed.
type Policy struct {
	// Kinds are the allowed connectors by short name. Nil allows all.
	Kinds []string
	// Hosts are the allowed hosts besides loopback: names, addresses, prefixes such as 10.1.0.0/16, "*.cluster.example" for all names under a
	// domain, "*" for all.
	Hosts []string
	// Dirs are the allowed directories with all below them, besides the user's own; "*" is all. A unix socket counts as its path. Files that a
	// connector would read to open (a password, a key) must be below one of these, whoever owns them.
	Dirs []string
	// OnlyDirs, if set, allows nothing but Dirs: the user's own directories are not enough.
	OnlyDirs bool
	// Secrets gives the passwords that a proxy's connector needs and that never travel; nil gives none. A proxy names any server that the policy
	// allows, so that Secrets must look at c's host and port before it gives one away, not at the kind alone.
	Secrets func(kind string, c connectors.Config) map[string]any
}

// AllowAll is a Policy for proxies from people that are trusted with everything that this process can reach.
var AllowAll = Policy{Hosts: []string{"*"}, Dirs: []string{"*"}}

// Check returns an [ErrDenied] unless all of the places are allowed.
func (p Policy) Check(places []connectors.Location) error {
	for _, l := range places {
		if p.Kinds != nil && !slices.Contains(p.Kinds, l.Kind) {
			return fmt.Errorf("%w: connector %s; allowed kinds are %s (Policy.Kinds, --allow-kind)", ErrDenied, l.Kind, strings.Join(p.Kinds, ", "))
		}
		if l.Host != "" && !p.allowsHost(l.Host) {
			return fmt.Errorf("%w: the proxy's %s connector is at host %q; allow it with Policy.Hosts or --allow-host if you trust it", ErrDenied, l.Kind, l.Host)
		}
		if l.Dir != "" {
			if err := p.checkDir(l); err != nil {
				return err
			}
		}
		if l.File != "" {
			// That the user may read a file is no reason to: its content would go to a server that the proxy chose.
			if ok, err := p.allowsPath(l.File); err != nil || !ok {
				return fmt.Errorf("%w: the proxy's %s connector reads the file %s; allow it with Policy.Dirs or --allow-dir if you trust it", ErrDenied, l.Kind, l.File)
			}
		}
	}
	return nil
}

func (p Policy) allowsHost(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	addr, addrErr := netip.ParseAddr(host)
	if host == "localhost" || addrErr == nil && addr.Unmap().IsLoopback() {
		return true
	}
	for _, allowed := range p.Hosts {
		allowed = strings.ToLower(allowed)
		if allowed == "*" || allowed == host || strings.HasPrefix(allowed, "*.") && strings.HasSuffix(host, allowed[1:]) {
			return true
		}
		if addrErr != nil {
			continue
		}
		if prefix, err := netip.ParsePrefix(allowed); err == nil && prefix.Contains(addr.Unmap()) {
			return true
		}
		if a, err := netip.ParseAddr(allowed); err == nil && a.Unmap() == addr.Unmap() {
			return true
		}
	}
	return false
}

func (p Policy) checkDir(l connectors.Location) error {
	if ok, err := p.allowsPath(l.Dir); err != nil {
		return fmt.Errorf("%w: %s of the proxy's %s connector: %w (nothing is created for a received proxy)", connectors.ErrUnavailable, l.Dir, l.Kind, err)
	} else if ok {
		return nil
	}
	if !p.OnlyDirs {
		dir, err := filepath.EvalSymlinks(l.Dir)
		if err == nil && !virtual(dir) {
			if info, err := os.Stat(dir); err == nil && ownedByUser(info) {
				return nil
			}
		}
	}
	return fmt.Errorf("%w: the proxy's %s connector is in %s, which is not a directory of yours; allow it with Policy.Dirs or --allow-dir if you trust it",
		ErrDenied, l.Kind, l.Dir)
}

// allowsPath reports whether Dirs names path or a directory above it. It compares real paths, so that a link cannot lead out of what is allowed, and
// fails if there is nothing at path.
func (p Policy) allowsPath(path string) (bool, error) {
	if slices.Contains(p.Dirs, "*") {
		return true, nil
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false, err
	}
	for _, allowed := range p.Dirs {
		if base, err := filepath.EvalSymlinks(allowed); err == nil && within(base, real) {
			return true, nil
		}
	}
	return false, nil
}

// within reports whether path is base or below it. Both are clean and absolute.
func within(base, path string) bool {
	rel, err := filepath.Rel(base, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// virtual reports whether dir is in a file system that is the kernel's interface and no storage. /dev/shm is storage.
func virtual(dir string) bool {
	for _, root := range []string{"/proc", "/sys", "/dev"} {
		if within(root, dir) && !within("/dev/shm", dir) {
			return true
		}
	}
	return false
}
