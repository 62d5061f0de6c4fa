package node

import (
	"context"
	"time"

	"github.com/keycustodian/keycustodian/hsm"
)

// counted is the device as its room uses it, every operation on keys counted
// for the metrics.
type counted struct {
	hsm.Device
	metrics *metrics
}

// countedToken is the node's token with its device counted.
func (n *Node) countedToken() hsm.Token {
	token := n.config.Device
	token.Device = counted{token.Device, n.face.metrics}
	return token
}

// count does one operation and takes note of it.
func count[T any](c counted, operation string, do func() (T, error)) (T, error) {
	started := time.Now()
	result, err := do()
	c.metrics.operated(operation, err != nil, time.Since(started))
	return result, err
}

func counting(c counted, operation string, do func() error) error {
	_, err := count(c, operation, func() (struct{}, error) { return struct{}{}, do() })
	return err
}

func (c counted) Initialise(ctx context.Context, options hsm.InitOptions) error {
	return counting(c, "initialise", func() error { return c.Device.Initialise(ctx, options) })
}

func (c counted) ImportShare(ctx context.Context, share *hsm.Secret) (hsm.DKEKStatus, error) {
	return count(c, "import share", func() (hsm.DKEKStatus, error) { return c.Device.ImportShare(ctx, share) })
}

func (c counted) Generate(ctx context.Context, slot hsm.Slot, keyType hsm.KeyType, attributes hsm.Attributes) (hsm.Object, error) {
	return count(c, "generate", func() (hsm.Object, error) { return c.Device.Generate(ctx, slot, keyType, attributes) })
}

func (c counted) List(ctx context.Context) ([]hsm.Object, error) {
	return count(c, "list", func() ([]hsm.Object, error) { return c.Device.List(ctx) })
}

func (c counted) Delete(ctx context.Context, slot hsm.Slot) error {
	return counting(c, "delete", func() error { return c.Device.Delete(ctx, slot) })
}

func (c counted) Wrap(ctx context.Context, slot hsm.Slot) ([]byte, error) {
	return count(c, "wrap", func() ([]byte, error) { return c.Device.Wrap(ctx, slot) })
}

func (c counted) Unwrap(ctx context.Context, slot hsm.Slot, blob []byte, attributes hsm.Attributes) (hsm.Object, error) {
	return count(c, "unwrap", func() (hsm.Object, error) { return c.Device.Unwrap(ctx, slot, blob, attributes) })
}

func (c counted) Sync(ctx context.Context) error {
	return counting(c, "sync", func() error { return c.Device.Sync(ctx) })
}

func (c counted) Sign(ctx context.Context, slot hsm.Slot, input []byte, options hsm.SignOptions) ([]byte, error) {
	return count(c, "sign", func() ([]byte, error) { return c.Device.Sign(ctx, slot, input, options) })
}

func (c counted) Decrypt(ctx context.Context, slot hsm.Slot, ciphertext []byte, options hsm.DecryptOptions) ([]byte, error) {
	return count(c, "decrypt", func() ([]byte, error) { return c.Device.Decrypt(ctx, slot, ciphertext, options) })
}

func (c counted) ECDH(ctx context.Context, slot hsm.Slot, peer []byte) (*hsm.Secret, error) {
	return count(c, "ecdh", func() (*hsm.Secret, error) { return c.Device.ECDH(ctx, slot, peer) })
}

func (c counted) Seal(ctx context.Context, slot hsm.Slot, plaintext, additional []byte) ([]byte, error) {
	return count(c, "seal", func() ([]byte, error) { return c.Device.Seal(ctx, slot, plaintext, additional) })
}

func (c counted) Open(ctx context.Context, slot hsm.Slot, sealed, additional []byte) ([]byte, error) {
	return count(c, "open", func() ([]byte, error) { return c.Device.Open(ctx, slot, sealed, additional) })
}

func (c counted) CMAC(ctx context.Context, slot hsm.Slot, message []byte) ([]byte, error) {
	return count(c, "cmac", func() ([]byte, error) { return c.Device.CMAC(ctx, slot, message) })
}

func (c counted) Random(ctx context.Context, n int) ([]byte, error) {
	return count(c, "random", func() ([]byte, error) { return c.Device.Random(ctx, n) })
}

func (c counted) Login(ctx context.Context, pin *hsm.Secret) error {
	return counting(c, "login", func() error { return c.Device.Login(ctx, pin) })
}
