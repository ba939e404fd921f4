// Package local keeps objects in this process's memory: Python's proxystore.connectors.local.LocalConnector. It is the reference connector, which
// the others are compared with in tests, and the fastest one between goroutines of one process.
//
// # Wire format
//
// None: objects never leave the process, unless include_data_in_config puts them into the configuration. That follows LocalConnector.config and
// from_config, with one difference: the keys of our store_dict are ids, those of Python's dict are LocalKeys.
//
// # Storages
//
// Objects lie in a storage, which has a name. Connectors of one process that are opened with the same name see the same objects, and a connector
// that is made without a name gets a storage of its own under a fresh random one. [Connector.Config] carries the name, so that this
// process's connectors can be opened from it again. A configuration that came in a proxy may be anybody's: its storage name is not used, and the
// connector has a storage of its own, with what store_dict holds. A proxy that comes home resolves all the same, as long as the store that
// made it is open: the store is found by its name. The memory is freed when the last connector of the storage is closed;
// opening the name afterwards, or in another process, gives an empty storage (or what store_dict holds).
//
// # Keys
//
// [connectors.LocalKey] with a random UUID (version 4). Any id is good for Set.
//
// # Capabilities
//
// All of them but Tagger. [Connector.PutOwned] also stores memory without copying it.
//
// # Close
//
// Close drops the connector's hold on its storage; the last one frees it. CloseClear(ctx, true) deletes the objects at once, for the storage's
// other connectors too. Writers that are still open fail at Commit; Readers and Buffers stay valid.
//
// # Buffers
//
// Put copies once, into memory of the garbage collector, because it only borrows. Nothing else copies: Get, GetRange, GetBytes, Map and GetStream
// give the stored bytes themselves, which therefore nobody may write. Evict and Close do not invalidate them.
//
// # Build tags
//
// None.
package local
