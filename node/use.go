package node

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"time"

	"github.com/keycustodian/keycustodian/dkek"
	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/internal/secret"
)

// KeyUse is one operation with a key.
type KeyUse struct {
	// Key is NAME, then it is the newest version, or NAME@VERSION.
	Key string
	// Verb is one of fsm.Sign, Verify, Encrypt, Decrypt, Derive and MAC.
	Verb fsm.Verbs
	// Input is a digest (RSA, ECDSA), a message (Ed25519, MAC), a plaintext, a
	// ciphertext, or the peer's SubjectPublicKeyInfo (Derive).
	Input []byte
	// Additional is authenticated by AES-GCM, and the label of OAEP.
	Additional []byte
	// Signature is what Verify checks.
	Signature []byte
	// Hash made the digest; of OAEP 0 is SHA-256. Zero for everything else.
	Hash crypto.Hash
	// Scheme of RSA; empty is pkcs1v15 for signatures and oaep for encryption.
	Scheme hsm.Scheme
}

// KeyUsed is what came of it.
type KeyUsed struct {
	Version uint64
	// Output is the signature, ciphertext, plaintext, shared X or MAC.
	Output []byte
	// Valid is Verify's answer.
	Valid bool
	// Age is how old the state that allowed it may be.
	Age time.Duration
	// Node is whose device did it.
	Node dkek.NodeID
}

// UseKey does one operation for a caller, in this node's device or, where that
// cannot, in another node's.
func (n *Node) UseKey(ctx context.Context, caller Caller, use KeyUse) (KeyUsed, error) {
	if err := n.keys.ready(); err != nil {
		return KeyUsed{}, err
	}
	name, version, err := splitVersion(use.Key)
	if err != nil {
		return KeyUsed{}, err
	}
	use.Key = name
	return n.keys.use(ctx, caller, use, version)
}

// use does it here, else one hop away. number 0 is the newest version.
func (r *keyRoom) use(ctx context.Context, caller Caller, use KeyUse, number uint64) (KeyUsed, error) {
	used, err := r.useSomewhere(ctx, caller, use, number)
	if r.endedHere(used) {
		if used.Version != 0 {
			number = used.Version
		}
		r.uses.note(ctx, caller, nil, use.Key, number, use.Verb, err)
	}
	return used, err
}

// endedHere tells whether a use was done or refused by this node, or by nobody. One
// that another node answered is in that one's log.
func (r *keyRoom) endedHere(used KeyUsed) bool {
	return used.Node == r.node.id || used.Node == dkek.NodeID{}
}

func (r *keyRoom) useSomewhere(ctx context.Context, caller Caller, use KeyUse, number uint64) (KeyUsed, error) {
	allowed, used, err := r.allow(ctx, caller, &use, number)
	if err != nil || allowed == nil {
		return used, err
	}
	err = r.useHere(ctx, allowed, &use, &used)
	if err == nil || !elsewhere(ctx, err) {
		return used, err
	}
	return r.forward(ctx, caller, allowed, use, err)
}

// allowed is a key's version that somebody may use so, in a state that is young
// enough.
type allowed struct {
	view    *fsm.View
	key     *fsm.Key
	version *fsm.Version
}

// allow looks the key up, checks state and rights, and answers at once what
// needs no device: then it returns nil.
func (r *keyRoom) allow(ctx context.Context, caller Caller, use *KeyUse, number uint64) (*allowed, KeyUsed, error) {
	var used KeyUsed
	view, age, err := r.fresh(ctx)
	if err != nil {
		return nil, used, err
	}
	key, version, err := r.lookUp(view, caller, use, number)
	if errors.Is(err, fsm.NotFound) {
		if view, err = r.newest(ctx, err); err != nil {
			return nil, used, err
		}
		age = 0
		key, version, err = r.lookUp(view, caller, use, number)
	}
	if err != nil {
		return nil, used, err
	}
	number, used.Version = version.N, version.N
	if version.State != fsm.Enabled {
		return nil, used, &fsm.Error{Code: fsm.WrongState, Message: fmt.Sprintf("%s@%d is %s", key.Name, number, version.State)}
	}
	if err := use.plan(key); err != nil {
		return nil, used, err
	}
	used.Age, used.Node = age, r.node.id
	if use.Verb != fsm.Verify && (use.Verb != fsm.Encrypt || key.Type.Symmetric()) {
		return &allowed{view, key, version}, used, nil
	}
	public, err := publicOf(version)
	if err != nil {
		return nil, used, err
	}
	result, _, err := use.withPublic(public)
	used.Output, used.Valid = result.Output, result.Valid
	return nil, used, err
}

// lookUp finds the version that somebody may use so: rights come first, and who
// has none learns nothing of what there is.
func (r *keyRoom) lookUp(view *fsm.View, caller Caller, use *KeyUse, number uint64) (*fsm.Key, *fsm.Version, error) {
	key, ok := view.Key(use.Key)
	var err error
	if ok {
		err = r.node.authoriseUse(view, caller, use.Verb, key)
	} else {
		err = r.node.authorise(view, caller, use.Verb, use.Key)
	}
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		return findVersion(view, use.Key) // which says what is wrong with the name
	}
	if number == 0 {
		number = key.Newest
	}
	version, err := versionOf(view, key, number)
	return key, version, err
}

// newest is a state that has everything acknowledged so far, for a node whose
// own one lacks a key: another node may have acknowledged it a moment ago. Where
// no quorum can be asked, whether there is such a key is not known.
func (r *keyRoom) newest(ctx context.Context, missing error) (*fsm.View, error) {
	ctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	view, err := r.node.consistent(ctx)
	if err != nil {
		return nil, fmt.Errorf("node: %v as far as this node knows, and it cannot ask the others: %w: %w", missing, ErrNoLeader, err)
	}
	return view, nil
}

// useHere does it in this node's device, and brings the key there if need be.
func (r *keyRoom) useHere(ctx context.Context, a *allowed, use *KeyUse, used *KeyUsed) error {
	d := r.node.device
	for try := 0; ; try++ {
		residence, err := d.slots.acquire(ctx, a.key, a.version, true)
		if err != nil {
			return err
		}
		used.Output, err = d.operate(ctx, residence, use)
		d.slots.release(residence)
		if err == nil {
			return nil
		}
		if errors.Is(err, hsm.ErrNoKey) && try == 0 {
			d.slots.lost(residence) // somebody else emptied the slot: load it again
			continue
		}
		if elsewhere(ctx, err) {
			d.suspect()
		}
		return err
	}
}

// operate does one operation with a pinned key.
func (d *deviceRoom) operate(ctx context.Context, r *residence, use *KeyUse) ([]byte, error) {
	switch use.Verb {
	case fsm.Sign:
		options := hsm.SignOptions{Scheme: use.Scheme, Hash: use.Hash}
		signature, err := withLogin(ctx, d, func(device hsm.Device) ([]byte, error) { return device.Sign(ctx, r.slot, use.Input, options) })
		if err == nil && d.hardware.Load() && !verifySignature(r.public, use.Input, signature, options) {
			return nil, fmt.Errorf("node: device %s gave a signature that does not verify: %w", d.serial(), errWrongKey)
		}
		return signature, err
	case fsm.Decrypt:
		if r.public == nil {
			return withLogin(ctx, d, func(device hsm.Device) ([]byte, error) { return device.Open(ctx, r.slot, use.Input, use.Additional) })
		}
		options := hsm.DecryptOptions{Scheme: use.Scheme, Hash: use.Hash, Label: use.Additional}
		return withLogin(ctx, d, func(device hsm.Device) ([]byte, error) { return device.Decrypt(ctx, r.slot, use.Input, options) })
	case fsm.Encrypt:
		return withLogin(ctx, d, func(device hsm.Device) ([]byte, error) { return device.Seal(ctx, r.slot, use.Input, use.Additional) })
	case fsm.MAC:
		return d.cmac(ctx, r.slot, use.Input)
	case fsm.Derive:
		point, err := peerPoint(use.Input)
		if err != nil {
			return nil, err
		}
		shared, err := withLogin(ctx, d, func(device hsm.Device) (*hsm.Secret, error) { return device.ECDH(ctx, r.slot, point) })
		if err != nil {
			return nil, err
		}
		defer shared.Wipe()
		var out []byte
		shared.With(func(p []byte) { out = append(out, p...) })
		return out, nil
	}
	return nil, badRequest("a device does not %s", use.Verb)
}

// lost takes a key out of use that the device does not hold any more.
func (t *slotTable) lost(r *residence) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held[r.ref] != r {
		return
	}
	r.pins.Add(-1 << 30)
	delete(t.held, r.ref)
	t.residents.Delete(r.ref)
	t.set(r.slot, slotContent{use: slotDoubtful})
	t.device.suspect()
	t.device.node.upkeep.gone(r.ref)
}

// elsewhere tells whether another device could succeed where this one failed:
// not where the request itself is at fault or its time is over.
func elsewhere(ctx context.Context, err error) bool {
	var refused *fsm.Error
	if ctx.Err() != nil || errors.As(err, &refused) {
		return false
	}
	for _, fault := range useFaults {
		if errors.Is(err, fault) {
			return false
		}
	}
	return !errors.Is(err, ErrStale) && !errors.Is(err, ErrForbidden)
}

// Random returns up to 64 KiB of random bytes from this node's device or, where
// that cannot, from another's.
func (n *Node) Random(ctx context.Context, count int) ([]byte, error) {
	if err := n.keys.ready(); err != nil {
		return nil, err
	}
	return n.keys.random(ctx, n.Self(), count)
}

func (r *keyRoom) random(ctx context.Context, caller Caller, count int) ([]byte, error) {
	used, err := r.randomSomewhere(ctx, caller, count)
	if r.endedHere(used) {
		r.uses.note(ctx, caller, nil, "", 0, fsm.Random, err)
	}
	return used.Output, err
}

func (r *keyRoom) randomSomewhere(ctx context.Context, caller Caller, count int) (used KeyUsed, err error) {
	if count < 1 || count > hsm.MaxRandom {
		return used, badRequest("random: want 1 to %d bytes", hsm.MaxRandom)
	}
	view, _, err := r.fresh(ctx)
	if err != nil {
		return used, err
	}
	if err := r.node.authorise(view, caller, fsm.Random, ""); err != nil {
		return used, err
	}
	used.Output, err = r.randomHere(ctx, count)
	if err == nil || !elsewhere(ctx, err) {
		return used, err
	}
	use := KeyUse{Verb: fsm.Random, Input: make([]byte, count)}
	return r.forward(ctx, caller, &allowed{view: view}, use, err)
}

func (r *keyRoom) randomHere(ctx context.Context, count int) ([]byte, error) {
	d := r.node.device
	out, err := withLogin(ctx, d, func(device hsm.Device) ([]byte, error) { return device.Random(ctx, count) })
	if err == nil && len(out) != count {
		secret.Wipe(out)
		return nil, fmt.Errorf("node: device %s gave %d random bytes of %d", d.serial(), len(out), count)
	}
	return out, err
}
