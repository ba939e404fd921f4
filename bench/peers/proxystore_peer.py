"""ProxyStore beside us: does operations on standard input's orders and says how long they took.

Each line is {"conn": ..., "op": ..., "size": ..., "n": ...}; the answer is {"ns": total nanoseconds of the n operations, set-up excluded}.
With "until" (nanoseconds) instead of "n" the connector alone is measured, without a store: as many operations as go into that time, at least one; the
answer has "took", the nanoseconds of each, too. One process serves a whole benchmark run, so that neither start-up nor imports are in any figure.
"""

import gc
import json
import logging
import os
import socket
import subprocess
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
    if conn in ('zmq', 'ucx'):
        return served(conn)
    raise ValueError(conn)


SERVE = 'import sys; from proxystore_ex.connectors.dim import {0} as dim; dim.start_server({1}int(sys.argv[1]))'
processes = []


def served(conn):
    """A connector of proxystore_ex with its server, which is a process of its own as it would be if the connector had started it."""
    with socket.create_server(('127.0.0.1', 0)) as s:
        port = s.getsockname()[1]
    code = SERVE.format(conn, "'127.0.0.1', " if conn == 'zmq' else '')
    processes.append(subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code, str(port)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
    until = time.monotonic() + 30
    while not listens(port):
        if processes[-1].poll() is not None or time.monotonic() > until:
            raise RuntimeError(f'the {conn} server of ProxyStore does not listen')
        time.sleep(0.05)
    if conn == 'zmq':
        from proxystore_ex.connectors.dim.zmq import ZeroMQConnector
        return ZeroMQConnector(port=port, address='127.0.0.1', timeout=10)
    from proxystore_ex.connectors.dim.ucx import UCXConnector
    return UCXConnector(port=port, address='127.0.0.1', timeout=10)


def listens(port):
    """Whether somebody listens there. It is not tried: the first connection to a UCX server should be one that speaks UCX."""
    with open('/proc/net/tcp') as f:
        return any(line.split()[1].endswith(f':{port:04X}') and line.split()[3] == '0A' for line in list(f)[1:])


stores, payloads, alone = {}, {}, {}


def run_alone(c):
    conn, op, size, until = c['conn'], c['op'], c['size'], c['until']
    if conn not in alone:
        alone[conn] = connector(conn, c.get('where'))
    at, data, took = alone[conn], payload(size), []
    key = at.put(data) if op == 'get' else None
    start = now()
    while not took or now() - start < until:
        if op == 'put':
            t = now()
            made = at.put(data)
            took.append(now() - t)
            at.evict(made)
        else:
            t = now()
            got = at.get(key)
            took.append(now() - t)
            if len(got) != size:
                raise ValueError(f'{len(got)} bytes, not {size}')
            del got
    if key is not None:
        at.evict(key)
    return {'ns': sum(took), 'took': took}


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
        order = json.loads(line)
        print(json.dumps(run_alone(order) if 'until' in order else {'ns': run(order)}), flush=True)
    except Exception as e:
        print(json.dumps({'error': repr(e)}), flush=True)
for s in stores.values():
    if type(s.connector).__name__ != 'RedisConnector':
        s.close()
for p in processes:
    p.terminate()
    p.wait()
