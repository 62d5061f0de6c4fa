package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node/api"
)

// malformed refuses what cannot be understood.
func malformed(format string, args ...any) error {
	return &api.Error{Code: api.CodeBadRequest, Message: fmt.Sprintf(format, args...)}
}

// meaning is one line of the table from our errors to those of the API. The
// first line that fits counts: an unknown outcome before its cause.
type meaning struct {
	is   error
	code api.Code
	hint string
}

func meanings() []meaning {
	return []meaning{
		{ErrOutcomeUnknown, api.CodeTimeout, "repeat it with the same " + api.HeaderRequest + ": it is done once, whatever became of this one"},
		{errStarting, api.CodeSealed, "try again in a moment"},
		{ErrSealed, api.CodeSealed, "on that node: nodectl device enter seal (or pin), then try again"},
		{ErrNoCluster, api.CodeWrongState, "nodectl cluster init or cluster join, over the node's socket"},
		{ErrHasCluster, api.CodeExists, "a node joins another cluster only with an empty data folder"},
		{ErrInitialised, api.CodeExists, "a node joins another cluster only with an empty data folder"},
		{ErrStale, api.CodeStale, "bring the other nodes back, then try again"},
		{ErrNoDKEK, api.CodeNoDKEK, "deal the DKEK first: nodectl dkek create"},
		{ErrDeviceBlank, api.CodeNoDKEK, "the device waits for the DKEK: nodectl device replace"},
		{ErrNotHere, api.CodeUnavailable, "see nodectl cluster status: the nodes whose devices hold the key do not answer"},
		{ErrForbidden, api.CodeForbidden, "ask an operator for the right, or use an operator's key"},
		{ErrRemoved, api.CodeUnavailable, "ask another node"},
		{ErrClosed, api.CodeUnavailable, "ask another node"},
		{ErrNoLeader, api.CodeNoQuorum, "too few nodes answer for a change: bring them back, then try again"},
		{ErrDisk, api.CodeNoQuorum, "make room on that node's disk, or ask another node: it goes on by itself, and nothing was changed"},
		{errSlots, api.CodeNoQuorum, "make room on that node's disk, or ask another node: it goes on by itself, and nothing was changed"},
		{errNotLeading, api.CodeNoQuorum, "another node has begun to lead: try again"},
		{ErrNotAppended, api.CodeNoQuorum, "nothing was changed: try again"},
		{ErrTooLarge, api.CodeTooLarge, "send less at once"},
		{ErrPINRejected, api.CodeWrongPIN, "enter another PIN, or set a new one by the SO-PIN, on that node: nodectl device pin unblock"},
		{ErrLastTry, api.CodePINBlocked, "on that node: nodectl device pin unblock"},
		{ErrPINDerived, api.CodeNotAllowed, "put the PIN into a file, name that in the device's URI (pin-source=file:PATH), start again, then nodectl device pin unblock; as it is, pin unblock without a source gives the device the PIN that follows"},
		{errNoSOPIN, api.CodeWrongState, "on that node: nodectl device enter so-pin, then try again"},
		{ErrNoPIN, api.CodeSealed, "on that node: nodectl device enter pin, then try again"},
		{hsm.ErrPINBlocked, api.CodePINBlocked, "on that node: nodectl device pin unblock"},
		{hsm.ErrDecryption, api.CodeDecryption, "the ciphertext was changed, or belongs to another key, version (NAME@2) or additional data"},
		{hsm.ErrUnsupported, api.CodeUnsupported, "see what the devices can do: nodectl device list"},
		{hsm.ErrBadInput, api.CodeBadRequest, ""},
		{hsm.ErrTooLarge, api.CodeTooLarge, "sign or take the MAC of its hash; or encrypt a random data key with the custodians, and the document with that"},
		{hsm.ErrBadPINFormat, api.CodeBadRequest, ""},
		{hsm.ErrSharesMissing, api.CodeNoDKEK, "the device waits for the DKEK: nodectl device replace"},
		{hsm.ErrNotInitialised, api.CodeNoDKEK, "the device waits for the DKEK: nodectl device replace"},
		{hsm.ErrNotLoggedIn, api.CodeSealed, "on that node: nodectl device enter pin, then try again"},
		{context.DeadlineExceeded, api.CodeTimeout, "look before you repeat it; a change is repeated with the same " + api.HeaderRequest},
		{context.Canceled, api.CodeUnavailable, "the node stops or the request was called off: ask another node"},
	}
}

// explain is what the caller is told.
func (f *face) explain(err error) *api.Error {
	said := &api.Error{Code: api.CodeInternal, Message: err.Error(), Hint: "see the node's log"}
	var known *api.Error
	var refused *fsm.Error
	var pin *hsm.PINError
	var over *failure
	var far *peerError
	switch {
	case errors.As(err, &known):
		copied := *known
		said = &copied
	case errors.As(err, &refused) && !errors.Is(err, ErrOutcomeUnknown):
		said.Code, said.Message, said.Hint = api.Code(refused.Code), refused.Message, ""
	case errors.As(err, &far) && far.base == nil && api.Code(far.code).Known() && !errors.Is(err, ErrNotHere): // which has several
		said.Code, said.Message, said.Hint = api.Code(far.code), far.text, ""
	case errors.As(err, &over):
		said.Code, said.Message, said.Hint = api.CodeWrongState, over.detail, ""
	case errors.As(err, &pin) && !errors.Is(err, hsm.ErrPINBlocked):
		said.Code, said.Hint = api.CodeWrongPIN, "look at the tries left before another one: nodectl device info"
		if pin.Left >= 0 {
			said.TriesLeft = &pin.Left
		}
	default:
		f.translate(said, err)
	}
	var device *hsm.Error
	if errors.As(err, &device) {
		said.Device = device.Device
	}
	var bad *dkek.ShareError
	if errors.As(err, &bad) {
		said.Holder = memberName(f.node.view(), bad.Holder)
	}
	if said.Node == "" {
		said.Node = f.node.config.Name
	}
	said.Message = api.Plain(said.Message)
	return said
}

func (f *face) translate(said *api.Error, err error) {
	for _, m := range meanings() {
		if errors.Is(err, m.is) {
			said.Code, said.Hint = m.code, m.hint
			break
		}
	}
	var device *hsm.Error
	if said.Code == api.CodeInternal && errors.As(err, &device) {
		said.Code, said.Hint = api.CodeDevice, "look at the device: nodectl device info --node "+f.node.config.Name
	}
	var elsewhere *NotLeaderError
	if errors.As(err, &elsewhere) {
		said.Leader = elsewhere.Leader.Addr
	}
}

// fail answers with an error and returns its code.
func (f *face) fail(w http.ResponseWriter, err error) api.Code {
	said := f.explain(err)
	if said.Code == api.CodeInternal {
		f.node.logger.Error("api: a request failed", "reason", err)
	}
	content, err := json.Marshal(said)
	if err != nil {
		content = []byte(`{"code":"internal","message":"the error cannot be written"}`)
	}
	f.heads(w, f.stateAge(false))
	w.Header().Set("Content-Type", api.TypeJSON)
	w.WriteHeader(said.Code.Status())
	w.Write(append(content, '\n')) // the client has gone if this fails
	return said.Code
}
