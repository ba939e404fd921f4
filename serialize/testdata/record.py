"""Records objects of the real ProxyStore for the tests of package serialize.

Run it once with each version, from this folder (needs proxystore and numpy; with 1.1.0 also pandas and polars):

    python record.py objects-1.1.0.json.gz
    python record.py objects-0.6.5.json.gz

The file is a list of {name, object (base64)}; arrays have {descr, shape, fortran, values} as well, where values (base64) are
the elements in C order and little-endian.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import fractions
import gzip
import json
import pickle
import sys
import uuid

import cloudpickle
import numpy as np
from proxystore.serialize import serialize


class Unknown:
    def __init__(self) -> None:
        self.data = b'payload'
        self.child = [1, 2]


Unknown.__module__ = 'somewhere.else_'


def b64(data: bytes) -> str:
    return base64.b64encode(bytes(data)).decode()


records: list[dict] = []


def record(name: str, obj: object = None, raw: bytes | None = None) -> None:
    records.append({'name': name, 'object': b64(serialize(obj) if raw is None else raw)})


def record_array(name: str, a: np.ndarray) -> None:
    record(name, a)
    c = np.ascontiguousarray(a).reshape(a.shape)
    if a.dtype.names is None:
        c = c.astype(a.dtype.newbyteorder('<'))
        descr = a.dtype.str
    else:
        descr = str(a.dtype.descr)
    records[-1].update(
        descr=descr,
        shape=list(a.shape),
        fortran=bool(a.flags.f_contiguous and not a.flags.c_contiguous),
        values=b64(c.tobytes()),
    )


record('bytes', b'some bytes\n\x00\xff')
record('bytes-empty', b'')
record('str', 'grüße, 世界\n')
record('str-empty', '')
record('none', None)
record('true', True)
record('int', 42)
record('int-big', 1 << 100)
record('float', 1.5)
record('list', [1, 'two', 3.0, None, b'four'])
record('tuple', (1, (2, 3)))
record('dict', {'a': 1, 'b': {'c': [1, 2, {'d': b'e'}]}, 'f': (None, True)})
record('dict-int-keys', {1: 'a', 2: 'b'})
record('set', {7})
record('bytearray', bytearray(b'abc'))
record('complex', 1 + 2j)
record('datetime', datetime.datetime(2024, 2, 29, 12, 30, 15, 500, tzinfo=datetime.timezone.utc))
record('decimal', decimal.Decimal('1.25'))
record('fraction', fractions.Fraction(1, 3))
record('uuid', uuid.UUID(int=7))
shared = [1]
record('shared', [shared, shared])
cycle: list = [1]
cycle.append(cycle)
record('cycle', cycle)
record('lambda', lambda x: x + 1)

line = b'04\n' if len(sys.argv) > 1 and '0.6' in sys.argv[1] else b'CP\n'
Unknown.__module__ = '__main__'
record('unknown', raw=line + cloudpickle.dumps(Unknown(), protocol=5))

base = np.arange(24).reshape(2, 3, 4)
kinds = {
    'bool': base % 2 == 0,
    'i1': base.astype('i1'), 'i2': base.astype('<i2'), 'i4': -base.astype('<i4'), 'i8': base.astype('<i8'),
    'u1': base.astype('u1'), 'u2': base.astype('<u2'), 'u4': base.astype('<u4'), 'u8': base.astype('<u8') + np.uint64(2**63),
    'f2': base.astype('<f2') / np.float16(3), 'f4': base.astype('<f4') / np.float32(3), 'f8': base / 3.0,
    'f16': base.astype('longdouble'),
    'c8': (base + 1j).astype('<c8'), 'c16': base - 2j,
    'U': np.array([f'é{i}世' * (i % 3) for i in range(24)]).reshape(2, 3, 4),
    'S': np.array([b'x' * (i % 4) for i in range(24)]).reshape(2, 3, 4),
    'V': base.astype('<i4').view('V4'),
    'M8-D': base.astype('M8[D]'), 'M8-us': base.astype('M8[us]'), 'm8-25s': base.astype('m8[25s]'),
    'M8-generic': base.astype('<i8').view('M8'),
    'i4-big': base.astype('>i4'), 'f8-big': base.astype('>f8') / 7, 'c16-big': (base + 3j).astype('>c16'),
    'U-big': np.array(['ab', 'c世'] * 12).reshape(2, 3, 4).astype('>U2'),
}
for kind, array in kinds.items():
    record_array(f'np-{kind}', array)
    record_array(f'np-{kind}-F', np.asfortranarray(array))
record_array('np-0d', np.array(3.25))
record_array('np-empty', np.zeros((0, 3)))
record_array('np-strided', np.arange(10.0)[::3])
record_array('np-transposed', np.arange(6).reshape(2, 3).T)
record_array('np-permuted', np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2))
record_array('np-1x5-F', np.asfortranarray(np.arange(5).reshape(1, 5)))
record_array('np-long', np.arange(1000, dtype='u2'))
struct = np.zeros(3, [('a', '<i4'), ('b', '>f8', (2, 2)), (('the title', 'c'), 'S5'), ("it's", [('x', 'i1'), ('y', '<U2')])])
struct['a'] = [1, 2, 3]
struct['b'][1] = [[1, 2], [3, 4]]
struct['c'] = [b'x', b'yy', b'zzzzz']
struct["it's"]['y'] = ['q', 'rs', '']
record_array('np-struct', struct)
record_array('np-struct-aligned', np.array([(1, 2)], np.dtype([('a', 'i1'), ('b', '<i8')], align=True)))
record_array('np-struct-latin1', np.array([(1,)], [('é', '<i4')]))
record_array('np-struct-utf8', np.array([(1,)], [('世', '<i4')]))
record_array('np-struct-wide', np.zeros(1, [(f'field{i:04}_{"x" * 20}', '<f8') for i in range(2000)])[:0])
record('np-object', np.array([1, 'two', None, {'k': [1]}], object).reshape(2, 2))
record('np-object-F', np.asfortranarray(np.array([1, 'two', None, 2.5], object).reshape(2, 2)))

record('pickled-arrays', {
    'c': np.arange(6.0).reshape(2, 3),
    'f': np.asfortranarray(np.arange(6, dtype='>i4').reshape(2, 3)),
    'strided': np.arange(10)[::2],
    'struct': struct,
    'time': np.array(['2020-01-01'], 'M8[D]'),
    'text': np.array(['a', 'bc']),
    'object': np.array([1, None, 'x'], object),
    'f8': np.float64(1.5), 'f4': np.float32(1.5), 'i2': np.int16(-3), 'u8': np.uint64(2**64 - 1), 'bool': np.bool_(True),
    'c16': np.complex128(1 + 2j), 'str': np.str_('s'), 'bytes': np.bytes_(b's'), 'M8': np.datetime64('2020-01-01'),
})
tag = line.replace(b'04', b'03').replace(b'CP', b'PK')
for protocol in (0, 2, 3, 4):
    record(f'pickled-array-{protocol}', raw=tag + pickle.dumps(np.arange(6.0).reshape(2, 3), protocol=protocol))
record('pickled-array-5', raw=tag + pickle.dumps(np.arange(6.0).reshape(2, 3), protocol=5))

if line == b'CP\n':
    import pandas as pd
    import polars as pl

    record('pandas', pd.DataFrame({'a': [1, 2], 'b': ['x', 'y']}))
    record('series', pd.Series([1, 2, 3]))
    record('polars', pl.DataFrame({'a': [1, 2, None], 's': ['x', 'a string longer than twelve bytes', None]}))

text = '[\n' + ',\n'.join(json.dumps(r) for r in records) + '\n]\n'
with open(sys.argv[1], 'wb') as f:
    f.write(gzip.compress(text.encode(), mtime=0))
