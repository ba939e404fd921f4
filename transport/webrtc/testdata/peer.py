"""A peer with data channels, made from aiortc, that does what the test on the other side asks for.

    peer.py offer CHANNELS      makes channels p2p-0-CHANNELS ... as ProxyStore does, and an offer
    peer.py answer              answers an offer

Descriptions are lines of stdin and stdout, as aiortc's object_to_string makes them. It ends when stdin does. Other lines of stdin are commands:

    drive BYTES SIZE            sends and asks for BYTES in messages of SIZE; a line "drive SENT RECEIVED" has the seconds that each took

Lines of stdout: "open" when all channels are, "closed" when the connection is.

The first byte of a message says what it is:

    E ...           is sent back on the channel it came by
    R ...           is counted
    F u64           answered by D u64 once so many bytes were counted, from where counting begins anew
    S u64 u32       asks for so many bytes in R messages of so many bytes, over all channels
    D u64           the answer to F
"""

from __future__ import annotations

import asyncio
import struct
import sys
import time

from aiortc import RTCConfiguration
from aiortc import RTCPeerConnection
from aiortc.contrib.signaling import object_from_string
from aiortc.contrib.signaling import object_to_string


class Peer:
    def __init__(self) -> None:
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.channels = {}
        self.low = {}
        self.counted = 0
        self.expected = None  # (bytes, channel) of an F that waits
        self.done = asyncio.Event()
        self.opened = asyncio.Event()
        self.total = 1
        self.tasks = set()
        self.pc.on('connectionstatechange', self.state)

    def state(self) -> None:
        if self.pc.connectionState in ('closed', 'failed'):
            print('closed', flush=True)

    def add(self, channel) -> None:
        self.channels[channel.label] = channel
        low = self.low[channel.label] = asyncio.Event()
        channel.on('bufferedamountlow', low.set)
        channel.on('message', lambda m: self.message(channel, m))
        # As in ProxyStore, the state of the DTLS transport is that of the channel.
        def state() -> None:
            if channel.readyState in ('closed', 'failed'):
                self.spawn(self.pc.close())
        channel.transport.transport.on('statechange', state)

    def spawn(self, coro) -> None:
        task = asyncio.ensure_future(coro)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def message(self, channel, m: bytes) -> None:
        kind = m[:1]
        if kind == b'E':
            channel.send(m)
        elif kind == b'R':
            self.counted += len(m)
            self.check()
        elif kind == b'F':
            self.expected = (struct.unpack('>Q', m[1:])[0], channel)
            self.check()
        elif kind == b'S':
            total, size = struct.unpack('>QI', m[1:])
            self.spawn(self.send(total, size))
        elif kind == b'D':
            self.done.set()

    def check(self) -> None:
        if self.expected is not None and self.counted >= self.expected[0]:
            n, channel = self.expected
            self.expected, self.counted = None, self.counted - n
            if channel is None:
                self.done.set()
            else:
                channel.send(b'D' + struct.pack('>Q', n))

    async def send(self, total: int, size: int) -> None:
        # As ProxyStore's PeerConnection.send does it.
        names = list(self.channels)
        body = b'R' + bytes(size - 1)
        i = 0
        while total > 0:
            name = names[i % len(names)]
            channel, low = self.channels[name], self.low[name]
            if channel.bufferedAmount > channel.bufferedAmountLowThreshold:
                await low.wait()
                low.clear()
            channel.send(body[: min(size, total)])
            total -= size
            i += 1

    async def drive(self, total: int, size: int) -> None:
        channel = next(iter(self.channels.values()))
        start = time.perf_counter()
        self.done.clear()
        channel.send(b'F' + struct.pack('>Q', total))
        await self.send(total, size)
        await self.done.wait()
        sent = time.perf_counter() - start
        start = time.perf_counter()
        self.done.clear()
        self.expected = (total, None)
        channel.send(b'S' + struct.pack('>QI', total, size))
        await self.done.wait()
        received = time.perf_counter() - start
        print(f'drive {sent} {received}', flush=True)

    async def offer(self, n: int) -> None:
        self.total = n

        def opened() -> None:
            self.total -= 1
            if self.total == 0:
                print('open', flush=True)

        for i in range(n):
            channel = self.pc.createDataChannel(f'p2p-{i}-{n}', ordered=False)
            channel.on('open', opened)
            self.add(channel)
        await self.pc.setLocalDescription(await self.pc.createOffer())
        print(object_to_string(self.pc.localDescription), flush=True)

    async def describe(self, line: str) -> None:
        d = object_from_string(line)
        if d.type == 'answer':
            await self.pc.setRemoteDescription(d)
            return

        @self.pc.on('datachannel')
        def on_datachannel(channel) -> None:
            self.add(channel)
            if len(self.channels) == int(channel.label.rsplit('-', 1)[1]):
                print('open', flush=True)

        await self.pc.setRemoteDescription(d)
        await self.pc.setLocalDescription(await self.pc.createAnswer())
        print(object_to_string(self.pc.localDescription), flush=True)


async def main() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    peer = Peer()
    if sys.argv[1] == 'offer':
        await peer.offer(int(sys.argv[2]))
    while line := (await reader.readline()).decode().strip():
        if line.startswith('{'):
            await peer.describe(line)
        elif line.startswith('drive '):
            await peer.drive(*map(int, line.split()[1:]))
    await peer.pc.close()


asyncio.run(main())
