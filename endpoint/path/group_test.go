package path

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
	"github.com/proxyplane/proxyplane/transport/quic"
)

// TestGroup ends the connections of a Path one by one: each takes its streams with it, every fourth one.
func TestGroup(t *testing.T) {
	for _, local := range []bool{true, false} {
		t.Run(map[bool]string{true: "here", false: "there"}[local], func(t *testing.T) {
			checkLeaks(t)
			const conns = 4
			a, b, dialed := groupPair(t, conns)
			from, to := Path(a), Path(b)
			if !local {
				from, to = to, from
			}
			var streams [2 * conns][2]net.Conn
			for i := range streams {
				streams[i][0], streams[i][1] = pair(t, from, to)
			}
			for dead, c := range dialed {
				if p := from; p.Err() != nil || over(dialed[dead]) {
					t.Fatalf("ended with %d of %d connections: %v", dead, conns, p.Err())
				}
				c.Close()
				for i, s := range streams {
					for end := range s {
						switch {
						case i%conns == dead: // ended just now
							if _, err := s[end].Read(make([]byte, 1)); err == nil {
								t.Errorf("stream %d lives on", i)
							}
						case i%conns > dead:
							if err := says(s[end], s[1-end]); err != nil {
								t.Errorf("stream %d, with %d connections ended: %v", i, dead+1, err)
							}
						}
					}
				}
				if dead < conns-1 {
					for range conns {
						pair(t, from, to) // on one that is left
					}
					if i := from.Info(); i.Kind != KindQUIC || i.RTT <= 0 {
						t.Errorf("%+v", i)
					}
				}
			}
			for _, p := range []Path{a, b} {
				<-p.Done()
				if p.Err() == nil {
					t.Error("no reason")
				}
				if _, err := p.Open(t.Context()); err == nil {
					t.Error("opened a stream")
				}
				if _, err := p.Accept(t.Context()); err == nil {
					t.Error("accepted a stream")
				}
				if i := p.Info(); i.Remote == "" {
					t.Errorf("%+v", i)
				}
			}
			wantErr(t, b.Err(), transport.ErrUnavailable)
			more, _ := quicConns(t, 1)
			if a.Add(more[0]) || over(more[0]) {
				t.Error("a Path that has ended took a connection, or closed it")
			}
		})
	}
}

// says moves a byte.
func says(from, to net.Conn) error {
	to.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := from.Write([]byte{1}); err != nil {
		return err
	}
	_, err := to.Read(make([]byte, 1))
	return err
}

// TestGroupGrows adds connections while streams are opened, and closes the Path under them.
func TestGroupGrows(t *testing.T) {
	checkLeaks(t)
	d, a := quicConns(t, 4)
	p, q := QUIC(d[0], Details{}), QUIC(a[0], Details{})
	defer p.Close()
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		for i := range 40 {
			if i == 10 {
				for _, c := range d[1:] {
					p.Add(c)
				}
			}
			c, err := p.Open(t.Context())
			if err != nil {
				return
			}
			c.Write([]byte{1})
		}
	}()
	for i := range 20 {
		if i == 5 {
			for _, c := range a[1:] {
				q.Add(c)
			}
		}
		_, err := q.Accept(background(t))
		must(t, err)
	}
	must(t, q.Close())
	<-opened
	<-p.Done()
}

// TestGroupWiden adds connections by Widen, as far as it can, and looks where streams are opened then.
func TestGroupWiden(t *testing.T) {
	checkLeaks(t)
	a, b := quicSocketPair(t)
	da, _ := quicConn(t, a, b, b.Addr())
	accepted := make(chan *quic.Conn, 4)
	go func() {
		for range cap(accepted) {
			c, err := b.Accept(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			accepted <- c
		}
	}()
	dialed := 0
	refuse := errors.New("refused")
	p := QUIC(da, Details{More: func(ctx context.Context, to net.Addr) (*quic.Conn, error) {
		if dialed++; dialed > 4 { // no two calls at a time, as one more is asked for each time
			return nil, refuse
		}
		if to.String() != b.Addr().String() {
			t.Errorf("dials %v", to)
		}
		return a.DialMore(ctx, to)
	}})
	defer p.Close()
	for n := range 6 {
		err := p.Widen(t.Context(), n)
		if want := n > 5; want != (err != nil) || p.Info().Conns != max(n, 1) {
			t.Fatalf("%d connections wanted: %v; %+v", n, err, p.Info())
		}
	}
	wantErr(t, p.Widen(t.Context(), 6), refuse)
	if n := p.Info().Conns; n != 5 {
		t.Fatalf("%d connections", n)
	}
	for range cap(accepted) {
		if c := <-accepted; !c.More() {
			t.Error("does not say that it belongs to others")
		}
	}
	if da.More() {
		t.Error("the first one says that it belongs to others")
	}
	// Two streams on each, then the emptiest ones.
	var streams []net.Conn
	for range 10 {
		s, err := p.Open(t.Context())
		must(t, err)
		streams = append(streams, s)
	}
	for _, c := range p.conns {
		if c.Opened() != 2 {
			t.Errorf("%d streams on one", c.Opened())
		}
	}
	streams[3].Close()
	streams[3].Close()
	streams[8].Close() // on the same one
	for range 2 {
		s, err := p.Open(t.Context())
		must(t, err)
		defer s.Close()
	}
	for _, c := range p.conns {
		if c.Opened() != 2 {
			t.Errorf("%d streams on one, after some were closed", c.Opened())
		}
	}
	p.Close()
	wantErr(t, p.Widen(t.Context(), 16), transport.ErrClosed)

	one, _, _ := groupPair(t, 1)
	wantErr(t, one.Widen(t.Context(), 2), errors.ErrUnsupported)
}
