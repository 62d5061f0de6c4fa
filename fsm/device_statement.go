package fsm

import "github.com/keycustodian/keycustodian/dkek"

// DeviceAct is what an operator has one node do to its own device.
type DeviceAct string

const (
	ActWipe   DeviceAct = "wipe"   // erase the device
	ActAdopt  DeviceAct = "adopt"  // make an object that is kept aside a key
	ActDelete DeviceAct = "delete" // delete an object that is kept aside
)

// DeviceStatement is an operator's word to one node about its own device, signed
// under [DomainDevice]. It is never in the log: the members that pass it on, and
// whoever leads, are not believed about it. It counts once.
type DeviceStatement struct {
	Cluster      dkek.ClusterID `cbor:"1,keyasint"`
	Incarnation  uint64         `cbor:"2,keyasint"`
	Request      RequestID      `cbor:"3,keyasint"` // drawn by the operator: a used one is refused
	Expires      int64          `cbor:"4,keyasint"` // Unix milliseconds, at most MaxDeviceWord ahead
	Node         dkek.NodeID    `cbor:"5,keyasint"`
	DeviceKind   string         `cbor:"6,keyasint"`
	DeviceSerial string         `cbor:"7,keyasint"`
	Act          DeviceAct      `cbor:"8,keyasint"`
	Slot         uint32         `cbor:"9,keyasint,omitempty"`  // of the object that is kept aside
	Name         string         `cbor:"10,keyasint,omitempty"` // of the key that it is adopted as
}

// VerifyDevice tells whether a statement, in the exact bytes that were signed, is
// the word of an operator of a set, and returns it. A node asks this with its own
// pinned set. One operator is enough, however many a ceremony takes: no share
// moves by it, and what is erased is this one device's and comes back, but for
// what was kept aside.
func VerifyDevice(set OperatorSet, statement []byte, by Approval) (*DeviceStatement, error) {
	operator, ok := set.Find(by.Operator)
	if !ok {
		return nil, refuse(NotAllowed, "the device is for operators, and %v is none", by.Operator)
	}
	var s DeviceStatement
	if err := (Signed{Statement: statement, Signature: by.Signature}).open(DomainDevice, operator.Public, &s); err != nil {
		return nil, err
	}
	switch {
	case s.Cluster != set.Cluster:
		return nil, refuse(Conflict, "the operator's word is for another cluster")
	case s.Act != ActWipe && s.Act != ActAdopt && s.Act != ActDelete:
		return nil, refuse(BadRequest, "device: want %s, %s or %s", ActWipe, ActAdopt, ActDelete)
	case (s.Name != "") != (s.Act == ActAdopt) || s.Slot != 0 && s.Act == ActWipe:
		return nil, refuse(BadRequest, "device: an object is adopted under a name; a wipe names no slot")
	}
	return &s, nil
}
