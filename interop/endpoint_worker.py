"""worker.py with EndpointConnector, and with the operations that only it has."""

import worker
from proxystore.connectors.endpoint import EndpointConnector, EndpointKey


def make_connector(spec):
    if spec['kind'] == 'endpoint':
        return EndpointConnector(spec['endpoints'], proxystore_dir=spec['proxystore_dir'])
    return known_connectors(spec)


def make_key(kind, fields):
    if kind == 'endpoint':
        return EndpointKey(*fields)
    return known_keys(kind, fields)


def run(c):
    if c['op'] == 'endpoint-set':  # an object for a key that names another endpoint: the connector's own put is always local
        at = worker.connector_of(c['spec'])
        at.set(EndpointKey(*c['key']), worker.pattern(*c['object']))
        return True
    return known_operations(c)


known_connectors, worker.make_connector = worker.make_connector, make_connector
known_keys, worker.make_key = worker.make_key, make_key
known_operations, worker.run = worker.run, run

if __name__ == '__main__':
    worker.main()
