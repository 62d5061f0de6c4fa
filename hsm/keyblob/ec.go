package keyblob

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/hex"
	"fmt"
	"math/big"

	"github.com/keycustodian/keycustodian/internal/secret"
)

// curves are those that keys are read and written on. A blob does not name its
// curve: it is known by its parameters.
func curves() []elliptic.Curve {
	return []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521(), elliptic.P224()}
}

// domain is a curve y^2 = x^3 + ax + b over the field of p, as bytes as long as
// the field: what a blob's parameters are compared with.
type domain struct {
	curve                     elliptic.Curve
	size                      int // of the field in bytes
	a, b, p, order, basePoint []byte
}

func domainOf(curve elliptic.Curve) domain {
	c := curve.Params()
	size := (c.BitSize + 7) / 8
	fill := func(n *big.Int) []byte { return n.FillBytes(make([]byte, size)) }
	return domain{
		curve: curve, size: size,
		a: fill(new(big.Int).Sub(c.P, big.NewInt(3))), b: fill(c.B), p: fill(c.P), order: fill(c.N),
		basePoint: append(append([]byte{4}, fill(c.Gx)...), fill(c.Gy)...),
	}
}

func (k EC) encode(w *writer) error {
	if k.Key == nil || k.Key.Curve == nil {
		return fmt.Errorf("%w: no key", ErrMalformed)
	}
	d, err := k.check()
	if err != nil {
		return err
	}
	public, err := k.Key.PublicKey.Bytes()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	scalar, err := scalarOf(k.Key)
	if err != nil {
		return err
	}
	defer secret.Wipe(scalar)
	w.uint16(d.curve.Params().BitSize)
	for _, field := range [][]byte{d.a, d.b, d.p, d.order, d.basePoint, scalar, public} {
		w.lv(field)
	}
	return nil
}

// scalarOf returns a copy of the private scalar, as long as the order, to be
// wiped. crypto/ecdsa answers with memory that it goes on signing from.
func scalarOf(key *ecdsa.PrivateKey) ([]byte, error) {
	scalar, err := key.Bytes()
	if err != nil {
		return nil, fmt.Errorf("%w: private key out of range", ErrMalformed)
	}
	return bytes.Clone(scalar), nil
}

// check finds the key's curve and derives its public half anew.
func (k EC) check() (domain, error) {
	for _, curve := range curves() {
		if k.Key.Curve != curve {
			continue
		}
		scalar, err := scalarOf(k.Key)
		if err != nil {
			return domain{}, err
		}
		defer secret.Wipe(scalar)
		made, err := ecdsa.ParseRawPrivateKey(curve, scalar)
		if err != nil {
			return domain{}, fmt.Errorf("%w: private key out of range", ErrMalformed)
		}
		//lint:ignore SA1019 big.Int is what has to be wiped
		defer wipeInts(made.D)
		if !made.PublicKey.Equal(&k.Key.PublicKey) {
			return domain{}, fmt.Errorf("%w: public key does not belong to the private key", ErrMalformed)
		}
		return domainOf(curve), nil
	}
	return domain{}, fmt.Errorf("%w: curve %s: only P-224, P-256, P-384 and P-521", ErrUnsupported, k.Key.Curve.Params().Name)
}

func decodeEC(r *reader, size int, algorithms []byte) (PrivateKey, error) {
	const limit = 66 // the field of P-521
	var field [4][]byte
	for i, name := range []string{"A", "B", "P", "order"} {
		field[i] = r.lv(limit, name)
	}
	basePoint := r.lv(1+2*limit, "base point")
	if r.err != nil {
		return nil, r.err
	}
	d, err := findDomain(size, field[0], field[1], field[2], field[3], basePoint)
	if err != nil {
		return nil, err
	}
	scalar := r.number(d.size, "private key")
	defer secret.Wipe(scalar)
	public := r.lv(1+2*limit, "public key")
	if err := r.end(); err != nil {
		return nil, err
	}
	key, err := ecdsa.ParseRawPrivateKey(d.curve, scalar)
	if err != nil {
		return nil, fmt.Errorf("%w: private key out of range", ErrMalformed)
	}
	made, err := key.PublicKey.Bytes()
	if err != nil || !equal(made, public) {
		//lint:ignore SA1019 big.Int is what has to be wiped
		wipeInts(key.D)
		return nil, fmt.Errorf("%w: public key does not belong to the private key", ErrMalformed)
	}
	return EC{Key: key, Algorithms: algorithms}, nil
}

// findDomain returns the curve of which all parameters are these. A is left
// out by some devices on curves where it is -3.
func findDomain(bits int, a, b, p, order, basePoint []byte) (domain, error) {
	for _, curve := range curves() {
		d := domainOf(curve)
		if !sameNumber(p, d.p) {
			continue
		}
		if bits != curve.Params().BitSize || len(a) > 0 && !sameNumber(a, d.a) ||
			!sameNumber(b, d.b) || !sameNumber(order, d.order) || !equal(basePoint, d.basePoint) {
			return domain{}, fmt.Errorf("%w: parameters over the field of %s that are not this curve's", ErrMalformed, curve.Params().Name)
		}
		return d, nil
	}
	if name := refusedCurve(p); name != "" {
		return domain{}, fmt.Errorf("%w: curve %s: only P-224, P-256, P-384 and P-521", ErrUnsupported, name)
	}
	return domain{}, fmt.Errorf("%w: an unknown curve of %d bits: only P-224, P-256, P-384 and P-521", ErrUnsupported, bits)
}

// sameNumber compares without regard to leading zeros.
func sameNumber(b, full []byte) bool {
	if len(b) > len(full) {
		return false
	}
	padded := make([]byte, len(full))
	copy(padded[len(full)-len(b):], b)
	return equal(padded, full)
}

// refusedCurve names the device's other curves by the prime of their field, so
// that a refusal can say which it is.
func refusedCurve(p []byte) string {
	switch hex.EncodeToString(p) {
	case "fffffffffffffffffffffffffffffffeffffffffffffffff":
		return "P-192"
	case "fffffffffffffffffffffffffffffffffffffffeffffee37":
		return "secp192k1"
	case "fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f":
		return "secp256k1"
	case "c302f41d932a36cda7a3463093d18db78fce476de1a86297":
		return "brainpoolP192r1"
	case "d7c134aa264366862a18302575d1d787b09f075797da89f57ec8c0ff":
		return "brainpoolP224r1"
	case "a9fb57dba1eea9bc3e660a909d838d726e3bf623d52620282013481d1f6e5377":
		return "brainpoolP256r1"
	case "d35e472036bc4fb7e13c785ed201e065f98fcfa6f6f40def4f92b9ec7893ec28fcd412b1f1b32e27":
		return "brainpoolP320r1"
	case "8cb91e82a3386d280f5d6f7e50e641df152f7109ed5456b412b1da197fb71123acd3a729901d1a71874700133107ec53":
		return "brainpoolP384r1"
	case "aadd9db8dbe9c48b3fd4e6ae33c9fc07cb308db3b3c9d20ed6639cca703308717d4d9b009bc66842aecda12ae6a380e62881ff2f2d82c68528aa6056583a48f3":
		return "brainpoolP512r1"
	}
	return ""
}
