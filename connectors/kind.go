package connectors

import (
	"slices"
	"strings"
)

// Known is a connector that ProxyStore, its extensions or this module have, whether or not this program can open it.
type Known struct {
	Kind     string // short name, as in keys and messages
	Class    Class  // Python class of the connector; the zero Class for one that only we have
	KeyClass Class  // Python class of its keys
}

// Path is how a [Config] names the connector: the Python path of its class, which every version of ProxyStore understands, or the short name of one that
// Python does not have.
func (k Known) Path() string {
	if k.Class == (Class{}) {
		return k.Kind
	}
	return k.Class.String()
}

// known is DESIGN's table. Kinds whose short name is not the class name without "Connector" are still found by both.
var known = []Known{
	{"local", Class{"proxystore.connectors.local", "LocalConnector"}, LocalKey{}.Class()},
	{"file", Class{"proxystore.connectors.file", "FileConnector"}, FileKey{}.Class()},
	{"redis", Class{"proxystore.connectors.redis", "RedisConnector"}, RedisKey{}.Class()},
	{"multi", Class{"proxystore.connectors.multi", "MultiConnector"}, MultiKey{}.Class()},
	{"endpoint", Class{"proxystore.connectors.endpoint", "EndpointConnector"}, EndpointKey{}.Class()},
	{"globus", Class{"proxystore.connectors.globus", "GlobusConnector"}, GlobusKey{}.Class()},
	{"zmq", Class{"proxystore_ex.connectors.dim.zmq", "ZeroMQConnector"}, DIMKey{}.Class()},
	{"ucx", Class{"proxystore_ex.connectors.dim.ucx", "UCXConnector"}, DIMKey{}.Class()},
	{"margo", Class{"proxystore_ex.connectors.dim.margo", "MargoConnector"}, DIMKey{}.Class()},
	{"daos", Class{"proxystore_ex.connectors.daos", "DAOSConnector"}, DAOSKey{}.Class()},
	{"tcp", Class{}, DIMKey{}.Class()}, // Python's counterpart is zmq
}

// LookupKind finds a connector by its short name ("file"), its class name ("FileConnector") or its full Python path
// ("proxystore.connectors.file.FileConnector"). Short and class names match in any case, as ProxyStore's ConnectorConfig does.
func LookupKind(name string) (Known, bool) {
	for _, k := range known {
		class := strings.ToLower(k.Class.Name)
		switch lower := strings.ToLower(name); {
		case lower == k.Kind:
			return k, true
		case class == "": // it has no other name
		case name == k.Class.String(), lower == class, lower == strings.TrimSuffix(class, "connector"):
			return k, true
		}
	}
	return Known{}, false
}

// KnownKinds returns the short names of all known connectors, sorted.
func KnownKinds() []string {
	var names []string
	for _, k := range known {
		names = append(names, k.Kind)
	}
	slices.Sort(names)
	return names
}
