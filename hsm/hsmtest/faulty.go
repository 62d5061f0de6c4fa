package hsmtest

import (
	"context"

	"github.com/keycustodian/keycustodian/hsm"
)

// none is the result of operations that have none.
type none = struct{}

func bare(err error) (none, error) { return none{}, err }

// Capabilities never fails.
func (f *Faulty) Capabilities() hsm.Capabilities { return f.device.Capabilities() }

func (f *Faulty) Info(ctx context.Context) (hsm.Info, error) {
	return run(ctx, f, OpInfo, 0, func() (hsm.Info, error) { return f.device.Info(ctx) }, nil)
}

func (f *Faulty) Initialise(ctx context.Context, options hsm.InitOptions) error {
	_, err := run(ctx, f, OpInitialise, 0, func() (none, error) { return bare(f.device.Initialise(ctx, options)) }, nil)
	return err
}

func (f *Faulty) ImportShare(ctx context.Context, share *hsm.Secret) (hsm.DKEKStatus, error) {
	return run(ctx, f, OpImportShare, 0, func() (hsm.DKEKStatus, error) { return f.device.ImportShare(ctx, share) }, nil)
}

func (f *Faulty) DKEK(ctx context.Context) (hsm.DKEKStatus, error) {
	return run(ctx, f, OpDKEK, 0, func() (hsm.DKEKStatus, error) { return f.device.DKEK(ctx) }, nil)
}

func (f *Faulty) Generate(ctx context.Context, slot hsm.Slot, keyType hsm.KeyType, attributes hsm.Attributes) (hsm.Object, error) {
	return run(ctx, f, OpGenerate, slot, func() (hsm.Object, error) { return f.device.Generate(ctx, slot, keyType, attributes) }, nil)
}

func (f *Faulty) List(ctx context.Context) ([]hsm.Object, error) {
	return run(ctx, f, OpList, 0, func() ([]hsm.Object, error) { return f.device.List(ctx) }, nil)
}

func (f *Faulty) Delete(ctx context.Context, slot hsm.Slot) error {
	_, err := run(ctx, f, OpDelete, slot, func() (none, error) { return bare(f.device.Delete(ctx, slot)) }, nil)
	return err
}

func (f *Faulty) Wrap(ctx context.Context, slot hsm.Slot) ([]byte, error) {
	return run(ctx, f, OpWrap, slot, func() ([]byte, error) { return f.device.Wrap(ctx, slot) }, nil)
}

func (f *Faulty) Unwrap(ctx context.Context, slot hsm.Slot, blob []byte, attributes hsm.Attributes) (hsm.Object, error) {
	return run(ctx, f, OpUnwrap, slot, func() (hsm.Object, error) { return f.device.Unwrap(ctx, slot, blob, attributes) }, nil)
}

func (f *Faulty) Sync(ctx context.Context) error {
	_, err := run(ctx, f, OpSync, 0, func() (none, error) { return bare(f.device.Sync(ctx)) }, nil)
	return err
}

func (f *Faulty) Sign(ctx context.Context, slot hsm.Slot, input []byte, options hsm.SignOptions) ([]byte, error) {
	return run(ctx, f, OpSign, slot, func() ([]byte, error) { return f.device.Sign(ctx, slot, input, options) }, nil)
}

func (f *Faulty) Decrypt(ctx context.Context, slot hsm.Slot, ciphertext []byte, options hsm.DecryptOptions) ([]byte, error) {
	return run(ctx, f, OpDecrypt, slot, func() ([]byte, error) { return f.device.Decrypt(ctx, slot, ciphertext, options) }, nil)
}

func (f *Faulty) ECDH(ctx context.Context, slot hsm.Slot, peer []byte) (*hsm.Secret, error) {
	return run(ctx, f, OpECDH, slot, func() (*hsm.Secret, error) { return f.device.ECDH(ctx, slot, peer) }, (*hsm.Secret).Wipe)
}

func (f *Faulty) Seal(ctx context.Context, slot hsm.Slot, plaintext, additional []byte) ([]byte, error) {
	return run(ctx, f, OpSeal, slot, func() ([]byte, error) { return f.device.Seal(ctx, slot, plaintext, additional) }, nil)
}

func (f *Faulty) Open(ctx context.Context, slot hsm.Slot, sealed, additional []byte) ([]byte, error) {
	return run(ctx, f, OpOpen, slot, func() ([]byte, error) { return f.device.Open(ctx, slot, sealed, additional) }, nil)
}

func (f *Faulty) CMAC(ctx context.Context, slot hsm.Slot, message []byte) ([]byte, error) {
	return run(ctx, f, OpCMAC, slot, func() ([]byte, error) { return f.device.CMAC(ctx, slot, message) }, nil)
}

func (f *Faulty) Random(ctx context.Context, n int) ([]byte, error) {
	return run(ctx, f, OpRandom, 0, func() ([]byte, error) { return f.device.Random(ctx, n) }, nil)
}

func (f *Faulty) Login(ctx context.Context, pin *hsm.Secret) error {
	_, err := run(ctx, f, OpLogin, 0, func() (none, error) { return bare(f.device.Login(ctx, pin)) }, nil)
	return err
}

func (f *Faulty) Tries(ctx context.Context) (hsm.PINTries, error) {
	return run(ctx, f, OpTries, 0, func() (hsm.PINTries, error) { return f.device.Tries(ctx) }, nil)
}

func (f *Faulty) ChangePIN(ctx context.Context, old, new *hsm.Secret) error {
	_, err := run(ctx, f, OpChangePIN, 0, func() (none, error) { return bare(f.device.ChangePIN(ctx, old, new)) }, nil)
	return err
}

func (f *Faulty) UnblockPIN(ctx context.Context, soPIN, new *hsm.Secret) error {
	_, err := run(ctx, f, OpUnblockPIN, 0, func() (none, error) { return bare(f.device.UnblockPIN(ctx, soPIN, new)) }, nil)
	return err
}

// Close never hangs: it has no context.
func (f *Faulty) Close() error {
	_, err := run(context.Background(), f, OpClose, 0, func() (none, error) { return bare(f.device.Close()) }, nil)
	return err
}
