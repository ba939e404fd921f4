package soak

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
)

// generator is an endless stream of which every part can be made again: AES in counter mode over zeros, which is faster than any storage here.
type generator struct{ at int64 }

var generatorKey = must(aes.NewCipher([]byte("proxyplane-soak!")))

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (g *generator) Read(p []byte) (int, error) {
	fill(p, g.at)
	g.at += int64(len(p))
	return len(p), nil
}

// fill writes what the stream has from off.
func fill(p []byte, off int64) {
	var iv [aes.BlockSize]byte
	binary.BigEndian.PutUint64(iv[8:], uint64(off/aes.BlockSize))
	s := cipher.NewCTR(generatorKey, iv[:])
	var skip [aes.BlockSize]byte
	s.XORKeyStream(skip[:off%aes.BlockSize], skip[:off%aes.BlockSize])
	clear(p)
	s.XORKeyStream(p, p)
}

// sealed returns an object that says what it is: whoever reads it can tell whether it is whole, and which version of which object it is.
func sealed(id, version uint64, n int) []byte {
	p := make([]byte, 24+n)
	binary.LittleEndian.PutUint64(p, id)
	binary.LittleEndian.PutUint64(p[8:], version)
	binary.LittleEndian.PutUint64(p[16:], uint64(n))
	fill(p[24:], sealedAt(id, version))
	return p
}

// sealedAt is where in the stream the body of a sealed object begins.
func sealedAt(id, version uint64) int64 { return int64(id%(1<<30))<<32 | int64(version%(1<<12))<<4 }

// unseal checks a sealed object to the last byte.
func unseal(p []byte) (id, version uint64, err error) {
	if len(p) < 24 {
		return 0, 0, fmt.Errorf("torn: %d bytes", len(p))
	}
	id, version = binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])
	if n := binary.LittleEndian.Uint64(p[16:]); n != uint64(len(p)-24) {
		return id, version, fmt.Errorf("torn: %d bytes of object %d, version %d, which has %d", len(p)-24, id, version, n)
	}
	if !bytes.Equal(p, sealed(id, version, len(p)-24)) {
		return id, version, fmt.Errorf("torn: bytes of object %d, version %d, are not its own", id, version)
	}
	return id, version, nil
}
