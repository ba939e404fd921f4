"""Records proxies as real Python writes them: python3 record.py, in an environment with proxystore (1.1.0 or 0.6.5), dill and cloudpickle.

The objects' bytes are not recorded; the tests read what the proxies say. Files of 0.6.5 end in 06.pickle.
"""

import os
import pickle

import cloudpickle
import dill
import proxystore
from proxystore.connectors.file import FileConnector
from proxystore.connectors.local import LocalConnector
from proxystore.connectors.multi import MultiConnector, Policy
from proxystore.connectors.redis import RedisConnector
from proxystore.store import Store
from proxystore.store.ref import borrow, mut_borrow

here = os.path.dirname(os.path.abspath(__file__))
old = proxystore.__version__.startswith('0.')
suffix = '06.pickle' if old else '.pickle'
directory = '/tmp/proxystore-recorded'


def write(name, data):
    with open(os.path.join(here, name + suffix), 'wb') as f:
        f.write(data)


store = Store('recorded', FileConnector(directory, clear=False), register=True)
p = store.proxy(b'content', populate_target=True)
write('plain', pickle.dumps(p, protocol=5))
write('protocol0', pickle.dumps(p, protocol=0))
write('protocol2', pickle.dumps(p, protocol=2))
write('dill', dill.dumps(p))
write('cloudpickle', cloudpickle.dumps(p))
write('evict', pickle.dumps(store.proxy([1, 2], evict=True)))
write('future', pickle.dumps(store.future(polling_interval=0.5, polling_timeout=3).proxy()))
owner = store.owned_proxy('mine')
write('ref', pickle.dumps(borrow(owner)))
owner2 = store.owned_proxy('mine')
write('refmut', pickle.dumps(mut_borrow(owner2)))
owner3 = store.owned_proxy('mine')
write('owned', pickle.dumps(owner3))
write('deserializer', pickle.dumps(store.proxy('x', serializer=pickle.dumps, deserializer=pickle.loads)))

redis = Store('recorded-redis', RedisConnector('localhost', 6399))
write('redis', pickle.dumps(redis.proxy_from_key(__import__('proxystore.connectors.redis', fromlist=['x']).RedisKey('some-key'))))
local = Store('recorded-local', LocalConnector() if old else LocalConnector(include_data_in_config=True))
write('local', pickle.dumps(local.proxy('inside')))
multi = Store('recorded-multi', MultiConnector({'file': (FileConnector(directory, clear=False), Policy(max_size_bytes=1000, subset_tags=['a']))}))
write('multi', pickle.dumps(multi.proxy('small')))
