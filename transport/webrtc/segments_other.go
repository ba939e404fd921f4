//go:build !linux

package webrtc

import (
	"errors"
	"net/netip"
)

func canSegment() bool { return false }

func (p *packets) writeSegments([]byte, int, netip.AddrPort) error { return errors.ErrUnsupported }

func segmentsRefused(error) bool { return true }
