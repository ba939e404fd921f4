package ucx

import (
	"net"
	"slices"
	"strconv"
	"strings"
)

// maxKey is the longest packed key that is unpacked. A key has at most 64 parts of at most 255 bytes and a head, and keyRoom is more than one that
// claims all of them.
const (
	maxKey  = 4 << 10
	keyRoom = maxKey + 64*256 + 64
)

// lanes reads the transports from what libucp prints of an endpoint, lines such as "#  lane[0]:  2:posix/memory.0 md[1] -> ...". Newer versions could be
// asked instead, but 1.13 cannot.
func lanes(info string) []string {
	var out []string
	for line := range strings.Lines(info) {
		_, rest, ok := strings.Cut(line, "lane[")
		if !ok {
			continue
		}
		if _, rest, ok = strings.Cut(rest, "]:"); !ok {
			continue
		}
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			continue
		}
		name := fields[0]
		if i := strings.IndexByte(name, ':'); i >= 0 && i+1 < len(name) { // the index of the resource
			name = name[i+1:]
		} else if strings.HasSuffix(name, ":") && len(fields) > 1 {
			name = fields[1]
		}
		if i := strings.LastIndexByte(name, '.'); i >= 0 { // the path index
			if _, err := strconv.Atoi(name[i+1:]); err == nil {
				name = name[:i]
			}
		}
		if strings.Contains(name, "/") && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

func zoneIndex(zone string) (int, error) {
	if n, err := strconv.ParseUint(zone, 10, 31); err == nil {
		return int(n), nil
	}
	i, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, err
	}
	return i.Index, nil
}

func zoneName(index uint32) string {
	if index == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(index), 10)
}
