"""Records the golden pickles of package pickle: testdata/golden.json.

Run with any python3 from 3.8 on: python3 testdata/record.py
dill and numpy are used when they are installed; their entries are kept as they were otherwise.

Each entry is the pickle of one value by one writer, in base64. Entries of one name must decode to equal values, which
golden_test.go spells out in Go.
"""

import base64
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import json
import pathlib
import pickle
import sys
import types
import uuid

HERE = pathlib.Path(__file__).parent

# Classes need a module that is not __main__ for stable names.
mod = types.ModuleType('shapes')
sys.modules['shapes'] = mod


def shape(cls):
    cls.__module__ = 'shapes'
    setattr(mod, cls.__name__, cls)
    return cls


@shape
class Plain:
    pass


@shape
class Slots:
    __slots__ = ('a', 'b')


@shape
class SlotsAndDict(Slots):
    pass


@shape
@dataclasses.dataclass
class Data:
    obj_id: str
    size: int
    tags: list


@shape
class MyList(list):
    pass


@shape
class MyDict(dict):
    pass


@shape
class MyStr(str):
    pass


@shape
class MyInt(int):
    pass


@shape
class Kw:
    def __new__(cls, *, a):
        return object.__new__(cls)

    def __getnewargs_ex__(self):
        return (), {'a': 1}


@shape
class Color(enum.Enum):
    RED = 1


@shape
class Outer:
    class Inner:
        pass


Outer.Inner.__module__ = 'shapes'
Point = shape(collections.namedtuple('Point', 'x y'))


def with_attrs(obj, **attrs):
    for k, v in attrs.items():
        setattr(obj, k, v)
    return obj


def self_list():
    x = [1]
    x.append(x)
    return x


def self_dict():
    x = {}
    x['me'] = x
    return x


def self_tuple():
    x = ([],)
    x[0].append(x)
    return x


def self_object():
    x = Plain()
    x.me = x
    return x


def shared():
    x = [1, 2]
    return [x, x, {'x': x}]


def values():
    utc = datetime.timezone.utc
    two = datetime.timezone(datetime.timedelta(hours=-2, minutes=-30))
    yield 'none', None
    yield 'true', True
    yield 'false', False
    yield 'ints', [0, 1, 255, 256, 65535, 65536, -1, -128, -129, 2**31 - 1, -2**31, 2**31, 2**63 - 1, -2**63]
    yield 'big_ints', [2**63, -2**63 - 1, 2**64, 10**40, -10**40, 2**2100, -2**2047]
    yield 'floats', [0.0, -0.0, 1.5, -2.25, 1e300, 5e-324, float('inf'), float('-inf')]
    yield 'nan', float('nan')
    yield 'strings', ['', 'a', 'abc', 'é', '日本語', '😀', 'a\\b', '\\u0041', 'new\nline', '\r', '\0', 'x' * 300]
    yield 'surrogate', 'a\ud800b'
    yield 'bytes', [b'', b'a', b'\x00\xff\x80', b'x' * 300]
    yield 'bytearray', [bytearray(), bytearray(b'a'), bytearray(b'\x00\xff' * 150)]
    yield 'tuples', [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ((), ((),))]
    yield 'lists', [[], [1], [[], [[]]], list(range(1002))]
    yield 'dicts', [{}, {'a': 1}, {'a': 1, 'b': {'c': None}}, {1: 'x', None: 'y', (1, 2): 'z', b'k': 0}]
    yield 'long_dict', {str(i): i for i in range(12)}
    yield 'set', {7}
    yield 'empty_set', set()
    yield 'frozenset', frozenset([7])
    yield 'empty_frozenset', frozenset()
    yield 'self_list', self_list()
    yield 'self_dict', self_dict()
    yield 'self_tuple', self_tuple()
    yield 'self_object', self_object()
    yield 'shared', shared()
    yield 'global_class', Plain
    yield 'global_nested', Outer.Inner
    yield 'global_builtins', [int, len, ValueError, range, zip, set, bytes]
    yield 'plain', with_attrs(Plain(), x=1, y='two')
    yield 'plain_empty', Plain()
    yield 'data', Data('id-1', 42, ['a', 'b'])
    yield 'namedtuple', Point(1, 'b')
    yield 'my_list', with_attrs(MyList([1, 2]), note='n')
    yield 'my_dict', with_attrs(MyDict(a=1), note='n')
    yield 'my_str', MyStr('abc')
    yield 'my_int', MyInt(5)
    yield 'enum', Color.RED
    yield 'ordered_dict', collections.OrderedDict([('b', 1), ('a', 2)])
    yield 'default_dict', collections.defaultdict(list, {'a': [1]})
    yield 'counter', collections.Counter('aab')
    yield 'deque', collections.deque([1, 2, 3])
    yield 'datetime_naive', datetime.datetime(2024, 2, 29, 23, 59, 58, 123456)
    yield 'datetime_utc', datetime.datetime(2024, 2, 29, 23, 59, 58, 123456, tzinfo=utc)
    yield 'datetime_zone', datetime.datetime(1999, 12, 31, 1, 2, 3, tzinfo=two)
    yield 'date', datetime.date(2024, 2, 29)
    yield 'timedelta', datetime.timedelta(days=-1, seconds=5, microseconds=7)
    yield 'decimal', decimal.Decimal('-1.50')
    yield 'uuid', uuid.UUID('12345678-1234-5678-9abc-def012345678')
    yield 'complex', 1.5 - 2j
    yield 'fraction', fractions.Fraction(-3, 4)
    yield 'exception', ValueError('bad', 3)
    yield 'range', range(1, 10, 2)


def from_protocol_2():
    yield 'slots', with_attrs(Slots(), a=1, b=[2])
    yield 'slots_and_dict', with_attrs(SlotsAndDict(), a=1, b=2, c=3)


def main():
    path = HERE / 'golden.json'
    old = json.loads(path.read_text()) if path.exists() else []
    entries = []

    def add(name, writer, data):
        entries.append({'name': name, 'writer': writer, 'pickle': base64.b64encode(data).decode()})

    for name, value in values():
        for protocol in range(6):
            add(name, f'protocol {protocol}', pickle.dumps(value, protocol))
    for name, value in from_protocol_2():
        for protocol in range(2, 6):
            add(name, f'protocol {protocol}', pickle.dumps(value, protocol))
    for protocol in (4, 5):  # below, keyword arguments are written with functools.partial
        add('kwargs', f'protocol {protocol}', pickle.dumps(Kw(a=1), protocol))
    add('out_of_band', 'protocol 5', pickle.dumps([pickle.PickleBuffer(bytearray(b'x')), pickle.PickleBuffer(b'y')], 5,
                                                   buffer_callback=lambda b: None))
    missing = set()
    try:
        import dill
        for protocol in (2, 4):
            add('dill_type', f'dill {protocol}', dill.dumps([bytes, str, list, type(len), type(lambda: 0)], protocol))
            add('namedtuple', f'dill {protocol}', dill.dumps(Point(1, 'b'), protocol))
            add('plain', f'dill {protocol}', dill.dumps(with_attrs(Plain(), x=1, y='two'), protocol, byref=True))
    except ImportError:
        missing.add('dill')
    try:
        import numpy
        for protocol in (0, 2, 5):
            for code in ('i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8', 'c8', 'c16', '?', '>i4', '>f8'):
                add(f'numpy_{code}', f'protocol {protocol}', pickle.dumps(numpy.array([1], code)[0], protocol))
            add('numpy_str', f'protocol {protocol}', pickle.dumps(numpy.str_('é!'), protocol))
    except ImportError:
        missing.add('numpy')
    for e in old:
        if ('dill' in missing and e['writer'].startswith('dill')) or ('numpy' in missing and e['name'].startswith('numpy')):
            entries.append(e)
    with path.open('w') as f:
        f.write('[\n' + ',\n'.join(json.dumps(e) for e in entries) + '\n]\n')


if __name__ == '__main__':
    main()
