// Package arrowipc is the codec of polars DataFrames (tag PL) for package serialize: Arrow IPC on the wire, Arrow tables and record batches of
// github.com/apache/arrow-go in Go. It is a package of its own because that dependency is large; a program that wants it says
//
//	serialize.Default.Register(arrowipc.Codec())
//
// What belongs here is the IPC framing and nothing of DataFrames' meaning.
//
// # Formats
//
// ProxyStore 1.1.0 writes a DataFrame by polars' write_ipc and reads it by read_ipc (proxystore/serialize.py, _PolarsSerializer): the Arrow IPC
// file format, uncompressed unless somebody chose otherwise. Here the file format is read and written, and the stream format is read as well
// (https://arrow.apache.org/docs/format/Columnar.html, "IPC File Format" and format/File.fbs, Message.fbs, Schema.fbs), with lz4 and
// zstd compressed bodies. Polars' strings are view types (string_view) or large_utf8; both come as they are.
//
// A file is read by its footer alone, as polars does: polars 2 leaves out the stream header that the format asks for.
//
// # Buffers
//
// Decoding does not copy uncompressed columns: they stand on the object's memory and hold references on it until the last Arrow object that
// uses them is released. So Release tables and batches, as always with Arrow. Encoding borrows the columns: the value must not be released
// before the parts are written.
//
// # Hostile input
//
// The sizes of schemas, messages and decompressed buffers are bounded, panics of the Arrow library become serialize.ErrCorrupt, and every
// column is checked (array.ValidateRecordFull), so that reading a value cannot fail later.
package arrowipc
