package relay

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/transport"
)

// What ProxyStore is at Globus (proxystore/globus/app.py and scopes.py).
const (
	GlobusResourceServer = "ebd5bbed-95e2-47cf-9c80-39e2064274bd" // the relays' audience
	GlobusRelayScope     = "https://auth.globus.org/scopes/" + GlobusResourceServer + "/relay_all"
	GlobusNativeClient   = "a3379dba-a492-459a-a8df-5e7676a0472f" // the application that users log in to
	GlobusService        = "https://auth.globus.org"

	clientIDVariable     = "PROXYSTORE_GLOBUS_CLIENT_ID"
	clientSecretVariable = "PROXYSTORE_GLOBUS_CLIENT_SECRET"
	serviceVariable      = "GLOBUS_SDK_SERVICE_URL_AUTH" // of Globus's own SDK
)

// GlobusOptions configure [NewGlobus]. The zero value takes everything from the environment, as Python's GlobusAuthenticator does.
type GlobusOptions struct {
	ClientID, ClientSecret string        // of the relay's confidential application; default: $PROXYSTORE_GLOBUS_CLIENT_ID and _SECRET
	Audience               string        // that tokens must be for; default GlobusResourceServer
	ServiceURL             string        // default $GLOBUS_SDK_SERVICE_URL_AUTH, then GlobusService
	HTTP                   *http.Client  // default: one of its own
	Timeout                time.Duration // of one introspection; default 10 s
}

// maxRemembered is how long a token that was good is taken to be so still.
const maxRemembered = time.Minute

// maxCached bounds how many tokens are remembered.
const maxCached = 16 << 10

// Globus authenticates clients by access tokens of Globus Auth, which it asks about each of them (token introspection). Answers are remembered until the token
// expires, at most a minute. See proxystore/p2p/relay/authenticate.py, GlobusAuthenticator.
type Globus struct {
	o     GlobusOptions
	url   string
	slots chan struct{} // bounds questions under way

	mu      sync.Mutex
	known   map[[sha256.Size]byte]knownToken
	pending map[[sha256.Size]byte]chan struct{} // closed when the question has been answered
}

type knownToken struct {
	user  User
	until time.Time
}

// NewGlobus fails if there is no client ID or secret, or the service's URL is none.
func NewGlobus(o GlobusOptions) (*Globus, error) {
	if o.ClientID == "" || o.ClientSecret == "" {
		id, secret, err := clientCredentials()
		if err != nil {
			return nil, err
		}
		o.ClientID, o.ClientSecret = id, secret
	}
	o.Audience = cmp.Or(o.Audience, GlobusResourceServer)
	o.Timeout = cmp.Or(o.Timeout, 10*time.Second)
	if o.HTTP == nil {
		o.HTTP = newHTTPClient()
	}
	service, err := serviceURL(o.ServiceURL)
	if err != nil {
		return nil, err
	}
	return &Globus{
		o: o, url: service + "/v2/oauth2/token/introspect", slots: make(chan struct{}, 32),
		known: map[[sha256.Size]byte]knownToken{}, pending: map[[sha256.Size]byte]chan struct{}{},
	}, nil
}

// clientCredentials is get_client_credentials_from_env of proxystore/globus/app.py.
func clientCredentials() (id, secret string, err error) {
	id, secret = os.Getenv(clientIDVariable), os.Getenv(clientSecretVariable)
	if id == "" || secret == "" {
		return "", "", fmt.Errorf("relay: both %s and %s must be set to use a client identity", clientIDVariable, clientSecretVariable)
	}
	return id, secret, nil
}

// serviceURL returns the base of Globus Auth's API without a slash at its end.
func serviceURL(configured string) (string, error) {
	s := cmp.Or(configured, os.Getenv(serviceVariable), GlobusService)
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return "", fmt.Errorf("relay: %q is no URL of a Globus Auth service; it should be like %s", s, GlobusService)
	}
	if u.Scheme == "http" && !isLoopback(u.Hostname()) {
		return "", fmt.Errorf("relay: the Globus Auth service %s would get secrets unencrypted: %w; use https://", s, transport.ErrDenied)
	}
	return strings.TrimRight(s, "/"), nil
}

// newHTTPClient returns a client that keeps no connections, so that nothing has to be closed: tokens are asked for rarely.
func newHTTPClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, TLSHandshakeTimeout: 10 * time.Second, MaxResponseHeaderBytes: 64 << 10},
		// A redirect would send secrets to who knows where.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// post sends a form and returns the JSON object of the answer and the status.
func post(ctx context.Context, client *http.Client, to string, form url.Values, id, secret string, into any) (int, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	if secret != "" {
		r.SetBasicAuth(id, secret)
	}
	response, err := client.Do(r)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	defer response.Body.Close()
	const limit = 1 << 20
	data, err := io.ReadAll(io.LimitReader(response.Body, limit))
	if err != nil {
		return 0, fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	if response.StatusCode != http.StatusOK {
		err = transport.ErrUnavailable
		if response.StatusCode >= 400 && response.StatusCode < 500 && response.StatusCode != http.StatusTooManyRequests {
			err = transport.ErrDenied
		}
		return response.StatusCode, fmt.Errorf("%w: %s answers %s: %.200q", err, to, response.Status, data)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return response.StatusCode, fmt.Errorf("%s answers with something that is not what it should be: %w: %w", to, transport.ErrUnavailable, err)
	}
	return response.StatusCode, nil
}

// Authenticate finds the identity that the token in the Authorization header was issued to. User.ID is its Globus ID (`sub`).
func (g *Globus) Authenticate(ctx context.Context, h http.Header) (User, error) {
	token, err := bearer(h)
	if err != nil {
		return User{}, err
	}
	hash := sha256.Sum256([]byte(token))
	for {
		g.mu.Lock()
		if known, ok := g.known[hash]; ok && time.Now().Before(known.until) {
			g.mu.Unlock()
			return known.user, nil
		}
		answered, asked := g.pending[hash]
		if !asked {
			answered = make(chan struct{})
			g.pending[hash] = answered
			g.mu.Unlock()
			return g.ask(ctx, token, hash, answered)
		}
		g.mu.Unlock()
		select {
		case <-answered: // when it was no, everybody asks again for himself: that is rare
		case <-ctx.Done():
			return User{}, ctx.Err()
		}
	}
}

func (g *Globus) ask(ctx context.Context, token string, hash [sha256.Size]byte, answered chan struct{}) (user User, err error) {
	var until time.Time
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.pending, hash)
		delete(g.known, hash)
		if err == nil {
			g.remember(hash, knownToken{user, until})
		}
		close(answered)
	}()
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
	case <-ctx.Done():
		return User{}, ctx.Err()
	}
	user, until, err = g.introspect(ctx, token)
	return user, err
}

// remember keeps the answer, with g.mu held.
func (g *Globus) remember(hash [sha256.Size]byte, token knownToken) {
	now := time.Now()
	if len(g.known) >= maxCached {
		for k, v := range g.known {
			if !now.Before(v.until) {
				delete(g.known, k)
			}
		}
		if len(g.known) >= maxCached {
			clear(g.known)
		}
	}
	g.known[hash] = token
}

// introspect asks the service. See https://docs.globus.org/api/auth/reference/#token-introspect.
func (g *Globus) introspect(ctx context.Context, token string) (User, time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, g.o.Timeout)
	defer cancel()
	var meta struct {
		Active   bool     `json:"active"`
		Audience audience `json:"aud"`
		Subject  string   `json:"sub"`
		Username string   `json:"username"`
		Expires  float64  `json:"exp"` // Unix seconds
	}
	now := time.Now()
	if _, err := post(ctx, g.o.HTTP, g.url, url.Values{"token": {token}}, g.o.ClientID, g.o.ClientSecret, &meta); err != nil {
		// A refusal is about us, the relay, and not about the client whose token it is: it must not be told that it is forbidden.
		return User{}, now, fmt.Errorf("relay: token introspection: %s; check client_id and client_secret of the relay if this stays", err)
	}
	if !meta.Active {
		return User{}, now, &ForbiddenError{"Token is expired or has been revoked."}
	}
	if !slices.Contains(meta.Audience, g.o.Audience) {
		return User{}, now, &ForbiddenError{fmt.Sprintf("Token audience does not include \"%s\". This could result in a confused deputy attack. "+
			"Ensure the correct scopes are requested when the token is created.", g.o.Audience)}
	}
	sub, err := uuid.Parse(meta.Subject)
	if err != nil {
		return User{}, now, errors.New("relay: token introspection: the answer has no identity (sub)")
	}
	until := now.Add(maxRemembered)
	if meta.Expires > 0 && meta.Expires < float64(until.Unix()) {
		until = time.Unix(int64(meta.Expires), 0)
	}
	return User{ID: sub.String(), Name: meta.Username}, until, nil
}

// audience is a list of strings, or one (RFC 7662 allows both).
type audience []string

// UnmarshalJSON reads either form.
func (a *audience) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audience{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(data, &many); err != nil {
		return err
	}
	*a = many
	return nil
}
