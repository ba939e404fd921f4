"""ProxyStore beside us: does operations on standard input's orders and says how long they took.

Each line is {"conn": ..., "op": ..., "size": ..., "n": ...}; the answer is {"ns": total nanoseconds of the n operations, set-up excluded}.
One process serves a whole benchmark run, so that neither start-up nor imports are in any figure.
"""

import gc
import json
import logging
import os
import sys
import time
import uuid

logging.disable(logging.CRITICAL)

from proxystore.connectors.file import FileConnector
from proxystore.connectors.local import LocalConnector
from proxystore.connectors.multi import MultiConnector, Policy
from proxystore.proxy import extract
from proxystore.store import Store, unregister_store

now = time.perf_counter_ns


def connector(conn, where):
    if conn == 'local':
        return LocalConnector()
    if conn == 'file':
        return FileConnector(os.path.join(where, 'py-' + uuid.uuid4().hex), clear=True)
    if conn == 'redis':
        from proxystore.connectors.redis import RedisConnector
        host, port = where.rsplit(':', 1)
        return RedisConnector(host, int(port))
    if conn == 'multi':
        return MultiConnector({
            'small': (LocalConnector(), Policy(max_size_bytes=50_000)),
            'large': (FileConnector(os.path.join(where, 'py-' + uuid.uuid4().hex), clear=True), Policy(min_size_bytes=50_001)),
        })
    raise ValueError(conn)


stores, payloads = {}, {}


def store_of(conn, where, cached):
    key = (conn, where, cached)
    if key not in stores:
        stores[key] = Store('bench-' + uuid.uuid4().hex, connector(conn, where), cache_size=16 if cached else 0, register=True, populate_target=False)
    return stores[key]


def payload(size):
    if size not in payloads:
        payloads.clear()
        data = os.urandom(min(size, 1 << 20))
        payloads[size] = (data * (size // len(data) + 1))[:size]
    return payloads[size]


def run(c):
    op, size, n = c['op'], c['size'], c['n']
    data = payload(size)
    store = store_of(c['conn'], c['where'], op == 'resolve-cached')
    total = 0
    if op == 'put':
        for _ in range(n):
            t = now()
            key = store.put(data)
            total += now() - t
            store.evict(key)
        return total
    key = store.put(data)
    try:
        if op == 'get':
            for _ in range(n):
                t = now()
                got = store.get(key)
                total += now() - t
                del got
        elif op in ('resolve-cold', 'resolve-cached'):
            extract(store.proxy_from_key(key))
            for _ in range(n):
                p = store.proxy_from_key(key)
                t = now()
                extract(p)
                total += now() - t
                del p
        elif op == 'exists':
            for _ in range(n):
                t = now()
                store.exists(key)
                total += now() - t
        else:
            raise ValueError(op)
        return total
    finally:
        store.evict(key)


for line in sys.stdin:
    gc.collect()
    try:
        print(json.dumps({'ns': run(json.loads(line))}), flush=True)
    except Exception as e:
        print(json.dumps({'error': repr(e)}), flush=True)
for s in stores.values():
    if type(s.connector).__name__ != 'RedisConnector':
        s.close()
