"""A server of proxystore_ex's distributed in-memory connectors, as the connectors themselves start one: dim_server.py zmq|ucx PORT.

Prints a line when it listens, and ends with standard input.
"""

import importlib
import os
import sys
import threading
import time

kind, port = sys.argv[1], int(sys.argv[2])
dim = importlib.import_module('proxystore_ex.connectors.dim.' + kind)


def listens():
    """Whether somebody listens at the port. It is not tried: the first connection to a UCX server should be one that speaks UCX."""
    with open('/proc/net/tcp') as f:
        return any(line.split()[1].endswith(f':{port:04X}') and line.split()[3] == '0A' for line in list(f)[1:])


def watch():
    while not listens():
        time.sleep(0.01)
    print('ready', flush=True)
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=watch, daemon=True).start()
if kind == 'zmq':
    dim.start_server('127.0.0.1', port)
else:
    dim.start_server(port)
