package api

import "time"

// Device is a node's device as the cluster knows it.
type Device struct {
	// Node is the ID of its node.
	Node string `json:"node"`
	// Name of its node.
	Name string `json:"name"`
	// Kind is "soft", "smartcard-hsm" or "pkcs11".
	Kind string `json:"kind"`
	// Serial of the device.
	Serial string `json:"serial"`
	// State is "blank", "shares missing", "ready", "no backup" or "gone".
	State string `json:"state"`
	// KCV of its DKEK; empty where it has none.
	KCV string `json:"kcv,omitempty"`
	// Types of keys that it can hold.
	Types []string `json:"types,omitempty"`
	// Slots is how many keys fit.
	Slots int `json:"slots"`
	// Keys is how many key versions it is known to hold.
	Keys int `json:"keys"`
	// Restored is how far it is with the key versions that it should hold, as
	// its node last said; null if never.
	Restored *Restored `json:"restored,omitempty"`
	// Weakness says why it protects less than it could; empty where there is
	// nothing to say.
	Weakness string `json:"weakness,omitempty"`
	// Combines is true where the device puts the DKEK together itself; else
	// its host does.
	Combines bool `json:"combines"`
	// ReportedAt is when its node last said so.
	ReportedAt time.Time `json:"reported_at"`
}

// Restored says how far a device is with the key versions that it should hold.
type Restored struct {
	// Total is how many versions there are.
	Total int `json:"total"`
	// Done is how many of them it holds, proven since its node started.
	Done int `json:"done"`
	// Failed is how many could not be loaded or proven; each is tried again.
	Failed int `json:"failed"`
}

// Devices is the list of devices.
type Devices struct {
	Devices []Device `json:"devices"`
}

// DeviceQuery names a node's device.
type DeviceQuery struct {
	// Node is a name, an ID or a unique prefix, of an ID 4 characters at least; empty is the node asked.
	Node string `query:"node"`
}

// DeviceDetails is what a node says about its own device now.
type DeviceDetails struct {
	Device
	// Label, Model and Firmware as the device gives them.
	Label    string `json:"label,omitempty"`
	Model    string `json:"model,omitempty"`
	Firmware string `json:"firmware,omitempty"`
	// LoggedIn is true where its PIN was accepted.
	LoggedIn bool `json:"logged_in"`
	// FreeSlots is how many more keys fit at least; -1 where it cannot tell.
	FreeSlots int `json:"free_slots"`
	// UserTries and SOTries are wrong PINs left; -1 where it cannot tell.
	UserTries int `json:"user_tries"`
	SOTries   int `json:"so_tries"`
	// Aside are objects that belong to no key that the cluster knows.
	Aside []AsideObject `json:"aside,omitempty"`
}

// AsideObject is something in a device that was kept aside.
type AsideObject struct {
	// Slot in the device.
	Slot uint32 `json:"slot"`
	// Type of the key; empty where it is not known.
	Type string `json:"type,omitempty"`
	// Label that the device stores.
	Label string `json:"label,omitempty"`
	// Incarnation in which it was made; 0 where it is not known.
	Incarnation uint64 `json:"incarnation,omitempty"`
	// Why it was kept aside.
	Why string `json:"why"`
}

// ReplaceRequest opens a provision ceremony for a blank device in the place of
// the node's last one.
type ReplaceRequest struct {
	// Node is a name, an ID or a unique prefix, of an ID 4 characters at least.
	Node string `json:"node"`
	// Replaces is a member that is gone, whose share the successor reshare
	// drops: name, ID or unique prefix. Empty where the node itself survived.
	Replaces string `json:"replaces,omitempty"`
	CeremonyTerms
}

// OperatorWord is an operator's signature for one act on one node's device. That
// node checks it against the operators that it has pinned; nobody on the way is
// believed.
type OperatorWord struct {
	// Statement is an fsm.DeviceStatement in the exact bytes that are signed: it
	// names the node, its device, the act and an expiry, and counts once.
	Statement []byte `json:"statement,omitempty"`
	// Operator is the fingerprint of the signing key.
	Operator string `json:"operator,omitempty"`
	// Signature over Statement, in the domain of a device.
	Signature []byte `json:"signature,omitempty"`
}

// WipeRequest erases a device. Its keys come back from their blobs only with
// the approval of operators.
type WipeRequest struct {
	// Node is a name, an ID or a unique prefix, of an ID 4 characters at least.
	Node string `json:"node"`
	// Serial of the device, so that no other one is erased.
	Serial string `json:"serial"`
	// OperatorWord is not wanted on the node's own socket.
	OperatorWord
}

// AsideRequest decides about an object that was kept aside: its statement says
// which one, and what becomes of it.
type AsideRequest struct {
	// Node is a name, an ID or a unique prefix, of an ID 4 characters at least.
	Node string `json:"node"`
	OperatorWord
}
