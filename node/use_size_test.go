package node_test

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/keycustodian/keycustodian/fsm"
	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/hsmtest"
	"github.com/keycustodian/keycustodian/node/api"
	"github.com/keycustodian/keycustodian/node/nodetest"
)

// Whatever was encrypted can be decrypted, up to the last byte that is accepted: in
// Go, over HTTP and one hop away.
func TestTheLongestPlaintextComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startKeys(t, 2, nodetest.Options{Policy: fsm.Policy{Copies: 2}})
		m := l.Follower()
		key := l.create(m, "k", hsm.AES256)
		b := browse(t, l.Cluster, l.Operators[0].Key)
		for _, name := range []string{"here", "one hop away"} {
			if name != "here" {
				m.Device.Plan(hsmtest.Plan{Times: -1, Err: &hsm.Error{Op: "any", Device: "test", Err: hsm.ErrGone}})
			}
			plaintext, additional := bytes.Repeat([]byte{7}, api.MaxMessage), bytes.Repeat([]byte{8}, 1000)
			sealed, err := key.Encrypt(t.Context(), plaintext, additional)
			if err != nil || len(sealed) != api.MaxCiphertext {
				t.Fatalf("%s: %d bytes, %v", name, len(sealed), err)
			}
			if opened, err := key.DecryptContext(t.Context(), sealed, additional); err != nil || !bytes.Equal(opened, plaintext) {
				t.Errorf("%s: %d bytes, %v", name, len(opened), err)
			}
			opened := read[api.DecryptResponse](t, b.post(m, "/v1/key/decrypt", api.DecryptRequest{Key: "k", Ciphertext: sealed, Additional: additional}))
			if !bytes.Equal(opened.Plaintext, plaintext) {
				t.Errorf("%s, over HTTP: %d bytes", name, len(opened.Plaintext))
			}
			if _, err := key.Encrypt(t.Context(), append(plaintext, 7), nil); !errors.Is(err, fsm.BadRequest) {
				t.Errorf("%s: one byte more: %v", name, err)
			}
			wantCode(t, b.post(m, "/v1/key/decrypt", api.DecryptRequest{Key: "k", Ciphertext: append(sealed, 7)}), api.CodeTooLarge)
			wantCode(t, b.post(m, "/v1/key/encrypt", api.EncryptRequest{Key: "k", Plaintext: append(plaintext, 7)}), api.CodeTooLarge)
		}
	})
}
