"""A Parsl workflow over a proxy that Go made: python parsl_app.py PROXY RESULT STORE_DIR

The array behind PROXY is scaled by an app in a worker process of its own; the proxy of what it returns is written to RESULT. Fails if the proxy is
resolved anywhere but in the worker.
"""

import os
import pickle
import sys
import tempfile

import parsl
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider
from proxystore.proxy import Proxy, is_resolved


@parsl.python_app
def scale(array, store_dir, factor):
    from proxystore.connectors.file import FileConnector
    from proxystore.proxy import Proxy, is_resolved
    from proxystore.store import Store

    assert type(array) is Proxy and not is_resolved(array), 'resolved on its way to the worker'
    with_store = Store('parsl-results', FileConnector(store_dir, clear=False), register=True)
    # In a list, since Parsl takes a bare Proxy for a function (it is callable) and hashes it, which resolves it.
    return [with_store.proxy(array * factor, populate_target=False)]


def main():
    proxy_path, result_path, store_dir = sys.argv[1:]
    with open(proxy_path, 'rb') as f:
        proxy = pickle.load(f)
    os.environ['PATH'] = os.path.dirname(sys.executable) + os.pathsep + os.environ['PATH']  # where Parsl's own programs are
    with tempfile.TemporaryDirectory() as run_dir:
        executor = HighThroughputExecutor(
            address='127.0.0.1', loopback_address='127.0.0.1', max_workers_per_node=1, cores_per_worker=1,
            provider=LocalProvider(init_blocks=1, max_blocks=1),
        )
        parsl.load(Config(executors=[executor], run_dir=run_dir, usage_tracking=0, strategy='none'))
        try:
            [result] = scale(proxy, store_dir, 2).result(timeout=120)
        finally:
            parsl.dfk().cleanup()
        assert not is_resolved(proxy), 'Parsl resolved the proxy at submit'
        assert type(result) is Proxy
        with open(result_path, 'wb') as f:
            pickle.dump(result, f)


if __name__ == '__main__':
    main()
