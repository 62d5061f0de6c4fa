package fsm

import "github.com/keycustodian/keycustodian/dkek"

// For the test that docs/format.md names every field.
type (
	RequestRow = request
	Message    = message
)

// NewBody lets tests find every kind.
func NewBody(kind Kind) Body { return newBody(kind) }

// HashRow lets a test compare what counts of a row.
func HashRow(r *RequestRow) (dkek.Hash, error) { return hashRow(r) }
