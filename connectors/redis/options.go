package redis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/proxyplane/proxyplane/connectors"
)

const kind = "redis"

// Options configure a Connector. The zero value is the server on this machine at Redis's usual port. Where to connect is one of: Hostname and
// Port; Socket; Addrs with Cluster; Addrs with MasterName.
type Options struct {
	Hostname string // default: 127.0.0.1
	Port     int    // default: 6379
	Clear    bool   // delete the objects of this connector at Close

	Socket     string   // path of a unix socket
	Addrs      []string // host:port of some of the cluster's servers, or of the sentinels
	Cluster    bool     // Addrs are servers of a Redis cluster
	MasterName string   // Addrs are sentinels, which know the master by this name

	Username         string
	Password         string
	PasswordFile     string // instead of Password; read for each new connection; a line break at its end is no part of the password
	SentinelUsername string // for the sentinels themselves
	SentinelPassword string
	DB               int // database; a cluster has only 0

	TLS        bool   // speak TLS; the server's certificate is verified, always
	CAFile     string // PEM; who may sign the server's certificate; default: the system's authorities
	CertFile   string // PEM; our certificate, if the server asks for one
	KeyFile    string // PEM; the key of CertFile
	ServerName string // the name in the server's certificate; default: the host name that is dialed

	TTL         time.Duration // objects vanish after this long; default: never
	PoolSize    int           // calls that run at once, the others wait; default: 10 per CPU
	Timeout     time.Duration // longest time without any progress of a transfer; default: 30 s
	DialTimeout time.Duration // for connecting and logging in; default: 5 s
	MaxBytes    int64         // largest object, which also bounds what a server can make us hold; default: 512 MiB, as Redis's proto-max-bulk-len
	ClearAll    bool          // delete everything in the database (FLUSHDB) at Close, whoever made it: what Python's clear does
}

// Defaults of [Options].
const (
	defaultHost        = "127.0.0.1"
	defaultPort        = 6379
	defaultTimeout     = 30 * time.Second
	defaultDialTimeout = 5 * time.Second
	defaultMaxBytes    = 512 << 20
)

func defaultPoolSize() int { return 10 * runtime.GOMAXPROCS(0) }

// ensure fills in the defaults and refuses what contradicts itself.
func (o *Options) ensure() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", connectors.ErrConfig, fmt.Sprintf(format, args...))
	}
	o.Addrs = slices.Clone(o.Addrs)
	switch {
	case o.Socket != "" && (o.Hostname != "" || o.Port != 0 || len(o.Addrs) > 0):
		return bad("option socket excludes hostname, port and addrs")
	case len(o.Addrs) > 0 && (o.Hostname != "" || o.Port != 0):
		return bad("option addrs excludes hostname and port")
	case o.Cluster && o.MasterName != "":
		return bad("option cluster excludes master_name")
	case (o.Cluster || o.MasterName != "") != (len(o.Addrs) > 0):
		return bad("option addrs goes with either cluster or master_name")
	case o.Cluster && o.DB != 0:
		return bad("a cluster has no other database than 0; drop option db")
	case !printable(o.Username + o.Password + o.SentinelUsername + o.SentinelPassword + o.MasterName):
		return bad("options username, password and master_name must not hold control characters")
	case o.DB < 0:
		return bad("option db must not be negative")
	case o.Port < 0 || o.Port > math.MaxUint16:
		return bad("option port must be from 1 to 65535")
	case o.Password != "" && o.PasswordFile != "":
		return bad("option password excludes password_file")
	case o.Username != "" && o.Password == "" && o.PasswordFile == "":
		return bad("option username needs password or password_file")
	case !o.TLS && (o.CAFile != "" || o.CertFile != "" || o.KeyFile != "" || o.ServerName != ""):
		return bad("options ca_file, cert_file, key_file and server_name need tls")
	case (o.CertFile == "") != (o.KeyFile == ""):
		return bad("options cert_file and key_file go together")
	case o.TLS && o.Socket != "" && o.ServerName == "":
		return bad("TLS on a unix socket needs option server_name")
	case o.TTL < 0 || o.Timeout < 0 || o.DialTimeout < 0 || o.MaxBytes < 0 || o.PoolSize < 0:
		return bad("options ttl, timeout, dial_timeout, max_bytes and pool_size must not be negative")
	case o.TTL > 0 && o.TTL < time.Millisecond:
		return bad("option ttl must be a millisecond or more")
	}
	for _, d := range []*time.Duration{&o.TTL, &o.Timeout, &o.DialTimeout} {
		*d = d.Round(time.Microsecond) // so that seconds as a float64, and back, are the same
	}
	for _, addr := range o.Addrs {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return bad("option addrs must hold host:port: %v", err)
		}
	}
	for _, path := range []*string{&o.Socket, &o.PasswordFile, &o.CAFile, &o.CertFile, &o.KeyFile} {
		if *path != "" {
			abs, err := filepath.Abs(*path)
			if err != nil {
				return err
			}
			*path = abs
		}
	}
	if o.Socket == "" && len(o.Addrs) == 0 {
		if o.Hostname == "" {
			o.Hostname = defaultHost
		}
		if o.Port == 0 {
			o.Port = defaultPort
		}
	}
	if o.PoolSize == 0 {
		o.PoolSize = defaultPoolSize()
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = defaultDialTimeout
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = defaultMaxBytes
	}
	return nil
}

// tlsConfig returns nil without TLS.
func (o *Options) tlsConfig() (*tls.Config, error) {
	if !o.TLS {
		return nil, nil
	}
	cfg := &tls.Config{ServerName: o.ServerName, MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("%w: option ca_file: %w", connectors.ErrConfig, err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%w: option ca_file: %s holds no PEM certificate", connectors.ErrConfig, o.CAFile)
		}
	}
	if o.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("%w: options cert_file and key_file: %w", connectors.ErrConfig, err)
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}

// config is the inverse of parse. Defaults are left out, but for what Python needs.
func (o *Options) config(poolSet bool) connectors.Config {
	m := map[string]any{"clear": o.Clear}
	if o.Hostname != "" {
		m["hostname"], m["port"] = o.Hostname, int64(o.Port)
	}
	text := map[string]string{"socket": o.Socket, "master_name": o.MasterName, "username": o.Username, "password": o.Password,
		"password_file": o.PasswordFile, "sentinel_username": o.SentinelUsername, "sentinel_password": o.SentinelPassword, "ca_file": o.CAFile,
		"cert_file": o.CertFile, "key_file": o.KeyFile, "server_name": o.ServerName}
	for name, v := range text {
		if v != "" {
			m[name] = v
		}
	}
	for name, v := range map[string]bool{"cluster": o.Cluster, "tls": o.TLS, "clear_all": o.ClearAll} {
		if v {
			m[name] = true
		}
	}
	if len(o.Addrs) > 0 {
		addrs := make([]any, len(o.Addrs))
		for i, a := range o.Addrs {
			addrs[i] = a
		}
		m["addrs"] = addrs
	}
	if o.DB != 0 {
		m["db"] = int64(o.DB)
	}
	if poolSet {
		m["pool_size"] = int64(o.PoolSize)
	}
	if o.MaxBytes != defaultMaxBytes {
		m["max_bytes"] = o.MaxBytes
	}
	for name, v := range map[string][2]time.Duration{"ttl": {o.TTL, 0}, "timeout": {o.Timeout, defaultTimeout},
		"dial_timeout": {o.DialTimeout, defaultDialTimeout}} {
		if v[0] != v[1] {
			m[name] = v[0].Seconds()
		}
	}
	return connectors.Config{Kind: class.String(), Options: m}
}

var class = connectors.Class{Module: "proxystore.connectors.redis", Name: "RedisConnector"}

// Driver returns the driver of this connector, for a [connectors.Registry]. Its options are the fields of [Options], in Python's spelling:
// hostname, port, clear, socket, addrs, cluster, master_name, username, password, password_file, sentinel_username, sentinel_password, db, tls,
// ca_file, cert_file, key_file, server_name, ttl, pool_size, timeout, dial_timeout, max_bytes, clear_all. Times are seconds.
func Driver() connectors.Driver {
	return connectors.Driver{
		Kind:          kind,
		Class:         class,
		PythonOptions: []string{"hostname", "port", "clear"},
		// Python's connector knows neither logins nor TLS, nor another way to the server than host and port.
		Essential: []string{"socket", "addrs", "cluster", "master_name", "username", "password", "password_file", "db", "tls"},
		// clear_all is no secret, but it must not travel: it would have the receiver delete a database.
		Secret: []string{"password", "sentinel_password", "clear_all"},
		Open: func(_ context.Context, o *connectors.Options, env *connectors.Env) (connectors.Connector, error) {
			opts := parse(o)
			if err := o.Err(); err != nil {
				return nil, err
			}
			if !env.Received {
				return New(opts)
			}
			// A stranger's configuration deletes nothing and sets no bounds of ours.
			opts.Clear, opts.ClearAll = false, false
			opts.MaxBytes = min(opts.MaxBytes, defaultMaxBytes)
			opts.PoolSize = min(opts.PoolSize, defaultPoolSize())
			return newConnector(opts, trustReceived, env.Confirm)
		},
		Locations: func(o *connectors.Options, _ *connectors.Env) ([]connectors.Location, error) {
			opts := parse(o)
			if err := o.Err(); err != nil {
				return nil, err
			}
			return opts.locations()
		},
	}
}

func parse(o *connectors.Options) Options {
	return Options{
		Hostname: o.String("hostname", ""), Port: int(o.Int("port", 0, 0, math.MaxUint16)), Clear: o.Bool("clear", false),
		Socket: o.String("socket", ""), Addrs: o.Strings("addrs"), Cluster: o.Bool("cluster", false), MasterName: o.String("master_name", ""),
		Username: o.String("username", ""), Password: o.String("password", ""), PasswordFile: o.String("password_file", ""),
		SentinelUsername: o.String("sentinel_username", ""), SentinelPassword: o.String("sentinel_password", ""),
		DB:  int(o.Int("db", 0, 0, math.MaxInt32)),
		TLS: o.Bool("tls", false), CAFile: o.String("ca_file", ""), CertFile: o.String("cert_file", ""), KeyFile: o.String("key_file", ""),
		ServerName: o.String("server_name", ""),
		TTL:        o.Seconds("ttl", 0), PoolSize: int(o.Int("pool_size", 0, 0, 1<<16)), Timeout: o.Seconds("timeout", 0),
		DialTimeout: o.Seconds("dial_timeout", 0), MaxBytes: o.Int("max_bytes", 0, 0, min(math.MaxInt, 1<<40)), ClearAll: o.Bool("clear_all", false),
	}
}

// locations names every host that is dialed at first and every file that is read. A cluster and a sentinel can name further hosts; for those a
// received configuration is confirmed when they are dialed.
func (o Options) locations() ([]connectors.Location, error) {
	if err := o.ensure(); err != nil {
		return nil, err
	}
	var all []connectors.Location
	if o.Hostname != "" {
		all = append(all, connectors.Location{Kind: kind, Host: o.Hostname})
	}
	for _, addr := range o.Addrs {
		host, _, _ := net.SplitHostPort(addr) // ensure has looked at it
		all = append(all, connectors.Location{Kind: kind, Host: host})
	}
	if o.Socket != "" {
		all = append(all, connectors.Location{Kind: kind, Dir: o.Socket})
	}
	for _, path := range []string{o.PasswordFile, o.CAFile, o.CertFile, o.KeyFile} {
		if path != "" {
			all = append(all, connectors.Location{Kind: kind, File: path})
		}
	}
	return all, nil
}

// addr is where a single server is.
func (o *Options) addr() (network, addr string) {
	if o.Socket != "" {
		return "unix", o.Socket
	}
	return "tcp", net.JoinHostPort(o.Hostname, strconv.Itoa(o.Port))
}
