package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	client "github.com/proxyplane/proxyplane/connectors/endpoint"
	daemon "github.com/proxyplane/proxyplane/endpoint"
	"github.com/proxyplane/proxyplane/endpoint/config"
	"github.com/proxyplane/proxyplane/endpoint/peer"
)

const endpointHelp = `Endpoints let sites exchange objects without opening ports: each site runs one, clients talk to their own over HTTP, and endpoints find each other
through a relay. The directories, files and HTTP API are those of proxystore-endpoint: either program can run the other's endpoints, and the two can be peers.

  proxyplane relay --listen 127.0.0.1:8700 &
  proxyplane endpoint configure site-a --relay-address ws://127.0.0.1:8700
  proxyplane endpoint start site-a
  proxyplane endpoint test site-a
  proxyplane endpoint status site-a

An endpoint's directory is $PROXYSTORE_HOME/NAME, by default ~/.local/share/proxystore/NAME. What only proxyplane knows is in proxyplane.toml there.`

func (a *app) endpointCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "endpoint", Short: "Run endpoints, which reach objects of other sites", Long: endpointHelp,
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.endpointConfigureCmd(), a.endpointStartCmd(), a.endpointStopCmd(), a.endpointListCmd(), a.endpointRemoveCmd(), a.endpointStatusCmd(),
		a.endpointTryCmd(), a.endpointFoldCmd())
	return cmd
}

// endpointError gives an error of package config its exit code.
func endpointError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, config.ErrUnknown), errors.Is(err, fs.ErrNotExist):
		return fail(exitNotFound, "%w; `proxyplane endpoint list` shows those in %s", err, config.Home())
	case errors.Is(err, config.ErrInvalid), errors.Is(err, config.ErrRunning), errors.Is(err, config.ErrOtherHost), errors.Is(err, fs.ErrExist):
		return fail(exitUsage, "%w", err)
	}
	return err
}

// unknownEndpoint says why there is no endpoint of that name: if it has a configuration, what is wrong with that.
func unknownEndpoint(name string) error {
	if config.ValidName(name) {
		if _, err := config.Read(filepath.Join(config.Home(), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return endpointError(fmt.Errorf("endpoint %s: %w: %w", name, config.ErrUnknown, err))
		}
	}
	return endpointError(fmt.Errorf("endpoint %q: %w", name, config.ErrUnknown))
}

// done prints the result of a command that changed an endpoint: as JSON its name and what, else text.
func (a *app) done(name, what string, is bool, text string) error {
	if a.json {
		return a.printJSON(map[string]any{"name": name, what: is})
	}
	_, err := fmt.Fprintln(a.out, text)
	return err
}

func (a *app) endpointConfigureCmd() *cobra.Command {
	var (
		host, relay, maxObject, quota            string
		port, channels, lanes                    int
		relayAuth, noRelayAuth, noRelay, persist bool
		noICE                                    bool
		ice                                      []string
		x                                        = config.DefaultExtra()
	)
	cmd := &cobra.Command{
		Use:   "configure NAME",
		Short: "Make a new endpoint",
		Long: `Make the directory and configuration of a new endpoint. The flags are those of proxystore-endpoint configure, and some of ours.

Two defaults differ from ProxyStore's: the endpoint listens on 127.0.0.1 (whoever reaches it may read and write its objects; --host ip or fqdn serves the
other nodes of a site), and it has no relay unless you name one.`,
		Example: `  proxyplane endpoint configure here --relay-address wss://relay.example.org --host ip --persist
  proxyplane endpoint configure here --relay-address ws://127.0.0.1:8700 --no-relay-auth --no-ice-servers`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := config.Options{Host: host, Port: port, PeerChannels: channels, Persist: persist, Relay: relay, RelayAuth: relayAuth && !noRelayAuth, Extra: &x}
			if noRelay {
				o.Relay = ""
			}
			if cmd.Flags().Changed("port") && (port < 1 || port > 65535) {
				return fail(exitUsage, "--port %d: use 1 to 65535", port)
			}
			if cmd.Flags().Changed("peer-channels") && channels < 1 {
				return fail(exitUsage, "--peer-channels %d: use 1 or more", channels)
			}
			if noICE && len(ice) > 0 {
				return fail(exitUsage, "--no-ice-servers and --ice-server contradict each other")
			}
			if noICE {
				o.ICEServers = []config.ICEServer{}
			}
			for _, u := range ice {
				s, err := parseICEServer(u)
				if err != nil {
					return err
				}
				o.ICEServers = append(o.ICEServers, s)
			}
			x.Peer.Lanes = lanes
			var err error
			if x.Storage.Quota, err = parseSize("--quota", quota); err != nil {
				return err
			}
			limit, err := parseSize("--max-object", maxObject)
			if err != nil {
				return err
			}
			for _, path := range []*string{&x.Relay.TokenFile, &x.Relay.CAFile, &x.HTTP.TokenFile, &x.HTTP.TLSCert, &x.HTTP.TLSKey} {
				if *path != "" { // as the caller sees it; in the file, paths are relative to the endpoint's directory
					if *path, err = filepath.Abs(*path); err != nil {
						return err
					}
				}
			}
			c, err := config.Configure(config.Home(), args[0], o)
			if err == nil && limit > 0 {
				c.Storage.MaxObjectSize = limit
				err = c.Write(filepath.Join(config.Home(), c.Name))
			}
			if err != nil {
				return endpointError(err)
			}
			dir := filepath.Join(config.Home(), c.Name)
			if a.json {
				return a.printJSON(map[string]any{"name": c.Name, "uuid": c.UUID, "dir": dir})
			}
			fmt.Fprintf(a.out, "Configured endpoint: %s <%s>\nConfig and log file directory: %s\n", c.Name, c.UUID, dir)
			if c.Relay.Address == "" {
				fmt.Fprintln(a.out, "It has no relay, and so no peers: --relay-address names one, relay.address in config.toml too")
			}
			_, err = fmt.Fprintf(a.out, "Start the endpoint with:\n  $ proxyplane endpoint start %s\n", c.Name)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&host, "host", "127.0.0.1", `what to listen on: "ip" or "fqdn" of this host, or an address`)
	f.IntVar(&port, "port", 0, "port to listen on (default: a random one)")
	f.StringVar(&relay, "relay-address", "", "relay, ws:// or wss:// (default: none)")
	f.BoolVar(&relayAuth, "relay-auth", false, "the relay wants Globus tokens, as ProxyStore's public one does (proxystore-globus-auth login)")
	f.BoolVar(&noRelayAuth, "no-relay-auth", false, "the relay wants none (the default)")
	f.BoolVar(&noRelay, "no-relay-server", false, "no relay, whatever --relay-address says")
	f.IntVar(&channels, "peer-channels", 1, "data channels per connection to a peer that runs ProxyStore")
	f.BoolVar(&persist, "persist", false, "keep objects in a database, so that they outlive the endpoint")
	f.StringVar(&maxObject, "max-object", "", "length of the largest object, such as 10GiB (default: 100MB, as ProxyStore)")
	f.StringVar(&quota, "quota", "", "most bytes of all objects, such as 1TB (default: what memory or the disk takes)")
	f.StringArrayVar(&ice, "ice-server", nil, "stun:HOST:PORT or turn:USER:PASSWORD@HOST:PORT (repeatable; default: ProxyStore's public STUN servers)")
	f.BoolVar(&noICE, "no-ice-servers", false, "no STUN or TURN servers: for peers that reach each other without")
	f.StringVar(&x.Peer.Listen, "peer-listen", x.Peer.Listen, `where proxyplane's endpoints may connect to directly, HOST:PORT or "off"`)
	f.StringArrayVar(&x.Peer.Advertise, "advertise", nil, "HOST:PORT that peers are told too: a forwarded port, say (repeatable)")
	f.IntVar(&lanes, "lanes", 0, "parallel streams of a transfer between proxyplane's endpoints (default: 4, and up to 16 where that turns out to be faster)")
	f.StringVar(&x.Peer.Compress, "compress", "", "between proxyplane's endpoints: none (default), s2, zstd or auto")
	f.BoolVar(&x.Peer.Loopback, "loopback", false, "offer peers loopback addresses too: for several endpoints on one host without a network")
	f.BoolVar(&x.Peer.RelayOnly, "turn-only", false, "only TURN paths: hides this host's addresses from peers")
	f.StringVar(&x.Relay.TokenFile, "relay-token-file", "", "file with the token for a relay with tokens (proxyplane relay --token-file)")
	f.StringVar(&x.Relay.CAFile, "relay-ca", "", "PEM file with the authorities for the relay's certificate")
	f.StringVar(&x.HTTP.Socket, "socket", "", "unix socket to serve clients of this user on too; a relative path is in the endpoint's directory")
	f.StringVar(&x.HTTP.TokenFile, "token-file", "", "file with the token that clients must bring; Python's clients cannot")
	f.StringVar(&x.HTTP.TLSCert, "tls-cert", "", "PEM file with the certificate for clients")
	f.StringVar(&x.HTTP.TLSKey, "tls-key", "", "PEM file with its key")
	return cmd
}

// parseICEServer reads stun:HOST:PORT, or turn:USER:PASSWORD@HOST:PORT.
func parseICEServer(u string) (config.ICEServer, error) {
	scheme, rest, ok := strings.Cut(u, ":")
	if !ok || scheme != "stun" && scheme != "stuns" && scheme != "turn" && scheme != "turns" || rest == "" {
		return config.ICEServer{}, fail(exitUsage, "--ice-server %q: use stun:HOST:PORT or turn:USER:PASSWORD@HOST:PORT", u)
	}
	var s config.ICEServer
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		s.Username, s.Credential, _ = strings.Cut(rest[:at], ":")
		rest = rest[at+1:]
	}
	s.URLs = []string{scheme + ":" + rest}
	return s, nil
}

func (a *app) endpointListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the endpoints", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			home := config.Home()
			entries, err := config.List(home)
			if err != nil {
				return err
			}
			type line struct {
				Name   string `json:"name"`
				Status string `json:"status"`
				UUID   string `json:"uuid"`
				Dir    string `json:"dir"`
			}
			lines := make([]line, 0, len(entries))
			for _, e := range entries {
				lines = append(lines, line{e.Config.Name, config.GetStatus(filepath.Dir(e.Dir), filepath.Base(e.Dir)).String(), e.Config.UUID, e.Dir})
			}
			if a.json {
				return a.printJSON(lines)
			}
			if len(lines) == 0 {
				_, err := fmt.Fprintf(a.out, "No valid endpoint configurations in %s.\n", home)
				return err
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tSTATUS\tUUID")
			for _, l := range lines {
				fmt.Fprintf(w, "%s\t%s\t%s\n", printable(l.Name), l.Status, printable(l.UUID))
			}
			return w.Flush()
		},
	}
}

func (a *app) endpointRemoveCmd() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Delete an endpoint and its objects", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := config.Remove(config.Home(), args[0]); err != nil {
				return endpointError(err)
			}
			return a.done(args[0], "removed", true, "Removed endpoint named "+args[0]+".")
		},
	}
}

// endpointClient opens a connector to the endpoint of that name.
func endpointClient(ctx context.Context, name string) (*client.Connector, config.Config, error) {
	home := config.Home()
	if !config.ValidName(name) {
		return nil, config.Config{}, unknownEndpoint(name)
	}
	c, err := config.Read(filepath.Join(home, name))
	if err != nil {
		return nil, c, unknownEndpoint(name)
	}
	conn, err := client.New(ctx, client.Options{Endpoints: []string{c.UUID}, ProxystoreDir: home})
	return conn, c, err
}

func (a *app) endpointStatusCmd() *cobra.Command {
	return &cobra.Command{
		Use: "status NAME", Short: "Show what an endpoint does: its objects, relay and peers",
		Long: `Show an endpoint's status: whether it runs, what it stores, whether it is connected to its relay, and for each peer over which path (tls, quic, webrtc)
and how fast. Exit code 0 if it runs and answers, 1 if it is stopped.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			s := config.GetStatus(config.Home(), name)
			if s == config.Unknown {
				return unknownEndpoint(name)
			}
			if s != config.Running {
				if a.json {
					if err := a.printJSON(map[string]any{"name": name, "state": s.String()}); err != nil {
						return err
					}
				} else {
					fmt.Fprintf(a.out, "%s is %s\n", name, s)
				}
				return errNo
			}
			conn, c, err := endpointClient(cmd.Context(), name)
			if err != nil {
				return err
			}
			defer conn.Close(context.WithoutCancel(cmd.Context()))
			raw, err := conn.Status(cmd.Context())
			if errors.Is(err, errors.ErrUnsupported) {
				id, at := conn.Endpoint()
				if a.json {
					return a.printJSON(map[string]any{"name": name, "state": s.String(), "uuid": id, "address": at, "program": "proxystore-endpoint"})
				}
				_, err := fmt.Fprintf(a.out, "%s <%s> is %s at %s, served by proxystore-endpoint, which tells no more\n", c.Name, id, s, at)
				return err
			}
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(json.RawMessage(raw))
			}
			return a.printStatus(raw)
		},
	}
}

// printStatus prints what an endpoint says of itself, for people.
func (a *app) printStatus(raw []byte) error {
	var s struct {
		daemon.Status
		Peers *peer.Status `json:"peers"`
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return fail(exitBadInput, "the endpoint's status: %w", err)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	line("endpoint", "%s <%s>, process %d, since %s", s.Name, s.UUID, s.PID, s.Started.Local().Format(time.DateTime))
	if s.Ending {
		line("", "ending: it waits for the last requests")
	}
	line("listens on", "%s", strings.Join(s.Listening, " "))
	stored := fmt.Sprintf("%d objects, %d bytes in %s", s.Storage.Objects, s.Storage.Bytes, s.Storage.Kind)
	if s.Storage.Path != "" {
		stored += " " + s.Storage.Path
	}
	if s.Storage.Quota > 0 {
		stored += fmt.Sprintf(", of at most %d", s.Storage.Quota)
	}
	line("stores", "%s", stored)
	switch r := s.Relay; {
	case r == nil:
		line("relay", "none, and so no peers")
	case r.Connected:
		line("relay", "%s, connected since %s", r.Address, r.Since.Local().Format(time.DateTime))
	case r.GaveUp:
		line("relay", "%s refused it for good: %s", r.Address, r.Error)
	default:
		line("relay", "%s, not connected: %s", r.Address, r.Error)
	}
	if s.Peers != nil {
		if len(s.Peers.Listen) > 0 {
			line("peers reach it", "at %s (tls), UDP %s", strings.Join(s.Peers.Listen, " "), s.Peers.UDP)
		} else {
			line("peers reach it", "at UDP %s", s.Peers.UDP)
		}
		for _, p := range s.Peers.Peers {
			line("peer", "%s <%s> %s %s", p.Name, p.UUID, p.State, p.Detail)
			for i, path := range p.Paths {
				what := "also"
				if i == 0 {
					what = "over"
				}
				by := ""
				if path.Conns > 1 {
					by = fmt.Sprintf(", %d connections", path.Conns)
				}
				if path.Relayed {
					by += ", through TURN"
				}
				line("", "%s %s %s -> %s%s, round trip %v", what, path.Kind, path.Local, path.Remote, by, path.RTT.Round(10*time.Microsecond))
			}
			if p.Dialect != "" {
				line("", "speaks %s; in %d bytes, %s; out %d bytes, %s", p.Dialect, p.BytesIn, speed(int64(p.RateIn), time.Second), p.BytesOut,
					speed(int64(p.RateOut), time.Second))
			}
			if p.Error != "" {
				line("", "last error: %s", p.Error)
			}
		}
	}
	return w.Flush()
}

func (a *app) endpointStopCmd() *cobra.Command {
	var grace time.Duration
	cmd := &cobra.Command{
		Use: "stop NAME", Short: "Stop an endpoint", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			stopped, err := config.Stop(cmd.Context(), config.Home(), args[0], grace)
			if errors.Is(err, config.ErrUnknown) {
				return unknownEndpoint(args[0])
			}
			if err != nil {
				return endpointError(err)
			}
			text := " has been stopped."
			if !stopped {
				text = " is not running."
			}
			return a.done(args[0], "stopped", stopped, "Endpoint "+args[0]+text)
		},
	}
	cmd.Flags().DurationVar(&grace, "grace", config.DefaultGrace, "how long transfers under way may take before the endpoint is killed")
	return cmd
}
