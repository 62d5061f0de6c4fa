package fsm

// For the test that docs/format.md names every field.
type (
	RequestRow = request
	Message    = message
)

// NewBody lets tests find every kind.
func NewBody(kind Kind) Body { return newBody(kind) }
