// Package config is an endpoint's directory: its two configuration files, its pid file, its status, and the commands that make, start, stop and
// remove it, as far as they are files and signals. The endpoint itself is package endpoint; what is printed is the program's.
//
// # Files
//
// One directory per endpoint, $PROXYSTORE_HOME/NAME, shared with Python's proxystore-endpoint, so that either program can list, start, stop and
// remove what the other has made:
//
//	config.toml       ProxyStore's configuration (proxystore.endpoint.config.EndpointConfig), read with pydantic's strict rules
//	proxyplane.toml   ours beyond it ([Extra]); Python never looks at it. Python's start writes config.toml anew without what it does not know,
//	                  so nothing of ours can live there
//	daemon.pid        the process that serves the endpoint, as decimal digits
//	log.txt           its log
//	blobs.db          its objects, where they are kept on disk
//
// Sources: proxystore/endpoint/config.py, proxystore/endpoint/commands.py, proxystore/utils/config.py, proxystore/utils/environment.py.
//
// # Differences
//
// The pid file is made with a link or O_EXCL, so that of two starts at once one wins; Python overwrites it. A pid file is believed only while a
// process of that number runs that is not older than it by more than the clocks may differ, where the system tells (Linux): after a reboot the
// number often belongs to somebody else, whom Python would take for the endpoint, and kill. [Stop] recognizes this host by each of its addresses
// and names; Python compares its name with the address that start has written, and so refuses to clean up after an endpoint that died here.
package config
