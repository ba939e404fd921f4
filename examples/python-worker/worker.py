"""A worker as any ProxyStore user writes it: it knows nothing of Go."""

import pickle
import sys

import numpy as np
from proxystore.store import get_store

samples = pickle.load(sys.stdin.buffer)  # a proxy, of a few hundred bytes
spectrum = np.abs(np.fft.rfft(samples))  # used as an array, so it resolves here
answer = get_store(samples).proxy(spectrum)
sys.stdout.buffer.write(pickle.dumps(answer))
