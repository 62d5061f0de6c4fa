package dkek

import (
	"errors"
	"strings"
)

// Reason says why a share, a release or a file with one was refused. Test with
// errors.Is(err, dkek.Forged). The value is a stable code that may cross the
// wire.
type Reason string

// The reasons, with what each means.
const (
	TooFew       Reason = "too-few"       // fewer than the threshold
	Duplicate    Reason = "duplicate"     // the same share twice
	ZeroX        Reason = "zero-x"        // x = 0: such a share would dictate the result
	BadLength    Reason = "bad-length"    // not the length that a share has
	WrongCluster Reason = "wrong-cluster" // of another cluster
	WrongEpoch   Reason = "wrong-epoch"   // of another epoch
	WrongAttempt Reason = "wrong-attempt" // of another attempt of this epoch
	WrongHolder  Reason = "wrong-holder"  // another holder's
	WrongDealer  Reason = "wrong-dealer"  // another dealer's
	WrongSharing Reason = "wrong-sharing" // right numbers, yet another sharing or set
	NotHolder    Reason = "not-holder"    // a node that has no part in this sharing
	Forged       Reason = "forged"        // does not match its commitment
	Unopened     Reason = "unopened"      // sealed for another key or transcript, or a bit was changed
	WrongSuite   Reason = "wrong-suite"   // unknown suite, or not the key's
	WrongKind    Reason = "wrong-kind"    // a sub-share for a release, a cluster's share for a plain one, or the like
	Damaged      Reason = "damaged"       // checksum is wrong: a bit was changed
	Truncated    Reason = "truncated"     // ends before its end
	BadFormat    Reason = "bad-format"    // not such a file at all, or not in its one canonical form
	WrongSeal    Reason = "wrong-seal"    // intact, yet it does not open under this seal secret
	WrongKCV     Reason = "wrong-kcv"     // combined to another key
	Wiped        Reason = "wiped"         // used after Wipe
)

// explained gives each reason's meaning and way out.
func (r Reason) explained() (meaning, wayOut string) {
	switch r {
	case TooFew:
		return "too few shares", "bring more holders back"
	case Duplicate:
		return "the same share twice", "take another holder's"
	case ZeroX:
		return "x is 0", "take another holder's share"
	case BadLength:
		return "wrong length", "take another holder's share and reshare"
	case WrongCluster:
		return "belongs to another cluster", "use this cluster's share"
	case WrongEpoch:
		return "belongs to another epoch", "use the share of the epoch asked for"
	case WrongAttempt:
		return "belongs to another attempt", "use the share of the attempt that was completed"
	case WrongHolder:
		return "belongs to another holder", "put each share back to its holder"
	case WrongDealer:
		return "comes from another dealer", "ask that dealer itself"
	case WrongSharing:
		return "belongs to another sharing", "use shares of one sharing only"
	case NotHolder:
		return "is not part of this sharing", "ask a node that is"
	case Forged:
		return "does not match its commitment", "take another holder's share and reshare"
	case Unopened:
		return "does not open: sealed for another key or transcript, or changed on the way", "ask its holder again"
	case WrongSuite:
		return "sealed with another suite", "use the suite of the recipient's key"
	case WrongKind:
		return "is another kind of thing", "use each form for its own purpose"
	case Damaged:
		return "checksum is wrong", "take an intact copy, or go on without this share"
	case Truncated:
		return "ends too early", "take an intact copy, or go on without this share"
	case BadFormat:
		return "is not in this format", "check that it is the right file"
	case WrongSeal:
		return "does not open under this seal secret", "give the seal secret that it was written with"
	case WrongKCV:
		return "key check value differs", "try another quorum: one of these shares was dealt wrongly"
	case Wiped:
		return "was wiped before", "open it again"
	}
	return string(r), "see the documentation of this reason"
}

// Error implements error: a Reason is what an [*ShareError] unwraps to.
func (r Reason) Error() string {
	meaning, _ := r.explained()
	return meaning
}

// ShareError is a refused share. Holder and Dealer are zero where they are not
// known or have no part in it.
type ShareError struct {
	Op     string // "open release"
	Holder NodeID // whose share it is
	Dealer NodeID // whose sub-share in it is the bad one
	Reason Reason
	Detail string // for people; never a secret
}

func (e *ShareError) Error() string {
	var b strings.Builder
	b.WriteString("dkek: " + e.Op + ": ")
	if e.Holder != (NodeID{}) {
		b.WriteString("share of holder " + e.Holder.String() + ": ")
	}
	if e.Dealer != (NodeID{}) {
		b.WriteString("sub-share of dealer " + e.Dealer.String() + ": ")
	}
	meaning, wayOut := e.Reason.explained()
	b.WriteString(meaning)
	if e.Detail != "" {
		b.WriteString(" (" + e.Detail + ")")
	}
	b.WriteString(": " + wayOut)
	return b.String()
}

// Unwrap gives the [Reason].
func (e *ShareError) Unwrap() error { return e.Reason }

// ErrPlan is a plan or sharing that contradicts itself or what it follows.
var ErrPlan = errors.New("invalid plan")

// reasonOf finds the reason in an error of this package.
func reasonOf(err error) Reason {
	var reason Reason
	if errors.As(err, &reason) {
		return reason
	}
	return Unopened
}
