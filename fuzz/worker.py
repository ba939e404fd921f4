"""Reads objects, each after its length in four bytes, and answers each with a status byte and, in the same way, the object that ProxyStore makes of
the value that it finds (0), or what is wrong (1)."""

import struct
import sys

from proxystore.serialize import deserialize, serialize

while head := sys.stdin.buffer.read(4):
    data = sys.stdin.buffer.read(*struct.unpack('>I', head))
    try:
        status, answer = 0, serialize(deserialize(data))
    except Exception as e:
        status, answer = 1, repr(e).encode()
    sys.stdout.buffer.write(struct.pack('>BI', status, len(answer)) + answer)
    sys.stdout.buffer.flush()
