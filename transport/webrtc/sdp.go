package webrtc

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/pion/ice/v4"
	"github.com/pion/sdp/v3"
	"github.com/proxyplane/proxyplane/transport"
)

const (
	// maxDescription is the longest description that is read, as JSON or SDP. Those of aiortc have 1 to 3 KiB.
	maxDescription = 64 << 10
	// maxAttribute and maxAttributes bound Config.Attributes, so that what we send can be read by those who are as careful.
	maxAttribute  = 16 << 10
	maxAttributes = 16
	// maxRemote is how many candidates of a peer are used. Each costs a packet per local candidate and check, wherever it leads.
	maxRemote = 32
	// maxLocal is how many candidates are offered.
	maxLocal = 24

	// ourMaxMessage is the longest message that we say we take: the same as aiortc.
	ourMaxMessage = 256 << 10
	// defaultMaxMessage is what a peer takes that does not say (RFC 8841, section 6), and minMaxMessage the least that is worth talking to.
	defaultMaxMessage = 64 << 10
	minMaxMessage     = 1 << 10

	// sctpPort is the only one that pion/sctp knows, and what everybody uses: there is but one association in a DTLS connection.
	sctpPort = 5000
)

// A Description is an offer or an answer. It is what peers exchange over some other way, here the relay.
type Description struct {
	Type string // "offer" or "answer"
	SDP  string
}

// ParseDescription reads the JSON form, which is aiortc's (aiortc.contrib.signaling.object_from_string). Other kinds of signals are refused. The SDP is
// read when it is used.
func ParseDescription(s string) (Description, error) {
	var m struct {
		Type *string `json:"type"`
		SDP  *string `json:"sdp"`
	}
	if len(s) > maxDescription {
		return Description{}, fmt.Errorf("%w: a session description of %d bytes, the limit is %d", transport.ErrTooLarge, len(s), maxDescription)
	}
	if err := json.Unmarshal([]byte(s), &m); err != nil {
		return Description{}, fmt.Errorf("%w: a session description is not JSON: %v", transport.ErrCorrupt, err)
	}
	if m.Type == nil || *m.Type != typeOffer && *m.Type != typeAnswer || m.SDP == nil {
		return Description{}, fmt.Errorf("%w: neither an offer nor an answer with an SDP", transport.ErrCorrupt)
	}
	return Description{Type: *m.Type, SDP: *m.SDP}, nil
}

const (
	typeOffer  = "offer"
	typeAnswer = "answer"
)

// String returns the JSON form, byte for byte as aiortc's object_to_string makes it.
func (d Description) String() string {
	var b strings.Builder
	b.WriteString(`{"sdp": `)
	writePythonString(&b, d.SDP)
	b.WriteString(`, "type": `)
	writePythonString(&b, d.Type)
	b.WriteString("}")
	return b.String()
}

// writePythonString writes a string as Python's json.dumps does: ASCII only.
func writePythonString(b *strings.Builder, s string) {
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\b':
			b.WriteString(`\b`)
		case r == '\f':
			b.WriteString(`\f`)
		case r >= ' ' && r < 0x7f:
			b.WriteRune(r)
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			fmt.Fprintf(b, `\u%04x`, r)
		}
	}
	b.WriteByte('"')
}

// Attribute returns the value of a session-level attribute of the SDP, "a=name:value", and whether there is one.
func (d Description) Attribute(name string) (string, bool) {
	s, err := parseSDP(d.SDP)
	if err != nil {
		return "", false
	}
	return s.Attribute(name)
}

// Fingerprint returns the SHA-256 of the certificate with which the one who made the description will prove itself, in the form of [Fingerprint].
func (d Description) Fingerprint() (string, error) {
	r, err := parseRemote(d, "")
	if err != nil {
		return "", err
	}
	return r.fingerprint, nil
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: session description: "+format, append([]any{transport.ErrCorrupt}, args...)...)
}

func parseSDP(text string) (*sdp.SessionDescription, error) {
	if len(text) > maxDescription {
		return nil, fmt.Errorf("%w: an SDP of %d bytes, the limit is %d", transport.ErrTooLarge, len(text), maxDescription)
	}
	s := new(sdp.SessionDescription)
	if err := s.UnmarshalString(text); err != nil {
		return nil, corrupt("%v", err)
	}
	return s, nil
}

// setup is a DTLS role as SDP names it (RFC 4145, section 4).
type setup string

const (
	actpass setup = "actpass" // in offers: either
	active  setup = "active"  // DTLS client
	passive setup = "passive" // DTLS server
)

// remote is what a description says about the peer.
type remote struct {
	mid         string // "" where there is none
	bundled     bool
	ufrag, pwd  string
	fingerprint string
	setup       setup
	maxMessage  int
	candidates  []ice.Candidate
	attributes  map[string]string // of the session
}

// parseRemote reads what we need of a description, which is hostile. want is the Type it should have; "" for any.
func parseRemote(d Description, want string) (*remote, error) {
	if d.Type != typeOffer && d.Type != typeAnswer || want != "" && d.Type != want {
		return nil, fmt.Errorf("%w: a session description is of type %.20q, not %q", transport.ErrCorrupt, d.Type, want)
	}
	s, err := parseSDP(d.SDP)
	if err != nil {
		return nil, err
	}
	if len(s.MediaDescriptions) != 1 {
		return nil, corrupt("%d media sections; only peers with data channels and nothing else are supported, which have one", len(s.MediaDescriptions))
	}
	m := s.MediaDescriptions[0]
	if m.MediaName.Media != "application" {
		return nil, corrupt("media %.20q; only peers with data channels and nothing else are supported", m.MediaName.Media)
	}
	if m.MediaName.Port.Value == 0 {
		return nil, corrupt("the peer refuses data channels (port 0)")
	}
	proto := strings.Join(m.MediaName.Protos, "/")
	if proto != "UDP/DTLS/SCTP" && proto != "TCP/DTLS/SCTP" || !slices.Equal(m.MediaName.Formats, []string{"webrtc-datachannel"}) {
		return nil, corrupt("protocol %.40q %.40q instead of UDP/DTLS/SCTP webrtc-datachannel: the peer is too old", proto, m.MediaName.Formats)
	}
	// Media-level attributes go before session-level ones (RFC 8859).
	get := func(name string) (string, bool) {
		if v, ok := m.Attribute(name); ok {
			return v, true
		}
		return s.Attribute(name)
	}
	if _, lite := get("ice-lite"); lite {
		return nil, corrupt("the peer has ICE lite only, which is not supported")
	}
	r := &remote{maxMessage: defaultMaxMessage, attributes: make(map[string]string)}
	for _, a := range s.Attributes {
		if _, dup := r.attributes[a.Key]; !dup {
			r.attributes[a.Key] = a.Value
		}
	}
	if mid, ok := m.Attribute("mid"); ok {
		if len(mid) > 64 || !isToken(mid) {
			return nil, corrupt("mid %.70q", mid)
		}
		r.mid = mid
		group, _ := s.Attribute("group")
		r.bundled = slices.Equal(strings.Fields(group), []string{"BUNDLE", mid})
	}
	// RFC 8839, section 5.4: 4 to 256 and 22 to 256 characters.
	r.ufrag, _ = get("ice-ufrag")
	r.pwd, _ = get("ice-pwd")
	if !isICE(r.ufrag, 4) || !isICE(r.pwd, 22) {
		return nil, corrupt("ICE user name and password are missing or malformed")
	}
	if r.fingerprint, err = fingerprintOf(m.Attributes, s.Attributes); err != nil {
		return nil, err
	}
	role, ok := get("setup")
	if !ok {
		// RFC 5763, section 5 wants it; RFC 4145 has a default, which is no use with ICE.
		return nil, corrupt("no attribute setup")
	}
	switch r.setup = setup(role); {
	case r.setup == active, r.setup == passive:
	case r.setup == actpass && d.Type == typeOffer:
	default:
		return nil, corrupt("setup:%.20q in an %s", role, d.Type)
	}
	if v, ok := m.Attribute("sctp-port"); !ok || v != strconv.Itoa(sctpPort) {
		return nil, corrupt("sctp-port %.10q; only %d is supported", v, sctpPort)
	}
	if v, ok := m.Attribute("max-message-size"); ok {
		n, err := strconv.ParseUint(v, 10, 64)
		switch {
		case err != nil:
			return nil, corrupt("max-message-size %.20q", v)
		case n == 0 || n > math.MaxInt32: // 0: no limit
			r.maxMessage = math.MaxInt32
		case n < minMaxMessage:
			return nil, corrupt("max-message-size %d; the peer must take messages of %d bytes", n, minMaxMessage)
		default:
			r.maxMessage = int(n)
		}
	}
	for _, a := range m.Attributes {
		if a.Key != "candidate" {
			continue
		}
		if len(r.candidates) == maxRemote {
			break
		}
		if c, ok := parseCandidate(a.Value); ok {
			r.candidates = append(r.candidates, c)
		}
	}
	return r, nil
}

// fingerprintOf finds the SHA-256 in the first level that has a fingerprint. Several different ones would mean that the peer has several certificates:
// none of those that we talk to has.
func fingerprintOf(levels ...[]sdp.Attribute) (string, error) {
	for _, attrs := range levels {
		found, other := "", false
		for _, a := range attrs {
			if a.Key != "fingerprint" {
				continue
			}
			algorithm, value, _ := strings.Cut(a.Value, " ")
			if !strings.EqualFold(algorithm, "sha-256") {
				other = true
				continue
			}
			f, ok := parseFingerprint(strings.TrimSpace(value))
			if !ok {
				return "", corrupt("fingerprint %.120q", a.Value)
			}
			if found != "" && found != f {
				return "", corrupt("several fingerprints; a peer with one certificate has one")
			}
			found = f
		}
		if found != "" {
			return found, nil
		}
		if other {
			return "", corrupt("no SHA-256 fingerprint")
		}
	}
	return "", corrupt("no fingerprint: the peer's certificate cannot be checked")
}

// parseCandidate reads a candidate. ok is false for those that are no use: not UDP, a host name (mDNS) instead of an address, malformed.
func parseCandidate(s string) (c ice.Candidate, ok bool) {
	if len(s) > 1<<10 {
		return nil, false
	}
	f := strings.Fields(s)
	if len(f) < 8 || f[1] != "1" || !strings.EqualFold(f[2], "udp") {
		return nil, false
	}
	ip, err := netip.ParseAddr(f[4])
	if err != nil || ip.Zone() != "" || !usable(ip.Unmap(), true) || f[5] == "0" {
		return nil, false
	}
	c, err = ice.UnmarshalCandidate(s)
	if err != nil || c.Type() == ice.CandidateTypePeerReflexive || !c.NetworkType().IsUDP() {
		return nil, false
	}
	return c, true
}

func isICE(s string, min int) bool {
	if len(s) < min || len(s) > 256 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '+' || c == '/') {
			return false
		}
	}
	return true
}

// isToken reports whether s is a token of RFC 4566, section 9.
func isToken(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]`, c) >= 0 {
			return false
		}
	}
	return true
}

// reserved are the session-level attributes that we write ourselves, or that mean something to a peer.
var reserved = []string{"group", "msid-semantic", "fingerprint", "setup", "ice-lite", "ice-ufrag", "ice-pwd", "ice-options", "identity", "extmap-allow-mixed"}

func checkAttributes(m map[string]string) error {
	if len(m) > maxAttributes {
		return fmt.Errorf("%w: %d attributes, the limit is %d", transport.ErrTooLarge, len(m), maxAttributes)
	}
	for k, v := range m {
		if len(k) > 64 || !isToken(k) || slices.Contains(reserved, k) {
			return fmt.Errorf("attribute %q: its name is no token, longer than 64 bytes, or one of %s", k, strings.Join(reserved, ", "))
		}
		if len(v) > maxAttribute {
			return fmt.Errorf("%w: attribute %s has %d bytes, the limit is %d", transport.ErrTooLarge, k, len(v), maxAttribute)
		}
		for i := range len(v) {
			if v[i] < ' ' || v[i] >= 0x7f {
				return fmt.Errorf("attribute %s: byte %#x; only printable ASCII can be sent, encode it", k, v[i])
			}
		}
	}
	return nil
}

// local is what we say about ourselves.
type local struct {
	session     uint64
	mid         string
	bundle      bool
	ufrag, pwd  string
	fingerprint string
	setup       setup
	candidates  []string // in order of preference
	first       netip.AddrPort
	attributes  map[string]string
}

func (l *local) description(typ string) (Description, error) {
	s := &sdp.SessionDescription{
		Origin:           sdp.Origin{Username: "-", SessionID: l.session, SessionVersion: 1, NetworkType: "IN", AddressType: "IP4", UnicastAddress: "127.0.0.1"},
		SessionName:      "-",
		TimeDescriptions: []sdp.TimeDescription{{}},
	}
	if l.bundle {
		s.WithValueAttribute("group", "BUNDLE "+l.mid)
	}
	s.WithValueAttribute("msid-semantic", "WMS *")
	for _, k := range slices.Sorted(maps.Keys(l.attributes)) {
		s.WithValueAttribute(k, l.attributes[k])
	}
	// The address of the media section is that of a candidate (RFC 8839, section 4.2.1.2), or says that there is none yet.
	host, family, port := "0.0.0.0", "IP4", 9
	if l.first.IsValid() {
		host, port = l.first.Addr().String(), int(l.first.Port())
		if l.first.Addr().Is6() {
			family = "IP6"
		}
	}
	m := &sdp.MediaDescription{
		MediaName: sdp.MediaName{
			Media: "application", Port: sdp.RangedPort{Value: port}, Protos: []string{"UDP", "DTLS", "SCTP"}, Formats: []string{"webrtc-datachannel"},
		},
		ConnectionInformation: &sdp.ConnectionInformation{NetworkType: "IN", AddressType: family, Address: &sdp.Address{Address: host}},
	}
	if l.mid != "" {
		m.WithValueAttribute("mid", l.mid)
	}
	m.WithValueAttribute("sctp-port", strconv.Itoa(sctpPort))
	m.WithValueAttribute("max-message-size", strconv.Itoa(ourMaxMessage))
	for _, c := range l.candidates {
		m.WithValueAttribute("candidate", c)
	}
	m.WithPropertyAttribute("end-of-candidates")
	m.WithValueAttribute("ice-ufrag", l.ufrag)
	m.WithValueAttribute("ice-pwd", l.pwd)
	m.WithValueAttribute("fingerprint", "sha-256 "+l.fingerprint)
	m.WithValueAttribute("setup", string(l.setup))
	s.WithMedia(m)
	b, err := s.Marshal()
	if err != nil {
		return Description{}, fmt.Errorf("writing an SDP: %w", err)
	}
	if len(b) > maxDescription {
		return Description{}, fmt.Errorf("%w: the session description would have %d bytes, the limit is %d: shorten the attributes", transport.ErrTooLarge, len(b), maxDescription)
	}
	return Description{Type: typ, SDP: string(b)}, nil
}
