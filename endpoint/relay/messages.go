package relay

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/transport"
)

// DefaultMaxMessage bounds a message, in bytes, where nothing else is configured. It is what Python's websockets library allows; an offer has some 2 to 10 KB.
const DefaultMaxMessage = 1 << 20

// A Message is a [Registration], a [Response] or a [PeerConnection].
type Message interface {
	appendJSON(b []byte) []byte
}

// Registration is a client's first message: proxystore's RelayRegistrationRequest.
type Registration struct {
	Name string
	UUID uuid.UUID
}

// Response is the server's answer to a [Registration]: proxystore's RelayResponse.
type Response struct {
	Success bool
	Message string // "" is None
	Error   bool   // Message is the text of an error
}

// PeerConnection carries a session description from one client to another: proxystore's PeerConnectionRequest.
type PeerConnection struct {
	SourceUUID      uuid.UUID
	SourceName      string
	PeerUUID        uuid.UUID // the one that it is for
	DescriptionType string    // "offer" or "answer"; passed on whatever it is, as Python does
	Description     string
	Error           string // set by a server that sends the message back, and by a peer that cannot answer; "" is None
}

// The names in `message_type`.
const (
	typeResponse     = "relay_response"
	typeRegistration = "relay_registration"
	typePeer         = "peer_connection"
)

// Encode returns m as Python's encode_relay_message does: the same fields in the same order, ASCII only. The caller owns the result. It fails if a text is not
// valid UTF-8, which JSON cannot carry.
func Encode(m Message) ([]byte, error) {
	var texts []string
	size := 128
	switch m := m.(type) {
	case Registration:
		texts = []string{m.Name}
	case Response:
		texts = []string{m.Message}
	case PeerConnection:
		texts = []string{m.SourceName, m.DescriptionType, m.Description, m.Error}
		size += 256
	default:
		return nil, fmt.Errorf("relay: a message of type %T cannot be encoded; use Registration, Response or PeerConnection", m)
	}
	for _, s := range texts {
		if !utf8.ValidString(s) {
			return nil, fmt.Errorf("relay: a text of the message is not valid UTF-8: %.40q", s)
		}
		size += len(s) + len(s)/16
	}
	return m.appendJSON(make([]byte, 0, size)), nil
}

func (m Registration) appendJSON(b []byte) []byte {
	b = appendString(append(b, `{"name": `...), m.Name)
	b = appendUUID(append(b, `, "uuid": `...), m.UUID)
	return append(b, `, "message_type": "`+typeRegistration+`"}`...)
}

func (m Response) appendJSON(b []byte) []byte {
	b = fmt.Appendf(b, `{"success": %t, "message": `, m.Success)
	b = appendOptional(b, m.Message)
	return fmt.Appendf(b, `, "error": %t, "message_type": "`+typeResponse+`"}`, m.Error)
}

func (m PeerConnection) appendJSON(b []byte) []byte {
	b = appendUUID(append(b, `{"source_uuid": `...), m.SourceUUID)
	b = appendString(append(b, `, "source_name": `...), m.SourceName)
	b = appendUUID(append(b, `, "peer_uuid": `...), m.PeerUUID)
	b = appendString(append(b, `, "description_type": `...), m.DescriptionType)
	b = appendString(append(b, `, "description": `...), m.Description)
	b = appendOptional(append(b, `, "error": `...), m.Error)
	return append(b, `, "message_type": "`+typePeer+`"}`...)
}

func appendUUID(b []byte, u uuid.UUID) []byte {
	return append(append(append(b, '"'), u.String()...), '"')
}

func appendOptional(b []byte, s string) []byte {
	if s == "" {
		return append(b, "null"...)
	}
	return appendString(b, s)
}

// appendString writes s as json.dumps does with ensure_ascii: everything but printable ASCII escaped.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r >= ' ' && r <= '~':
			b = append(b, byte(r))
		case r == '\n':
			b = append(b, `\n`...)
		case r == '\r':
			b = append(b, `\r`...)
		case r == '\t':
			b = append(b, `\t`...)
		case r == '\f':
			b = append(b, `\f`...)
		case r == '\b':
			b = append(b, `\b`...)
		case r < 0x10000:
			b = appendEscape(b, r)
		default:
			high, low := utf16.EncodeRune(r)
			b = appendEscape(appendEscape(b, high), low)
		}
	}
	return append(b, '"')
}

func appendEscape(b []byte, r rune) []byte {
	const hex = "0123456789abcdef"
	return append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
}

// Decode reads one message. It borrows b. What Python's decode_relay_message refuses is refused here: no or an unknown message_type, missing or unknown fields, UUIDs
// that are none. So are values of a type that the field does not have, which Python would keep as they are. Every error wraps [transport.ErrCorrupt].
// The caller bounds the length of b; memory is in proportion to it.
func Decode(b []byte) (Message, error) {
	if !utf8.Valid(b) {
		return nil, corrupt(errors.New("the text is not UTF-8"))
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return nil, corrupt(fmt.Errorf("failed to load string as JSON: %w", err))
	}
	f := fields{raw: raw}
	switch kind := f.text("message_type"); {
	case f.err != nil:
		return nil, corrupt(f.err)
	case kind == typeRegistration:
		m := Registration{Name: f.text("name"), UUID: f.uuid("uuid")}
		return m, f.done()
	case kind == typeResponse:
		m := Response{Success: f.flag("success", true), Message: f.optional("message"), Error: f.flag("error", false)}
		return m, f.done()
	case kind == typePeer:
		m := PeerConnection{
			SourceUUID: f.uuid("source_uuid"), SourceName: f.text("source_name"), PeerUUID: f.uuid("peer_uuid"),
			DescriptionType: f.text("description_type"), Description: f.text("description"), Error: f.optional("error"),
		}
		return m, f.done()
	default:
		return nil, corrupt(fmt.Errorf("the message is of an unknown message type: %.40q", kind))
	}
}

func corrupt(err error) error { return fmt.Errorf("relay: message %w: %w", transport.ErrCorrupt, err) }

// fields takes values out of a decoded object, keeps the first error, and in the end knows what nobody asked for.
type fields struct {
	raw map[string]json.RawMessage
	err error
}

func (f *fields) take(name string) (json.RawMessage, bool) {
	v, ok := f.raw[name]
	delete(f.raw, name)
	return v, ok
}

func (f *fields) fail(format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf(format, args...)
	}
}

// value decodes the field into p and reports whether it is there and not null.
func (f *fields) value(name string, p any) (present, null bool) {
	v, ok := f.take(name)
	if !ok {
		return false, false
	}
	if string(v) == "null" {
		return true, true
	}
	if err := json.Unmarshal(v, p); err != nil {
		f.fail("field %s: %w", name, err)
	}
	return true, false
}

func (f *fields) text(name string) (s string) {
	if present, null := f.value(name, &s); !present {
		f.fail("the message does not contain a %s key", name)
	} else if null {
		f.fail("field %s is null", name)
	}
	return s
}

func (f *fields) optional(name string) (s string) {
	f.value(name, &s)
	return s
}

func (f *fields) flag(name string, def bool) bool {
	v := def
	if _, null := f.value(name, &v); null {
		f.fail("field %s is null", name)
	}
	return v
}

func (f *fields) uuid(name string) uuid.UUID {
	s := f.text(name)
	if f.err != nil {
		return uuid.UUID{}
	}
	u, err := parseUUID(s)
	if err != nil {
		f.fail("failed to convert key %s to UUID: %w", name, err)
	}
	return u
}

func (f *fields) done() error {
	if f.err == nil {
		for name := range f.raw {
			f.fail("the message has an unknown field %.40q", name)
		}
	}
	if f.err != nil {
		return corrupt(f.err)
	}
	return nil
}

// parseUUID accepts what Python's uuid.UUID does: with or without dashes, wherever they are, in braces, with urn:uuid: before it.
func parseUUID(s string) (uuid.UUID, error) {
	var u uuid.UUID
	if len(s) > 128 {
		return u, errors.New("badly formed hexadecimal UUID string")
	}
	h := strings.ReplaceAll(strings.ReplaceAll(s, "urn:", ""), "uuid:", "")
	h = strings.ReplaceAll(strings.Trim(h, "{}"), "-", "")
	if len(h) != 32 {
		return u, fmt.Errorf("badly formed hexadecimal UUID string %q", s)
	}
	u, err := uuid.Parse(h)
	if err != nil {
		return u, fmt.Errorf("badly formed hexadecimal UUID string %q", s)
	}
	return u, nil
}
