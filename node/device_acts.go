package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/node/api"
)

const (
	methodAct     = "node.act"
	deviceActFile = "device-words"
	// maxDeviceActs bounds the file: so many words of operators in an hour.
	maxDeviceActs = 256
)

// actRequest is an operator's signed word about this node's device, as another
// member passes it on.
type actRequest struct {
	Statement []byte       `cbor:"1,keyasint"` // an fsm.DeviceStatement
	By        fsm.Approval `cbor:"2,keyasint"`
}

// actRecord is the file "device-words", deterministic CBOR. It is not sealed:
// whoever can change this disk can destroy the device's keys without it.
type actRecord struct {
	Used []usedWord `cbor:"1,keyasint"`
}

// usedWord is a word that was acted on, kept until it would be refused anyway.
type usedWord struct {
	Request fsm.RequestID `cbor:"1,keyasint"`
	Expires int64         `cbor:"2,keyasint"`
}

// deviceActs does to this node's device what operators have signed.
type deviceActs struct {
	node *Node
	mu   sync.Mutex // the file
}

// do checks an operator's word and carries it out, once. Nobody is believed who
// passes it on, the leader neither: the operators are the pinned ones.
func (d *deviceActs) do(ctx context.Context, q actRequest) (api.Ack, error) {
	n := d.node
	s, err := fsm.VerifyDevice(n.pins.set(), q.Statement, q.By)
	if err != nil {
		return api.Ack{}, err
	}
	if err := d.meansThis(ctx, s); err != nil {
		return api.Ack{}, err
	}
	if err := d.use(s); err != nil {
		return api.Ack{}, err
	}
	operator, _ := n.pins.set().Find(q.By.Operator)
	n.logger.Warn("device: an operator's word is carried out", "act", s.Act, "serial", s.DeviceSerial, "slot", s.Slot, "name", s.Name, "operator", operator.Name)
	if s.Act == fsm.ActWipe {
		err = n.wipeDevice(ctx, s.DeviceSerial)
	} else {
		err = n.decideAside(ctx, Caller{Kind: CallerOperator, Fingerprint: q.By.Operator, Name: operator.Name}, s)
	}
	return api.Ack{Index: n.view().Index()}, err
}

// meansThis refuses a word for another node, device or incarnation.
func (d *deviceActs) meansThis(ctx context.Context, s *fsm.DeviceStatement) error {
	n := d.node
	refuse := func(format string, args ...any) error {
		return &fsm.Error{Code: fsm.Conflict, Message: "the operator's word is for " + fmt.Sprintf(format, args...) + ": nothing was done"}
	}
	if s.Node != n.id {
		return refuse("node %v, and this is %s", s.Node, n.config.Name)
	}
	if cluster, ok := n.view().Cluster(); !ok || s.Incarnation != cluster.Incarnation {
		return refuse("incarnation %d, and this is %d", s.Incarnation, cluster.Incarnation)
	}
	info, err := n.config.Device.Info(ctx)
	if err != nil {
		return err
	}
	if s.DeviceKind != info.Kind || s.DeviceSerial != info.Serial {
		return refuse("device %.32s %.64s, and the one here is %s %.64s", printable(s.DeviceKind), printable(s.DeviceSerial), info.Kind, printable(info.Serial))
	}
	return nil
}

// use writes down, synced, that a word is used, and refuses one that was or that
// has expired. The log's time counts too: a clock that is set back brings none
// of them to life again.
func (d *deviceActs) use(s *fsm.DeviceStatement) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := max(d.node.view().Time(), d.node.now().UnixMilli())
	switch {
	case now >= s.Expires:
		return d.node.expired(d.node.view(), "the operator's word, which can be signed again,", s.Expires)
	case s.Expires-now > fsm.MaxDeviceWord.Milliseconds():
		return &fsm.Error{Code: fsm.BadRequest, Message: fmt.Sprintf("the operator's word lasts longer than %v from now: see whether the clocks are right", fsm.MaxDeviceWord)}
	}
	used, err := d.load()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(used, func(u usedWord) bool { return u.Request == s.Request }) {
		return &fsm.Error{Code: fsm.Exists, Message: "the operator's word was used before, and counts once: look with nodectl device info, and sign another if it was in vain"}
	}
	used = slices.DeleteFunc(used, func(u usedWord) bool { return now >= u.Expires })
	if len(used) >= maxDeviceActs {
		return &fsm.Error{Code: fsm.TooMany, Message: "operators had this node do too much in the last hour: try again later"}
	}
	content, err := wireEncoder.Marshal(actRecord{append(used, usedWord{s.Request, s.Expires})})
	if err == nil {
		err = d.node.files.write(deviceActFile, content)
	}
	if err != nil {
		return fmt.Errorf("node: device: nothing was done: %w", err)
	}
	return nil
}

func (d *deviceActs) load() ([]usedWord, error) {
	content, err := d.node.files.read(deviceActFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var record actRecord
	if err == nil {
		err = wireDecoder.Unmarshal(content, &record)
	}
	if err != nil {
		return nil, fmt.Errorf("node: device: the file %q cannot be read, so nobody knows which words of operators were used: move it away when %v have passed, or act over this node's socket: %w", deviceActFile, fsm.MaxDeviceWord, err)
	}
	return record.Used, nil
}

// atDevice has a member act on its own device at an operator's word.
func atDevice(ctx context.Context, a *asked, id dkek.NodeID, word api.OperatorWord) (api.Ack, error) {
	operator, err := parseFingerprint(word.Operator)
	if err != nil || len(word.Statement) == 0 {
		return api.Ack{}, &api.Error{Code: api.CodeBadRequest, Message: "a device is changed at the word of an operator, who signs it", Hint: "nodectl signs by itself: device wipe, device aside"}
	}
	q := actRequest{word.Statement, fsm.Approval{Operator: operator, Signature: word.Signature}}
	return onMember(ctx, a, id, methodAct, q, a.node.acts.do)
}
