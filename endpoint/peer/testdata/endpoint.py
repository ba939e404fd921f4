"""A ProxyStore endpoint that a test drives: one JSON request per line on stdin, one JSON response per line on stdout.

Usage: endpoint.py RELAY_ADDRESS UUID [PEER_CHANNELS]
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import uuid

from proxystore.endpoint.endpoint import Endpoint
from proxystore.p2p.manager import PeerManager
from proxystore.p2p.relay.client import RelayClient


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def handle(endpoint: Endpoint, request: dict) -> dict:
    op, key = request['op'], request.get('key')
    peer = uuid.UUID(request['endpoint']) if request.get('endpoint') else None
    if op == 'get':
        data = await endpoint.get(key, peer)
        return {'size': -1 if data is None else len(data), 'sha': '' if data is None else digest(data)}
    if op == 'set':
        data = os.urandom(request['size'])
        await endpoint.set(key, data, peer)
        return {'size': len(data), 'sha': digest(data)}
    if op == 'exists':
        return {'exists': await endpoint.exists(key, peer)}
    if op == 'evict':
        await endpoint.evict(key, peer)
        return {}
    if op == 'connected':
        return {'size': len(endpoint.peer_manager._peers)}
    if op == 'disconnect':
        await endpoint.peer_manager.close_connection((endpoint.uuid, peer))
        return {}
    raise ValueError(op)


async def main() -> None:
    address, name = sys.argv[1], uuid.UUID(sys.argv[2])
    channels = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    relay = RelayClient(address, client_name='python', client_uuid=name)
    manager = PeerManager(relay, peer_channels=channels, ice_servers=[])
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks = set()

    async def answer(request: dict) -> None:
        try:
            response = await handle(endpoint, request)
        except BaseException as e:  # noqa: BLE001
            response = {'error': f'{type(e).__name__}: {e}'}
        response['id'] = request['id']
        print(json.dumps(response), flush=True)

    async with Endpoint(peer_manager=manager) as endpoint:
        print(json.dumps({'id': 0}), flush=True)
        while line := await reader.readline():
            task = asyncio.create_task(answer(json.loads(line)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


asyncio.run(main())
