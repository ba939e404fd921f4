// Package serialize reads and writes the objects that ProxyStore stores: a tag that says how the object was made, a newline, and a body. What
// belongs here is that outer form and the bodies that are not pickles; pickles are package pickle, and Arrow is package arrowipc, which a
// program registers only if it wants to carry that dependency.
//
// # Formats
//
// ProxyStore 1.1.0, proxystore/serialize.py (the classes registered by _register_serializer):
//
//	tag  Python type        body                       Go, natural form (Decode)
//	BS   bytes              the bytes                  []byte
//	US   str                UTF-8                      string
//	NP   numpy.ndarray      .npy (numpy.save)          *Array
//	PD   pandas.DataFrame   pickle                     *Opaque
//	PL   polars.DataFrame   Arrow IPC file             *Opaque, or what a registered codec makes of it
//	PK   anything else      pickle, protocol 5         see Pickles
//	CP   what PK cannot     pickle by cloudpickle      see Pickles
//
// ProxyStore 0.6.5, the same file: 01 bytes, 02 str, 03 pickle, 04 cloudpickle. Both are read always; 1.1.0 is written unless
// [Codecs.EncodeFormat] asks for [ProxyStore06].
//
// The .npy format is numpy/lib/_format_impl.py (versions 1.0, 2.0 and 3.0 are read; the lowest that fits is written, byte for byte as
// numpy.save does). Pickled arrays, scalars and dtypes are ndarray.__reduce_ex__ and dtype.__reduce__ of numpy/_core/src/multiarray.
//
// # Pickles
//
// No pickle is ever run. Decode gives plain Go values (pickle.ToGo): dict is map[string]any, list and tuple are []any, and so on; NumPy arrays
// and scalars anywhere inside become *Array and Go numbers. A pickle whose outermost object is of a class that is not known here is an
// [*Opaque]: its structure can be looked at, and it can be stored again unchanged. Inside containers such objects are *pickle.Object.
//
// # Buffers
//
// Encode borrows: the parts it returns alias large []byte, string and array memory of the value, which must not change until they are
// written. Decode borrows its buffer until it returns. What it returns is of two kinds:
//
//   - []byte, string and everything inside containers is memory that the garbage collector owns: the buffer's own memory where that is GC
//     memory ([transport.Buffer.Detach]), else one copy. There is nothing to release, and it never becomes invalid.
//   - *Array and *Opaque at the outermost level, and *transport.Buffer from [DecodeAs], stand on the buffer's memory without a copy and hold
//     a reference of their own: call Release when done. Forgetting it costs what forgetting a Buffer costs: nothing for GC memory, a
//     mapping or a pooled block otherwise.
//
// Decoded bytes are read-only: the memory may be a mapping, or shared with other readers of the object.
//
// # Hostile input
//
// Nothing is allocated because a header says so: shapes and lengths are compared with the bytes that are there. Errors unwrap to
// [ErrUnknownTag], [ErrCorrupt], [ErrTooLarge] or [ErrType].
package serialize
