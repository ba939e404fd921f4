// Package objects is what object servers and their clients agree on, whatever carries the bytes between them: the Client that a connector
// holds, and the Store that a server serves from, with its in-memory implementation, [Table].
//
// An object is bytes under an id that its maker chose (a UUID, for connectors). Putting an id again replaces the object as a whole; no reader
// ever sees a mixture.
package objects
