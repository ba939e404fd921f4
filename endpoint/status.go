package endpoint

import (
	"net/http"
	"os"
	"time"

	"github.com/proxyplane/proxyplane/transport/objects"
)

// Status is what /status answers.
type Status struct {
	Name      string        `json:"name"`
	UUID      string        `json:"uuid"`
	PID       int           `json:"pid"`
	Started   time.Time     `json:"started"`
	Ending    bool          `json:"ending"` // it takes no new connections and waits for the last answers
	Mode      string        `json:"mode"`   // ProxyStore's EndpointMode: "SOLO" or "PEERING"
	Listening []string      `json:"listening,omitempty"`
	Storage   StorageStatus `json:"storage"`
	Relay     *RelayStatus  `json:"relay,omitempty"` // nil without one

	PeersConnected int `json:"peers_connected"`
	Peers          any `json:"peers,omitempty"` // a peer.Status
}

// StorageStatus is what is stored here.
type StorageStatus struct {
	Kind      string `json:"kind"` // "memory" or "database"
	Path      string `json:"path,omitempty"`
	Objects   int64  `json:"objects"`
	Bytes     int64  `json:"bytes"`
	Files     int64  `json:"files,omitempty"`      // objects that are files beside the database
	FileBytes int64  `json:"file_bytes,omitempty"` // theirs
	Arriving  int64  `json:"arriving"`             // bytes that are announced or came of objects that are not whole yet
	Quota     int64  `json:"quota,omitempty"`      // bytes; 0: no limit
	MaxObject int64  `json:"max_object_size,omitempty"`
}

// RelayStatus is how the endpoint stands with its relay.
type RelayStatus struct {
	Address   string    `json:"address"`
	Connected bool      `json:"connected"`
	GaveUp    bool      `json:"gave_up,omitempty"` // it was refused for good: see Error, and start the endpoint again
	Since     time.Time `json:"since"`
	Error     string    `json:"error,omitempty"`
}

// Status returns how the endpoint is now.
func (e *Endpoint) Status() Status {
	var s Status
	if e.o.Status != nil {
		s = e.o.Status()
	} else if t, ok := e.o.Store.(*objects.Table); ok {
		s.Storage = tableStatus(t)
	}
	s.Name, s.UUID, s.PID, s.Started, s.Ending = e.o.Name, e.o.UUID.String(), os.Getpid(), e.started, e.ending.Load()
	s.Mode = "SOLO"
	if e.o.Peers != nil {
		s.Mode = "PEERING"
	}
	s.Storage.MaxObject = e.o.MaxObject
	return s
}

func tableStatus(t *objects.Table) StorageStatus {
	st := t.Stats()
	return StorageStatus{Kind: "memory", Objects: st.Objects, Bytes: st.Bytes + st.SpilledSize, Arriving: st.Reserved, Quota: st.Limit}
}

func (x *exchange) status() { x.jsonValue(http.StatusOK, x.e.Status()) }

func (x *exchange) health() {
	if x.e.ending.Load() {
		x.json(http.StatusServiceUnavailable, `{"status": "ending"}`)
		return
	}
	x.json(http.StatusOK, `{"status": "ok"}`)
}
