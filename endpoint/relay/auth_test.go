package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/proxyplane/proxyplane/internal/testenv"
	"github.com/proxyplane/proxyplane/transport"
)

func TestTokens(t *testing.T) {
	ctx := testContext(t)
	path := filepath.Join(t.TempDir(), "tokens")
	write := func(text string, perm os.FileMode) {
		t.Helper()
		os.Remove(path)
		if err := os.WriteFile(path, []byte(text), perm); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, perm); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := NewTokens(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	write("# who may\n\n  alpha alice\nbeta\tbob\r\ngamma alice", 0o600)
	tokens, err := NewTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(token, user string) {
		t.Helper()
		got, err := tokens.Authenticate(ctx, userHeader(token))
		_, forbidden := errors.AsType[*ForbiddenError](err)
		if user != "" && (err != nil || got != User{user, user}) || user == "" && !forbidden {
			t.Errorf("%s: %+v, %v", token, got, err)
		}
	}
	check("alpha", "alice")
	check("beta", "bob")
	check("gamma", "alice")
	check("alph", "")
	check("#", "")
	for _, h := range []http.Header{nil, {}, {"Authorization": {"alpha"}}, {"Authorization": {"bearer alpha"}}, {"Authorization": {"Bearer  alpha"}}, {"Authorization": {"Bearer "}},
		{"Authorization": {"Bearer alpha beta"}}, {"Authorization": {"Bearer alpha", "Bearer beta"}}, {"Authorization": {"Bearer " + strings.Repeat("x", maxToken+1)}}} {
		if _, err := tokens.Authenticate(ctx, h); err == nil || !errors.Is(err, transport.ErrDenied) {
			t.Errorf("%v: %v", h, err)
		} else if _, ok := errors.AsType[*UnauthorizedError](err); !ok {
			t.Errorf("%v: %v", h, err)
		}
	}
	write("delta dora dora", 0o600)
	if _, err := tokens.Authenticate(ctx, userHeader("alpha")); err == nil || isRefusal(err) || strings.Contains(err.Error(), "delta") {
		t.Errorf("damaged file: %v", err)
	}
	write("delta dora # not a comment", 0o600)
	if _, err := NewTokens(path); err == nil {
		t.Error("a line of many words was taken")
	}
	write("delta dora\ndelta dina", 0o600)
	if _, err := NewTokens(path); err == nil {
		t.Error("a token of two users was taken")
	}
	write("delta dora", 0o600)
	check("delta", "dora")
	check("alpha", "")
	if runtime.GOOS != "windows" {
		write("delta dora", 0o644)
		if _, err := tokens.Authenticate(ctx, userHeader("delta")); err == nil || isRefusal(err) || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("a file that everybody can read: %v", err)
		}
		write("delta dora", 0o640)
		check("delta", "dora")
	}

	header := TokenFile(path)
	if _, err := header(ctx); err == nil {
		t.Error("a file with two words is no token")
	}
	for _, token := range []string{"first\n", "second"} {
		write(token, 0o600)
		if h, err := header(ctx); err != nil || h.Get("Authorization") != "Bearer "+strings.TrimSpace(token) {
			t.Errorf("%v, %v", h, err)
		}
	}
	os.Remove(path)
	if _, err := header(ctx); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func FuzzParseTokens(f *testing.F) {
	f.Add([]byte("# x\na b\n\r\nc\td"))
	f.Fuzz(func(t *testing.T, data []byte) {
		users, err := parseTokens(data)
		if err == nil && len(users) > len(data) {
			t.Fatal("more users than bytes")
		}
	})
}

// globusService is Globus Auth, as far as https://docs.globus.org/api/auth/reference/ describes what relays and clients use.
type globusService struct {
	*httptest.Server
	mu            sync.Mutex
	tokens        map[string]string // introspection's answer by access token
	refresh       map[string]string // access token that comes next, by refresh token
	down          bool
	introspected  atomic.Int64
	granted       atomic.Int64
	expiresIn     int
	rotateRefresh bool
}

const (
	testClient  = "11111111-2222-4333-8444-555555555555"
	testSecret  = "secret"
	testSubject = "99999999-8888-4777-8666-555555555555"
)

func newGlobusService(t testing.TB) *globusService {
	t.Helper()
	g := &globusService{tokens: map[string]string{}, refresh: map[string]string{}, expiresIn: 172800}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v2/oauth2/token/introspect", func(w http.ResponseWriter, r *http.Request) {
		g.introspected.Add(1)
		w.Header().Set("Content-Type", "application/json")
		if !g.authorized(w, r) {
			return
		}
		g.mu.Lock()
		answer, ok := g.tokens[r.PostFormValue("token")]
		g.mu.Unlock()
		if !ok {
			answer = `{"active": false}`
		}
		fmt.Fprint(w, answer)
	})
	mux.HandleFunc("POST /v2/oauth2/token", func(w http.ResponseWriter, r *http.Request) {
		g.granted.Add(1)
		w.Header().Set("Content-Type", "application/json")
		refresh := r.PostFormValue("refresh_token")
		g.mu.Lock()
		access, ok := g.refresh[refresh]
		down := g.down
		g.mu.Unlock()
		switch grant := r.PostFormValue("grant_type"); {
		case down:
			http.Error(w, "down", http.StatusBadGateway)
			return
		case grant == "refresh_token" && r.PostFormValue("client_id") == GlobusNativeClient && ok:
			if g.rotateRefresh {
				refresh += "+"
			}
		case grant == "client_credentials" && r.PostFormValue("scope") == GlobusRelayScope:
			if !g.authorized(w, r) {
				return
			}
			access, refresh = fmt.Sprint("of the client ", g.granted.Load()), ""
			access = strings.ReplaceAll(access, " ", "-")
		default:
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error": "invalid_grant"}`)
			return
		}
		answer := map[string]any{
			"access_token": access, "scope": GlobusRelayScope, "expires_in": g.expiresIn, "token_type": "Bearer", "resource_server": GlobusResourceServer, "other_tokens": []any{},
		}
		if refresh != "" {
			answer["refresh_token"] = refresh
		}
		json.NewEncoder(w).Encode(answer)
	})
	g.Server = httptest.NewServer(mux)
	t.Cleanup(g.Close)
	return g
}

func (g *globusService) authorized(w http.ResponseWriter, r *http.Request) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	id, secret, _ := r.BasicAuth()
	if g.down {
		http.Error(w, "down", http.StatusBadGateway)
		return false
	}
	if id != testClient || secret != testSecret {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"errors": [{"status": "401", "code": "UNAUTHORIZED", "title": "Unauthorized", "detail": "Call must be authenticated"}]}`)
		return false
	}
	return true
}

func (g *globusService) set(change func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change()
}

func active(audience string, exp int64) string {
	return fmt.Sprintf(`{"active": true, "scope": "%s", "sub": "%s", "username": "user@example.org", "name": "A User", "email": "user@example.org", "client_id": "%s",
		"aud": %s, "iss": "https://auth.globus.org", "exp": %d, "iat": 1, "nbf": 1, "identity_set": ["%s"], "token_type": "Bearer"}`,
		GlobusRelayScope, testSubject, GlobusNativeClient, audience, exp, testSubject)
}

// TestGlobus: our authenticator says what Python's says, about every kind of answer.
func TestGlobus(t *testing.T) {
	python, havePython := testenv.FindPython(testenv.ProxyStore11)
	ctx := testContext(t)
	g := newGlobusService(t)
	hour := time.Now().Add(time.Hour).Unix()
	both := fmt.Sprintf(`["%s", "%s"]`, GlobusResourceServer, testClient)
	g.set(func() {
		g.tokens["good"] = active(both, hour)
		g.tokens["elsewhere"] = active(`["transfer.api.globus.org"]`, hour)
		g.tokens["nobody"] = strings.Replace(active(both, hour), testSubject, "nobody", 1)
		g.tokens["noaud"] = `{"active": true, "sub": "` + testSubject + `"}`
		g.tokens["nouser"] = `{"active": true, "sub": "` + testSubject + `", "aud": ` + both + `}`
		g.tokens["garbage"] = `[`
	})
	auth, err := NewGlobus(GlobusOptions{ClientID: testClient, ClientSecret: testSecret, ServiceURL: g.URL + "/"})
	if err != nil {
		t.Fatal(err)
	}
	audienceText := fmt.Sprintf("ForbiddenError: Token audience does not include \"%s\". This could result in a confused deputy attack. "+
		"Ensure the correct scopes are requested when the token is created.", GlobusResourceServer)
	cases := []struct{ header, want string }{ // "" is another error
		{"", "UnauthorizedError: Request headers are missing authorization header."},
		{"good", "UnauthorizedError: Bearer token in authorization header is malformed."},
		{"Basic good", "UnauthorizedError: Bearer token in authorization header is malformed."},
		{"Bearer a b", "UnauthorizedError: Bearer token in authorization header is malformed."},
		{"Bearer good", testSubject + " user@example.org"},
		{"Bearer nouser", testSubject + " "},
		{"Bearer unknown", "ForbiddenError: Token is expired or has been revoked."},
		{"Bearer elsewhere", audienceText},
		{"Bearer noaud", audienceText},
		{"Bearer nobody", ""},
		{"Bearer garbage", ""},
	}
	for _, c := range cases {
		h := http.Header{}
		if c.header != "" {
			h.Set("Authorization", c.header)
		}
		user, err := auth.Authenticate(ctx, h)
		got := user.ID + " " + user.Name
		if err != nil {
			if got = err.Error(); !isRefusal(err) {
				got = ""
			}
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q (%v)", c.header, got, c.want, err)
		}
	}
	if havePython {
		var headers []string
		for _, c := range cases {
			headers = append(headers, c.header)
		}
		input, err := json.Marshal(headers)
		if err != nil {
			t.Fatal(err)
		}
		var answers []string
		runPython(t, python, string(input), &answers, []string{"GLOBUS_SDK_SERVICE_URL_AUTH=" + g.URL, clientIDVariable + "=" + testClient, clientSecretVariable + "=" + testSecret}, `
import json, sys
from proxystore.p2p.relay.authenticate import GlobusAuthenticator
from proxystore.p2p.relay.exceptions import RelayServerError
auth = GlobusAuthenticator()
out = []
for header in json.load(sys.stdin):
    try:
        user = auth.authenticate_user({'Authorization': header} if header else {})
        out.append(f'{user.sub} {user.username or ""}')
    except RelayServerError as e:
        out.append(f'{e.__class__.__name__}: {e}')
    except Exception as e:
        out.append('')
json.dump(out, sys.stdout)
`)
		for i, c := range cases {
			if c.header == "Bearer garbage" {
				continue // Python takes an answer that is no JSON for a no, and so would have all clients give up while a proxy shows its error page
			}
			if answers[i] != c.want {
				t.Errorf("%s: Python says %q, we expect %q", c.header, answers[i], c.want)
			}
		}
	}

	before := g.introspected.Load()
	for range 3 {
		if _, err := auth.Authenticate(ctx, userHeader("good")); err != nil {
			t.Error(err)
		}
	}
	if n := g.introspected.Load(); n != before {
		t.Errorf("asked %d times about a token that is known", n-before)
	}
	g.set(func() { g.tokens["brief"] = active(both, time.Now().Unix()-5) }) // a clock that differs
	for range 2 {
		if _, err := auth.Authenticate(ctx, userHeader("brief")); err != nil {
			t.Error(err)
		}
	}
	if n := g.introspected.Load(); n != before+2 {
		t.Errorf("asked %d times about a token that is not to be remembered", n-before)
	}
	g.set(func() { g.down = true })
	if _, err := auth.Authenticate(ctx, userHeader("other")); err == nil || isRefusal(err) || errors.Is(err, transport.ErrDenied) {
		t.Errorf("a service that is down: %v", err)
	}
	g.set(func() { g.down = false })
	wrong, err := NewGlobus(GlobusOptions{ClientID: testClient, ClientSecret: "wrong", ServiceURL: g.URL})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wrong.Authenticate(ctx, userHeader("good")); err == nil || isRefusal(err) || !strings.Contains(err.Error(), "client_secret") {
		t.Errorf("a relay with a wrong secret: %v", err)
	}
	t.Setenv(clientIDVariable, "")
	if _, err := NewGlobus(GlobusOptions{}); err == nil {
		t.Error("no client ID was needed")
	}
	for _, u := range []string{"x", "ftp://x", "http://auth.example.org"} {
		if _, err := NewGlobus(GlobusOptions{ClientID: "x", ClientSecret: "x", ServiceURL: u}); err == nil {
			t.Errorf("%s was taken as a service", u)
		}
	}
}

// TestGlobusMemory: a good token is asked about once a minute, by whoever comes first, and waiters go when their context does.
func TestGlobusMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		gate := make(chan struct{})
		answer := active(`"`+GlobusResourceServer+`"`, time.Now().Add(90*time.Second).Unix())
		client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			asked.Add(1)
			select {
			case <-gate:
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
			w := httptest.NewRecorder()
			w.WriteString(answer)
			return w.Result(), nil
		})}
		auth, err := NewGlobus(GlobusOptions{ClientID: "x", ClientSecret: "x", HTTP: client})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if _, err := auth.Authenticate(context.Background(), userHeader("t")); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		ctx, cancel := context.WithCancel(context.Background())
		wg.Go(func() {
			if _, err := auth.Authenticate(ctx, userHeader("t")); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(gate)
		wg.Wait()
		for _, step := range []struct {
			pause time.Duration
			asked int64
		}{{0, 1}, {59 * time.Second, 1}, {2 * time.Second, 2}, {28 * time.Second, 2}, {2 * time.Second, 3}, {0, 4}} { // the token ends after 90 s
			time.Sleep(step.pause)
			if _, err := auth.Authenticate(context.Background(), userHeader("t")); err != nil || asked.Load() != step.asked {
				t.Errorf("%v: asked %d times, want %d; %v", step.pause, asked.Load(), step.asked, err)
			}
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// runPython runs a script with input and reads its JSON output.
func runPython(t testing.TB, python, input string, output any, env []string, script string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, append([]string{"-c", script}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(input)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	data, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	if err := json.Unmarshal(data, output); err != nil {
		t.Fatalf("%v: %s\n%s", err, data, stderr.String())
	}
}

// TestGlobusTokens: tokens that globus_sdk has stored are used, refreshed and stored so that globus_sdk uses them.
func TestGlobusTokens(t *testing.T) {
	checkLeaks(t)
	ctx := testContext(t)
	g := newGlobusService(t)
	for _, name := range []string{clientIDVariable, clientSecretVariable} {
		t.Setenv(name, "") // to have it restored
		os.Unsetenv(name)
	}
	home := t.TempDir()
	database := filepath.Join(home, "a b%?#", GlobusTokensFile)
	env := []string{"PROXYSTORE_HOME=" + filepath.Dir(database), "GLOBUS_SDK_SERVICE_URL_AUTH=" + g.URL}
	tokens, err := NewGlobusTokens(GlobusTokensOptions{Database: database, ServiceURL: g.URL})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.Header(ctx); !errors.Is(err, transport.ErrDenied) || !strings.Contains(err.Error(), "proxystore-globus-auth login") {
		t.Errorf("not logged in: %v", err)
	}
	if _, err := os.Stat(database); err == nil {
		t.Error("made a database")
	}
	sdk := startPython(t, `
import json, sys
from globus_sdk.token_storage import TokenStorageData
from proxystore.globus.app import get_globus_app, get_token_storage
from proxystore.globus.scopes import get_relay_scopes_by_resource_server, ProxyStoreRelayScopes as S
for line in sys.stdin:
    op, *args = json.loads(line)
    storage = get_token_storage()
    if op == 'store':
        access, refresh, expires = args
        def data(server, scope, access):
            return TokenStorageData(server, '`+testSubject+`', scope, access, refresh or None, expires, 'Bearer')
        tokens = {'transfer.api.globus.org': data('transfer.api.globus.org', 'x', 'not this one')}
        if access:
            tokens[S.resource_server] = data(S.resource_server, str(S.relay_all), access)
        storage.store_token_data_by_resource_server(tokens)
        print('null', flush=True)
    else:
        data = storage.get_token_data_by_resource_server()
        app = get_globus_app() # as _get_auth_headers of proxystore/endpoint/serve.py does
        app.add_scope_requirements(get_relay_scopes_by_resource_server())
        answer = {'header': app.get_authorizer(S.resource_server).get_authorization_header(), 'data': data[S.resource_server].to_dict(True), 'others': sorted(data)}
        print(json.dumps(answer), flush=True)
    storage.close()
`, env...)
	store := func(access, refresh string, expires int64) {
		t.Helper()
		sdk.want("null", "store", access, refresh, expires)
	}
	check := func(want string) {
		t.Helper()
		if h, err := tokens.Header(ctx); err != nil || h.Get("Authorization") != "Bearer "+want {
			t.Errorf("%v, %v; want %s", h, err, want)
		}
	}
	fails := func(sentinel error, text string) {
		t.Helper()
		if h, err := tokens.Header(ctx); !errors.Is(err, sentinel) || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, %v", h, err)
		}
	}
	now := time.Now().Unix()
	store("", "", now)
	fails(transport.ErrDenied, "no Globus tokens for relays")
	store("first", "r", now+3600)
	check("first")
	store("old", "r", now-5)
	fails(transport.ErrDenied, "login") // the service does not know r
	g.set(func() { g.down = true })
	fails(transport.ErrUnavailable, "not refreshed")
	store("nearly old", "r", now+45)
	check("nearly old")
	g.set(func() { g.down, g.refresh["r"], g.rotateRefresh = false, "second", true })
	check("second")
	before := g.granted.Load()
	check("second")
	if g.granted.Load() != before {
		t.Error("refreshed twice")
	}
	// Python goes on with what we have stored: the same as it would have stored itself.
	var stored struct {
		Header string
		Data   map[string]any
		Others []string
	}
	if err := json.Unmarshal([]byte(sdk.do("read")), &stored); err != nil {
		t.Fatal(err)
	}
	if stored.Header != "Bearer second" || len(stored.Others) != 2 {
		t.Errorf("%+v", stored)
	}
	expires, _ := stored.Data["expires_at_seconds"].(float64)
	delete(stored.Data, "expires_at_seconds")
	want := map[string]any{"resource_server": GlobusResourceServer, "identity_id": testSubject, "scope": GlobusRelayScope, "access_token": "second", "refresh_token": "r+", "token_type": "Bearer"}
	if fmt.Sprint(stored.Data) != fmt.Sprint(want) || expires < float64(now)+172000 || expires > float64(now)+173600 {
		t.Errorf("%v, expires %v", stored.Data, expires)
	}
	store("stale", "", now-5)
	fails(transport.ErrDenied, "login")
	if err := os.WriteFile(database, []byte("this is no database, but long enough to look like one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.Header(ctx); err == nil {
		t.Error("a damaged database gave a token")
	}

	// A client identity has its own tokens, and those only in memory.
	t.Setenv(clientIDVariable, testClient)
	t.Setenv(clientSecretVariable, testSecret)
	client, err := NewGlobusTokens(GlobusTokensOptions{ServiceURL: g.URL})
	if err != nil {
		t.Fatal(err)
	}
	tokens = client
	first, err := tokens.Header(ctx)
	if err != nil || !strings.HasPrefix(first.Get("Authorization"), "Bearer of-the-client-") {
		t.Fatalf("%v, %v", first, err)
	}
	check(strings.TrimPrefix(first.Get("Authorization"), "Bearer "))
	tokens.o.ClientSecret, tokens.client = "wrong", storedToken{}
	fails(transport.ErrDenied, clientSecretVariable)
	for _, o := range []GlobusTokensOptions{{ClientID: "x"}, {ClientSecret: "x"}, {ServiceURL: "x"}} {
		if _, err := NewGlobusTokens(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
	t.Setenv(clientIDVariable, "")
	if _, err := NewGlobusTokens(GlobusTokensOptions{}); err == nil {
		t.Error("nothing says whose tokens to take")
	}
}

// TestGlobusEndToEnd: client with tokens of the service, relay that asks the service.
func TestGlobusEndToEnd(t *testing.T) {
	checkLeaks(t)
	ctx := testContext(t)
	g := newGlobusService(t)
	auth, err := NewGlobus(GlobusOptions{ClientID: testClient, ClientSecret: testSecret, ServiceURL: g.URL})
	if err != nil {
		t.Fatal(err)
	}
	s, addr := startServer(t, ServerOptions{Authenticator: auth})
	tokens, err := NewGlobusTokens(GlobusTokensOptions{ClientID: testClient, ClientSecret: testSecret, ServiceURL: g.URL})
	if err != nil {
		t.Fatal(err)
	}
	g.set(func() {
		g.tokens["of-the-client-1"] = active(`["`+GlobusResourceServer+`"]`, time.Now().Add(time.Hour).Unix())
		g.tokens["for-others"] = active(`[]`, 0)
	})
	c := startClient(t, "ws://"+addr, func(o *ClientOptions) { o.Header = tokens.Header })
	if err := c.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if infos := s.Clients(); len(infos) != 1 || infos[0].User != (User{testSubject, "user@example.org"}) {
		t.Errorf("%+v", infos)
	}
	raw := dialRaw(t, addr, userHeader("expired"))
	raw.send(Registration{UUID: uuid.New()})
	raw.closed(4002, "ForbiddenError: Token is expired or has been revoked.")
	raw = dialRaw(t, addr, userHeader("for-others"))
	raw.send(Registration{UUID: uuid.New()})
	raw.closed(4002, "ForbiddenError: Token audience does not include") // as much of it as a control frame can hold
	g.set(func() { g.down = true })
	raw = dialRaw(t, addr, userHeader("other"))
	raw.send(Registration{UUID: uuid.New()})
	raw.closed(1011, "not available")
}
