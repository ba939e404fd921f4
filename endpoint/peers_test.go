package endpoint

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/endpoint/config"
	"github.com/proxyplane/proxyplane/endpoint/peer"
	"github.com/proxyplane/proxyplane/endpoint/relay"
)

// TestTwoEndpoints: all of the API from one endpoint to another through a relay, both as Run makes them.
func TestTwoEndpoints(t *testing.T) {
	noLeaks(t)
	rs, err := relay.NewServer(relay.ServerOptions{Authenticator: relay.Anonymous()})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- rs.Serve(l) }()
	defer func() { rs.Close(); <-served }()

	var sites [2]*site
	var daemons [2]*daemon
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	for i := range sites {
		home, _ := configure(t, func(c *config.Config) {
			c.Relay.Address = "ws://" + l.Addr().String()
			c.Relay.ICEServers = []config.ICEServer{}
			c.Extra.Peer.Listen, c.Extra.Peer.Loopback = "127.0.0.1:0", true
			if i == 1 {
				c.Storage.DatabasePath = config.DatabaseFile
			}
		})
		d, err := start(t, home, RunOptions{Peering: func(_ *relay.ClientOptions, o *peer.Options) {
			if i == 0 {
				o.Timeout = 5 * time.Second // how long it looks for the peer that is not there
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		daemons[i], sites[i] = d, &site{nil, d.addrs[0], &http.Client{Transport: tr}}
	}
	for deadline := time.Now().Add(20 * time.Second); rs.Stats().Clients < 2; time.Sleep(5 * time.Millisecond) { // they register in the background
		if time.Now().After(deadline) {
			t.Fatal("the endpoints do not register with the relay")
		}
	}
	a, b := sites[0], sites[1]
	at := "&endpoint=" + daemons[1].cfg.UUID
	a.want(t, 200, `{"exists": false}`, "GET", "/exists?key=k"+at, nil)
	a.want(t, 404, noData, "GET", "/get?key=k"+at, nil)
	for _, size := range []int{1, 1000, 1 << 20, 9<<20 + 5} {
		data := random(size)
		a.want(t, 200, "", "POST", "/set?key=k"+at, chunked(data))
		b.want(t, 200, string(data), "GET", "/get?key=k", nil)
		whole := a.want(t, 200, string(data), "GET", "/get?key=k"+at, nil)
		a.want(t, 304, "", "GET", "/get?key=k"+at, nil, "If-None-Match", whole.header.Get("ETag"))
		a.want(t, 206, string(data[size/2:]), "GET", "/get?key=k"+at, nil, "Range", fmt.Sprintf("bytes=%d-", size/2))
		a.want(t, 206, string(data[size-1:]), "GET", "/get?key=k"+at, nil, "Range", "bytes=-1")
		a.want(t, 416, "?", "GET", "/get?key=k"+at, nil, "Range", fmt.Sprintf("bytes=%d-", size))
		if h := a.want(t, 200, "", "HEAD", "/get?key=k"+at, nil); h.header.Get("Content-Length") != fmt.Sprint(size) || h.header.Get("ETag") != whole.header.Get("ETag") {
			t.Error(h.header, whole.header)
		}
		a.want(t, 200, "", "POST", "/evict?key=k"+at, nil)
		b.want(t, 404, noData, "GET", "/get?key=k", nil)
	}
	got := make(chan answer)
	go func() { got <- a.do(t, "GET", "/exists?key=later&wait=60"+at, nil) }()
	b.want(t, 200, "", "POST", "/set?key=later", strings.NewReader("x"))
	if w := <-got; string(w.body) != `{"exists": true}` {
		t.Error(string(w.body))
	}
	// The other direction, over the same connection.
	back := "&endpoint=" + daemons[0].cfg.UUID
	b.want(t, 200, "", "POST", "/set?key=back"+back, strings.NewReader("back"))
	a.want(t, 200, "back", "GET", "/get?key=back", nil)

	var keys []string
	var values [][]byte
	for i := range 30 {
		keys, values = append(keys, fmt.Sprint("b", i)), append(values, random(1+i*5000))
	}
	id := daemons[1].cfg.UUID
	a.want(t, 200, `{"stored": 30}`, "POST", "/batch/set", bytes.NewReader(frames(append([][]byte{header(t, id, keys...)}, values...)...)))
	batch := a.want(t, 200, "?", "POST", "/batch/get", bytes.NewReader(header(t, id, append([]string{"none"}, keys...)...)))
	if want := append(binary.BigEndian.AppendUint64(nil, math.MaxUint64), frames(values...)...); !bytes.Equal(batch.body, want) {
		t.Errorf("%d bytes, want %d", len(batch.body), len(want))
	}
	var st Status
	s := a.want(t, 200, "?", "GET", "/status", nil)
	if err := json.Unmarshal(s.body, &st); err != nil || st.PeersConnected != 1 || st.Relay == nil || !st.Relay.Connected || !strings.Contains(string(s.body), id) {
		t.Errorf("%v %s", err, s.body)
	}
	if text := string(a.want(t, 200, "?", "GET", "/metrics", nil).body); !strings.Contains(text, "proxyplane_endpoint_peers 1\n") || !strings.Contains(text, "_relay_connected 1\n") {
		t.Error(text)
	}
	// One that is not there says so, with the reason.
	if gone := a.want(t, 500, "?", "GET", "/get?key=k&endpoint="+goneID.String(), nil); !strings.HasPrefix(string(gone.body), "Request to peer "+goneID.String()+" failed: ") {
		t.Errorf("%s", gone.body)
	} else {
		t.Logf("%s", gone.body)
	}
	for _, d := range daemons {
		if err := d.stop(); err != nil {
			t.Error(err)
		}
	}
}
