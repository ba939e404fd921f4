package relay

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// ServerTLS returns a configuration for [ServerOptions].TLS with the certificate chain and key of these files (PEM). "" as keyFile is certFile. The files are read
// again after they have changed, so that a renewed certificate is used without a restart; while they cannot be read the certificate before stays. log may be nil.
func ServerTLS(certFile, keyFile string, log *slog.Logger) (*tls.Config, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	k := &keyPair{certFile: certFile, keyFile: cmp.Or(keyFile, certFile), log: log}
	if err := k.load(); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return k.current(), nil }}, nil
}

type keyPair struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex
	cert    *tls.Certificate
	seen    [2]fileVersion
	checked time.Time
}

// checkInterval is how often the files are looked at, at most.
const checkInterval = time.Second

func (k *keyPair) current() *tls.Certificate {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := time.Now(); now.Sub(k.checked) >= checkInterval {
		k.checked = now
		if versions, err := k.versions(); err != nil || versions != k.seen {
			if err := k.load(); err != nil {
				k.log.Error("cannot read the certificate again; the one before stays", "error", err)
			} else {
				k.log.Info("read the certificate again", "file", k.certFile)
			}
		}
	}
	return k.cert
}

func (k *keyPair) versions() (v [2]fileVersion, err error) {
	for i, path := range []string{k.certFile, k.keyFile} {
		info, err := os.Stat(path)
		if err != nil {
			return v, err
		}
		v[i] = versionOf(info)
	}
	return v, nil
}

func (k *keyPair) load() error {
	versions, err := k.versions() // before reading: what is written meanwhile is read next time
	if err != nil {
		return fmt.Errorf("relay: certificate: %w", err)
	}
	cert, err := tls.LoadX509KeyPair(k.certFile, k.keyFile)
	if err != nil {
		return fmt.Errorf("relay: certificate %s with key %s: %w", k.certFile, k.keyFile, err)
	}
	k.cert, k.seen = &cert, versions
	return nil
}
