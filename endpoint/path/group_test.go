package path

import (
	"net"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/transport"
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
