"""Records messages of ProxyStore's distributed in-memory connectors, for the tests of package rpc: testdata/golden.json.

Run with ProxyStore 1.1.0, proxystore-ex and numpy installed: python testdata/record.py
Large data is shortened in the file: a run of one byte of 1000 or more is written as that byte and its count.
"""

import base64
import json
import pathlib
import pickle
import re

import cloudpickle
import numpy
import proxystore
from proxystore.serialize import serialize
from proxystore_ex.connectors.dim.models import DIMKey
from proxystore_ex.connectors.dim.models import RPC
from proxystore_ex.connectors.dim.models import RPCResponse
from proxystore_ex.connectors.dim.zmq import ZeroMQServer

KEY = DIMKey('zmq', '3f2504e0-4f89-41d3-9a0c-0305e82c3301', 5, '127.0.0.1', 5555)
BIG = DIMKey('ucx', 'id \u00e9\U0001f600', 2**40, 'node-17.cluster.example', 70000)

server = ZeroMQServer()
hit = KEY._replace(obj_id='hit')
bad = RPC('put', KEY)

messages = {
    'put': serialize(RPC('put', KEY, b'hello')),
    'put empty': serialize(RPC('put', KEY, b'')),
    'put none': serialize(bad),
    'put bytearray': serialize(RPC('put', KEY, bytearray(b'hello'))),
    'put memoryview': serialize(RPC('put', KEY, memoryview(b'hello'))),
    'put large memoryview': serialize(RPC('put', KEY, memoryview(b'h' * 3_000_000))),
    'put str': serialize(RPC('put', KEY, 'hello')),
    'put list': serialize(RPC('put', KEY, [1, 2])),
    'put in a frame': serialize(RPC('put', KEY, b'h' * 60_000)),
    'put large': serialize(RPC('put', KEY, b'h' * 3_000_000)),
    'put large bytearray': serialize(RPC('put', KEY, bytearray(b'h' * 3_000_000))),
    'get': serialize(RPC('get', KEY)),
    'get big key': serialize(RPC('get', BIG)),
    'get numpy key': serialize(RPC('get', KEY._replace(size=numpy.int64(5), peer_port=numpy.uint16(5555)))),
    'exists': serialize(RPC('exists', KEY)),
    'evict': serialize(RPC('evict', KEY)),
    'plain tuple as key': serialize(RPC('get', tuple(KEY))),
    'a dict': serialize({'operation': 'get', 'key': KEY}),
    'python pickler': b'PK\n' + pickle._dumps(RPC('put', KEY, b'hello'), 5),
    'cloudpickle': b'CP\n' + cloudpickle.dumps(RPC('put', KEY, b'hello')),
    'tag of 0.6': b'03\n' + pickle.dumps(RPC('put', KEY, b'hello')),
    'answer put': serialize(server.handle_rpc(RPC('put', hit, b'hello'))),
    'answer get': serialize(server.handle_rpc(RPC('get', hit))),
    'answer get missing': serialize(server.handle_rpc(RPC('get', KEY))),
    'answer exists': serialize(server.handle_rpc(RPC('exists', hit))),
    'answer exists not': serialize(server.handle_rpc(RPC('exists', KEY))),
    'answer evict': serialize(server.handle_rpc(RPC('evict', hit))),
    'answer put none': serialize(server.handle_rpc(bad)),
    'answer memory': serialize(RPCResponse('put', KEY, exception=MemoryError('no room', 7))),
    'answer os': serialize(RPCResponse('put', KEY, exception=OSError(28, 'No space left on device'))),
}
for protocol in range(5):
    messages[f'protocol {protocol}'] = b'PK\n' + pickle.dumps(RPC('put', KEY, b'hello'), protocol)

out = {'proxystore': proxystore.__version__, 'messages': {}}
for name, m in messages.items():
    parts, at = [], 0
    for run in re.finditer(rb'h{1000,}', m):
        parts += [base64.b64encode(m[at:run.start()]).decode(), run.end() - run.start()]
        at = run.end()
    out['messages'][name] = parts + [base64.b64encode(m[at:]).decode()]
text = json.dumps(out, indent=1)
pathlib.Path(__file__).with_name('golden.json').write_text(re.sub(r'\[\s+("[^]]*)\s+\]', lambda m: '[' + re.sub(r'\s+', ' ', m[1]) + ']', text) + '\n')
