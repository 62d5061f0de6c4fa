package hsm

import (
	"errors"
	"fmt"
)

// What can be wrong with a device operation, as a caller can act on it. Test
// with errors.Is; drivers return them inside an *[Error].
var (
	ErrNotLoggedIn    = errors.New("not logged in")
	ErrPINBlocked     = errors.New("PIN is blocked: unblock it with the SO-PIN")
	ErrBadPINFormat   = errors.New("PIN wants 6 to 15 characters, SO-PIN 16 hexadecimal digits")
	ErrNotInitialised = errors.New("device is not initialised")
	ErrSharesMissing  = errors.New("DKEK is incomplete: shares are missing")
	ErrTooManyShares  = errors.New("DKEK is complete: no more shares are taken")
	ErrNoBackup       = errors.New("device was initialised without DKEK shares: its keys cannot leave it")
	ErrNoKey          = errors.New("no key in this slot")
	ErrSlotUsed       = errors.New("slot holds a key already")
	ErrBadSlot        = errors.New("no such slot")
	ErrFull           = errors.New("device is full")
	ErrUnsupported    = errors.New("device cannot do this")
	ErrWrongDKEK      = errors.New("blob was wrapped under another DKEK")
	ErrBadBlob        = errors.New("blob is damaged")
	ErrBadInput       = errors.New("input does not fit the key or scheme")
	ErrTooLarge       = errors.New("input is too large for the device")
	ErrDecryption     = errors.New("decryption failed")
	ErrGone           = errors.New("device is gone")
	ErrInUse          = errors.New("device is in use by another process")
	ErrOwnSeal        = errors.New("device has a seal source of its own")
	ErrStorage        = errors.New("device storage failed")
	// ErrNoSecret: the device cannot be opened because a secret that it needs
	// cannot be had now. It may be there later.
	ErrNoSecret = errors.New("a secret of the device is missing")
)

// Error is a failed operation of a device of which the outcome is known: it was
// not done.
type Error struct {
	Op     string // "sign", "unwrap"
	Device string // kind and serial: "soft DKEY00000012"
	Err    error  // one of the sentinels above or a *PINError
	Detail string // for people; never a secret
}

func (e *Error) Error() string {
	text := fmt.Sprintf("hsm: %s: %s: %v", e.Op, e.Device, e.Err)
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// PINError is a PIN that the device rejected, with the tries that are left.
type PINError struct {
	SO   bool // the SO-PIN, not the user PIN
	Left int  // -1 where the device cannot tell
}

func (e *PINError) Error() string {
	name := "PIN"
	if e.SO {
		name = "SO-PIN"
	}
	if e.Left < 0 {
		return "wrong " + name
	}
	return fmt.Sprintf("wrong %s: %d tries left", name, e.Left)
}

// Is makes a rejection that used up the last try an ErrPINBlocked too.
func (e *PINError) Is(target error) bool { return target == ErrPINBlocked && e.Left == 0 }
