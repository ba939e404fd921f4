package relay

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writeCertificate makes a self-signed certificate for localhost, 127.0.0.1 and name.
func writeCertificate(t testing.TB, dir, name string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost", name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func TestTLS(t *testing.T) {
	checkLeaks(t)
	ctx := testContext(t)
	dir := t.TempDir()
	certFile, keyFile := writeCertificate(t, dir, "one")
	cfg, err := ServerTLS(certFile, keyFile, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	s, addr := startServer(t, ServerOptions{TLS: cfg})
	untrusting := startClient(t, "wss://"+addr, nil)
	eventually(t, "the certificate is refused", func() bool {
		err := untrusting.State().Err
		return err != nil && strings.Contains(err.Error(), "certificate")
	})
	trusting := func(verify bool, ca string) *Client {
		t.Helper()
		cfg, err := ClientTLS(verify, ca)
		if err != nil {
			t.Fatal(err)
		}
		c := startClient(t, "wss://"+addr, func(o *ClientOptions) { o.TLS = cfg })
		if err := c.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		return c
	}
	careless, careful := trusting(false, ""), trusting(true, certFile)
	if err := careful.Send(ctx, PeerConnection{PeerUUID: careless.o.UUID}); err != nil {
		t.Fatal(err)
	}
	if m, err := careless.Receive(ctx); err != nil || m.SourceUUID != careful.o.UUID {
		t.Errorf("%+v, %v", m, err)
	}

	// Another certificate is used for the next connection, and a broken one is not.
	before := *mustKeyPair(t, certFile, keyFile).cert
	writeCertificate(t, dir, "another")
	k := mustKeyPair(t, certFile, keyFile)
	if string(k.cert.Certificate[0]) == string(before.Certificate[0]) {
		t.Fatal("the same certificate")
	}
	eventually(t, "the new certificate is used", func() bool {
		got, err := cfg.GetCertificate(nil)
		return err == nil && string(got.Certificate[0]) == string(k.cert.Certificate[0])
	})
	trusting(true, certFile)
	if err := os.WriteFile(certFile, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	k.checked = time.Time{}
	if got := k.current(); string(got.Certificate[0]) == string(before.Certificate[0]) || got == nil {
		t.Error("a broken file replaced the certificate")
	}
	trusting(false, "")
	if st := s.Stats(); st.Clients != 4 {
		t.Errorf("%+v", st)
	}

	for _, f := range []string{filepath.Join(dir, "none"), certFile} {
		if _, err := ServerTLS(f, "", nil); err == nil {
			t.Errorf("%s was taken", f)
		}
		if _, err := ClientTLS(true, f); err == nil {
			t.Errorf("%s was taken", f)
		}
	}
}

func mustKeyPair(t *testing.T, certFile, keyFile string) *keyPair {
	t.Helper()
	k := &keyPair{certFile: certFile, keyFile: keyFile, log: testLog(t)}
	if err := k.load(); err != nil {
		t.Fatal(err)
	}
	return k
}
