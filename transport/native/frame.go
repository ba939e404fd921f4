package native

import "encoding/binary"

// HeaderSize is the length of an encoded Header.
const HeaderSize = 40

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
	Sum   uint64 // xxhash64 of the body as it is sent, if Flags has HasSum
}

// Append appends the encoded header.
func (h *Header) Append(dst []byte) []byte {
	dst = append(dst, byte(h.Type), byte(h.Flags))
	dst = binary.LittleEndian.AppendUint16(dst, h.Code)
	dst = binary.LittleEndian.AppendUint32(dst, h.ID)
	dst = binary.LittleEndian.AppendUint64(dst, h.Off)
	dst = binary.LittleEndian.AppendUint64(dst, h.Size)
	dst = binary.LittleEndian.AppendUint32(dst, h.Meta)
	dst = binary.LittleEndian.AppendUint32(dst, h.Body)
	return binary.LittleEndian.AppendUint64(dst, h.Sum)
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
}

// Type says what a frame is.
type Type uint8

// Flags of a frame.
type Flags uint8
