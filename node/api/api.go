// Package api is the wire between a custodian and whoever uses it: the routes,
// the bodies, the headers and the error codes of the HTTP API. The server, the
// Go client and nodectl share it and use nothing else.
//
// Start with [Routes], the one table from which the OpenAPI document
// ([Document]) is made and against which the server is tested.
//
// Bodies are JSON, except where a route takes secrets (see [EncodeSecrets]):
// bytes are standard base64, identities (nodes, clusters, ceremonies) 32 and
// fingerprints 64 lower-case hexadecimal digits, times RFC 3339 in UTC,
// durations whole seconds. A server refuses fields that it does not know; a
// client ignores them. Key names contain "/", so a key is named in the query or
// the body and never in the path.
//
// A caller is its key: TLS 1.3 with a self-signed client certificate, known by
// the SHA-256 of its DER SubjectPublicKeyInfo. A unix socket of mode 0600 has
// routes of its own and is never an operator.
//
//	POST /v1/key/sign
//	{"key": "tables-2026@2", "hash": "sha256", "inputs": ["uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek="]}
package api

import "time"

// Headers of requests and answers.
const (
	// HeaderRequest carries the request ID of a change: 32 hexadecimal digits
	// for 16 random bytes. The same ID sent again changes nothing and is
	// answered like the first time.
	HeaderRequest = "Idempotency-Key"
	// HeaderNode names the node that answered, by its ID.
	HeaderNode = "X-Custodian-Node"
	// HeaderStateAge is how many seconds ago the answering node last heard
	// from a quorum, with a decimal fraction; 0 for a linearizable answer. A
	// node that never did sends -1.
	HeaderStateAge = "X-Custodian-State-Age"
)

// Types of bodies.
const (
	TypeJSON    = "application/json"
	TypeSecrets = "application/vnd.keycustodian.secrets"
	TypeText    = "text/plain; version=0.0.4"
	TypeBackup  = "application/vnd.keycustodian.backup"
)

// Maximums.
const (
	// MaxBody is the largest body of a request in bytes.
	MaxBody = 1 << 20
	// MaxMessage is the largest document to be encrypted, signed whole (Ed25519)
	// or authenticated, in bytes.
	MaxMessage = 256 << 10
	// MaxCiphertext is the largest ciphertext in bytes: what AES-GCM makes of
	// MaxMessage, with nonce (12) and tag (16).
	MaxCiphertext = MaxMessage + 12 + 16
	// MaxInputs is the most inputs of one sign request.
	MaxInputs = 1000
	// MaxRandom is the most random bytes of one answer.
	MaxRandom = 64 << 10
	// MaxPage is the most entries of one page, and DefaultPage how many come
	// unasked.
	MaxPage     = 1000
	DefaultPage = 100
	// MaxWait is how long a request may wait for a change.
	MaxWait = 30 * time.Second
	// MaxSecret is the longest secret in bytes.
	MaxSecret = 4096
)

// Ack is the answer of a change that has nothing else to say.
type Ack struct {
	// Index is the position in the log at which the change was applied; 0
	// where it was not written there.
	Index uint64 `json:"index"`
}
