"""Makes the derived files of this directory; see README.md.

python3 convert.py ZONEINFO, with the directory of an installed tzdata, needs NumPy.
"""

import json
import pathlib
import re
import struct
import sys

import numpy

source = pathlib.Path(sys.argv[1])
files = pathlib.Path(__file__).parent / 'files'


def degrees(text):
    """+DDMM or +DDMMSS or +DDDMM or +DDDMMSS, ISO 6709."""
    sign = -1 if text[0] == '-' else 1
    width = 2 if len(text) in (5, 7) else 3
    d, rest = text[1 : 1 + width], text[1 + width :]
    return round(sign * (int(d) + int(rest[:2]) / 60 + int(rest[2:] or 0) / 3600), 6)


def transitions(path):
    """Times and UTC offsets of a compiled zone: RFC 8536, the second (64-bit) block."""
    data = path.read_bytes()
    header = '>4sc15x6l'
    size = struct.calcsize(header)
    _, version, isutc, isstd, leap, times, types, chars = struct.unpack_from(header, data)
    assert version >= b'2'
    start = size + times * 5 + types * 6 + chars + leap * 8 + isstd + isutc
    _, _, isutc, isstd, leap, times, types, chars = struct.unpack_from(header, data, start)
    start += size
    when = struct.unpack_from(f'>{times}q', data, start)
    kind = struct.unpack_from(f'>{times}B', data, start + 8 * times)
    offset = [struct.unpack_from('>lBB', data, start + 9 * times + 6 * i)[0] for i in range(types)]
    return [(t, offset[k]) for t, k in zip(when, kind)]


countries = {}
for line in (source / 'iso3166.tab').read_text().splitlines():
    if not line.startswith('#'):
        code, name = line.split('\t')
        countries[code] = name

zones = []
rows = []
for line in (source / 'zone1970.tab').read_text().splitlines():
    if line.startswith('#'):
        continue
    codes, place, name, *comment = line.split('\t')
    latitude, longitude = re.fullmatch(r'([+-]\d+)([+-]\d+)', place).groups()
    rows += [(len(zones), *change) for change in transitions(source / name)]
    zones.append({
        'name': name,
        'countries': [countries[c] for c in codes.split(',')],
        'latitude': degrees(latitude),
        'longitude': degrees(longitude),
        'comment': comment[0] if comment else None,
    })

(files / 'zone1970.tab').write_bytes((source / 'zone1970.tab').read_bytes())
(files / 'zones.json').write_text(json.dumps(zones, indent=1, ensure_ascii=False) + '\n')
numpy.save(files / 'coordinates.npy', numpy.array([(z['latitude'], z['longitude']) for z in zones]))
numpy.save(files / 'transitions.npy', numpy.array(rows, dtype=numpy.int64))
