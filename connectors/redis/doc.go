// Package redis keeps objects in a Redis (or compatible) server: Python's proxystore.connectors.redis.RedisConnector, class and keys alike, with
// clusters, sentinels, TLS, logins and unix sockets besides.
//
// # Wire format
//
// An object is the plain string value of its key, as RedisConnector.put and get have it (SET, GET, MSET, DEL, EXISTS); nothing else is stored. The
// protocol is RESP 2 (redis.io/docs/latest/develop/reference/protocol-spec), and RESP 3 on the one connection that waits for events.
//
// # Keys
//
// [connectors.RedisKey] with a random UUID (version 4). Any key is good for Set. An object of unknown size that is being written has the key
// "{UUID}.part" until Commit; it expires by itself 10 minutes after the last write.
//
// # Capabilities
//
// All but Mapper and Tagger.
//
//   - Set and Put may be carried out twice if an idle connection turns out to be dead; there are no other retries (connectors/retry has them).
//     A look at the socket (0.5 µs, on Linux, macOS and the BSDs) finds most of those that are, and those on which bytes came that nobody asked for.
//   - While a slot of a cluster moves, calls follow it. Only Commit of a large object of unknown size may be ErrUnavailable then, since a cluster
//     does not rename in a moving slot.
//   - PutBatch is one MSET, all or nothing, where it fits (one server, no ttl, 256 MiB); else pipelined, and taken back on error.
//   - A Put whose context ends is taken back: the DEL follows the SET on the same connection.
//   - GetStream reads one GET as it comes, and not GETRANGE after GETRANGE: it is a snapshot, whereas pieces of an object that is replaced by one
//     of the same length cannot be told apart. The client's memory is bounded; the server keeps what is not read yet.
//   - PutStream of known size is one SET whose value leaves as it is written; see [Connector.PutStream].
//   - Wait is by event: CLIENT TRACKING (Redis 6) tells a connection when a key that it asked for changes, also one that did not exist, whoever
//     sets it, in clusters too, and without the server's notify-keyspace-events. Where the server has no tracking or the user may not use it, Wait
//     polls, with pauses from 1 ms to 100 ms.
//
// Redis takes values of up to 512 MB (its proto-max-bulk-len); a larger object is ErrTooLarge.
//
// # Received configurations
//
// A configuration that came in a proxy deletes nothing at Close (neither clear nor clear_all counts, and the latter never travels), sets max_bytes
// and pool_size no higher than the defaults, and its server has us allocate 64 MiB on its word: more only as bytes come. For a server that
// the program chose that bound is 512 MiB. A cluster and a sentinel may name hosts that the configuration did not; each is confirmed before it
// is dialed.
//
// An error from a login with a password has the server's error code, and not its text, which can repeat the password.
//
// # Close
//
// Close waits for calls in flight, cuts them off if its context ends, and fails open Readers and Writers. Objects survive. With Clear the objects
// that this connector put are deleted; for that it remembers its keys, 16 bytes each. That is narrower than Python's clear, which deletes
// everything in the database: ClearAll does so here.
//
// # Buffers
//
// Put sends large parts from where they are, by writev. Get reads from the socket into memory of the object's size: pooled from 32 KiB on (call
// Release), else the garbage collector's. At most the first 16 KiB of a value pass through another buffer. A transfer may take any time as long as
// it makes progress within Timeout, and ends with its context.
//
// # Why not go-redis for the values
//
// go-redis finds the servers of a cluster and asks the sentinels; values go over connections of our own. Its client cannot send an object in parts
// (a store's objects have two: tag and body), so that each put is a copy into fresh memory first; its Get copies into fresh memory too, and
// GetToBuffer must know the size before; and it does not end a transfer when its context is cancelled, only at a deadline. Measured by
// BenchmarkRedis (µs; floor: one connection, writev, memory already there) in one process with the server beside it, on a virtual machine with
// 2 cores that other work used at the same time: each number is the least of 3 to 9 runs, the runs of one row differed by up to half, and so a
// difference of less than that between two numbers says nothing. It was measured before the look at idle connections, which adds 0.5 µs to a call:
//
//	                   TCP: floor     ours  go-redis    unix: floor     ours  go-redis
//	put 1KiB                     21       21        23             16       16        23
//	put 100KiB                   35       36       104             35       44        64
//	put 1MiB                    269      276       432            195      199       406
//	put 100MiB               65,006   62,679    80,228         75,852   76,648    82,085
//	get 1KiB                     23       22        27             19       20        16
//	get 100KiB                   47       46       111             57       50        66
//	get 1MiB                    316      204       429            235      240       374
//	get 100MiB               81,970   88,734    91,535         80,926   79,508    87,666
//
// UNLINK is no faster than DEL here: the server frees strings in its main thread either way.
//
// # Build tags
//
// None. The tests need redis-server on PATH.
package redis
