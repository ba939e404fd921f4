// Package cache keeps resolved objects in memory: bounded by bytes, and with one fetch per key at a time.
//
// # Truth and policy
//
// What is cached stands in a table of this package. Ristretto decides what stays: it is the admission and eviction policy around the table,
// and never a place where values are looked up. Its own table cannot be the truth (as read in v2.4.2): it calls OnExit while readers still
// hold the value; a value set again before its queue drains is the one that gets lost; a key deleted while its Set is queued comes back for
// a moment; a Set it drops is never reported; and a value it has just taken is not found until a queue drains, which costs two goroutine
// hand-offs to wait for. Here all of that costs at most a hit, never a stale value and never a reference.
//
// A new entry first enters a window, a queue of 1/4 of the bound in which it is safe from the policy, so that what was just fetched is found
// by the next Get. From there it is offered to ristretto, which keeps it or another one. What it has been offered and has not decided on is
// bounded by 1/16: when there is more, Set waits for the policy (2 µs, all in all). So the entries never take more than the bound once all Sets
// have returned. An object larger than the window is offered at once, and larger than 11/16 of the bound is not kept.
//
// An entry costs its Size and what it takes to hold it (its key and 256 bytes), so that a great many tiny entries are bounded too. A cache has
// some 0.3 MB of its own beside that, and up to 4 MB of counters for a bound above 64 MiB.
//
// Hit ratios on a skewed load that does not fit (BenchmarkZipf, 1 MiB), in brackets those of least recently used, ProxyStore's policy: 75% (73)
// by itself, 65% (61) with a scan of keys that come once, 68% (72) when the hot keys change all the time. The window's size and the number of
// counters were chosen on these. More counters gain on the first two and lose on the last; with 1/16 of them, and a window of 1/16, the first
// two were 68% and 48%.
//
// # Reads
//
// Get takes no lock: it walks an atomic chain, checks the key and takes a reference by TryRetain, which fails for memory whose last reference
// is gone. One Get in four, chosen at random, tells the policy. Medians on 2 busy cores, with keys of 36 bytes and no allocation: Get 31 ns for
// a value and 35 ns for a Buffer, 43 and 48 ns spread over 1024 keys; with 8 goroutines 20 and 34 ns per Get. A Fetch that hits costs the same;
// one that misses costs 140 ns where nothing is kept, and 1.3 to 1.5 µs where each evicts another.
//
// # Fetches
//
// Fetch runs its function in the goroutine of one caller; the others wait. When the running caller's context ends, or its function panics,
// a waiter runs its own function instead, so that nobody fails by another's context. Evict and Set cut a running fetch off: it still serves
// those who wait for it already, but it is not cached and nobody joins it any more.
package cache
