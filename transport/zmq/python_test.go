package zmq

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
)

// pyREQ does exchanges with an echoing server at argv[1], from a socket of the type in argv[2]. Further arguments are keys for CURVE.
const pyREQ = `
import sys, zmq, os
ctx = zmq.Context()
def sock(kind):
    s = ctx.socket(getattr(zmq, kind))
    s.linger = 0
    s.rcvtimeo = s.sndtimeo = 20000
    if len(sys.argv) > 3:
        s.curve_serverkey, s.curve_publickey, s.curve_secretkey = (k.encode() for k in sys.argv[3:6])
    s.setsockopt(zmq.HEARTBEAT_IVL, 20)
    s.setsockopt(zmq.HEARTBEAT_TIMEOUT, 2000)
    s.connect(sys.argv[1])
    return s
kind = sys.argv[2]
s = sock(kind)
pre = [] if kind == 'REQ' else [b'']
s.send_multipart(pre + [b'ping'])
assert s.recv_multipart() == pre + [b'pong']
for n in [1, 2, 255, 256, 8191, 8192, 65536, 65537, 1 << 20, (5 << 20) + 3]:
    data = os.urandom(n)
    for cut in [n, 65536, 1000] if n < 100000 else [n, 65536]:
        s.send_multipart(pre + [data[i:i+cut] for i in range(0, n, cut)])
        got = s.recv_multipart()
        if pre: assert got.pop(0) == b''
        assert b''.join(got) == data, n
        assert all(len(p) == 65536 for p in got[:-1]), [len(p) for p in got]
s.send_multipart(pre + [b''])
assert s.recv_multipart() == pre + [b'']
# Heartbeats go on while nothing else happens: no answer would be a disconnect.
mon = s.get_monitor_socket(zmq.EVENT_DISCONNECTED)
assert not mon.poll(300)
s.disable_monitor()
# A client that goes away in the middle.
h = sock(kind)
h.send_multipart(pre + [bytes(1 << 20)], zmq.SNDMORE)
h.close()
print('ok')
ctx.destroy(0)
`

func TestPythonClients(t *testing.T) {
	leakCheck(t)
	public, secret, _ := NewCurveKeys()
	clientPublic, clientSecret, _ := NewCurveKeys()
	for _, kind := range []string{"REQ", "DEALER"} {
		for _, addr := range []string{"tcp://127.0.0.1:0", "ipc"} {
			for _, curve := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/curve=%v", kind, strings.TrimRight(addr, ":/.0127"), curve), func(t *testing.T) {
					t.Parallel()
					addr := addr
					if addr == "ipc" {
						addr = "ipc://" + filepath.Join(t.TempDir(), "s")
					}
					o := ListenOptions{Python: echo}
					var keys []string
					if curve {
						o.Curve = &CurveServer{PublicKey: public, SecretKey: secret, AllowedClients: []CurveKey{{}, clientPublic}}
						keys = []string{public.Z85(), clientPublic.Z85(), clientSecret.Z85()}
					}
					s := serve(t, addr, o)
					if got := runPython(t, pyREQ, append([]string{s.Addr(), kind}, keys...)...); got != "ok" {
						t.Error(got)
					}
				})
			}
		}
	}
}

// pyREP echoes, on a socket of the type in argv[1], in frames of 64 KiB, and answers pings as Python's server does. It prints its address.
const pyREP = `
import sys, zmq
ctx = zmq.Context()
s = ctx.socket(getattr(zmq, sys.argv[1]))
s.linger = 0
if len(sys.argv) > 3:
    from zmq.auth.thread import ThreadAuthenticator
    a = ThreadAuthenticator(ctx)
    a.start()
    a.configure_curve_callback(domain='*', credentials_provider=type('P', (), {'callback': lambda self, d, k: k == sys.argv[5].encode()})())
    s.curve_server, s.curve_publickey, s.curve_secretkey = 1, sys.argv[3].encode(), sys.argv[4].encode()
s.setsockopt(zmq.HEARTBEAT_IVL, 20)
s.setsockopt(zmq.HEARTBEAT_TIMEOUT, 5000)
s.bind(sys.argv[2])
print(s.getsockopt(zmq.LAST_ENDPOINT).strip(b'\0').decode(), flush=True)
poll = zmq.Poller()
poll.register(s, zmq.POLLIN)
poll.register(0, zmq.POLLIN)
while True:
    ready = dict(poll.poll())
    if 0 in ready: break
    m = s.recv_multipart()
    pre = []
    if sys.argv[1] == 'ROUTER':
        pre = m[:2]
        m = m[2:]
    m = b''.join(m)
    if m == b'ping': m = b'pong'
    s.send_multipart(pre + ([m[i:i+65536] for i in range(0, len(m), 65536)] or [b'']))
if len(sys.argv) > 3: a.stop()
ctx.destroy(0)
`

func TestPythonServers(t *testing.T) {
	leakCheck(t)
	public, secret, _ := NewCurveKeys()
	clientPublic, clientSecret, _ := NewCurveKeys()
	for _, kind := range []string{"REP", "ROUTER"} {
		for _, addr := range []string{"tcp://127.0.0.1:*", "ipc"} {
			for _, curve := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/curve=%v", kind, addr[:3], curve), func(t *testing.T) {
					t.Parallel()
					addr := addr
					if addr == "ipc" {
						addr = "ipc://" + filepath.Join(t.TempDir(), "s")
					}
					args, o := []string{kind, addr}, DialOptions{}
					if curve {
						args = append(args, public.Z85(), secret.Z85(), clientPublic.Z85())
						o.Curve = &CurveClient{ServerKey: public, PublicKey: clientPublic, SecretKey: clientSecret}
					}
					p := startPython(t, pyREP, args...)
					at := p.line()
					exchanges(t, at, o)
					if !curve {
						return
					}
					o.Curve = &CurveClient{ServerKey: public, PublicKey: public, SecretKey: secret}
					o.HandshakeTimeout = 500 * time.Millisecond
					if _, err := Connect(testContext(t), at, o); !errors.Is(err, transport.ErrDenied) && !errors.Is(err, transport.ErrUnavailable) {
						t.Errorf("a key that is not allowed: %v", err)
					}
					o.Curve = &CurveClient{ServerKey: clientPublic, PublicKey: clientPublic, SecretKey: clientSecret}
					if _, err := Connect(testContext(t), at, o); !errors.Is(err, transport.ErrUnavailable) {
						t.Errorf("another server's key: %v", err)
					}
					exchanges(t, at, DialOptions{Curve: &CurveClient{ServerKey: public, PublicKey: clientPublic, SecretKey: clientSecret}})
				})
			}
		}
	}
}

// exchanges does exchanges with an echoing server that is not ours.
func exchanges(t *testing.T, addr string, o DialOptions) {
	t.Helper()
	ctx := testContext(t)
	c, err := Connect(ctx, addr, o)
	if err != nil {
		t.Fatal(err)
	}
	if c.Peer() != PeerPython {
		t.Errorf("the peer is %v", c.Peer())
	}
	if _, err := c.Client(ctx); err != ErrPythonPeer {
		t.Errorf("Client: %v", err)
	}
	e, err := c.Exchanger()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := c.Exchanger(); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("a second Exchanger: %v", err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for _, n := range []int{0, 1, 1000, 65536, 65537, 1 << 20, 5<<20 + 1} {
				want := random(n)
				got, err := e.Exchange(ctx, transport.Slices{want[:n/3], nil, want[n/3:]})
				if err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(got.Bytes(), want) {
					t.Errorf("%d bytes came back otherwise", n)
				}
				got.Release()
			}
		})
	}
	wg.Wait()
}

// pyConnector uses a real ZeroMQConnector, whose server is ours.
const pyConnector = `
import sys, os
from proxystore_ex.connectors.dim.zmq import ZeroMQConnector
from proxystore.store import Store
port = int(sys.argv[1])
with ZeroMQConnector(port, address='127.0.0.1', timeout=2) as c:
    assert c.server is None
    for n in [0, 1, 1000, 65536, 1 << 20, (3 << 20) + 1]:
        data = os.urandom(n)
        key = c.put(data)
        assert c.exists(key)
        assert c.get(key) == data
        c.evict(key)
        assert not c.exists(key)
        assert c.get(key) is None
    keys = c.put_batch([b'a', b'b' * 100000])
    assert c.get_batch(keys) == [b'a', b'b' * 100000]
print('ok')
`

func TestZeroMQConnector(t *testing.T) {
	leakCheck(t)
	var l logs
	o := ListenOptions{Python: new(rpcs).handle}
	o.Logger = l.logger()
	s := serve(t, "tcp://127.0.0.1:0", o)
	defer func() {
		if t.Failed() {
			t.Log(l.String())
		}
	}()
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(s.Addr(), "tcp://"))
	if got := runPython(t, pyConnector, port); got != "ok" {
		t.Error(got)
	}
}

// pyServer is Python's own server at argv[1]; it makes the messages that the test sends to it.
const pyServer = `
import sys, threading, os, signal
from proxystore.serialize import serialize, deserialize
from proxystore_ex.connectors.dim.models import *
from proxystore_ex.connectors.dim import zmq as z
port = int(sys.argv[1])
key = DIMKey('zmq', 'x', 3, '127.0.0.1', port)
for rpc in [RPC('put', key, data=b'x' * int(sys.argv[2])), RPC('get', key), RPC('exists', key), RPC('evict', key)]:
    print(serialize(rpc).hex())
p = z.spawn_server('127.0.0.1', port, spawn_timeout=20)
print('ready', flush=True)
for line in sys.stdin:
    r = deserialize(bytes.fromhex(line.strip()))
    print(r.operation, r.key == key, None if r.data is None else len(r.data), r.exists, r.exception, flush=True)
p.terminate()
p.join()
`

func freePort(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

func TestPythonServer(t *testing.T) {
	leakCheck(t)
	ctx := testContext(t)
	port := freePort(t)
	const size = 300_000
	p := startPython(t, pyServer, port, fmt.Sprint(size))
	p.lines.Buffer(nil, 8<<20)
	var rpcs [][]byte
	for range 4 {
		rpc, err := hex.DecodeString(p.line())
		if err != nil {
			t.Fatal(err)
		}
		rpcs = append(rpcs, rpc)
	}
	if got := p.line(); got != "ready" {
		t.Fatal(got)
	}
	e, err := DialExchanger(ctx, "tcp://127.0.0.1:"+port, DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for i, want := range []string{"put True None None None", "get True 300000 None None", "exists True None True None", "evict True None None None"} {
		reply, err := e.Exchange(ctx, transport.Slices{rpcs[i]})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(p.in, "%x\n", reply.Bytes())
		reply.Release()
		if got := p.line(); got != want {
			t.Errorf("%d: %q, want %q", i, got, want)
		}
	}
	if _, err := Dial(ctx, "tcp://127.0.0.1:"+port, DialOptions{}); !errors.Is(err, ErrPythonPeer) {
		t.Errorf("Dial: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	// It is alive after all that.
	if e, err = DialExchanger(ctx, "tcp://127.0.0.1:"+port, DialOptions{}); err != nil {
		t.Fatal(err)
	}
	e.Close()
}

// TestPythonRefused: who is not served gets no pong, and sees the connection closed.
func TestPythonRefused(t *testing.T) {
	leakCheck(t)
	var l logs
	o := ListenOptions{Python: echo}
	o.Token, o.Logger = []byte("secret"), l.logger()
	withToken := serve(t, "tcp://127.0.0.1:0", o)
	o = ListenOptions{}
	o.Logger = l.logger()
	native := serve(t, "tcp://127.0.0.1:0", o)
	const script = `
import sys, zmq
from proxystore_ex.connectors.dim import zmq as z
for url in sys.argv[1:]:
    try:
        z.wait_for_server('127.0.0.1', int(url.rsplit(':')[-1]), 0.3)
        print('served')
    except z.ServerTimeoutError:
        print('refused')
    ctx = zmq.Context()
    s = ctx.socket(zmq.REQ)
    s.linger = 0
    mon = s.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    s.connect(url)
    s.send_multipart([b'PK', b'request' * 10])
    print(bool(mon.poll(20000)))
    s.disable_monitor()
    ctx.destroy(0)
`
	if got := runPython(t, script, withToken.Addr(), native.Addr()); got != "refused\nTrue\nrefused\nTrue" {
		t.Error(got)
	}
	for _, want := range []string{"Python's connector cannot send", "serves native clients only"} {
		if !strings.Contains(l.String(), want) {
			t.Errorf("%q was not logged:\n%s", want, l.String())
		}
	}
	o = ListenOptions{Python: echo, Insecure: true}
	o.Token = []byte("secret")
	e, err := DialExchanger(testContext(t), serve(t, "tcp://127.0.0.1:0", o).Addr(), DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	reply, err := e.Exchange(context.Background(), transport.Slices{[]byte("x")})
	if err != nil || string(reply.Bytes()) != "x" {
		t.Errorf("%v, %v", reply, err)
	}
	reply.Release()
}
