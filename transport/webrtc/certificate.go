package webrtc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"time"
)

// certificateAge is how long a certificate is valid. Nobody checks: peers compare its fingerprint. But what logs and shows certificates should not
// find one that has expired.
const certificateAge = 10 * 365 * 24 * time.Hour

// NewCertificate makes a key (ECDSA, P-256, the only kind that every WebRTC peer takes) and a certificate signed with it. A program makes one when it
// starts, for all its Agents: peers know it by its [Fingerprint], which comes with each offer and answer.
func NewCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making a key for WebRTC: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making a certificate for WebRTC: %w", err)
	}
	name := pkix.Name{CommonName: serial.Text(16)} // says nothing about who this is
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject:      name,
		Issuer:       name,
		NotBefore:    now.Add(-24 * time.Hour), // for peers whose clock is behind
		NotAfter:     now.Add(certificateAge),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making a certificate for WebRTC: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making a certificate for WebRTC: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// Fingerprint returns the SHA-256 of a certificate (DER) as SDP has it: 32 upper-case hexadecimal bytes with colons between (RFC 8122, section 5).
func Fingerprint(cert []byte) string {
	sum := sha256.Sum256(cert)
	return formatFingerprint(sum[:])
}

func formatFingerprint(sum []byte) string {
	const digits = "0123456789ABCDEF"
	b := make([]byte, 0, len(sum)*3)
	for i, x := range sum {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, digits[x>>4], digits[x&15])
	}
	return string(b)
}

// parseFingerprint checks the form of a SHA-256 and returns it as [Fingerprint] writes it.
func parseFingerprint(s string) (string, bool) {
	if len(s) != sha256.Size*3-1 {
		return "", false
	}
	sum := make([]byte, 0, sha256.Size)
	for i := 0; i < len(s); i += 3 {
		if i > 0 && s[i-1] != ':' {
			return "", false
		}
		x, err := hex.DecodeString(s[i : i+2])
		if err != nil {
			return "", false
		}
		sum = append(sum, x[0])
	}
	return formatFingerprint(sum), true
}
