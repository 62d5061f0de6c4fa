package fsm

import "github.com/keycustodian/keycustodian/dkek"

// CommandVersion is the newest command version that this build reads. A command
// of a version is written only after [VersionRaise], which every member must be
// able to read.
const CommandVersion = 1

// Kind is what a command asks for. Numbers, field numbers and behaviour of a
// released kind never change: a fix is a new kind.
type Kind uint8

const (
	KindInit         Kind = 1
	KindVersionRaise Kind = 2
	KindRecover      Kind = 3

	KindTokenCreate     Kind = 10
	KindTokenRemove     Kind = 11
	KindMemberAdd       Kind = 12
	KindMemberPromote   Kind = 13
	KindMemberRemove    Kind = 14
	KindMemberAddress   Kind = 15
	KindMemberRotateKey Kind = 16
	KindMemberReport    Kind = 17

	KindClientAdd    Kind = 20
	KindClientRemove Kind = 21

	KindCeremonyOpen    Kind = 30
	KindCeremonyApprove Kind = 31
	KindCeremonyDeny    Kind = 32
	KindRelease         Kind = 33
	KindDealingRecord   Kind = 34
	KindShareAck        Kind = 35
	KindDeviceProof     Kind = 36
	KindCeremonyClose   Kind = 37
	KindOldShareErased  Kind = 38

	KindKeyCreate      Kind = 50
	KindKeyRotate      Kind = 51
	KindKeyState       Kind = 52
	KindKeyDelete      Kind = 53
	KindKeyUndelete    Kind = 54
	KindKeyLabels      Kind = 55
	KindDestroy        Kind = 56
	KindDestroyConfirm Kind = 57
	KindDestroyExcept  Kind = 58

	KindCover        Kind = 60
	KindCoverReset   Kind = 61
	KindAbort        Kind = 62
	KindAbortConfirm Kind = 63
)

// Header is in every command.
type Header struct {
	Request RequestID
	// Time is the leader's, in Unix milliseconds; 0 until stamped.
	Time  int64
	Actor Actor
}

// Actor is who asked, as the proposing node found out.
type Actor struct {
	// Who is the fingerprint of the operator, client or node that asked.
	Who dkek.Fingerprint `cbor:"1,keyasint"`
	// Node proposed the command and vouches for Who.
	Node dkek.NodeID `cbor:"2,keyasint"`
}

// Body is one kind of command, for example *[KeyCreate].
type Body interface {
	Kind() Kind
	// apply checks everything first and writes afterwards.
	apply(t *txn) (Value, *Error)
}

// Command is a request to change the replicated state.
type Command struct {
	Header
	Body Body
}

// Value is what an accepted command answers.
type Value struct {
	// Number is the version of KeyCreate and KeyRotate, the log index of a
	// Release (the first one, when repeated), the epoch of a ceremony that
	// opened a sharing; else 0.
	Number uint64 `cbor:"1,keyasint,omitempty"`
}

// newBody returns an empty body of a kind, and nil for an unknown one.
func newBody(kind Kind) Body {
	switch kind {
	case KindInit:
		return new(Init)
	case KindVersionRaise:
		return new(VersionRaise)
	case KindRecover:
		return new(Recover)
	case KindTokenCreate:
		return new(TokenCreate)
	case KindTokenRemove:
		return new(TokenRemove)
	case KindMemberAdd:
		return new(MemberAdd)
	case KindMemberPromote:
		return new(MemberPromote)
	case KindMemberRemove:
		return new(MemberRemove)
	case KindMemberAddress:
		return new(MemberAddress)
	case KindMemberRotateKey:
		return new(MemberRotateKey)
	case KindMemberReport:
		return new(MemberReport)
	case KindClientAdd:
		return new(ClientAdd)
	case KindClientRemove:
		return new(ClientRemove)
	case KindCeremonyOpen:
		return new(CeremonyOpen)
	case KindCeremonyApprove:
		return new(CeremonyApprove)
	case KindCeremonyDeny:
		return new(CeremonyDeny)
	case KindRelease:
		return new(Release)
	case KindDealingRecord:
		return new(DealingRecord)
	case KindShareAck:
		return new(ShareAck)
	case KindDeviceProof:
		return new(DeviceProof)
	case KindCeremonyClose:
		return new(CeremonyClose)
	case KindOldShareErased:
		return new(OldShareErased)
	case KindKeyCreate:
		return new(KeyCreate)
	case KindKeyRotate:
		return new(KeyRotate)
	case KindKeyState:
		return new(KeyState)
	case KindKeyDelete:
		return new(KeyDelete)
	case KindKeyUndelete:
		return new(KeyUndelete)
	case KindKeyLabels:
		return new(KeyLabels)
	case KindDestroy:
		return new(Destroy)
	case KindDestroyConfirm:
		return new(DestroyConfirm)
	case KindDestroyExcept:
		return new(DestroyExcept)
	case KindCover:
		return new(Cover)
	case KindCoverReset:
		return new(CoverReset)
	case KindAbort:
		return new(Abort)
	case KindAbortConfirm:
		return new(AbortConfirm)
	}
	return nil
}
