package path

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/internal/invariants"
	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/tcp"
)

var kinds = []struct {
	kind string // "fake" are WebRTC's without what is below
	pair func(t testing.TB) (dialed, accepted Path)
	big  int // bytes of the large object
}{
	{KindTLS, func(t testing.TB) (dialed, accepted Path) {
		l := listen(t, nil)
		return tlsPair(t, l, l.Addr().String(), nil)
	}, 64 << 20},
	{KindQUIC, func(t testing.TB) (dialed, accepted Path) { return quicPair(t) }, 16 << 20},
	{"quic, 4 connections", func(t testing.TB) (dialed, accepted Path) {
		dialed, accepted, _ = groupPair(t, 4)
		return dialed, accepted
	}, 16 << 20},
	{KindWebRTC, channelPair, 2 << 20},
	{"fake", func(t testing.TB) (dialed, accepted Path) {
		dialed, accepted, _, _ = fakePair(t)
		return dialed, accepted
	}, 4 << 20},
}

// TestPaths is what every kind of Path must do.
func TestPaths(t *testing.T) {
	for _, k := range kinds {
		t.Run("kind="+k.kind, func(t *testing.T) {
			for name, test := range map[string]func(t *testing.T, a, b Path){
				"info": testInfo, "streams": testStreams, "contexts": testContexts, "close": testClose,
				"native": func(t *testing.T, a, b Path) {
					if invariants.Enabled { // the race detector makes it ten times as slow
						k.big /= 8
					}
					if i := a.Info(); !strings.HasPrefix(k.kind, i.Kind) && k.kind != "fake" {
						t.Errorf("kind %q", i.Kind)
					}
					testNative(t, a, b, k.big)
				},
			} {
				t.Run(name, func(t *testing.T) {
					checkLeaks(t)
					a, b := k.pair(t)
					test(t, a, b)
				})
			}
		})
	}
}

func testInfo(t *testing.T, a, b Path) {
	pair(t, a, b) // some kinds measure only what is said
	pair(t, b, a)
	for _, p := range []Path{a, b} {
		for p.Info().RTT <= 0 {
			time.Sleep(time.Millisecond) // the first ping is on its way
		}
		if i := p.Info(); i.Since.IsZero() || time.Since(i.Since) > time.Minute || i.Kind == "" {
			t.Errorf("%+v", i)
		}
		if p.Err() != nil {
			t.Error(p.Err())
		}
	}
	if ia, ib := a.Info(), b.Info(); ia.Kind != KindWebRTC && (ia.Local != ib.Remote || ia.Remote != ib.Local) {
		t.Errorf("%+v and %+v", ia, ib)
	}
}

// pair opens a stream at from, and says a byte.
func pair(t testing.TB, from, to Path) (client, server net.Conn) {
	t.Helper()
	ctx := background(t)
	client, err := from.Open(ctx)
	must(t, err)
	t.Cleanup(func() { client.Close() })
	wrote := make(chan error, 1)
	go func() {
		_, err := client.Write([]byte{42})
		wrote <- err
	}()
	server, err = to.Accept(ctx)
	must(t, err)
	t.Cleanup(func() { server.Close() })
	var b [1]byte
	_, err = io.ReadFull(server, b[:])
	must(t, err)
	must(t, <-wrote)
	if b[0] != 42 {
		t.Errorf("the first byte is %d", b[0])
	}
	return client, server
}

// testStreams has several streams in both directions, one after the other and at once.
func testStreams(t *testing.T, a, b Path) {
	for range 3 { // more than there are spares
		var wg sync.WaitGroup
		for _, d := range [][2]Path{{a, b}, {b, a}} {
			c, s := pair(t, d[0], d[1])
			data := payload(1, 300_000)
			wg.Go(func() {
				if _, err := c.Write(data); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if _, err := s.Write(data); err != nil {
					t.Error(err)
				}
			})
			for _, r := range []net.Conn{s, c} {
				wg.Go(func() {
					got := make([]byte, len(data))
					if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, data) {
						t.Errorf("other bytes, or %v", err)
					}
				})
			}
		}
		wg.Wait()
	}
	// A deadline ends a read and loses nothing, and the end of a stream is one.
	c, s := pair(t, a, b)
	s.SetReadDeadline(time.Unix(1, 0))
	_, err := s.Read(make([]byte, 1))
	wantErr(t, err, os.ErrDeadlineExceeded)
	s.SetReadDeadline(time.Time{})
	go c.Write([]byte("x"))
	var one [1]byte
	_, err = io.ReadFull(s, one[:])
	must(t, err)
	must(t, c.Close())
	if _, err := s.Read(one[:]); !errors.Is(err, io.EOF) {
		t.Errorf("at the end of a stream: %v", err)
	}
}

func testContexts(t *testing.T, a, b Path) {
	for _, p := range []Path{a, b} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := p.Accept(ctx)
		wantErr(t, err, context.DeadlineExceeded)
		cancel()
	}
	pair(t, a, b)
}

func testClose(t *testing.T, a, b Path) {
	c, s := pair(t, a, b)
	c2, s2 := pair(t, b, a)
	errs := make(chan error, 8)
	n := 0
	for _, r := range []net.Conn{c, s, c2, s2} {
		n++
		go func() {
			_, err := r.Read(make([]byte, 1))
			errs <- err
		}()
	}
	for _, p := range []Path{a, b} {
		n++
		go func() {
			_, err := p.Accept(context.Background())
			errs <- err
		}()
	}
	must(t, b.Close())
	must(t, b.Close())
	for range n {
		if err := <-errs; err == nil {
			t.Error("no error")
		}
	}
	<-a.Done()
	<-b.Done()
	wantErr(t, a.Err(), transport.ErrUnavailable)
	wantErr(t, b.Err(), transport.ErrClosed)
	_, err := a.Open(t.Context())
	wantErr(t, err, transport.ErrUnavailable)
	_, err = b.Open(t.Context())
	wantErr(t, err, transport.ErrClosed)
	_, err = b.Accept(t.Context())
	wantErr(t, err, transport.ErrClosed)
}

// testNative serves a Table to both sides at once, each the other's.
func testNative(t *testing.T, a, b Path, big int) {
	ctx := background(t)
	var wg sync.WaitGroup
	for i, d := range [][2]Path{{a, b}, {b, a}} {
		tab, err := objects.NewTable(objects.TableOptions{Memory: 1 << 30})
		must(t, err)
		srv := native.NewServer(tab, native.ServerOptions{})
		serving, stop := context.WithCancel(ctx)
		var served sync.WaitGroup
		served.Go(func() {
			for {
				nc, err := d[1].Accept(serving)
				if err != nil {
					return
				}
				served.Go(func() { srv.ServeCarrier(serving, tcp.NewCarrier(nc, tcp.CarrierOptions{Trusted: true})) })
			}
		})
		t.Cleanup(func() {
			stop()
			srv.Close()
			served.Wait()
			must(t, tab.Close())
		})
		wg.Go(func() {
			if err := exercise(ctx, d[0], big, byte(i)); err != nil {
				t.Errorf("direction %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

func exercise(ctx context.Context, p Path, big int, seed byte) error {
	open := func() (*native.Client, error) {
		nc, err := p.Open(ctx)
		if err != nil {
			return nil, err
		}
		return native.NewClient(ctx, tcp.NewCarrier(nc, tcp.CarrierOptions{Trusted: true}), native.ClientOptions{})
	}
	c, err := open()
	if err != nil {
		return err
	}
	defer c.Close()
	for _, n := range []int{0, 1, 1000, 1 << 20, big} {
		data := payload(seed, n)
		if err := c.Put(ctx, "k", transport.Slices{data}, objects.PutOptions{}); err != nil {
			return err
		}
		got, err := c.GetBytes(ctx, "k", -1)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, data) {
			return errors.New("other bytes came back")
		}
	}
	if _, err := c.GetBytes(ctx, "missing", -1); !errors.Is(err, transport.ErrNotFound) {
		return err
	}
	// Ranges over several streams, some given up.
	data := payload(seed, big)
	errs := make(chan error, 4)
	for i := range 4 {
		go func() {
			errs <- func() error {
				c, err := open()
				if err != nil {
					return err
				}
				defer c.Close()
				n := big / 4
				cctx, cancel := context.WithTimeout(ctx, time.Millisecond)
				defer cancel()
				if b, err := c.Get(cctx, "k", 0, -1, -1); err == nil {
					b.Release()
				} else if !errors.Is(err, context.DeadlineExceeded) {
					return err
				}
				got, err := c.Get(ctx, "k", int64(i*n), int64(n), -1)
				if err != nil {
					if errors.Is(err, transport.ErrUnavailable) { // the call given up took the connection with it, which it may
						return nil
					}
					return err
				}
				defer got.Release()
				if !bytes.Equal(got.Bytes(), data[i*n:(i+1)*n]) {
					return errors.New("a range has other bytes")
				}
				return nil
			}()
		}()
	}
	for range 4 {
		err = errors.Join(err, <-errs)
	}
	return err
}

func TestChannelLimits(t *testing.T) {
	checkLeaks(t)
	a, b, ca, _ := fakePair(t)
	ctx := background(t)
	// Channels of others are none of ours.
	foreign, err := ca.Open(ctx, "p2p-0-1", true)
	must(t, err)
	first, _ := pair(t, a, b)
	if _, err := foreign.nc.Read(make([]byte, 1)); err == nil {
		t.Error("a foreign channel is open")
	}
	// This side opens no more than it may, and hangs up on a peer that does.
	for range DefaultStreams - 1 {
		pair(t, a, b)
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	_, err = a.Open(short)
	wantErr(t, err, context.DeadlineExceeded)
	foreign, err = ca.Open(ctx, "proxyplane-x", true)
	must(t, err)
	short, cancel = context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	_, err = b.Accept(short)
	wantErr(t, err, context.DeadlineExceeded)
	if _, err := foreign.nc.Read(make([]byte, 1)); err == nil {
		t.Error("one channel too many is open")
	}
	first.Close()
	first.Close()
	a.(*channelPath[*fakeChannel]).opened <- struct{}{} // it has room again
	if i := a.Info(); !i.Relayed || i.Remote != "192.0.2.1:1" {
		t.Errorf("%+v", i)
	}
}
