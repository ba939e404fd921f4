package endpoint

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/endpoint/config"
)

// home is the endpoint that a connector talks to.
type home struct {
	id    string // its UUID
	base  string // http://host:port
	token string // for Authorization, or ""
	ours  bool   // it is proxyplane's
	max   int64  // bytes of the largest object that it takes, as its configuration says; 0 is no limit
	http  *http.Client
}

// writeBuffer is what net/http collects before it writes.
const writeBuffer = 128 << 10

// find returns the first of the endpoints that is configured below the home and answers.
func find(ctx context.Context, o *Options) (*home, error) {
	wanted := map[uuid.UUID]bool{}
	for _, id := range o.Endpoints {
		u, err := config.ParseUUID(id)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", connectors.ErrConfig, err)
		}
		wanted[u] = true
	}
	dir := o.home()
	entries, err := config.List(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: looking for endpoints in %s: %w", connectors.ErrUnavailable, dir, err)
	}
	var tried []string
	for _, e := range entries {
		u, err := config.ParseUUID(e.Config.UUID)
		if err != nil || !wanted[u] {
			continue
		}
		h, err := connect(ctx, o, e, u)
		if err == nil {
			return h, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		tried = append(tried, fmt.Sprintf("%s (%s): %v", e.Config.Name, u, err))
	}
	if tried == nil {
		return nil, fmt.Errorf("%w: no endpoint in %s has one of the UUIDs %s; `proxyplane endpoint list` shows what is there, `proxyplane endpoint configure` makes one",
			connectors.ErrUnavailable, dir, strings.Join(o.Endpoints, ", "))
	}
	return nil, fmt.Errorf("%w: no endpoint answers; start one with `proxyplane endpoint start NAME`. Tried: %s", connectors.ErrUnavailable, strings.Join(tried, "; "))
}

// connect tries the ways to one endpoint: its unix socket, where that is here, plain HTTP, TLS.
func connect(ctx context.Context, o *Options, e config.Entry, id uuid.UUID) (*home, error) {
	x := e.Config.Extra.HTTP
	h := &home{id: id.String(), max: e.Config.Storage.MaxObjectSize}
	if x.TokenFile != "" {
		raw, err := os.ReadFile(config.Path(e.Dir, x.TokenFile))
		if err != nil {
			return nil, fmt.Errorf("its token: %w", err)
		}
		h.token = strings.TrimSpace(string(raw))
	}
	var errs []error
	if x.Socket != "" {
		path := config.Path(e.Dir, x.Socket)
		if info, err := os.Stat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
			err := h.try(ctx, o, "http://endpoint", nil, func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{Timeout: o.DialTimeout}).DialContext(ctx, "unix", path)
			}, id)
			if err == nil {
				return h, nil
			}
			errs = append(errs, fmt.Errorf("%s: %w", path, err)) // another host may share the file system: go on
		}
	}
	if e.Config.Host == "" {
		return nil, errors.Join(append(errs, errors.New("it was never started"))...)
	}
	dial := (&net.Dialer{Timeout: o.DialTimeout}).DialContext
	addr := net.JoinHostPort(e.Config.Host, strconv.Itoa(e.Config.Port))
	if x.Plain || x.TLSCert == "" {
		err := h.try(ctx, o, "http://"+addr, nil, dial, id)
		if err == nil {
			return h, nil
		}
		errs = append(errs, err)
	}
	if x.TLSCert != "" {
		if x.TLSListen != "" {
			if _, port, err := net.SplitHostPort(x.TLSListen); err == nil {
				addr = net.JoinHostPort(e.Config.Host, port)
			}
		}
		pem, err := os.ReadFile(config.Path(e.Dir, x.TLSCert))
		if err != nil {
			return nil, errors.Join(append(errs, err)...)
		}
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		roots.AppendCertsFromPEM(pem) // its own certificate, which may be signed by nobody else
		if err = h.try(ctx, o, "https://"+addr, &tls.Config{RootCAs: roots}, dial, id); err == nil {
			return h, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// try asks who is at base, and keeps the client if it is the right one.
func (h *home) try(ctx context.Context, o *Options, base string, conf *tls.Config, dial func(context.Context, string, string) (net.Conn, error), id uuid.UUID) error {
	t := &http.Transport{
		DialContext: dial, TLSClientConfig: conf, DisableCompression: true, MaxIdleConnsPerHost: o.Connections, MaxIdleConns: o.Connections,
		WriteBufferSize: writeBuffer, ReadBufferSize: 32 << 10, TLSHandshakeTimeout: o.DialTimeout,
	} // no Proxy: as Python's client, which ignores them all
	h.base, h.http = base, &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	err := func() error {
		ctx, cancel := context.WithTimeout(ctx, o.DialTimeout)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/endpoint", nil)
		if err != nil {
			return err
		}
		resp, err := h.do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(io.LimitReader(resp.Body, maxText))
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s: %.200s", base, resp.Status, raw)
		}
		var who struct {
			UUID       string `json:"uuid"`
			Proxyplane int    `json:"proxyplane"`
		}
		if err := json.Unmarshal(raw, &who); err != nil {
			return fmt.Errorf("%s is no endpoint: %w", base, err)
		}
		if u, err := config.ParseUUID(who.UUID); err != nil || u != id {
			return fmt.Errorf("%s is endpoint %.60q", base, who.UUID)
		}
		h.ours = who.Proxyplane > 0
		return nil
	}()
	if err != nil {
		t.CloseIdleConnections()
	}
	return err
}

// do sends a request.
func (h *home) do(req *http.Request) (*http.Response, error) {
	if h.token != "" {
		req.Header.Set("Authorization", "Bearer "+h.token)
	}
	return h.http.Do(req)
}
