package fsm

import (
	"math/bits"
	"strings"
)

// Verbs is a set of things that can be done with keys.
type Verbs uint32

const (
	Create  Verbs = 1 << iota // make keys
	Sign                      // sign with them
	Verify                    // check a signature
	Encrypt                   // encrypt to them
	Decrypt                   // decrypt with them
	Derive                    // agree on a secret (ECDH)
	MAC                       // authenticate with them
	Rotate                    // add versions
	Manage                    // enable, disable, delete, undelete, label
	List                      // see which there are, with their public halves
	Random                    // random bytes of a device
	verbsEnd

	AllVerbs = verbsEnd - 1
	// KeyVerbs are those that a key's usage may hold.
	KeyVerbs = Sign | Verify | Encrypt | Decrypt | Derive | MAC
)

var verbNames = [...]string{"create", "sign", "verify", "encrypt", "decrypt", "derive", "mac", "rotate", "manage", "list", "random"}

// String lists the verbs, comma separated.
func (v Verbs) String() string { return strings.Join(v.Names(), ",") }

// Names lists the verbs in a fixed order.
func (v Verbs) Names() []string {
	names := make([]string, 0, bits.OnesCount32(uint32(v)))
	for i, name := range verbNames {
		if v&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// ParseVerbs reverses Names.
func ParseVerbs(names []string) (Verbs, error) {
	var verbs Verbs
next:
	for _, name := range names {
		for i, known := range verbNames {
			if name == known {
				verbs |= 1 << i
				continue next
			}
		}
		return 0, refuse(BadRequest, "unknown verb %.40q: one of %s", name, AllVerbs)
	}
	return verbs, nil
}

func (v Verbs) valid(within Verbs) bool { return v&^within == 0 }
