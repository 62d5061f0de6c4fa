package hsmtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"testing"

	"github.com/keycustodian/keycustodian/hsm"
	"github.com/keycustodian/keycustodian/hsm/keyblob"
)

// keys takes one key of each type through its whole life. Each is made once:
// making an RSA key takes seconds, and minutes on a card.
func (s Suite) keys(t *testing.T) {
	dkek := random(hsm.ShareSize)
	b := s.ready(t, bytes.Clone(dkek))
	var second *bench
	if !s.Single {
		second = s.ready(t, bytes.Clone(dkek))
	}
	for _, keyType := range s.Types {
		t.Run(string(keyType), func(t *testing.T) {
			b := &bench{Device: b.Device, t: t, soPIN: b.soPIN, dkek: dkek}
			if !b.Capabilities().Supports(keyType) {
				_, err := b.Generate(t.Context(), 1, keyType, hsm.Attributes{})
				b.refused(err, hsm.ErrUnsupported, "a type that the device does not claim")
				var known *hsm.Error
				if errors.As(err, &known) && (known.Device == "" || known.Detail == "") {
					t.Errorf("the refusal names no device, or not what it can do: %v", err)
				}
				return
			}
			var other *bench
			if second != nil {
				other = &bench{Device: second.Device, t: t}
			}
			b.life(keyType, other)
		})
	}
}

func (b *bench) life(keyType hsm.KeyType, second *bench) {
	t, ctx := b.t, b.t.Context()
	made := b.generate(1, keyType)
	b.shape(made)
	b.use(made)

	blob, err := b.Wrap(ctx, 1)
	b.ok(err, "Wrap")
	b.blobOf(made, blob)
	_, err = b.Unwrap(ctx, 1, blob, hsm.Attributes{})
	b.refused(err, hsm.ErrSlotUsed, "Unwrap into a used slot")
	proof := b.fingerprint(made)

	b.ok(b.Delete(ctx, 1), "Delete")
	if objects := b.list(); len(objects) != 0 {
		t.Fatalf("%d keys after Delete", len(objects))
	}
	back, err := b.Unwrap(ctx, 5, blob, hsm.Attributes{Label: "back"})
	b.ok(err, "Unwrap")
	b.same(back, made, proof)
	b.use(back)
	b.ok(b.Delete(ctx, 5), "Delete")

	if second == nil {
		return
	}
	moved, err := second.Unwrap(ctx, 3, blob, hsm.Attributes{})
	second.ok(err, "Unwrap on a second device")
	second.same(moved, made, proof)
	second.use(moved)
	// And what the second wraps is as good.
	if blob, err = second.Wrap(ctx, 3); err != nil {
		t.Fatal(err)
	}
	second.ok(second.Delete(ctx, 3), "Delete")
	back, err = b.Unwrap(ctx, 1, blob, hsm.Attributes{})
	b.ok(err, "Unwrap of the second device's blob")
	b.same(back, made, proof)
	b.ok(b.Delete(ctx, 1), "Delete")
}

// shape checks an object's public key against its type.
func (b *bench) shape(object hsm.Object) {
	b.t.Helper()
	bits := 0
	switch public := object.Public.(type) {
	case *rsa.PublicKey:
		bits = public.N.BitLen()
	case *ecdsa.PublicKey:
		bits = public.Curve.Params().BitSize
	case ed25519.PublicKey:
		bits = 8 * len(public)
	case nil:
		if object.Type.Symmetric() {
			return
		}
	}
	if bits != object.Type.Bits() {
		b.t.Errorf("a %s key has the public key %T of %d bits", object.Type, object.Public, bits)
	}
}

// fingerprint tells AES keys apart, which have no public key.
func (b *bench) fingerprint(object hsm.Object) []byte {
	b.t.Helper()
	if !object.Type.Symmetric() {
		return nil
	}
	mac, err := b.CMAC(b.t.Context(), object.Slot, []byte("which key is this"))
	b.ok(err, "CMAC")
	return mac
}

// same wants the object to be the key that was made, as the device lists it.
func (b *bench) same(object, made hsm.Object, proof []byte) {
	b.t.Helper()
	if object.Type != made.Type || !samePublic(object.Public, made.Public) {
		b.t.Fatalf("%s came back as another key: %s", made.Type, object.Type)
	}
	if !bytes.Equal(b.fingerprint(object), proof) {
		b.t.Fatalf("%s came back as another key", made.Type)
	}
	objects := b.list()
	if len(objects) != 1 || objects[0].Slot != object.Slot || !samePublic(objects[0].Public, made.Public) {
		b.t.Fatal("List does not show the key that came back")
	}
}

// blobOf opens a blob outside the device: the DKEK and a blob are the key.
func (b *bench) blobOf(object hsm.Object, blob []byte) {
	b.t.Helper()
	if b.Capabilities().BlobKind != hsm.BlobSmartCardHSM {
		return
	}
	keys, err := keyblob.NewKeys(hsm.NewSecret(bytes.Clone(b.dkek)))
	b.ok(err, "NewKeys")
	key, err := keys.Unwrap(blob)
	b.ok(err, "opening the blob under the DKEK")
	if !samePublic(key.Public(), object.Public) {
		b.t.Error("the blob holds another key")
	}
}

// blobs are refused before anything changes.
func (s Suite) blobs(t *testing.T) {
	b := s.ready(t, nil)
	ctx := t.Context()
	b.generate(1, s.small(b))
	blob, err := b.Wrap(ctx, 1)
	b.ok(err, "Wrap")
	again, err := b.Wrap(ctx, 1)
	b.ok(err, "Wrap")
	if bytes.Equal(blob, again) {
		t.Error("two blobs of one key are equal")
	}
	refuse := func(blob []byte, want error, what string) {
		t.Helper()
		_, err := b.Unwrap(ctx, 2, blob, hsm.Attributes{})
		b.refused(err, want, what)
	}
	refuse(nil, hsm.ErrBadBlob, "no blob")
	refuse(random(7), hsm.ErrBadBlob, "7 bytes")
	refuse(blob[:len(blob)-1], hsm.ErrBadBlob, "a blob cut short")
	refuse(append(bytes.Clone(blob), 0), hsm.ErrBadBlob, "a blob with a byte more")
	for _, i := range []int{8, 20, len(blob) / 2, len(blob) - 17, len(blob) - 1} {
		bad := bytes.Clone(blob)
		bad[i] ^= 1
		refuse(bad, hsm.ErrBadBlob, "a flipped bit")
	}
	if b.Capabilities().BlobKind == hsm.BlobSmartCardHSM {
		foreign := bytes.Clone(blob)
		foreign[0] ^= 1 // of the KCV
		refuse(foreign, hsm.ErrWrongDKEK, "a blob with another KCV")
	}
	if objects := b.list(); len(objects) != 1 {
		t.Errorf("%d keys after refused blobs, want 1", len(objects))
	}

	// The same device under another DKEK.
	b.prepare(nil)
	refuse(blob, hsm.ErrWrongDKEK, "a blob of the DKEK before")
	if objects := b.list(); len(objects) != 0 {
		t.Errorf("%d keys after a refused blob, want none", len(objects))
	}
}
