package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/connectors/dim/rpc"
	"github.com/proxyplane/proxyplane/transport/native"
	"github.com/proxyplane/proxyplane/transport/objects"
	"github.com/proxyplane/proxyplane/transport/tcp"
	"github.com/proxyplane/proxyplane/transport/ucx"
	"github.com/proxyplane/proxyplane/transport/zmq"
)

func (a *app) pingCmd() *cobra.Command {
	var transport, tokenFile, caFile, curveKey string
	var secure, libzmq bool
	var timeout time.Duration
	var count int
	cmd := &cobra.Command{
		Use:   "ping [--transport tcp|unix|zmq|ucx] ADDR",
		Short: "See whether an object server answers, and how fast",
		Long: `Connect to an object server, do some round trips and print the fastest. The server may be that of proxyplane serve, of a connector in another process,
or, for zmq and ucx, of Python's ZeroMQConnector and UCXConnector. Exit code 0 if it answers.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := parseAddress(transport, args[0])
			if err != nil {
				return err
			}
			if count < 1 {
				return fail(exitUsage, "--count %d: use 1 or more", count)
			}
			token, err := readToken(tokenFile)
			if err != nil {
				return err
			}
			var cfg *tls.Config
			if secure || e.tls || caFile != "" {
				cfg = &tls.Config{}
				if caFile != "" {
					pem, err := readBounded(caFile, 1<<20)
					if err != nil {
						return err
					}
					if cfg.RootCAs = x509.NewCertPool(); !cfg.RootCAs.AppendCertsFromPEM(pem) {
						return fail(exitBadInput, "--tls-ca: %s holds no PEM certificate", caFile)
					}
				}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			client, over, err := dialAddress(ctx, e, native.ClientOptions{Token: token}, cfg, curveKey, libzmq)
			if err != nil {
				return pingError(e, err, timeout)
			}
			defer client.Close()
			best := time.Duration(-1)
			for range count {
				start := time.Now()
				if err := client.Ping(ctx); err != nil {
					return pingError(e, err, timeout)
				}
				if took := time.Since(start); best < 0 || took < best {
					best = took
				}
			}
			if a.json {
				return a.printJSON(map[string]any{"transport": e.transport, "address": e.addr, "over": over, "seconds": best.Seconds()})
			}
			fmt.Fprintf(a.out, "%s %s answers over %s in %v\n", e.transport, e.addr, over, best.Round(100*time.Nanosecond))
			return nil
		},
	}
	cmd.Flags().StringVar(&transport, "transport", "", "tcp (default), unix, zmq or ucx")
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "file with the server's token")
	cmd.Flags().BoolVar(&secure, "tls", false, "speak TLS")
	cmd.Flags().StringVar(&caFile, "tls-ca", "", "PEM file with the authorities for the server's certificate (default: the system's)")
	cmd.Flags().StringVar(&curveKey, "curve-server-key", "", "the server's public key for zmq, in Z85")
	cmd.Flags().BoolVar(&libzmq, "libzmq", false, "speak zmq by libzmq, which needs build tag zmq")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "give up after this long")
	cmd.Flags().IntVar(&count, "count", 10, "round trips")
	cmd.RegisterFlagCompletionFunc("transport", cobra.FixedCompletions(serveTransports, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func pingError(e address, err error, timeout time.Duration) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fail(exitUnavailable, "%s %s did not answer within %v (--timeout); see that the server there is of transport %s, and not stopped", e.transport, e.addr,
			timeout, e.transport)
	}
	switch {
	case errors.Is(err, connectors.ErrDenied):
		return fmt.Errorf("%s %s: %w; give what the server was started with: --token-file, --tls-ca or --curve-server-key", e.transport, e.addr, err)
	case errors.Is(err, connectors.ErrNotBuilt):
	case errors.Is(err, connectors.ErrUnavailable), errors.Is(err, connectors.ErrCorrupt):
		return fmt.Errorf("%s %s: %w; see that an object server of transport %s listens there, with TLS or CURVE as you said, or name another --transport", e.transport, e.addr, err,
			e.transport)
	}
	return fmt.Errorf("%s %s: %w", e.transport, e.addr, err)
}

// dialAddress connects to a server, and says what the connection runs over.
func dialAddress(ctx context.Context, e address, o native.ClientOptions, secure *tls.Config, curveKey string, libzmq bool) (objects.Client, string, error) {
	switch e.transport {
	case "zmq":
		zo := zmq.DialOptions{ClientOptions: o, Libzmq: libzmq}
		if curveKey != "" {
			key, err := zmq.ParseCurveKey(curveKey)
			if err != nil {
				return nil, "", fail(exitUsage, "--curve-server-key: %w", err)
			}
			public, secret, err := zmq.NewCurveKeys()
			if err != nil {
				return nil, "", err
			}
			zo.Curve = &zmq.CurveClient{ServerKey: key, PublicKey: public, SecretKey: secret}
		}
		c, err := zmq.Connect(ctx, "tcp://"+e.addr, zo)
		if err != nil {
			return nil, "", err
		}
		defer c.Close() // does nothing once c is in use
		if c.Peer() == zmq.PeerPython {
			x, err := c.Exchanger()
			if err != nil {
				return nil, "", err
			}
			return rpc.NewClient(x, "zmq", rpc.ClientOptions{}), "zmq (Python's server)", nil
		}
		client, err := c.Client(ctx)
		if err != nil {
			return nil, "", err
		}
		if libzmq {
			return client, "zmq (libzmq)", nil
		}
		return client, "zmq", nil
	case "ucx":
		c, err := ucx.Connect(ctx, e.addr, ucx.DialOptions{ClientOptions: o})
		if err != nil {
			return nil, "", err
		}
		defer c.Close() // does nothing once c is in use
		if c.Peer() == ucx.PeerPython {
			x, err := c.Exchanger()
			if err != nil {
				return nil, "", err
			}
			return rpc.NewClient(x, "ucx", rpc.ClientOptions{}), "ucx (Python's server)", nil
		}
		client, err := c.Client(ctx)
		if err != nil {
			return nil, "", err
		}
		return client, strings.Join(client.Transports(), ", "), nil
	}
	addr := "tcp://" + e.addr
	switch {
	case e.transport == "unix":
		addr = "unix://" + e.addr
	case secure != nil:
		addr = "tls://" + e.addr
	}
	client, err := tcp.Dial(ctx, addr, tcp.DialOptions{ClientOptions: o, TLS: secure})
	if err != nil {
		return nil, "", err
	}
	return client, client.Network(), nil
}
