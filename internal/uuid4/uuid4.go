// Package uuid4 makes the keys of objects: random UUIDs, as Python's str(uuid.uuid4()).
package uuid4

import (
	"crypto/rand"

	"github.com/google/uuid"
)

// New returns a random UUID. It spares the allocations of uuid.NewRandom, which cost more than the random bits.
func New() string {
	var u uuid.UUID
	rand.Read(u[:]) // never fails
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u.String()
}
