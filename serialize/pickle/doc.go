// Package pickle reads and writes Python pickles without running any of them.
//
// A pickle is a program for a small stack machine, and Python's own machine may call anything. This one builds a
// structure instead: a class is a [Global] that is never looked up, a call is an [Object] that says what would have been
// called with what, a persistent id is a [PersistentID]. A pickle that would run os.system in Python decodes to an
// *Object whose Callable is Global{"os", "system"}, and nothing happens. What belongs here is the format itself: codecs of
// whole ProxyStore objects are in package serialize, which wires this one up.
//
// # Sources
//
// The opcodes and their meaning follow CPython 3.11, Lib/pickle.py (classes _Pickler, _Unpickler, _Framer), Lib/pickletools.py
// (argument formats), Lib/_compat_pickle.py (Python 2 names, which Python 3 still writes at protocols 0 to 2),
// Lib/copyreg.py (_reconstructor, __newobj__), and dill 0.4 dill/_dill.py (_load_type, _create_namedtuple). Protocols 0
// to 5 are read, 4 and 5 are written.
//
// # Values
//
//	Python                        decoded as
//	None, bool                    nil, bool
//	int                           int64, or *big.Int when it does not fit
//	float                         float64
//	str                           string (see Strings)
//	bytes                         []byte, a sub-slice of the input
//	bytearray                     ByteArray, a sub-slice of the input
//	tuple, list, dict             Tuple, *List, *Dict
//	set, frozenset                *Set
//	class or function             Global
//	any other object              *Object
//	persistent id                 PersistentID
//	out-of-band buffer            OutOfBand
//	copyreg extension code        Extension
//
// Shared references stay shared and self-references stay self-references: the same *List appears twice. [Convert] and
// [ToGo] turn values into plain Go; both are bounded, so neither a shared ("billion laughs") nor a cyclic pickle can
// exhaust memory.
//
// # Normalisation
//
// The same Python object should read the same whatever wrote it, so these are rewritten structurally while decoding:
//
//   - Python 2 module and class names become those of Python 3. __builtin__ and copy_reg always; the rest of
//     _compat_pickle (exceptions, Queue, itertools.izip, ...) below protocol 3, as Python does.
//   - copyreg._reconstructor(cls, object, None) is *Object{Callable: cls, New: true}. With base tuple, Args is that tuple
//     (what a namedtuple looks like from protocol 2 on; a plain tuple subclass is Args{tuple} there, and the two cannot be
//     told apart at protocol 0). With base list its items are Items, with base dict its pairs are Pairs, again as from
//     protocol 2 on. With any other base (str, int, float, bytes) Args is the one base value.
//   - copyreg.__newobj__ and __newobj_ex__ are NEWOBJ and NEWOBJ_EX; INST and OBJ without arguments are NEWOBJ.
//   - calls of builtins.set, frozenset, bytearray and bytes, and of _codecs.encode(str, "latin1"), are their results.
//   - builtins.getattr(Global{m, "A"}, "B") is Global{m, "A.B"}: how nested classes are written below protocol 4.
//   - dill._dill._load_type("bytes") is Global{"builtins", "bytes"}, and so for every name dill knows;
//     dill._dill._create_namedtuple(name, fields, module) is Global{module, name}.
//
// What a pickle computes and then throws away (POP after a call made for its effect, as dill does with setattr) is not in
// the result.
//
// # Strings
//
// Python strings may hold lone surrogates, which pickle writes in UTF-8's surrogatepass form (three bytes, ED A0 80 to ED
// BF BF). Such strings keep those bytes, so that they encode back to the same pickle; utf8.ValidString tells them. A
// Python 2 str (STRING, BINSTRING, SHORT_BINSTRING) does not say whether it is text: it is a string when it is valid
// UTF-8, else []byte.
//
// # Bounds
//
// Everything is limited by [Limits] before memory is taken, and time and memory are linear in the input: length fields
// allocate nothing by themselves, memo indexes are not array sizes, decimal integers are short, and copies or hashes of
// one long value many times over are charged. The machine does not recurse.
//
// # Buffers
//
// Decode borrows its input for as long as the result lives: []byte and ByteArray values alias it. Strings are copies. A
// [Decoder] reads a stream, so its bytes are copies, except those given to OnLargeBytes. [Encoder.Encode] borrows large
// []byte and string values: the returned parts alias them.
package pickle
