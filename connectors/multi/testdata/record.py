"""Records what ProxyStore's Policy and MultiConnector do, for the tests of package multi.

Run with ProxyStore 1.1.0 installed: python record.py > policies.json
"""
from __future__ import annotations

import itertools
import json
import re
import sys
from unittest import mock

import proxystore
from proxystore.connectors.local import LocalConnector
from proxystore.connectors.multi import MultiConnector
from proxystore.connectors.multi import MultiConnectorError
from proxystore.connectors.multi import Policy

HOST = 'node-17.cluster.example'


def valid() -> list[dict]:
    """Every combination of policies and constraints that differs in kind."""
    policies = [
        {},
        {'min_size_bytes': 10},
        {'max_size_bytes': 100},
        {'max_size_bytes': 0},
        {'max_size_bytes': -1},
        {'min_size_bytes': 10, 'max_size_bytes': 100},
        {'min_size_bytes': 100, 'max_size_bytes': 10},
        {'subset_tags': ['a', 'b']},
        {'superset_tags': ['a']},
        {'subset_tags': ['a'], 'superset_tags': ['a', 'b'], 'max_size_bytes': 50},
        {'host_pattern': r'node-\d+\.cluster\.example'},
        {'host_pattern': ['login', r'node-.*']},
        {'host_pattern': 'node'},
        {'host_pattern': []},
        {'host_pattern': r'login\d', 'min_size_bytes': 10},
    ]
    sizes = [None, 0, 1, 9, 10, 11, 50, 100, 101, sys.maxsize]
    tags = [None, [], ['a'], ['b'], ['c'], ['a', 'b'], ['a', 'a'], ['a', 'b', 'c']]
    out = []
    for p in policies:
        policy = Policy(**p)
        for size, sub, sup in itertools.product(sizes, tags, tags):
            ok = policy.is_valid(size_bytes=size, subset_tags=sub, superset_tags=sup)
            out.append([policy.as_dict(), size, sub, sup, ok])
    # One row per policy, to keep the file small: the constraints are in the order of itertools.product.
    rows = []
    for p in policies:
        d = Policy(**p).as_dict()
        rows.append({'policy': d, 'valid': ''.join('01'[r[4]] for r in out if r[0] == d)})
    return {'sizes': sizes, 'tags': tags, 'rows': rows}


def patterns() -> list[dict]:
    """re.fullmatch of patterns that both languages know, with the traps between them."""
    out = []
    hosts = ['', 'a', 'aa', 'aaa', 'aaaa', 'ab', 'abc', 'node1', 'node12', 'NODE1', 'x[a', ':]', 'a:]', '[]', 'l]', 'h]', 'a{,2}', 'a\n', 'n-1.x',
             ']', 'b', 'a-b']
    for p in ['', 'a', 'a|ab', 'a|ab|abc', '(?i)node\\d', 'node\\d+', 'node[0-9]{1,2}', 'a{,2}', 'a{,}', 'a{2,}', 'a\\{,2}', 'a\\Z', '^a$',
              '[[:alpha:]]', '[a[]', 'x[[]a', '[]a]', '[^]a]', '\\[\\]', '(a|b)?c?', '(?:a)', '(?P<x>a)b', 'n\\-1\\.x', '.*', '.', 'a.?', 'a*?',
              '[a\\]]', 'a\\nb|a', '[\\w-]+', '\\Aa\\Z']:
        out.append({'pattern': p, 'match': [h for h in hosts if re.fullmatch(p, h)]})
    return {'hosts': hosts, 'rows': out}


def routes() -> dict:
    """Which child gets an object."""
    children = {
        'any': Policy(),
        'small': Policy(priority=2, max_size_bytes=10),
        'tagged': Policy(priority=3, subset_tags=['x', 'y'], superset_tags=['x']),
        'elsewhere': Policy(priority=9, host_pattern='login'),
        'large': Policy(priority=1, min_size_bytes=50, subset_tags=['big']),
    }
    multi = MultiConnector({name: (LocalConnector(), p) for name, p in children.items()})
    rows = []
    for size, sub, sup in itertools.product([0, 10, 11, 50, 51], [[], ['x'], ['big'], ['z']], [[], ['x'], ['x', 'y'], ['z']]):
        try:
            name = multi.put(b'1' * size, subset_tags=sub, superset_tags=sup).connector_name
        except MultiConnectorError:
            name = None
        rows.append({'size': size, 'subset': sub, 'superset': sup, 'child': name})
    return {'policies': {n: p.as_dict() for n, p in children.items()}, 'rows': rows}


def config() -> dict:
    """MultiConnector.config(), through from_config and back, with a dormant child."""
    multi = MultiConnector(
        {
            'small': (LocalConnector({}), Policy(priority=1, max_size_bytes=10, subset_tags=['t'])),
            'here': (LocalConnector({}), Policy(host_pattern=['a', 'node-.*'])),
            'there': (LocalConnector({}), Policy(host_pattern='login', min_size_bytes=5)),
        },
    )
    again = MultiConnector.from_config(multi.config())
    assert list(again.dormant_connectors) == ['there']
    assert again.config() == multi.config()
    return multi.config()


with mock.patch('proxystore.utils.hostname', return_value=HOST):
    recorded = {
        'proxystore': proxystore.__version__,
        'hostname': HOST,
        'valid': valid(),
        'patterns': patterns(),
        'routes': routes(),
        'config': config(),
    }
print(json.dumps(recorded, separators=(',', ':')).replace('{"policy"', '\n{"policy"').replace('{"pattern"', '\n{"pattern"')
      .replace('{"size"', '\n{"size"'))
