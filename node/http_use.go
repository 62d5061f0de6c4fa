package node

import (
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/node/api"
)

func useEndpoints() map[string]endpoint {
	return map[string]endpoint{
		api.KeySign:    ask(signWith),
		api.KeyVerify:  ask(verifyWith),
		api.KeyEncrypt: ask(encryptWith),
		api.KeyDecrypt: ask(decryptWith),
		api.KeyDerive:  ask(deriveWith),
		api.KeyMAC:     ask(macWith),
		api.Random:     ask(random),
	}
}

// use does one operation and takes note of how old the state was that allowed
// it.
func (a *asked) use(ctx context.Context, use KeyUse) (KeyUsed, error) {
	used, err := a.useOne(ctx, use)
	if err == nil {
		a.tookAge(used)
	}
	return used, err
}

// useOne is safe for concurrent use.
func (a *asked) useOne(ctx context.Context, use KeyUse) (KeyUsed, error) {
	if limit := inputLimit(use.Verb); len(use.Input) > limit || len(use.Additional) > api.MaxMessage {
		return KeyUsed{}, &api.Error{Code: api.CodeTooLarge,
			Message: fmt.Sprintf("the input is longer than %d bytes, or the additional data than %d", limit, api.MaxMessage),
			Hint:    "sign its digest, or encrypt a random data key with the custodians and the document with that"}
	}
	return a.node.UseKey(ctx, a.caller(), use)
}

// tookAge takes note of a use that another node's state allowed.
func (a *asked) tookAge(used KeyUsed) {
	if used.Node != a.node.id {
		a.age = max(a.age, used.Age)
	}
}

// noteRefusal logs that somebody may not use keys at all. Which key was meant, and
// with what, is not read any more.
func (a *asked) noteRefusal(ctx context.Context, err error) {
	verbs, unknown := fsm.ParseVerbs([]string{string(a.route.Verb)})
	if unknown != nil || verbs&(fsm.KeyVerbs|fsm.Random) == 0 || a.node.Sealed() != nil || a.node.keys.ready() != nil {
		return
	}
	caller := a.caller()
	if a.visitor.role == api.Anyone {
		caller.Kind = 0 // somebody who is nobody here
	}
	a.node.keys.uses.note(ctx, caller, nil, "", 0, verbs, err)
}

// hashNamed is a hash by its name in requests; none for the empty name.
func hashNamed(name string) (crypto.Hash, error) {
	hash, err := api.HashNamed(name)
	if err != nil {
		return 0, malformed("%v", err)
	}
	return hash, nil
}

func verifyWith(ctx context.Context, a *asked, q *api.VerifyRequest) (api.VerifyResponse, error) {
	hash, err := hashNamed(q.Hash)
	if err != nil {
		return api.VerifyResponse{}, err
	}
	used, err := a.use(ctx, KeyUse{Key: q.Key, Verb: fsm.Verify, Input: q.Input, Signature: q.Signature, Hash: hash, Scheme: hsm.Scheme(q.Scheme)})
	return api.VerifyResponse{Valid: used.Valid, Version: uint32(used.Version)}, err
}

func encryptWith(ctx context.Context, a *asked, q *api.EncryptRequest) (api.EncryptResponse, error) {
	hash, err := hashNamed(q.Hash)
	if err != nil {
		return api.EncryptResponse{}, err
	}
	used, err := a.use(ctx, KeyUse{Key: q.Key, Verb: fsm.Encrypt, Input: q.Plaintext, Additional: q.Additional, Hash: hash})
	return api.EncryptResponse{Version: uint32(used.Version), Ciphertext: used.Output}, err
}

func decryptWith(ctx context.Context, a *asked, q *api.DecryptRequest) (api.DecryptResponse, error) {
	hash, err := hashNamed(q.Hash)
	if err != nil {
		return api.DecryptResponse{}, err
	}
	use := KeyUse{Key: q.Key, Verb: fsm.Decrypt, Input: q.Ciphertext, Additional: q.Additional, Hash: hash, Scheme: hsm.Scheme(q.Scheme)}
	used, err := a.use(ctx, use)
	if used.Output == nil {
		used.Output = []byte{} // an empty plaintext is not null
	}
	return api.DecryptResponse{Version: uint32(used.Version), Plaintext: used.Output}, err
}

func deriveWith(ctx context.Context, a *asked, q *api.DeriveRequest) (api.DeriveResponse, error) {
	used, err := a.use(ctx, KeyUse{Key: q.Key, Verb: fsm.Derive, Input: q.Peer})
	return api.DeriveResponse{Version: uint32(used.Version), Shared: used.Output}, err
}

func macWith(ctx context.Context, a *asked, q *api.MACRequest) (api.MACResponse, error) {
	used, err := a.use(ctx, KeyUse{Key: q.Key, Verb: fsm.MAC, Input: q.Message})
	return api.MACResponse{Version: uint32(used.Version), MAC: used.Output}, err
}

func random(ctx context.Context, a *asked, q *api.RandomQuery) (api.RandomResponse, error) {
	if err := a.node.keys.ready(); err != nil {
		return api.RandomResponse{}, err
	}
	out, err := a.node.keys.random(ctx, a.caller(), q.Bytes)
	return api.RandomResponse{Random: out}, err
}

// parseClientKey refuses what no TLS client can show: not a public key at all.
func parseClientKey(spki []byte) (crypto.PublicKey, error) {
	public, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, malformed("public: not a DER SubjectPublicKeyInfo of a known kind")
	}
	return public, nil
}

// ageOf is what the header says of this answer.
func (a *asked) ageOf() float64 {
	age := a.face.stateAge(a.fresh)
	if a.age > 0 && age >= 0 {
		age = max(age, float64(a.age.Round(time.Millisecond).Milliseconds())/1000)
	}
	return age
}
