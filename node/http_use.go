package node

import (
	"context"
	"crypto"
	"crypto/x509"
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
	for _, part := range [][]byte{use.Input, use.Additional} {
		if len(part) > api.MaxMessage {
			return KeyUsed{}, &api.Error{Code: api.CodeTooLarge, Message: "the input is longer than 256 KiB",
				Hint: "sign its digest, or encrypt a random data key with the custodians and the document with that"}
		}
	}
	used, err := a.node.UseKey(ctx, a.caller(), use)
	if err == nil && used.Node != a.node.id {
		a.age = max(a.age, used.Age)
	}
	return used, err
}

// hashNamed is a hash by its name in requests; none for the empty name.
func hashNamed(name string) (crypto.Hash, error) {
	switch name {
	case "":
		return 0, nil
	case api.SHA256:
		return crypto.SHA256, nil
	case api.SHA384:
		return crypto.SHA384, nil
	case api.SHA512:
		return crypto.SHA512, nil
	case api.SHA1:
		return crypto.SHA1, nil
	case api.MD5:
		return crypto.MD5, nil
	}
	return 0, malformed("unknown hash %.40q: one of sha256, sha384, sha512, and for legacy keys sha1, md5", name)
}

func signWith(ctx context.Context, a *asked, q *api.SignRequest) (api.SignResponse, error) {
	hash, err := hashNamed(q.Hash)
	if err != nil {
		return api.SignResponse{}, err
	}
	if len(q.Inputs) == 0 || len(q.Inputs) > api.MaxInputs {
		return api.SignResponse{}, malformed("%d inputs: want 1 to %d", len(q.Inputs), api.MaxInputs)
	}
	name, version, err := splitVersion(q.Key)
	if err != nil {
		return api.SignResponse{}, err
	}
	answer := api.SignResponse{Key: name, Version: uint32(version), Signatures: [][]byte{}}
	for _, input := range q.Inputs {
		ref := q.Key
		if answer.Version != 0 { // all of one request by one version, whatever is rotated meanwhile
			ref = versionRef(name, answer.Version)
		}
		used, err := a.use(ctx, KeyUse{Key: ref, Verb: fsm.Sign, Input: input, Hash: hash, Scheme: hsm.Scheme(q.Scheme)})
		if err != nil {
			return api.SignResponse{}, err
		}
		answer.Version = uint32(used.Version)
		answer.Signatures = append(answer.Signatures, used.Output)
	}
	return answer, nil
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
