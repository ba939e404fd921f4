package tcp

import (
	"errors"
	"fmt"
	"net"
	"strings"
)

// address is one that Dial and Listen take, in parts.
type address struct {
	scheme  string // tcp, tls, unix
	network string // for package net
	rest    string // for package net: host:port or a path
	host    string
}

var errAddress = errors.New(`want "tcp://host:port", "tls://host:port", "unix:///path" or "host:port"`)

func parseAddress(addr string) (address, error) {
	scheme, rest, ok := strings.Cut(addr, "://")
	if !ok {
		scheme, rest = "tcp", addr
	}
	switch scheme {
	case "unix":
		if rest == "" || rest[0] == '@' || strings.ContainsRune(rest, 0) { // @: a name without a file, which all users may reach
			return address{}, fmt.Errorf("address %q: %w", addr, errAddress)
		}
		return address{scheme: scheme, network: "unix", rest: rest}, nil
	case "tcp", "tls":
		host, port, err := net.SplitHostPort(strings.TrimSuffix(rest, "/"))
		if err != nil || port == "" || strings.ContainsAny(rest, "?#@") {
			return address{}, fmt.Errorf("address %q: %w", addr, errAddress)
		}
		return address{scheme: scheme, network: "tcp", rest: net.JoinHostPort(host, port), host: host}, nil
	}
	return address{}, fmt.Errorf("address %q: %w", addr, errAddress)
}
