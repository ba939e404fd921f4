// Package storage is the persistent object store of an endpoint: ProxyStore's SQLite file, with large objects as files beside it. [Store]
// implements [objects.Store]. An endpoint that keeps everything in memory uses [objects.NewTable] instead.
//
// # Formats
//
// The database is that of proxystore.endpoint.storage.SQLiteStorage (ProxyStore 1.1.0): a table
//
//	blobs(key TEXT PRIMARY KEY, value BLOB NOT NULL)
//
// Either program opens what the other has left, also after a kill. Ours are beside it:
//
//   - proxyplane_objects(key, size, mod, row, file): one row for each object. row is the rowid in blobs, or file the number of a file.
//   - proxyplane_state(last): the version that was given last.
//   - three triggers on blobs that keep those two right whoever writes, so that what Python stores, replaces or deletes is known at the next Open
//     without a look at every value.
//   - the directory DATABASE.objects: a file of 16 hexadecimal digits for each large object (never derived from its key), a file lock that keeps
//     a second Store out, and a file reserve, which is given up on a full disk so that objects can still be deleted.
//
// The database is in WAL mode, which Python's SQLite reads and writes like any other.
//
// # Large objects and Python
//
// Objects of Options.FileAbove bytes and more are files. Python's endpoint does not see them: it answers as if they did not exist, and an evict
// of such a key by Python does nothing. [Store.Fold] moves them into blobs first, as far as SQLite takes them ([FoldLimit]). A key that Python
// writes while we hold it as a file is Python's from then on.
//
// # Durability
//
// Put, Commit and Evict return when the object's file, the directory and the transaction are on disk; nothing is visible earlier. Calls of many
// goroutines share a transaction and its fsync. With Options.NoSync, a kill of the process still loses nothing, a power loss may.
//
// # Versions
//
// Info.ModTime is the time of the put in nanoseconds, and grows strictly with every put into the same database, also if the clock goes back; so
// size and ModTime tell versions apart. An object that Python wrote into a database that had never been opened here has the time of our first
// Open; one that it wrote later has a time just after our last put before. Both are kept from then on.
package storage
