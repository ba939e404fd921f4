package native

import (
	"encoding/binary"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// HeaderSize is the length of an encoded Header.
const HeaderSize = 48

// Bounds of every frame, whatever the Carrier.
const (
	MaxMeta  = 64 << 10 // bytes of metadata
	MaxFrame = 1 << 30  // bytes of body
)

// Header begins each frame. All integers are little-endian. What Code, Off and Size mean depends on Type; docs/protocol.md has the table.
type Header struct {
	Type  Type
	Flags Flags
	Code  uint16 // the operation of a request, the status of an answer
	ID    uint32 // the request that the frame belongs to, chosen by the client; 0 for the connection itself
	Off   uint64
	Size  uint64
	Meta  uint32 // bytes of metadata after the header
	Body  uint32 // bytes of body after the metadata
	Sum   uint64 // xxhash64 of the body as it is sent, if Flags has FlagSum
	Raw   uint32 // bytes of body once decompressed, if Flags says that it is compressed
	Check uint32 // low half of the xxhash64 of the 44 bytes before and the metadata: the sessions set and check it, no Carrier does
}

// Append appends the encoded header.
func (h *Header) Append(dst []byte) []byte {
	dst = h.appendChecked(dst)
	return binary.LittleEndian.AppendUint32(dst, h.Check)
}

// appendChecked appends all that Check covers.
func (h *Header) appendChecked(dst []byte) []byte {
	dst = append(dst, byte(h.Type), byte(h.Flags))
	dst = binary.LittleEndian.AppendUint16(dst, h.Code)
	dst = binary.LittleEndian.AppendUint32(dst, h.ID)
	dst = binary.LittleEndian.AppendUint64(dst, h.Off)
	dst = binary.LittleEndian.AppendUint64(dst, h.Size)
	dst = binary.LittleEndian.AppendUint32(dst, h.Meta)
	dst = binary.LittleEndian.AppendUint32(dst, h.Body)
	dst = binary.LittleEndian.AppendUint64(dst, h.Sum)
	return binary.LittleEndian.AppendUint32(dst, h.Raw)
}

// Decode reads the header from b, which must hold HeaderSize bytes. It checks nothing.
func (h *Header) Decode(b []byte) {
	_ = b[HeaderSize-1]
	h.Type, h.Flags = Type(b[0]), Flags(b[1])
	h.Code = binary.LittleEndian.Uint16(b[2:])
	h.ID = binary.LittleEndian.Uint32(b[4:])
	h.Off = binary.LittleEndian.Uint64(b[8:])
	h.Size = binary.LittleEndian.Uint64(b[16:])
	h.Meta = binary.LittleEndian.Uint32(b[24:])
	h.Body = binary.LittleEndian.Uint32(b[28:])
	h.Sum = binary.LittleEndian.Uint64(b[32:])
	h.Raw = binary.LittleEndian.Uint32(b[40:])
	h.Check = binary.LittleEndian.Uint32(b[44:])
}

// check computes what Check must be. Without it a damaged ID or offset would put right bytes into the wrong object.
func (h *Header) check(meta []byte) uint32 {
	var buf [HeaderSize + 256]byte
	b := h.appendChecked(buf[:0])
	if len(meta) <= 256 {
		return uint32(xxhash.Sum64(append(b, meta...)))
	}
	var d xxhash.Digest
	d.Reset()
	d.Write(b)
	d.Write(meta)
	return uint32(d.Sum64())
}

// Type says what a frame is.
type Type uint8

// The types of frames. Numbers are never used again for something else.
const (
	TypeHello     Type = 1  // client: the first frame of a session
	TypeChallenge Type = 2  // server: a token is needed
	TypeAuth      Type = 3  // client: its proof
	TypeWelcome   Type = 4  // server: the session is open
	TypeError     Type = 5  // either: the session is over, Code says why
	TypeRequest   Type = 6  // client: Code is the operation
	TypeResponse  Type = 7  // server: the first frame of an answer, Code is its status
	TypeData      Type = 8  // either: more of a body
	TypeCredit    Type = 9  // client: Size more bytes of stream ID may come
	TypeCancel    Type = 10 // client: nobody waits for ID any more
	TypeGoAway    Type = 11 // server: no new requests here, please
)

// String returns the type's name in docs/protocol.md.
func (t Type) String() string {
	names := [...]string{TypeHello: "HELLO", TypeChallenge: "CHALLENGE", TypeAuth: "AUTH", TypeWelcome: "WELCOME", TypeError: "ERROR",
		TypeRequest: "REQUEST", TypeResponse: "RESPONSE", TypeData: "DATA", TypeCredit: "CREDIT", TypeCancel: "CANCEL", TypeGoAway: "GOAWAY"}
	if int(t) < len(names) && names[t] != "" {
		return names[t]
	}
	return "frame type " + strconv.Itoa(int(t))
}

// Flags of a frame.
type Flags uint8

// The flags of a frame.
const (
	FlagLast   Flags = 1 << 0 // the sender's last frame of this request
	FlagSum    Flags = 1 << 1 // Sum is set
	FlagS2     Flags = 1 << 2 // the body is an S2 block of Raw bytes
	FlagZstd   Flags = 1 << 3 // the body is a zstd frame of Raw bytes
	FlagCredit Flags = 1 << 4 // in a GET: no more bytes of body than were credited; Size of the window is in the metadata
	FlagInfo   Flags = 1 << 5 // in a GET: the answer must say which version of the object it is
)

// Op is the operation of a request, in Header.Code.
type Op uint16

// The operations.
const (
	OpPing   Op = 1
	OpPut    Op = 2
	OpGet    Op = 3
	OpStat   Op = 4
	OpExists Op = 5
	OpEvict  Op = 6
	OpWait   Op = 7
	OpMap    Op = 8 // Get by descriptor
	OpAdopt  Op = 9 // Put by descriptor
	numOps      = 10
)

var opNames = [numOps]string{"unknown", "ping", "put", "get", "stat", "exists", "evict", "wait", "map", "adopt"}

// String returns the operation's name in lower case.
func (o Op) String() string {
	if o > 0 && o < numOps {
		return opNames[o]
	}
	return "operation " + strconv.Itoa(int(o))
}
