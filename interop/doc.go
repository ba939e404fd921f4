// Package interop proves that we speak ProxyStore, by running the real one: Python's proxystore 1.1.0 and 0.6.5 from PyPI, each in its own
// environment (scripts/setup makes them), against our library and our binary, in both directions. There is no code here but tests; worker.py is
// their Python side, dim_server.py Python's own server of the distributed in-memory connectors. The tests of UCX need an interpreter with ucx-py, which
// PROXYPLANE_PYTHON_UCX names, and build tag ucx.
package interop
