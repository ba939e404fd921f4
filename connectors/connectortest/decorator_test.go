package connectortest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/faulty"
)

// layer is a right decorator: every capability, each its own.
func layer(inner connectors.Connector) *faulty.Connector {
	return faulty.Wrap(inner, faulty.InjectorFunc(func(faulty.Call) error { return nil }))
}

// reaching lets its inner connector be found around it.
type reaching struct {
	connectors.Connector
	inner connectors.Connector
}

func (r reaching) Unwrap() connectors.Connector { return r.inner }

// embedding has what its inner connector is declared to have, and no more.
type embedding struct{ connectors.Connector }

// refusing says that it has no ranges, where there are some.
type refusing struct{ *faulty.Connector }

func (refusing) Stat(context.Context, connectors.Key) (connectors.Info, error) {
	return connectors.Info{}, errors.ErrUnsupported
}

// inventing answers by itself.
type inventing struct{ *faulty.Connector }

func (inventing) Stat(context.Context, connectors.Key) (connectors.Info, error) {
	return connectors.Info{Size: 42}, nil
}

// stubborn fails with an error of its own where the inner connector lacks something.
type stubborn struct {
	*faulty.Connector
}

func (s stubborn) Stat(ctx context.Context, key connectors.Key) (connectors.Info, error) {
	info, err := s.Connector.Stat(ctx, key)
	if errors.Is(err, errors.ErrUnsupported) {
		err = errors.New("cannot stat")
	}
	return info, err
}

func TestDecoratorRules(t *testing.T) {
	right := func(c connectors.Connector) connectors.Connector { return layer(c) }
	if got := decoratorRules(right, nil); len(got) > 0 {
		t.Errorf("a right decorator is rejected: %q", got)
	}
	for name, d := range map[string]struct {
		wrap func(connectors.Connector) connectors.Connector
		says string
	}{
		"loses all":          {func(c connectors.Connector) connectors.Connector { return embedding{c} }, "capability Waiter is lost"},
		"loses all, unwraps": {func(c connectors.Connector) connectors.Connector { return reaching{embedding{c}, c} }, "Waiter is reached around"},
		"unwraps":            {func(c connectors.Connector) connectors.Connector { return reaching{layer(c), c} }, "has Unwrap"},
		"is no decorator":    {func(c connectors.Connector) connectors.Connector { return c }, "reached around"},
		"refuses":            {func(c connectors.Connector) connectors.Connector { return refusing{layer(c)} }, "Stater is lost"},
		"invents":            {func(c connectors.Connector) connectors.Connector { return inventing{layer(c)} }, "Stater does not reach"},
		"fails":              {func(c connectors.Connector) connectors.Connector { return stubborn{layer(c)} }, "Stater over an inner connector that lacks"},
	} {
		got := decoratorRules(d.wrap, nil)
		if !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, d.says) }) {
			t.Errorf("a decorator that %s: %q, want %q in it", name, got, d.says)
		}
	}
	refuses := func(c connectors.Connector) connectors.Connector { return refusing{layer(c)} }
	if got := decoratorRules(refuses, []string{"Stater"}); len(got) > 0 {
		t.Errorf("a decorator that says what it refuses is rejected: %q", got)
	}
}
