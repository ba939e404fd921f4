// Package file is the connector that keeps objects as files in a directory that all members share: a RAM disk on one node, a parallel or network
// file system across nodes. It reads and writes what Python's proxystore.connectors.file.FileConnector (ProxyStore 1.1.0 and 0.6.5) does, in
// both directions and at the same time.
//
// # Wire format
//
// As proxystore/connectors/file.py, FileConnector.set: the object's bytes are the file <store_dir>/<uuid4>; an empty file <uuid4>.ready beside
// it, made last, says that the object is whole. An object without its marker does not exist. A marker without its object does not exist either
// (ErrNotFound): Python's evict removes the object first, so that every eviction passes through that state, and a crash in it leaves it behind.
//
// # Keys
//
// connectors.FileKey. The name is one path component of at most 249 bytes; the empty name, "." and "..", anything with a slash, backslash or
// NUL, names that end in ".ready" and names that start with ".proxyplane-" are ErrInvalidKey and never reach the file system. Keys made
// here are version-4 UUIDs whose first 60 random bits are those of the connector: that is how Close finds its own objects without keeping a list.
//
// # Confinement
//
// Every access is one path component below an open directory, and symbolic links are never followed: a link, FIFO, device or directory in
// an object's place is ErrCorrupt, at once. On Linux this is openat with O_NOFOLLOW, elsewhere os.Root. If the directory is removed and made anew
// (a Python store closing with clear does the first, the next one the second), the connector moves to the new one by itself. In both cases
// connectors.Env.Confirm is asked about the directory that is really open, which on Linux /proc tells.
//
// Evict and Set leave alone what is no object, however its name came into a key: a file whose name is no UUID is removed or replaced only if an
// empty marker is beside it. A connector whose configuration came in a proxy demands the marker for UUIDs too, unless it made the key
// itself. (Python's evict removes any file.)
//
// # Capabilities
//
// Deferrer, BatchPutter, BatchGetter, BatchEvicter, RangeGetter, BytesGetter, StreamPutter, StreamGetter, Mapper, Stater, Waiter and
// ClearCloser. Put and PutStream show an object whole or not at all, whenever the process dies; only [Options].Sync extends that to a
// power cut. Set also replaces: readers see the old or the new object whole. Wait learns of new objects from inotify on Linux, and also
// looks by itself, at least once a second: a network file system does not report what other nodes do, and other systems have no inotify.
//
// A process that is killed while it writes can leave an object without a marker or a temporary file: invisible, and only taking space.
// [Connector.Sweep] removes such leftovers. Open does not: it would have to list a directory that may hold millions of files.
//
// # Close
//
// With clear, Close removes the objects under keys that this connector made, and the directory if this connector made it and it is empty
// now. With clear_all as well it removes the directory and everything in it. Python's close(clear=True) always does the latter, and clear is
// Python's default: a store that goes on living should say clear=false in every proxy's configuration, as the zero [Options] do.
//
// # Buffers
//
// Get copies objects below map_min_bytes (256 KiB unless told otherwise) into memory: up to 4 KiB garbage-collected, above that from
// transport.DefaultPool. Larger ones are private file mappings: no copy, at a cost independent of size, valid after Close and after the object
// is evicted or replaced by this connector. A Python writer, however, replaces an object in place and truncates it first; a reader that
// touches a mapped page past the new end gets SIGBUS, which kills the process. Python does so in proxystore.store.ref.update, for an object
// that has an OwnedProxy or is borrowed mutably, and wherever a program calls FileConnector.set again. Where that may happen while Go reads the
// object, open with map_min_bytes = -1, which never maps, or ask for []byte, which is a copy, or have Go do the updates: they rename, and readers
// keep what they have. (A copy can still be torn if Python writes in the middle of the read: ErrCorrupt if the object became shorter.)
//
// # Build tags
//
// None. Raw system calls, O_TMPFILE and inotify are for Linux; other systems go through os.Root and poll.
package file
