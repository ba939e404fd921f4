package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	goredis "github.com/redis/go-redis/v9"

	"github.com/proxyplane/proxyplane/connectors"
)

// explain gives an error of the network or of the server its sentinel, and says what to do. addr is empty if none was reached.
func explain(err error, addr string) error {
	var se *serverError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &se):
		return explainReply(se, addr)
	case errors.As(err, new(refused)):
		return err
	case errors.Is(err, connectors.ErrUnavailable), errors.Is(err, connectors.ErrCorrupt), errors.Is(err, connectors.ErrTooLarge),
		errors.Is(err, connectors.ErrConfig), errors.Is(err, connectors.ErrNotFound), errors.Is(err, connectors.ErrInvalidRange),
		errors.Is(err, connectors.ErrInvalidKey), errors.Is(err, connectors.ErrClosed):
		return err
	}
	at := ""
	if addr != "" {
		at = " at " + addr
	}
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		// %v, not %w: it is our own time limit, not the caller's context.
		return fmt.Errorf("%w: no progress with the Redis server%s in time (%v); options timeout and dial_timeout set how long to wait",
			connectors.ErrUnavailable, at, err)
	}
	return fmt.Errorf("%w: the Redis server%s: %w", connectors.ErrUnavailable, at, err)
}

// explainReply is explain for an error reply.
func explainReply(e *serverError, addr string) error {
	with := func(sentinel error, advice string) error {
		return fmt.Errorf("%w: %w (%s); %s", sentinel, e, addr, advice)
	}
	switch code := e.code(); {
	case code == "WRONGTYPE":
		return with(connectors.ErrInvalidKey, "that key names a list, hash or the like, which no store made")
	case code == "NOAUTH", strings.Contains(e.text, "unauthenticated"):
		return with(connectors.ErrConfig, "set option password (or password_file), and username if it has users")
	case code == "WRONGPASS", strings.Contains(e.text, "invalid password"):
		return with(connectors.ErrConfig, "correct option password (or password_file) or username")
	case strings.Contains(e.text, "called without any password configured"):
		return with(connectors.ErrConfig, "this server has no password: drop option password, or set one there")
	case code == "NOPERM":
		return with(connectors.ErrConfig, "give the user of option username the right, by ACL SETUSER on the server")
	case code == "DENIED":
		return with(connectors.ErrConfig, "set a password on the server, or have it listen where only you can reach it")
	case strings.Contains(e.text, "DB index"), strings.Contains(e.text, "SELECT is not allowed"):
		return with(connectors.ErrConfig, "correct option db")
	case code == "OOM":
		return with(connectors.ErrUnavailable, "the server's memory is full: evict objects, set option ttl, or raise its maxmemory")
	case strings.Contains(e.text, "invalid bulk length"), strings.Contains(e.text, "string exceeds maximum"):
		return with(connectors.ErrTooLarge, "raise the server's proto-max-bulk-len, or keep such objects in a file or endpoint connector")
	case (code == "MOVED" || code == "ASK") && e.cluster:
		return with(connectors.ErrUnavailable, "the cluster is moving its slots; try again later")
	case code == "MOVED", code == "ASK":
		return with(connectors.ErrConfig, "that server is part of a cluster: set options addrs and cluster")
	case code == "CROSSSLOT":
		return with(connectors.ErrConfig, "set option cluster")
	case code == "READONLY":
		return with(connectors.ErrUnavailable, "it is a replica: name the master, or set options master_name and addrs to have the sentinels find it")
	case code == "LOADING", code == "BUSY", code == "MASTERDOWN", code == "CLUSTERDOWN", code == "TRYAGAIN", code == "MISCONF", code == "NOREPLICAS",
		strings.Contains(e.text, "max number of clients"):
		return with(connectors.ErrUnavailable, "try again later")
	}
	return fmt.Errorf("%w (%s)", e, addr)
}

// tellable are the parts of an error reply to a login that explainReply looks for.
var tellable = []string{"unauthenticated", "invalid password", "called without any password configured", "DB index", "SELECT is not allowed",
	"max number of clients"}

// secretive is for an error from a login with a password, which a server may repeat in what it says ("unknown command 'AUTH', with args beginning
// with: ..."): of a server's text it keeps the code and what we know.
func secretive(err error) error {
	var se *serverError
	var ge goredis.Error
	switch {
	case errors.As(err, &se):
		return &serverError{tell(se), se.cluster}
	case errors.As(err, &ge) && !errors.Is(err, goredis.Nil):
		return errors.New("the server says: " + tell(&serverError{text: ge.Error()}))
	}
	return err
}

func tell(e *serverError) string {
	code := e.code()
	if strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		code = "ERR"
	}
	for _, known := range tellable {
		if strings.Contains(e.text, known) {
			return code + " ..." + known
		}
	}
	return code + " ... (the rest may repeat the password)"
}
