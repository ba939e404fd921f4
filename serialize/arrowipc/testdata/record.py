"""Records DataFrame objects of the real ProxyStore and polars for the tests of package arrowipc: python record.py (from this folder)."""

from __future__ import annotations

import datetime
import io

import polars as pl
from proxystore.serialize import serialize

df = pl.DataFrame(
    {
        'a': [1, 2, None],
        's': ['x', 'a string longer than twelve bytes', None],
        'f': [1.5, 2.0, 3.0],
        'l': [[1], [2, 3], None],
        'd': [datetime.date(2020, 1, 1)] * 3,
        'c': pl.Series(['p', 'q', 'p'], dtype=pl.Categorical),
        'b': [b'x', b'y', b'z'],
        't': [datetime.datetime(2020, 1, 1)] * 3,
        'bo': [True, False, None],
        'st': [{'x': 1, 'y': 'q'}] * 3,
        'dec': pl.Series([1, 2, 3]).cast(pl.Decimal(10, 2)),
        'i8': pl.Series([1, 2, 3], dtype=pl.Int8),
        'e': pl.Series(['u', 'v', 'u'], dtype=pl.Enum(['u', 'v'])),
    },
)
wide = pl.DataFrame({'i': pl.int_range(1000, eager=True), 's': ['the same long string, again and again'] * 1000})


def write(name: str, data: bytes) -> None:
    with open(name + '.obj', 'wb') as f:
        f.write(data)


def ipc(frame: pl.DataFrame, **options: object) -> bytes:
    b = io.BytesIO()
    frame.write_ipc(b, **options)
    return b'PL\n' + b.getvalue()


write('proxystore', serialize(df))
write('empty', serialize(df[:0]))
write('no-columns', serialize(pl.DataFrame()))
write('two-batches', ipc(df, record_batch_size=2))
write('lz4', ipc(wide, compression='lz4'))
write('zstd', ipc(wide, compression='zstd'))
write('oldest', ipc(df, compat_level=pl.CompatLevel.oldest()))
b = io.BytesIO()
df.write_ipc_stream(b)
write('stream', b'PL\n' + b.getvalue())
