// Package objects is what object servers and their clients agree on, whatever carries the bytes between them: the Client that a connector
// holds, and the Store that a server serves from, with its in-memory implementation, [Table].
//
// An object is bytes under an id that its maker chose (a UUID, for connectors). Putting an id again replaces the object as a whole; no reader
// ever sees a mixture.
//
// # Table
//
// A [Table] holds bytes outside the Go heap: objects of 512 bytes and more in anonymous memory that is used again, those that were shared with a
// process on the same host in sealed memory files, and spilled ones in files that are mapped while somebody reads them. Per object it takes some 400
// bytes of Go memory besides, with the id.
//
// Its memory limit is one on bytes: announced sizes count from Create on, so that any number of peers that announce more than they send cannot exceed
// it together. Nothing is deleted to make room. See [TableOptions] for what happens instead.
//
// Memory is shared with processes that need not trust each other. What Share hands out is a memory file that was sealed before anybody else saw it,
// and what Adopt takes must be sealed just so: whoever maps it, no byte changes and no page goes away. That costs the first Share of an object
// a copy.
// Memory whose descriptor was handed out is never used again; it lives until the last process lets go of it, which the Table's limit cannot see.
package objects
