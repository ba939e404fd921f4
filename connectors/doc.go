// Package connectors is the contract between a store and whatever holds its objects: [Connector] and its optional capabilities, the keys and
// configurations that Python's ProxyStore understands, the errors, and the [Registry] that opens a connector from its configuration.
//
// Each subpackage is one connector or one decorator. A connector of your own implements [Connector], passes connectortest.Run, and is opened
// through a [Driver] in a Registry.
//
// # Layers
//
// Callers use the package's functions ([GetRange], [PutBatch], [GetStream], ...), never a type assertion: a function tries the capability and
// otherwise falls back to the six methods. A decorator that must see every call implements each capability itself, returns
// [errors.ErrUnsupported] where the inner connector lacks it (the functions then fall back), and has no Unwrap method.
package connectors
