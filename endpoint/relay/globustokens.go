package relay

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the driver

	"github.com/proxyplane/proxyplane/transport"
)

// GlobusTokensFile is the name of ProxyStore's file of Globus tokens in its home directory.
const GlobusTokensFile = "storage.db"

// expiryMargin is how long before its expiry a token is renewed: EXPIRES_ADJUST_SECONDS of globus_sdk.
const expiryMargin = time.Minute

// GlobusTokensOptions configure [NewGlobusTokens]. Database is needed unless there is a client identity.
type GlobusTokensOptions struct {
	Database               string       // file of globus_sdk's SQLiteTokenStorage: GlobusTokensFile in ProxyStore's home directory
	ClientID, ClientSecret string       // a client identity; default: $PROXYSTORE_GLOBUS_CLIENT_ID and _SECRET, if both are set
	ServiceURL             string       // default: $GLOBUS_SDK_SERVICE_URL_AUTH, then GlobusService
	HTTP                   *http.Client // default: one of its own
}

// GlobusTokens shows the relay access tokens of Globus Auth. With a client identity it gets them for that (client credentials grant). Otherwise it takes those that
// `proxystore-globus-auth login` has stored, refreshes them when they expire, and stores what it gets, as Python's endpoint does.
//
// The database is globus_sdk's: table token_storage with namespace (DEFAULT), resource_server and token_data_json, see globus_sdk/token_storage/sqlite.py.
type GlobusTokens struct {
	o   GlobusTokensOptions
	url string

	mu     sync.Mutex // one at a time, as a refresh token should not be used twice at once
	client storedToken
}

// storedToken is globus_sdk's TokenStorageData, in the order of its fields. None is absent.
type storedToken struct {
	ResourceServer string `json:"resource_server"`
	IdentityID     string `json:"identity_id,omitempty"`
	Scope          string `json:"scope"`
	AccessToken    string `json:"access_token"`
	RefreshToken   string `json:"refresh_token,omitempty"`
	Expires        int64  `json:"expires_at_seconds"`
	TokenType      string `json:"token_type,omitempty"`
}

func (t storedToken) valid(margin time.Duration) bool {
	return t.AccessToken != "" && time.Now().Add(margin).Before(time.Unix(t.Expires, 0))
}

// NewGlobusTokens fails if the service's URL is none or nothing says whose tokens to take. It does not look for them yet.
func NewGlobusTokens(o GlobusTokensOptions) (*GlobusTokens, error) {
	if o.ClientID == "" && o.ClientSecret == "" {
		if id, secret, err := clientCredentials(); err == nil {
			o.ClientID, o.ClientSecret = id, secret
		}
	}
	if (o.ClientID == "") != (o.ClientSecret == "") {
		return nil, errors.New("relay: a Globus client identity needs both a client ID and a secret")
	}
	if o.Database == "" && o.ClientID == "" {
		return nil, errors.New("relay: Globus tokens need the database that proxystore-globus-auth login makes, or a client identity")
	}
	service, err := serviceURL(o.ServiceURL)
	if err != nil {
		return nil, err
	}
	if o.HTTP == nil {
		o.HTTP = newHTTPClient()
	}
	return &GlobusTokens{o: o, url: service + "/v2/oauth2/token"}, nil
}

// Header returns an Authorization header with a token that is good for a minute at least; it is made for [ClientOptions].Header. When the user must log in the error
// wraps [transport.ErrDenied], when the service cannot be reached [transport.ErrUnavailable].
func (g *GlobusTokens) Header(ctx context.Context) (http.Header, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	token, err := g.token(ctx)
	if err != nil {
		return nil, err
	}
	return bearerHeader(token.AccessToken), nil
}

func (g *GlobusTokens) token(ctx context.Context) (storedToken, error) {
	if g.o.ClientID != "" {
		if g.client.valid(expiryMargin) {
			return g.client, nil
		}
		token, err := g.grant(ctx, url.Values{"grant_type": {"client_credentials"}, "scope": {GlobusRelayScope}}, g.o.ClientID, g.o.ClientSecret)
		if err != nil {
			return storedToken{}, fmt.Errorf("relay: Globus token of the client %s: %w; check %s and %s", g.o.ClientID, err, clientIDVariable, clientSecretVariable)
		}
		g.client = token
		return token, nil
	}
	const login = "log in with: proxystore-globus-auth login"
	db, err := openTokens(g.o.Database)
	if isMissing(err) {
		return storedToken{}, fmt.Errorf("relay: no Globus tokens (%s): %w; %s", g.o.Database, transport.ErrDenied, login)
	}
	if err != nil {
		return storedToken{}, fmt.Errorf("relay: Globus tokens: %w", err)
	}
	defer db.Close()
	stored, err := readToken(ctx, db)
	if errors.Is(err, sql.ErrNoRows) {
		return storedToken{}, fmt.Errorf("relay: %s has no Globus tokens for relays: %w; %s", g.o.Database, transport.ErrDenied, login)
	}
	if err != nil {
		return storedToken{}, fmt.Errorf("relay: Globus tokens in %s: %w; if it is damaged delete it and %s", g.o.Database, err, login)
	}
	if stored.valid(expiryMargin) {
		return stored, nil
	}
	if stored.RefreshToken == "" {
		return storedToken{}, fmt.Errorf("relay: the Globus token in %s has expired: %w; %s", g.o.Database, transport.ErrDenied, login)
	}
	form := url.Values{"refresh_token": {stored.RefreshToken}, "grant_type": {"refresh_token"}, "client_id": {GlobusNativeClient}}
	fresh, err := g.grant(ctx, form, "", "")
	if err != nil {
		if errors.Is(err, transport.ErrUnavailable) && stored.valid(0) {
			return stored, nil
		}
		return storedToken{}, fmt.Errorf("relay: the Globus token in %s has expired and was not refreshed: %w; %s", g.o.Database, err, login)
	}
	fresh.IdentityID = stored.IdentityID
	fresh.RefreshToken = cmp.Or(fresh.RefreshToken, stored.RefreshToken)
	if err := writeToken(ctx, db, fresh); err != nil {
		return storedToken{}, fmt.Errorf("relay: storing a Globus token in %s: %w", g.o.Database, err)
	}
	return fresh, nil
}

// grant asks the service for tokens and returns the relay's.
func (g *GlobusTokens) grant(ctx context.Context, form url.Values, id, secret string) (storedToken, error) {
	type granted struct {
		ResourceServer string  `json:"resource_server"`
		Scope          string  `json:"scope"`
		AccessToken    string  `json:"access_token"`
		RefreshToken   string  `json:"refresh_token"`
		TokenType      string  `json:"token_type"`
		ExpiresIn      float64 `json:"expires_in"` // seconds
	}
	var answer struct {
		granted
		Others []granted `json:"other_tokens"`
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	now := time.Now()
	if _, err := post(ctx, g.o.HTTP, g.url, form, id, secret, &answer); err != nil {
		return storedToken{}, err
	}
	for _, t := range append([]granted{answer.granted}, answer.Others...) {
		if t.ResourceServer == GlobusResourceServer && t.AccessToken != "" {
			return storedToken{
				ResourceServer: t.ResourceServer, Scope: t.Scope, AccessToken: t.AccessToken, RefreshToken: t.RefreshToken, TokenType: t.TokenType,
				Expires: now.Unix() + int64(min(max(t.ExpiresIn, 0), 1e9)),
			}, nil
		}
	}
	return storedToken{}, fmt.Errorf("%w: the service's answer has no token for relays", transport.ErrDenied)
}

// openTokens opens an existing database.
func openTokens(path string) (*sql.DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	// Python holds the lock only for moments.
	u := url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path), RawQuery: "mode=rw&_pragma=busy_timeout(5000)"}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

const tokensNamespace = "DEFAULT"

func readToken(ctx context.Context, db *sql.DB) (t storedToken, err error) {
	var data string
	row := db.QueryRowContext(ctx, `SELECT token_data_json FROM token_storage WHERE namespace=? AND resource_server=?`, tokensNamespace, GlobusResourceServer)
	if err := row.Scan(&data); err != nil {
		return t, err
	}
	if err := json.Unmarshal([]byte(data), &t); err != nil {
		return t, fmt.Errorf("%w: %w", transport.ErrCorrupt, err)
	}
	return t, nil
}

func writeToken(ctx context.Context, db *sql.DB, t storedToken) error {
	data, err := json.Marshal(t)
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, `REPLACE INTO token_storage(namespace, resource_server, token_data_json) VALUES(?, ?, ?)`, tokensNamespace, t.ResourceServer, string(data))
	return err
}
