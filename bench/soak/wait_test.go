package soak

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/local"
)

// hasty is a connector whose connection notices a deadline at the moment it passes, which is before the context's own timer has run.
type hasty struct{ *local.Connector }

func (hasty) Wait(ctx context.Context, _ connectors.Key) error {
	if d, ok := ctx.Deadline(); ok {
		for time.Now().Before(d) { // no timer of ours may come after the context's
			runtime.Gosched()
		}
		return context.DeadlineExceeded
	}
	<-ctx.Done()
	return ctx.Err()
}

// TestHastyTimeout: the random histories found futures on Redis whose timeout came back, now and then, as the caller's own deadline.
func TestHastyTimeout(t *testing.T) {
	c := hasty{local.New(local.Options{})}
	defer c.Close(t.Context())
	key := connectors.LocalKey{ID: "never"}
	if err := connectors.Wait(t.Context(), c, key, connectors.Polling{Timeout: 20 * time.Millisecond}); !errors.Is(err, connectors.ErrNotFound) {
		t.Errorf("after Polling.Timeout: %v; expected ErrNotFound", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := connectors.Wait(ctx, c, key, connectors.Polling{Timeout: time.Hour}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the caller's deadline: %v; expected that", err)
	}
}
