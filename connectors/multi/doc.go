// Package multi sends each object to one of several connectors by policy: small objects to Redis and large ones to files, say. It is
// compatible with Python's proxystore.connectors.multi.MultiConnector (1.1.0): same policies, same keys, same configuration.
//
// # Policies
//
// A child takes an object if its [Policy] allows the object's size and tags and this host. Of the children that do, the one of the highest
// priority gets it. Python breaks ties by the order in which its dict was filled; a Go map and a JSON object have no order, so here ties go to
// the name that sorts first. Give children different priorities where it matters.
//
// # Wire format
//
// The configuration is MultiConnector.config(): {name: [class path, {options}, {policy}]}. A child whose host pattern does not match this host is
// dormant: it is not opened, its configuration is kept word for word and travels on, and its keys fail with an error that says so.
//
// Note that ProxyStore 1.1.0 cannot open this configuration from a proxy (its StoreConfig calls MultiConnector(**options)); a Python process
// resolves such proxies if it has registered a store of that name. This package opens it.
//
// # Keys
//
// [connectors.MultiKey]: the child's name and the child's own key.
//
// # Received configurations
//
// A multi connector that came in a proxy opens a child when the first key needs it, so that a proxy of the file child resolves while the
// Redis child is down. One that was configured here opens all at once, so that a mistake shows at the start.
//
// Any configuration has at most 256 children and 256 host patterns, those of nested multi connectors included, which are nested at most 8 deep.
//
// # Capabilities
//
// All of package connectors. What a child lacks falls back as it would for the child alone. Deferred keys and streams of unknown length go to
// the best child whose policy has no upper limit: their size comes too late to choose. Batches go to each child as one batch, to all at once.
//
// # Close
//
// Closes all children, each as its own "# Close" says, even if one of them fails. Children that were never opened are left
// alone, unless CloseClear has to clear them.
//
// # Buffers
//
// Those of the children, untouched.
package multi
