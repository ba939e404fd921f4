package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"github.com/proxyplane/proxyplane/endpoint/relay"
	"github.com/proxyplane/proxyplane/endpoint/relay/prom"
	"github.com/proxyplane/proxyplane/endpoint/relay/turn"
	"github.com/proxyplane/proxyplane/transport"
)

const relayHelp = `Run the server at which endpoints of all sites register, and through which they tell each other how to connect. It sees the addresses and certificates of
endpoints, never objects. Endpoints of ProxyStore and of proxyplane use it alike.

Who may register: on loopback everybody; elsewhere who has a token (--token-file, lines of "TOKEN USER"), a Globus login (auth.method in --config), or, with
--insecure, everybody. Endpoints reach only endpoints of the same user.

--config names a file as proxystore-relay takes it, in which a table [proxyplane] holds what that one does not have. Flags count more than the file.

When the relay serves, "ready ws://HOST:PORT" is printed to standard output, or with --json one object. Logs go to standard error.`

func (a *app) relayCmd() *cobra.Command {
	var file, listen, host, tokens, cert, key, logDir, level, format, metrics, turnAddr, turnRelay string
	var port int
	var insecure bool
	var turnUsers, turnAllow []string
	cmd := &cobra.Command{
		Use: "relay [--listen HOST:PORT] [--config FILE]", Short: "Run a relay, at which endpoints find each other", Long: relayHelp,
		Example: `  proxyplane relay
  proxyplane relay --listen 0.0.0.0:8700 --tls-cert cert.pem --tls-key key.pem --token-file tokens
  proxyplane relay --listen 10.1.2.3:8700 --token-file tokens --turn 10.1.2.3:3478 --turn-user site:secret`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := relay.DefaultConfig()
			if file != "" {
				var err error
				if c, err = relay.ReadConfig(file); err != nil {
					return fail(exitUsage, "--config: %w", err)
				}
			}
			if listen != "" {
				at, err := hostPort(listen)
				if err != nil {
					return err
				}
				h, p, _ := net.SplitHostPort(at)
				c.Host = h
				c.Port, _ = strconv.Atoi(p)
			}
			if host != "" {
				c.Host = host
			}
			if cmd.Flags().Changed("port") {
				c.Port = port
			}
			set := func(to *string, v string) {
				if v != "" {
					*to = v
				}
			}
			set(&c.CertFile, cert)
			set(&c.KeyFile, key)
			set(&c.Logging.LogDir, logDir)
			set(&c.Proxyplane.TokensFile, tokens)
			set(&c.Proxyplane.LogFormat, format)
			if level != "" {
				c.Logging.DefaultLevel = level
				if err := checkOneOf("--log-level", strings.ToLower(level), append([]string{"warning", "critical"}, logLevels...)); err != nil {
					return err
				}
			}
			if format != "" {
				if err := checkOneOf("--log-format", format, []string{"text", "json"}); err != nil {
					return err
				}
			}
			if turnAddr == "" && (turnRelay != "" || len(turnUsers)+len(turnAllow) > 0) {
				return fail(exitUsage, "--turn-user, --turn-relay-address and --turn-allow are about the server that --turn HOST:PORT starts; give that too")
			}
			c.Proxyplane.Insecure = c.Proxyplane.Insecure || insecure
			if turnAddr != "" {
				t := relay.ConfigTurn{Address: turnAddr, RelayAddress: turnRelay, Users: map[string]string{}, AllowPeers: turnAllow}
				for _, u := range turnUsers {
					name, password, ok := strings.Cut(u, ":")
					if !ok || name == "" || password == "" {
						return fail(exitUsage, "--turn-user: use NAME:PASSWORD")
					}
					t.Users[name] = password
				}
				if h, _, err := net.SplitHostPort(turnAddr); err == nil && t.RelayAddress == "" {
					t.RelayAddress = h
				}
				c.Proxyplane.Turn = &t
			}
			return a.relay(cmd.Context(), c, metrics)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "config", "c", "", "TOML file, as proxystore-relay takes it")
	f.StringVar(&listen, "listen", "", "HOST:PORT (default 127.0.0.1:8700); port 0 is one that the system picks")
	f.StringVar(&host, "host", "", "address to listen on, as proxystore-relay's flag")
	f.IntVar(&port, "port", 0, "port to listen on, as proxystore-relay's flag")
	f.StringVar(&tokens, "token-file", "", `file of tokens that may register: lines of "TOKEN USER"`)
	f.StringVar(&cert, "tls-cert", "", "PEM file with the certificate: the relay is wss:// then")
	f.StringVar(&key, "tls-key", "", "PEM file with its key (default: in --tls-cert)")
	f.BoolVar(&insecure, "insecure", false, "let everybody register who can reach the address, all as one user")
	f.StringVar(&metrics, "metrics-listen", "", "HOST:PORT for /metrics for Prometheus; /health is at the relay's own address")
	f.StringVar(&turnAddr, "turn", "", "HOST:PORT (UDP) for a STUN and TURN server beside it, for peers that find no other path")
	f.StringVar(&turnRelay, "turn-relay-address", "", "address under which peers reach this host (default: --turn's host)")
	f.StringArrayVar(&turnUsers, "turn-user", nil, "NAME:PASSWORD that may use it (repeatable)")
	f.StringArrayVar(&turnAllow, "turn-allow", nil, "network of private addresses that may be peers of it, such as 10.0.0.0/8 (repeatable)")
	f.StringVar(&logDir, "log-dir", "", "directory for server.log, beside standard error")
	f.StringVar(&level, "log-level", "", "debug, info (default), warn or error")
	f.StringVar(&format, "log-format", "", "text (default) or json")
	for _, name := range []string{"config", "token-file", "tls-cert", "tls-key"} {
		cmd.MarkFlagFilename(name)
	}
	return cmd
}

// relay serves until ctx ends.
func (a *app) relay(ctx context.Context, c relay.Config, metrics string) (err error) {
	out := a.err
	if dir := c.Logging.LogDir; dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(filepath.Join(dir, "server.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
		if err != nil {
			return err
		}
		defer f.Close()
		out = io.MultiWriter(a.err, f)
	}
	ho := &slog.HandlerOptions{Level: c.Level()}
	var log *slog.Logger
	if c.Proxyplane.LogFormat == "json" {
		log = slog.New(slog.NewJSONHandler(out, ho))
	} else {
		log = slog.New(slog.NewTextHandler(out, ho))
	}
	o, err := c.ServerOptions(log)
	if errors.Is(err, transport.ErrDenied) {
		return fail(exitUsage, "%w; the flags are --token-file, --listen and --insecure", err)
	}
	if err != nil {
		return fail(exitUsage, "%w", err)
	}
	s, err := relay.NewServer(o)
	if err != nil {
		return err
	}
	defer s.Close()
	l, err := net.Listen("tcp", c.Address())
	if err != nil {
		return fail(exitUnavailable, "%w; take another address or port (--listen)", err)
	}
	defer l.Close()
	stopMetrics, err := relayMetrics(metrics, s)
	if err != nil {
		return err
	}
	defer stopMetrics()
	if t := c.Proxyplane.Turn; t != nil {
		to := turn.Options{Address: t.Address, RelayAddress: t.RelayAddress, Realm: t.Realm, Users: t.Users, MinPort: uint16(t.MinPort), MaxPort: uint16(t.MaxPort), Logger: log}
		for _, p := range t.AllowPeers {
			prefix, err := netip.ParsePrefix(p)
			if err != nil {
				return fail(exitUsage, "TURN's allowed peers: %w", err)
			}
			to.AllowPeers = append(to.AllowPeers, prefix)
		}
		ts, err := turn.New(to)
		if err != nil {
			return fail(exitUsage, "%w", err)
		}
		defer ts.Close()
		log.Info("TURN server listens", "address", ts.Addr().String())
	}
	scheme := "ws"
	if o.TLS != nil {
		scheme = "wss"
	}
	at := scheme + "://" + l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	if a.json {
		err = a.printJSON(map[string]any{"ready": true, "address": at})
	} else {
		_, err = fmt.Fprintf(a.out, "ready %s\n", at)
	}
	if err != nil {
		return err
	}
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	log.Info("ending", "reason", context.Cause(ctx).Error())
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := s.Shutdown(limited); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// relayMetrics serves /metrics until the function that it returns is called.
func relayMetrics(addr string, s *relay.Server) (stop func(), err error) {
	if addr == "" {
		return func() {}, nil
	}
	if addr, err = hostPort(addr); err != nil {
		return nil, fail(exitUsage, "--metrics-listen: %w", err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fail(exitUnavailable, "--metrics-listen %s: %w; take another address or port", addr, err)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(prom.NewCollector(s.Stats))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	over := make(chan struct{})
	go func() {
		defer close(over)
		srv.Serve(l)
	}()
	return func() {
		srv.Close()
		<-over
	}, nil
}
