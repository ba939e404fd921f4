// Package metrics records what a store does: times, counters and attributes, by name and by object key, as ProxyStore's
// proxystore.store.metrics does. Names are ProxyStore's, JSON has the field names of its dataclasses, and times are milliseconds.
//
// It differs in two ways. Records of single keys are bounded: those not updated for the longest time are dropped, while the aggregates over all
// keys go on counting them. And 'factory.call', which ProxyStore fills with nanoseconds, is in milliseconds like the rest.
//
// A nil [*StoreMetrics] records nothing and costs a comparison, so that callers need not ask whether metrics are on.
package metrics

// Names of operations, for [StoreMetrics.AddTime]. Those with a last part are steps of the operation before it.
const (
	Call           = "factory.call"
	Resolve        = "factory.resolve"
	PollingResolve = "factory.polling_resolve"

	Evict             = "store.evict"
	EvictConnector    = "store.evict.connector"
	Exists            = "store.exists"
	ExistsConnector   = "store.exists.connector"
	Future            = "store.future"
	FutureConnector   = "store.future.connector"
	Get               = "store.get"
	GetConnector      = "store.get.connector"
	GetDeserialize    = "store.get.deserialize"
	Proxy             = "store.proxy"
	ProxyBatch        = "store.proxy_batch"
	Put               = "store.put"
	PutConnector      = "store.put.connector"
	PutSerialize      = "store.put.serialize"
	PutBatch          = "store.put_batch"
	PutBatchConnector = "store.put_batch.connector"
	PutBatchSerialize = "store.put_batch.serialize"
	Set               = "store.set"
	SetConnector      = "store.set.connector"
	SetSerialize      = "store.set.serialize"
)

// Names of counters, for [StoreMetrics.AddCounter].
const (
	CacheHits   = "store.get.cache_hits"
	CacheMisses = "store.get.cache_misses"
)

// Names of attributes, for [StoreMetrics.AddAttribute]: bytes of the serialized object as an int, and of each in a batch as []int.
const (
	GetObjectSize       = "store.get.object_size"
	PutObjectSize       = "store.put.object_size"
	PutBatchObjectSizes = "store.put_batch.object_sizes"
	SetObjectSize       = "store.set.object_size"
)
