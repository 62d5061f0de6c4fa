package fsm_test

import (
	"errors"

	"github.com/keycustodian/keycustodian/fsm"
)

func isUnknown(err error) bool { return errors.Is(err, fsm.ErrUnknownKind) }
