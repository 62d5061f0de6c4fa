package fsm

import (
	"time"

	"github.com/keycustodian/keycustodian/dkek"
)

// Every maximum of the replicated state. A larger value is a new command
// version: nodes that disagree about a limit would disagree about state.
const (
	MaxCommand  = 64 << 10 // bytes of one encoded command
	MaxOpen     = 60 << 10 // bytes of a ceremony's Open
	MaxBlob     = 4 << 10  // bytes of a wrapped key
	MaxPublic   = 2 << 10  // bytes of a SubjectPublicKeyInfo
	MaxMessage  = 256      // bytes of a refusal's text
	MaxReason   = 1 << 10  // bytes of a reason, detail or other prose
	MaxText     = 256      // bytes of a short text: purpose, weakness, device label
	MaxAddress  = 256      // bytes of host:port
	MaxItems    = 1000     // entries of a batch in one command
	MaxSnapshot = 1 << 20  // bytes of one row in a snapshot

	MaxVoters    = 15
	MaxNonvoters = 15
	MaxRemoved   = 1000 // removed members that are remembered
	MaxChanges   = 4096 // membership changes that are remembered
	MaxTokens    = 100
	MaxClients   = 1000
	MaxPrefixes  = 32 // name prefixes of one client
	MaxOperators = 32

	MaxKeys       = 1_000_000
	MaxVersions   = 1000 // of one key
	MaxName       = 128  // bytes of a key's name
	MaxMemberName = 63   // bytes of a member's, client's, operator's or token's name
	MaxLabels     = 32   // of one key
	MaxLabelKey   = 64   // bytes
	MaxLabelValue = 256  // bytes
	MaxKeyClients = 32   // clients that a key's policy names
	MaxAborts     = 10_000

	MaxOpenCeremonies = 16
	MaxCeremonies     = 1000 // closed ones that are remembered
	MaxSharings       = 100  // superseded and dropped ones that are remembered
	MaxGoverns        = 4096 // changes of the operators, ever
	MaxRecipients     = 15
	MaxProofs         = 256             // device reports of one ceremony, or about one sharing
	MaxReports        = dkek.MaxHolders // of those, one node's
	MaxCertificate    = 2048            // bytes of a device certificate in an Open
	MaxHPKEKey        = 2048            // bytes
	MaxSignature      = 128             // bytes
	MaxSample         = 1000            // blobs that a drill proves

	MaxRequests = 100_000 // newest requests whose result is remembered
	MaxAudit    = 10_000  // newest audit records
)

// Longest times.
const (
	MaxCeremonyTime = 24 * time.Hour
	MaxDeviceWord   = time.Hour // that an operator's word about a device lasts
	MaxTokenTime    = 30 * 24 * time.Hour
	MaxStaleFor     = 365 * 24 * time.Hour
	MaxDeleteWait   = 10 * 365 * 24 * time.Hour
)

// Defaults of a [Policy].
const (
	DefaultCopies     = 1
	DefaultStaleFor   = time.Hour
	DefaultDeleteWait = 7 * 24 * time.Hour
)
