"""The Python side of the interop tests: real ProxyStore, told what to do by JSON lines on standard input.

Each line is {"op": ..., ...}; each answer is {"ok": ...} or {"error": ..., "type": ...}. Values are known by name on both sides (VALUES
here, values in values_test.go), so that nothing is compared through the formats under test. Works with ProxyStore 1.1.0 and 0.6.5.
"""

import base64
import hashlib
import io
import json
import os
import pickle
import sys
import traceback
import warnings

warnings.simplefilter('ignore')  # multi, futures and owners are experimental, and we know

import cloudpickle
import dill
import numpy as np
import proxystore
from proxystore.proxy import Proxy, extract, get_factory, is_resolved
from proxystore.store import Store, get_store, unregister_store
from proxystore.store.future import Future
from proxystore.store.ref import BaseRefProxy, OwnedProxy, borrow, mut_borrow

OLD = proxystore.__version__.startswith('0.')

VALUES = {
    'bytes': lambda: bytes(range(256)) * 10,
    'bytes-empty': lambda: b'',
    'bytes-1M': lambda: bytes(range(256)) * 4096,
    'str': lambda: 'plain text',
    'str-unicode': lambda: 'κόσμε \U0001f30d \x00 end',
    'str-empty': lambda: '',
    'int': lambda: 42,
    'int-negative': lambda: -(2**40),
    'int-big': lambda: 2**100,
    'float': lambda: 3.25,
    'list': lambda: [1, 'two', 3.0, None, True, b'four'],
    'tuple': lambda: (1, 'two', (3.0,)),
    'dict': lambda: {'a': 1, 'b': [1, 2, 3], 'c': {'d': 'e'}},
    'dict-int-keys': lambda: {1: 'one', 2: 'two'},
    'nested': lambda: {'rows': [{'id': i, 'tags': ['x', str(i)], 'blob': bytes([i]) * 5000} for i in range(20)], 'meta': {'n': 20, 'ok': True}},
    'set': lambda: {1, 2, 3},
    'f8': lambda: np.arange(24, dtype='<f8').reshape(2, 3, 4),
    'f4-fortran': lambda: np.asfortranarray(np.arange(12, dtype='<f4').reshape(3, 4)),
    'i8': lambda: np.arange(-5, 5, dtype='<i8'),
    'u1': lambda: np.arange(256, dtype='u1').reshape(16, 16),
    'i4-big-endian': lambda: np.arange(6, dtype='>i4').reshape(2, 3),
    'bool': lambda: np.array([True, False, True]),
    'c16': lambda: np.array([1 + 2j, 3 - 4j]),
    'scalar-array': lambda: np.array(7.5),
    'empty-array': lambda: np.zeros((0, 3)),
    'strided': lambda: np.arange(20, dtype='<f8').reshape(4, 5)[::2, ::2],
    'f8-1M': lambda: np.arange(1 << 17, dtype='<f8'),
    'arrays': lambda: {'x': np.arange(3, dtype='<f8'), 'label': 'xyz'},
}


class Custom:
    """A class of the user's own, which no Go program can have."""

    def __init__(self, name, size):
        self.name, self.size = name, size

    def __eq__(self, other):
        return type(other) is Custom and (self.name, self.size) == (other.name, other.size)


VALUES['custom'] = lambda: Custom('abc', 7)

if not OLD:
    import pandas as pd
    import polars as pl

    VALUES['polars'] = lambda: pl.DataFrame({'n': [1, 2, 3], 'x': [0.5, None, 2.5], 's': ['a', 'βγ', None]})
    VALUES['pandas'] = lambda: pd.DataFrame({'n': [1, 2, 3], 's': ['a', 'b', 'c']})

DUMPS = {
    **{f'pickle{p}': (lambda p: lambda o: pickle.dumps(o, protocol=p))(p) for p in range(6)},
    'dill': dill.dumps,
    'cloudpickle': cloudpickle.dumps,
}
LOADS = {'pickle': pickle.loads, 'dill': dill.loads, 'cloudpickle': cloudpickle.loads, 'python-pickle': lambda b: pickle._Unpickler(io.BytesIO(b)).load()}


def same(a, b):
    """Equal in value and in type, at every depth."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and bool(np.array_equal(a, b)) and a.flags.f_contiguous == b.flags.f_contiguous
    if hasattr(a, 'equals'):  # the data frames
        return a.equals(b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def expect(name, got, loose=False):
    want = VALUES[name]()
    if loose:  # Go has lists where Python has tuples and sets, and no order of keys
        want, got = normal(want), normal(got)
    if not same(want, got):
        raise AssertionError(f'{name}: want {want!r:.300} ({type(want).__name__}), got {got!r:.300} ({type(got).__name__})')


def normal(v):
    if isinstance(v, (list, tuple)):
        return [normal(e) for e in v]
    if isinstance(v, set):
        return sorted(normal(e) for e in v)
    if isinstance(v, dict):
        return {k: normal(v[k]) for k in sorted(v)}
    return v


def make_connector(spec):
    """A connector from {"kind": ..., options}; multi has {"children": {name: {"connector": spec, "policy": {...}}}}."""
    kind = spec['kind']
    if kind == 'file':
        from proxystore.connectors.file import FileConnector
        return FileConnector(spec['store_dir'], clear=False)
    if kind == 'redis':
        from proxystore.connectors.redis import RedisConnector
        return RedisConnector(spec['hostname'], spec['port'])
    if kind == 'local':
        from proxystore.connectors.local import LocalConnector
        return LocalConnector() if OLD else LocalConnector(include_data_in_config=True)
    if kind == 'multi':
        from proxystore.connectors.multi import MultiConnector, Policy
        return MultiConnector({name: (make_connector(c['connector']), Policy(**c['policy'])) for name, c in spec['children'].items()})
    if kind in ('zmq', 'ucx'):
        options = {k: v for k, v in spec.items() if k != 'kind'}
        if kind == 'zmq':
            from proxystore_ex.connectors.dim.zmq import ZeroMQConnector
            return ZeroMQConnector(**options)
        from proxystore_ex.connectors.dim.ucx import UCXConnector
        return UCXConnector(**options)
    raise ValueError(kind)


def make_store(name, spec):
    store = get_store(name)
    if store is None:
        store = Store(name, make_connector(spec), register=True)
    return store


def key_json(key):
    return [key_json(k) if isinstance(k, tuple) and hasattr(k, '_fields') else list(k) if isinstance(k, tuple) else k for k in key]


def make_key(kind, fields):
    if kind == 'file':
        from proxystore.connectors.file import FileKey
        return FileKey(*fields)
    if kind == 'redis':
        from proxystore.connectors.redis import RedisKey
        return RedisKey(*fields)
    if kind == 'local':
        from proxystore.connectors.local import LocalKey
        return LocalKey(*fields)
    if kind in ('zmq', 'ucx'):
        from proxystore_ex.connectors.dim.models import DIMKey
        return DIMKey(*fields)
    if kind == 'multi':
        from proxystore.connectors.multi import MultiKey
        return MultiKey(fields[0], make_key(fields[1]['kind'], fields[1]['key']))
    raise ValueError(kind)


connectors = {}  # by specification, for the operations that need no store


def connector_of(spec):
    name = json.dumps(spec, sort_keys=True)
    if name not in connectors:
        connectors[name] = make_connector(spec)
    return connectors[name]


def pattern(seed, size):
    """Bytes that both sides make from a number; no two stretches of one object, and no two objects, are alike. See pattern in dim_test.go."""
    block = b''.join(hashlib.sha256(f'{seed}/{i}'.encode()).digest() for i in range(2048))[:65521]
    return (block * (size // len(block) + 1))[:size]


def same_pattern(got, seed, size):
    if got is None:
        raise AssertionError(f'object {seed} is missing')
    if bytes(got) != pattern(seed, size):
        raise AssertionError(f'object {seed}: {len(got)} bytes that differ from its {size}')


def run_connector(c):
    """The operations of a connector without a store. Objects are patterns: [seed, size]."""
    op, at = c['op'].removeprefix('connector-'), connector_of(c['spec'])
    keys = [make_key(k['kind'], k['key']) for k in c.get('keys', [])]
    if op == 'put':
        return [key_json(at.put(pattern(*o))) for o in c['objects']]
    if op == 'put-batch':
        return [key_json(k) for k in at.put_batch([pattern(*o) for o in c['objects']])]
    if op == 'get':
        for k, o in zip(keys, c['objects'], strict=True):
            same_pattern(at.get(k), *o)
        return True
    if op == 'get-batch':
        got = at.get_batch(keys)
        for g, o in zip(got, c['objects'], strict=True):
            if o is not None:
                same_pattern(g, *o)
            elif g is not None:
                raise AssertionError(f'{len(g)} bytes for a missing object')
        return True
    if op == 'missing':
        return [at.get(k) is None and not at.exists(k) for k in keys]
    if op == 'exists':
        return [at.exists(k) for k in keys]
    if op == 'evict':
        for k in keys:
            at.evict(k)
        return True
    if op == 'churn':  # everything, again and again, as one of many clients
        for seed, size in c['objects']:
            data = pattern(seed, size)
            key = at.put(data)
            if not at.exists(key) or bytes(at.get(key)) != data:
                raise AssertionError(f'object {seed} is not what was put')
            at.evict(key)
            if at.exists(key) or at.get(key) is not None:
                raise AssertionError(f'object {seed} is there after evict')
        return len(c['objects'])
    if op == 'proxy':  # of a key that somebody else made
        store = make_store(c['store'], c['spec'])
        return [base64.b64encode(pickle.dumps(store.proxy_from_key(k))).decode() for k in keys]
    if op == 'raw':  # a message that is no RPC, by the bare socket; None if there is no answer
        import zmq
        context = zmq.Context()
        with context.socket(zmq.REQ) as s:
            s.setsockopt(zmq.LINGER, 0)
            s.setsockopt(zmq.RCVTIMEO, c['timeout'])
            s.connect(f"tcp://{c['spec']['address']}:{c['spec']['port']}")
            s.send_multipart([base64.b64decode(f) for f in c['frames']])
            try:
                answer = [base64.b64encode(f).decode() for f in s.recv_multipart()]
            except zmq.error.Again:
                answer = None
        context.term()
        return answer
    raise ValueError(op)


kept = {}  # owners and futures, which act when they are dropped


def run(c):
    op = c['op']
    if op == 'version':
        return proxystore.__version__
    if op.startswith('connector-'):
        return run_connector(c)
    if op == 'put':
        return key_json(make_store(c['store'], c['spec']).put(VALUES[c['value']]()))
    if op == 'get':
        got = make_store(c['store'], c['spec']).get(make_key(c['key']['kind'], c['key']['key']))
        expect(c['value'], got, c.get('loose', False))
        return True
    if op == 'exists':
        return make_store(c['store'], c['spec']).exists(make_key(c['key']['kind'], c['key']['key']))
    if op == 'evict':
        make_store(c['store'], c['spec']).evict(make_key(c['key']['kind'], c['key']['key']))
        return True
    if op == 'proxy':  # make a proxy and dump it
        store = make_store(c['store'], c['spec'])
        value = VALUES[c['value']]()
        flavour = c.get('flavour', 'Proxy')
        if flavour == 'Proxy':
            p = store.proxy(value, evict=c.get('evict', False), populate_target=c.get('populate', True))
        elif flavour == 'future':
            f = store.future(polling_interval=0.01, polling_timeout=30)
            kept[c['id']] = (f, value)
            p = f.proxy()
        else:
            owner = store.owned_proxy(value)
            p = {'OwnedProxy': lambda: owner, 'RefProxy': lambda: borrow(owner), 'RefMutProxy': lambda: mut_borrow(owner)}[flavour]()
            kept[c.get('id', flavour)] = owner
            if flavour != 'OwnedProxy':
                kept[c.get('id', flavour) + '/ref'] = p
        return base64.b64encode(DUMPS[c['dumps']](p)).decode()
    if op == 'set-result':
        future, value = kept.pop(c['id'])
        future.set_result(value)
        return True
    if op == 'drop':
        kept.pop(c['id'] + '/ref', None)
        kept.pop(c['id'])
        return True
    if op == 'resolve':  # load a proxy, look at it without resolving it, pass it through another dump if asked to, resolve it
        p = LOADS[c['loads']](base64.b64decode(c['data']))
        for again in c.get('through') or []:
            p = {'dill': dill, 'cloudpickle': cloudpickle, 'pickle': pickle}[again].loads(DUMPS['pickle5' if again == 'pickle' else again](p))
        if not isinstance(p, Proxy) and type(p) is not Proxy and not issubclass(type(p), Proxy):
            raise AssertionError(f'not a Proxy: {type(p)}')
        if type(p).__name__ != c.get('flavour', 'Proxy'):
            raise AssertionError(f"a {type(p).__name__}, not a {c.get('flavour')}")
        if is_resolved(p):
            raise AssertionError('resolved by unpickling')
        factory = get_factory(p)
        info = {'evict': factory.evict, 'key': key_json(factory.key), 'factory': type(factory).__name__,
                'store': factory.store_config['name'] if OLD else factory.store_config.name}
        if c.get('isinstance'):
            if not isinstance(p, type(VALUES[c['value']]())):
                raise AssertionError(f"isinstance(p, {type(VALUES[c['value']]())}) is false before resolving")
            if is_resolved(p):
                raise AssertionError('isinstance resolved the proxy: Parsl would resolve it at submit')
        if c.get('unregister'):
            unregister_store(info['store'])
        expect(c['value'], extract(p), c.get('loose', False))
        return info
    if op == 'toml-write':
        store = make_store(c['store'], c['spec'])
        store.config().write_toml(c['path'])
        return True
    if op == 'toml-read':
        from proxystore.store.config import StoreConfig
        cfg = StoreConfig.from_toml(c['path'])
        if c.get('value'):
            with_store = Store.from_config(cfg)
            key = with_store.put(VALUES[c['value']]())
            return {'config': cfg.model_dump(), 'key': key_json(key)}
        return {'config': cfg.model_dump()}
    raise ValueError(op)


def main():
    for line in sys.stdin:
        try:
            answer = {'ok': run(json.loads(line))}
        except BaseException as e:  # noqa: BLE001 - everything is reported to the test
            answer = {'error': f'{type(e).__name__}: {e}', 'trace': traceback.format_exc()}
        sys.stdout.write(json.dumps(answer) + '\n')
        sys.stdout.flush()
    kept.clear()


if __name__ == '__main__':
    main()
