package keyblob

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/md5"
	"crypto/rand"
	"fmt"

	"github.com/keycustodian/keycustodian/internal/secret"
)

const (
	shareMagic      = "Salted__"
	shareSaltSize   = 8
	shareCiphertext = DKEKSize + aes.BlockSize // PKCS#7 adds a whole block

	// shareRounds is fixed by the format, three times over: it takes 3 to 30
	// seconds. MD5 is the format's choice too; what protects a share is its
	// password.
	shareRounds   = 10_000_000
	progressEvery = 100_000
)

// Progress is told how far a password derivation is, in rounds, from the
// goroutine that asked for it. nil: not told.
type Progress func(done, total int)

// SealShare encrypts one DKEK share of DKEKSize bytes under a password, as
// sc-hsm-tool's .pbe file of ShareFile bytes. It computes for seconds.
func SealShare(ctx context.Context, password, share *secret.Bytes, progress Progress) ([]byte, error) {
	return sealShare(ctx, password, share, progress, shareRounds)
}

// OpenShare reverses [SealShare]. The format has no authentication: one wrong
// password in 2^128 opens to a wrong share, and so may a changed file, which only
// the DKEK's check value tells. Errors: [ErrMalformed], [ErrWrongPassword].
func OpenShare(ctx context.Context, password *secret.Bytes, file []byte, progress Progress) (*secret.Bytes, error) {
	return openShare(ctx, password, file, progress, shareRounds)
}

func sealShare(ctx context.Context, password, share *secret.Bytes, progress Progress, rounds int) ([]byte, error) {
	// Copies: another goroutine may wipe the originals while this computes.
	share, password = share.Clone(), password.Clone()
	defer share.Wipe()
	defer password.Wipe()
	if n := share.Len(); n != DKEKSize {
		return nil, fmt.Errorf("keyblob: seal share: a share has %d bytes, not %d", DKEKSize, n)
	}
	if password.Len() == 0 {
		return nil, fmt.Errorf("keyblob: seal share: the password is empty")
	}
	out := make([]byte, 0, ShareFile)
	out = append(out, shareMagic...)
	out = out[:len(shareMagic)+shareSaltSize]
	rand.Read(out[len(shareMagic):])
	derived, err := deriveShare(ctx, password, out[len(shareMagic):], progress, rounds)
	if err != nil {
		return nil, fmt.Errorf("keyblob: seal share: %w", err)
	}
	defer derived.Wipe()
	out = out[:ShareFile]
	body := out[ShareFile-shareCiphertext:]
	share.With(func(p []byte) { copy(body, p) })
	for i := DKEKSize; i < len(body); i++ {
		body[i] = aes.BlockSize
	}
	derived.With(func(p []byte) {
		var block cipher.Block
		if block, err = aes.NewCipher(p[:32]); err == nil {
			cipher.NewCBCEncrypter(block, p[32:]).CryptBlocks(body, body)
		}
	})
	if err != nil {
		secret.Wipe(out)
		return nil, err
	}
	return out, nil
}

func openShare(ctx context.Context, password *secret.Bytes, file []byte, progress Progress, rounds int) (*secret.Bytes, error) {
	if len(file) != ShareFile || string(file[:len(shareMagic)]) != shareMagic {
		return nil, fmt.Errorf("keyblob: open share: %w: a share file has %d bytes and starts with %s", ErrMalformed, ShareFile, shareMagic)
	}
	password = password.Clone()
	defer password.Wipe()
	salt := file[len(shareMagic) : len(shareMagic)+shareSaltSize]
	derived, err := deriveShare(ctx, password, salt, progress, rounds)
	if err != nil {
		return nil, fmt.Errorf("keyblob: open share: %w", err)
	}
	defer derived.Wipe()

	plain := secret.New(shareCiphertext)
	defer plain.Wipe()
	bad := byte(0)
	derived.With(func(p []byte) {
		plain.With(func(q []byte) {
			var block cipher.Block
			if block, err = aes.NewCipher(p[:32]); err != nil {
				return
			}
			cipher.NewCBCDecrypter(block, p[32:]).CryptBlocks(q, file[ShareFile-shareCiphertext:])
			for _, b := range q[DKEKSize:] {
				bad |= b ^ aes.BlockSize
			}
		})
	})
	if err != nil {
		return nil, err
	}
	if bad != 0 {
		return nil, fmt.Errorf("keyblob: open share: %w", ErrWrongPassword)
	}
	share := secret.New(DKEKSize)
	plain.With(func(p []byte) {
		share.With(func(q []byte) { copy(q, p) })
	})
	return share, nil
}

// deriveShare is OpenSSL's EVP_BytesToKey with MD5: key (32) || IV (16). Each
// 16 bytes are the iterated MD5 of the 16 before, the password and the salt.
func deriveShare(ctx context.Context, password *secret.Bytes, salt []byte, progress Progress, rounds int) (*secret.Bytes, error) {
	const parts = 3
	derived := secret.New(parts * md5.Size)
	input := secret.New(md5.Size + password.Len() + len(salt))
	defer input.Wipe()
	for part := range parts {
		prefix := 0
		if part > 0 {
			prefix = md5.Size
		}
		var sum [md5.Size]byte
		input.With(func(in []byte) {
			derived.With(func(p []byte) { copy(in[:prefix], p[max(0, part-1)*md5.Size:]) })
			password.With(func(p []byte) { copy(in[prefix:], p) })
			n := prefix + password.Len()
			copy(in[n:], salt)
			sum = md5.Sum(in[:n+len(salt)])
		})
		for round := 1; round < rounds; round++ {
			if round%progressEvery == 0 {
				if err := ctx.Err(); err != nil {
					derived.Wipe()
					secret.Wipe(sum[:])
					return nil, err
				}
				if progress != nil {
					progress(part*rounds+round, parts*rounds)
				}
			}
			sum = md5.Sum(sum[:])
		}
		derived.With(func(p []byte) { copy(p[part*md5.Size:], sum[:]) })
		secret.Wipe(sum[:])
	}
	if progress != nil {
		progress(parts*rounds, parts*rounds)
	}
	return derived, nil
}
