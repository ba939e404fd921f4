package pickle

import "fmt"

// The opcodes, as Lib/pickletools.py lists them.
const (
	opInt             byte = 0x49 // protocol 0
	opBinint          byte = 0x4a // protocol 1
	opBinint1         byte = 0x4b // protocol 1
	opBinint2         byte = 0x4d // protocol 1
	opLong            byte = 0x4c // protocol 0
	opLong1           byte = 0x8a // protocol 2
	opLong4           byte = 0x8b // protocol 2
	opString          byte = 0x53 // protocol 0
	opBinstring       byte = 0x54 // protocol 1
	opShortBinstring  byte = 0x55 // protocol 1
	opBinbytes        byte = 0x42 // protocol 3
	opShortBinbytes   byte = 0x43 // protocol 3
	opBinbytes8       byte = 0x8e // protocol 4
	opBytearray8      byte = 0x96 // protocol 5
	opNextBuffer      byte = 0x97 // protocol 5
	opReadonlyBuffer  byte = 0x98 // protocol 5
	opNone            byte = 0x4e // protocol 0
	opNewtrue         byte = 0x88 // protocol 2
	opNewfalse        byte = 0x89 // protocol 2
	opUnicode         byte = 0x56 // protocol 0
	opShortBinunicode byte = 0x8c // protocol 4
	opBinunicode      byte = 0x58 // protocol 1
	opBinunicode8     byte = 0x8d // protocol 4
	opFloat           byte = 0x46 // protocol 0
	opBinfloat        byte = 0x47 // protocol 1
	opEmptyList       byte = 0x5d // protocol 1
	opAppend          byte = 0x61 // protocol 0
	opAppends         byte = 0x65 // protocol 1
	opList            byte = 0x6c // protocol 0
	opEmptyTuple      byte = 0x29 // protocol 1
	opTuple           byte = 0x74 // protocol 0
	opTuple1          byte = 0x85 // protocol 2
	opTuple2          byte = 0x86 // protocol 2
	opTuple3          byte = 0x87 // protocol 2
	opEmptyDict       byte = 0x7d // protocol 1
	opDict            byte = 0x64 // protocol 0
	opSetitem         byte = 0x73 // protocol 0
	opSetitems        byte = 0x75 // protocol 1
	opEmptySet        byte = 0x8f // protocol 4
	opAdditems        byte = 0x90 // protocol 4
	opFrozenset       byte = 0x91 // protocol 4
	opPop             byte = 0x30 // protocol 0
	opDup             byte = 0x32 // protocol 0
	opMark            byte = 0x28 // protocol 0
	opPopMark         byte = 0x31 // protocol 1
	opGet             byte = 0x67 // protocol 0
	opBinget          byte = 0x68 // protocol 1
	opLongBinget      byte = 0x6a // protocol 1
	opPut             byte = 0x70 // protocol 0
	opBinput          byte = 0x71 // protocol 1
	opLongBinput      byte = 0x72 // protocol 1
	opMemoize         byte = 0x94 // protocol 4
	opExt1            byte = 0x82 // protocol 2
	opExt2            byte = 0x83 // protocol 2
	opExt4            byte = 0x84 // protocol 2
	opGlobal          byte = 0x63 // protocol 0
	opStackGlobal     byte = 0x93 // protocol 4
	opReduce          byte = 0x52 // protocol 0
	opBuild           byte = 0x62 // protocol 0
	opInst            byte = 0x69 // protocol 0
	opObj             byte = 0x6f // protocol 1
	opNewobj          byte = 0x81 // protocol 2
	opNewobjEx        byte = 0x92 // protocol 4
	opProto           byte = 0x80 // protocol 2
	opStop            byte = 0x2e // protocol 0
	opFrame           byte = 0x95 // protocol 4
	opPersid          byte = 0x50 // protocol 0
	opBinpersid       byte = 0x51 // protocol 1
)

// opNames holds Python's names of the opcodes.
var opNames = [256]string{
	opInt:             "INT",
	opBinint:          "BININT",
	opBinint1:         "BININT1",
	opBinint2:         "BININT2",
	opLong:            "LONG",
	opLong1:           "LONG1",
	opLong4:           "LONG4",
	opString:          "STRING",
	opBinstring:       "BINSTRING",
	opShortBinstring:  "SHORT_BINSTRING",
	opBinbytes:        "BINBYTES",
	opShortBinbytes:   "SHORT_BINBYTES",
	opBinbytes8:       "BINBYTES8",
	opBytearray8:      "BYTEARRAY8",
	opNextBuffer:      "NEXT_BUFFER",
	opReadonlyBuffer:  "READONLY_BUFFER",
	opNone:            "NONE",
	opNewtrue:         "NEWTRUE",
	opNewfalse:        "NEWFALSE",
	opUnicode:         "UNICODE",
	opShortBinunicode: "SHORT_BINUNICODE",
	opBinunicode:      "BINUNICODE",
	opBinunicode8:     "BINUNICODE8",
	opFloat:           "FLOAT",
	opBinfloat:        "BINFLOAT",
	opEmptyList:       "EMPTY_LIST",
	opAppend:          "APPEND",
	opAppends:         "APPENDS",
	opList:            "LIST",
	opEmptyTuple:      "EMPTY_TUPLE",
	opTuple:           "TUPLE",
	opTuple1:          "TUPLE1",
	opTuple2:          "TUPLE2",
	opTuple3:          "TUPLE3",
	opEmptyDict:       "EMPTY_DICT",
	opDict:            "DICT",
	opSetitem:         "SETITEM",
	opSetitems:        "SETITEMS",
	opEmptySet:        "EMPTY_SET",
	opAdditems:        "ADDITEMS",
	opFrozenset:       "FROZENSET",
	opPop:             "POP",
	opDup:             "DUP",
	opMark:            "MARK",
	opPopMark:         "POP_MARK",
	opGet:             "GET",
	opBinget:          "BINGET",
	opLongBinget:      "LONG_BINGET",
	opPut:             "PUT",
	opBinput:          "BINPUT",
	opLongBinput:      "LONG_BINPUT",
	opMemoize:         "MEMOIZE",
	opExt1:            "EXT1",
	opExt2:            "EXT2",
	opExt4:            "EXT4",
	opGlobal:          "GLOBAL",
	opStackGlobal:     "STACK_GLOBAL",
	opReduce:          "REDUCE",
	opBuild:           "BUILD",
	opInst:            "INST",
	opObj:             "OBJ",
	opNewobj:          "NEWOBJ",
	opNewobjEx:        "NEWOBJ_EX",
	opProto:           "PROTO",
	opStop:            "STOP",
	opFrame:           "FRAME",
	opPersid:          "PERSID",
	opBinpersid:       "BINPERSID",
}

// opName returns Python's name of an opcode.
func opName(op byte) string {
	if n := opNames[op]; n != "" {
		return n
	}
	return fmt.Sprintf("opcode 0x%02x", op)
}
